"""Tables for `torch_hooks`: which modules of known ports give which tensor of a trace.

For other ports write one, a dict, or change one of these: `open_clip_names(port) | {"pool.flat": "flatten"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .recording import Input, Output, first

Table = dict[str, str | Input | Output]


def open_clip_names(port: Any, inside: str | Iterable[str] = ()) -> Table:
    """Return the table for open_clip's `CoCa`, of any version.

    inside : blocks, such as "vision.block.3", whose finer names are recorded too: the output of the
        attention, the MLP's hidden activations and output. q, k, v and the attention weights are no module's
        output in open_clip.

    Run the port as `port(pixels, ids, output_labels=False)`: with labels it drops the last position. The
    frames must reach the pooler as one sequence, [1, T N, W]; see tests/oracle/reference.py. Latents are
    recorded when the port is called, and not by its `encode_image` and `encode_text`.
    """
    visual, decoder = port.visual, port.text_decoder
    inside = {inside} if isinstance(inside, str) else set(inside)
    two_poolers = getattr(visual, "attn_pool_contrastive", None) is not None
    stacks = [
        ("vision.block.{}", "visual.transformer.resblocks.{}", visual.transformer),
        ("text.block.{}", "text.transformer.resblocks.{}", port.text.transformer),
        ("decoder.block.{}.self", "text_decoder.resblocks.{}", decoder),
        ("decoder.block.{}.cross", "text_decoder.cross_attn.{}", decoder),
    ]
    blocks: Table = {}
    for name, path, stack in stacks:
        for i in range(len(stack.resblocks)):
            blocks |= open_clip_block(name.format(i), path.format(i), as_in_trace(stack), inside)
    if unknown := inside - blocks.keys():
        raise ValueError(f"no block {', '.join(sorted(unknown))}: there are {', '.join(blocks)}")
    return {
        "pixels": Input("visual"),
        "vision.embed": "visual.ln_pre",
        "pool.flat": "visual.transformer" if two_poolers else Input("visual.attn_pool"),
        "pool.attended": "visual.attn_pool",
        "pool.tokens": Output("visual", lambda results: results[1]),
        "pool.latent": Output("", lambda results: results["image_features"]),
        "ids": Input("text"),
        "text.embed": Input("text.transformer.resblocks.0", as_in_trace(port.text.transformer)),
        "text.tokens": Output("text", lambda results: results[1]),
        "text.latent": Output("", lambda results: results["text_features"]),
        "logits": "text_decoder",
        **blocks,
    }


def open_clip_block(name: str, path: str, arrange: Callable[..., Any], inside: set[str]) -> Table:
    """Return the names of one of open_clip's blocks."""
    parts = {"": "", ".attention": ".attn", ".mlp.hidden": ".mlp.gelu", ".mlp": ".mlp"}
    wanted = parts if name in inside else [""]
    return {name + part: Output(path + parts[part], arrange) for part in wanted}


def as_in_trace(stack: Any) -> Callable[..., Any]:
    """Return a function of a block's output, or of its arguments, that gives it the axes of a trace.

    The blocks take [B, L, C] if the stack says so; before open_clip 2.24 they took [L, B, C].
    """

    def arrange(x: Any, *rest: Any, **options: Any) -> Any:
        return first(x) if getattr(stack, "batch_first", False) else first(x).transpose(0, 1)

    return arrange


def lucidrains_names(port: Any) -> Table:
    """Return the table for the naming of `lucidrains/CoCa-pytorch`, and of its image encoder in vit-pytorch.

    The encoder is one of vit-pytorch's in its `Extractor`; the tensors of any other are left out. Latents are
    recorded only where the port computes them, with `return_loss=True`.

    The package's own blocks are not CoCa's of the released weights: multi-query attention, SwiGLU, rotary
    positions, attention beside the MLP. The table is for ports that kept the names.
    """
    layers = range(len(port.multimodal_layers))
    last_text = len(port.unimodal_layers) - 1
    return {
        **vit_names(port),
        "pool.flat": Input("img_attn_pool", lambda queries, context: context),
        "pool.attended": "img_attn_pool",
        "pool.tokens": Output("img_attn_pool_norm", lambda x: x[:, 1:]),
        "pool.latent": "img_to_latents",
        "ids": Input("token_emb"),
        "text.embed": Input("unimodal_layers.0"),
        **{f"text.block.{i}": f"unimodal_layers.{i}" for i in range(last_text + 1)},
        "text.tokens": Output(f"unimodal_layers.{last_text}", lambda x: x[:, :-1]),
        "text.latent": "text_to_latents",
        **{f"decoder.block.{i}.self": f"multimodal_layers.{i}.0" for i in layers},
        **{f"decoder.block.{i}.cross": f"multimodal_layers.{i}.1" for i in layers},
        "logits": "to_logits",
    }


def vit_names(port: Any) -> Table:
    """Return the names in an image encoder of vit-pytorch, whose residual stream is no module's output."""
    if port.img_encoder is None:
        return {}
    vit = getattr(port.img_encoder, "vit", None)
    layers = getattr(getattr(vit, "transformer", None), "layers", None)
    if layers is None:
        return {"pixels": Input("img_encoder")}
    path = "img_encoder.vit.transformer"
    after = [*(f"{path}.layers.{i}.0" for i in range(1, len(layers))), f"{path}.norm"]
    return {
        "pixels": Input("img_encoder"),
        "vision.embed": Input(f"{path}.layers.0.0"),
        **{f"vision.block.{i}": Input(module) for i, module in enumerate(after)},
    }
