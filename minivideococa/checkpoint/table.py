"""The names and shapes of all tensors of a CoCa, in path order, and the tree of parameters.

Names are open_clip's, so that any tensor can be traced to the released weights. Axis letters: W the vision
width, E the width of everything after it, N the tokens of a frame, Q the pooler's queries, V the vocabulary.
The weight of a linear layer is stored as `[out, in]`, that of a projection as `[in, out]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..inputs import join_names
from ..model.config import Array, Config, Params

Shapes = dict[str, tuple[int, ...]]

# Beginnings of names: of CoCa's attentional poolers, with all that makes latents of what they return
POOLERS = ("visual.attn_pool.", "visual.attn_pool_contrastive.", "visual.ln_post.", "visual.proj")
# and of layers that are not CoCa's: trained here, and possibly still at their initial value of zero
ADDED = ("factorized.", "question_head.")

FLOATS = ("float64", "float32", "float16", "bfloat16")


def parameter_shapes(config: Config) -> Shapes:
    """Return the shape of every tensor of a model by its name, in path order."""
    return (
        _vision_shapes(config)
        | _pooling_shapes(config)
        | _factorized_shapes(config)
        | _text_shapes(config)
        | _decoder_shapes(config)
        # the logarithm of the contrastive loss's inverse temperature; open_clip may write it as [1] too
        | {"logit_scale": ()}
        | _question_head_shapes(config)
    )


def _vision_shapes(config: Config) -> Shapes:
    """Return the shapes from pixels [T, 3, S, S] to frame tokens [T, N, W]."""
    vision, W = config.vision, config.vision.width
    shapes: Shapes = {
        "visual.conv1.weight": (W, 3, vision.patch_size, vision.patch_size),
        "visual.class_embedding": (W,),
        "visual.positional_embedding": (vision.tokens_per_frame, W),
    }
    if vision.ln_pre:
        shapes |= _norm("visual.ln_pre", W)
    for i in range(vision.layers):
        shapes |= _block(f"visual.transformer.resblocks.{i}", W, vision.mlp_width)
    return shapes


def _pooling_shapes(config: Config) -> Shapes:
    """Return the shapes from flattened frame tokens [T*N, W] to caption tokens [Q', E] and latent [E].

    With "parallel" and "cascade" a second pooler, with one query, computes the latent, and `ln_post` precedes
    both.
    """
    vision, W, E = config.vision, config.vision.width, config.embed_dim
    shapes = _pooler("visual.attn_pool", vision.queries, E, W)
    if isinstance(vision.attentional_pool, str):
        shapes |= _pooler("visual.attn_pool_contrastive", 1, E, W)
    return shapes | _norm("visual.ln_post", E) | {"visual.proj": (E, E)}


def _factorized_shapes(config: Config) -> Shapes:
    """Return the shapes of the layers across the frames: [T, E] to [T, E]. The names are ours."""
    shapes: Shapes = {}
    if config.factorized is None:
        return shapes
    E, frames = config.embed_dim, config.factorized.frames
    if frames is not None:
        shapes["factorized.positional_embedding"] = (frames, E)
    for i in range(config.factorized.layers):
        shapes |= _block(f"factorized.resblocks.{i}", E, config.factorized.mlp_width)
    return shapes


def _text_shapes(config: Config) -> Shapes:
    """Return the shapes from ids [B, L] to latent [B, E] and token features [B, L, E]."""
    text, E = config.text, config.embed_dim
    shapes: Shapes = {
        "text.token_embedding.weight": (text.vocab_size, E),
        "text.cls_emb": (E,),
        "text.positional_embedding": (text.context_length + 1, E),  # the class token is the last position
    }
    for i in range(text.layers):
        shapes |= _block(f"text.transformer.resblocks.{i}", E, text.mlp_width)
    return shapes | _norm("text.ln_final", E) | {"text.text_projection": (E, E)}


def _decoder_shapes(config: Config) -> Shapes:
    """Return the shapes from token features [B, L, E] and caption tokens [B, Q', E] to logits [B, L, V]."""
    decoder, E, V = config.decoder, config.embed_dim, config.text.vocab_size
    shapes: Shapes = {}
    for i in range(decoder.layers):
        shapes |= _block(f"text_decoder.resblocks.{i}", E, decoder.mlp_width)
        shapes |= _block(f"text_decoder.cross_attn.{i}", E, decoder.mlp_width, cross=True)
    return shapes | _norm("text_decoder.ln_final", E) | {"text_decoder.text_projection": (E, V)}


def _question_head_shapes(config: Config) -> Shapes:
    """Return the shapes from the decoder's hidden states [L, E] to an answer's logits. The names are ours."""
    if not config.answers:
        return {}
    E = config.embed_dim
    return _pooler("question_head.pooler", 1, E, E) | _linear(
        "question_head.classifier", E, len(config.answers)
    )


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _attention(name: str, width: int, context_width: int) -> Shapes:
    """Return the shapes of an attention. PyTorch separates the weights of q, k and v if the widths differ."""
    if context_width == width:
        weights = {f"{name}.in_proj_weight": (3 * width, width)}
    else:
        weights = {
            f"{name}.q_proj_weight": (width, width),
            f"{name}.k_proj_weight": (width, context_width),
            f"{name}.v_proj_weight": (width, context_width),
        }
    return weights | {f"{name}.in_proj_bias": (3 * width,)} | _linear(f"{name}.out_proj", width, width)


def _block(name: str, width: int, mlp_width: int, cross: bool = False) -> Shapes:
    """Return the shapes of a pre-norm residual block. In cross-attention the context has its own norm."""
    return (
        _norm(f"{name}.ln_1", width)
        | (_norm(f"{name}.ln_1_kv", width) if cross else {})
        | _attention(f"{name}.attn", width, width)
        | _norm(f"{name}.ln_2", width)
        | _linear(f"{name}.mlp.c_fc", width, mlp_width)
        | _linear(f"{name}.mlp.c_proj", mlp_width, width)
    )


def _pooler(name: str, queries: int, width: int, context_width: int) -> Shapes:
    """Return the shapes of an attentional pooler: learned queries cross-attend to a context, both normed."""
    return (
        {f"{name}.query": (queries, width)}
        | _norm(f"{name}.ln_q", width)
        | _norm(f"{name}.ln_k", context_width)
        | _attention(f"{name}.attn", width, context_width)
    )


def check_tensors(tensors: Mapping[str, Any], config: Config, file: str) -> None:
    """Check names, shapes and dtypes against the configuration. `file` is the file's name in the message.

    A tensor is anything with `shape` and `dtype`: an array, or a StoredTensor. Raises ValueError: one line
    with all tensors that are missing, unexpected, misshapen or not floating point.
    """
    mismatches = find_mismatches(tensors, config)
    if any(mismatches.values()):
        raise ValueError(f"{file}: the tensors do not fit the configuration: {format_mismatches(mismatches)}")


def find_mismatches(tensors: Mapping[str, Any], config: Config) -> dict[str, list[str]]:
    """Return lists of tensors that are missing, unexpected, misshapen or not floating point."""
    shapes = parameter_shapes(config)
    known = {name: tensors[name] for name in shapes if name in tensors}
    return {
        "missing": [name for name in shapes if name not in tensors],
        "unexpected": [name for name in tensors if name not in shapes],
        "misshapen": [
            f"{name} {list(tensor.shape)}, not {list(shapes[name])}"
            for name, tensor in known.items()
            if tensor.shape != shapes[name] and (name, tensor.shape) != ("logit_scale", (1,))
        ],
        "not floating point": [
            f"{name} {tensor.dtype}" for name, tensor in known.items() if str(tensor.dtype) not in FLOATS
        ],
    }


def format_mismatches(mismatches: Mapping[str, list[str]], limit: int = 8) -> str:
    """Return the result of `find_mismatches` as text on one line, with up to `limit` tensors of each kind."""
    return "; ".join(f"{kind}: {join_names(names, limit)}" for kind, names in mismatches.items() if names)


def nest(tensors: Mapping[str, Array | None]) -> Params:
    """Return the tree of parameters for the forward pass: names split at the dots, numbered parts as lists.

    "text.transformer.resblocks.0.ln_1.bias" becomes
    tree["text"]["transformer"]["resblocks"][0]["ln_1"]["bias"]. `logit_scale` becomes a scalar array, also if
    it is stored as [1].
    """
    tree: Params = {}
    for name, array in tensors.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = array.reshape(()) if name == "logit_scale" and array is not None else array
    return {name: _lists(child) for name, child in tree.items()}


def _lists(node: Any) -> Any:
    """Replace every dict whose keys are 0, 1, ... by a list."""
    if not isinstance(node, dict):
        return node
    children = {key: _lists(child) for key, child in node.items()}
    if all(key.isdecimal() for key in children):
        return [children[key] for key in sorted(children, key=int)]
    return children


def unnest(params: Mapping[str, Any]) -> dict[str, Array]:
    """Return the tensors of a tree of parameters by name, in the tree's order: the inverse of `nest`."""
    tensors: dict[str, Array] = {}
    for name, node in params.items():
        if isinstance(node, list):
            node = {str(i): child for i, child in enumerate(node)}
        if isinstance(node, dict):
            tensors |= {f"{name}.{rest}": array for rest, array in unnest(node).items()}
        else:
            tensors[name] = node
    return tensors
