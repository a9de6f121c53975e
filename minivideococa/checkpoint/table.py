"""The one table of tensor names and shapes: the map of a CoCa's weights, in path order.

The names are open_clip's, so that any tensor can be traced to the released weights. Axis letters: W the
vision width, E the width of all that follows, N the tokens of a frame, Q the pooler's queries, V the
vocabulary. A linear layer's weight is `[out, in]` and multiplies from the right transposed; a projection's is
`[in, out]`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..model.config import Config
from .config import some

Shapes = dict[str, tuple[int, ...]]

FLOATS = ("float64", "float32", "float16", "bfloat16")


def parameter_shapes(config: Config) -> Shapes:
    """Every tensor of the model that `config` describes: name -> shape, in path order."""
    vision, text, decoder, E = config.vision, config.text, config.decoder, config.embed_dim
    W, V = vision.width, text.vocab_size
    shapes: Shapes = {}

    # vision: pixels -> frame tokens [T, N, W]
    shapes["visual.conv1.weight"] = (W, 3, vision.patch_size, vision.patch_size)
    shapes["visual.class_embedding"] = (W,)
    shapes["visual.positional_embedding"] = (vision.tokens, W)
    if vision.ln_pre:
        shapes |= _norm("visual.ln_pre", W)
    for i in range(vision.layers):
        shapes |= _block(f"visual.transformer.resblocks.{i}", W, vision.mlp_width)

    # pooling: frame tokens [T*N, W] -> caption tokens [Q', E] and latent [E]. With "parallel" and "cascade" a
    # second pooler of one query makes the latent, and ln_post stands before both of them.
    shapes |= _pooler("visual.attn_pool", vision.queries, E, W)
    if isinstance(vision.attentional_pool, str):
        shapes |= _pooler("visual.attn_pool_contrastive", 1, E, W)
    shapes |= _norm("visual.ln_post", E)
    shapes["visual.proj"] = (E, E)

    # text: ids [B, L] -> latent [B, E] and token features [B, L, E]; the class token has the last position
    shapes["text.token_embedding.weight"] = (V, E)
    shapes["text.cls_emb"] = (E,)
    shapes["text.positional_embedding"] = (text.context_length + 1, E)
    for i in range(text.layers):
        shapes |= _block(f"text.transformer.resblocks.{i}", E, text.mlp_width)
    shapes |= _norm("text.ln_final", E)
    shapes["text.text_projection"] = (E, E)

    # decoder: token features x caption tokens -> logits [B, L, V]; self- and cross-attention take turns
    for i in range(decoder.layers):
        shapes |= _block(f"text_decoder.resblocks.{i}", E, decoder.mlp_width)
        shapes |= _block(f"text_decoder.cross_attn.{i}", E, decoder.mlp_width, cross=True)
    shapes |= _norm("text_decoder.ln_final", E)
    shapes["text_decoder.text_projection"] = (E, V)

    # the logarithm of the contrastive loss's inverse temperature; open_clip may also write it as [1]
    shapes["logit_scale"] = ()
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _attention(name: str, width: int, context_width: int) -> Shapes:
    """Queries of `width` over a context; torch keeps q, k and v apart where the two widths differ."""
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
    """A pre-norm residual block: attention, then an MLP. With `cross` the context has a norm of its own."""
    return (
        _norm(f"{name}.ln_1", width)
        | (_norm(f"{name}.ln_1_kv", width) if cross else {})
        | _attention(f"{name}.attn", width, width)
        | _norm(f"{name}.ln_2", width)
        | _linear(f"{name}.mlp.c_fc", width, mlp_width)
        | _linear(f"{name}.mlp.c_proj", mlp_width, width)
    )


def _pooler(name: str, queries: int, width: int, context_width: int) -> Shapes:
    """Learned queries that attend to a context, both normed."""
    return (
        {f"{name}.query": (queries, width)}
        | _norm(f"{name}.ln_q", width)
        | _norm(f"{name}.ln_k", context_width)
        | _attention(f"{name}.attn", width, context_width)
    )


def check(tensors: Mapping[str, Any], config: Config, where: str) -> None:
    """Compares names, shapes and dtypes with the table; `where` is the name of the file.

    A tensor is anything with `shape` and `dtype`: an array, or a StoredTensor that is still in its file.

    Raises ValueError: one line with all that is missing, unexpected, misshapen or not floating point.
    """
    problems = misfits(tensors, config)
    if any(problems.values()):
        raise ValueError(f"{where}: the tensors do not fit the configuration: {describe(problems)}")


def misfits(tensors: Mapping[str, Any], config: Config) -> dict[str, list[str]]:
    """Return what is missing, unexpected, misshapen or not floating point: four lists, empty where all tensors fit."""
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


def describe(problems: Mapping[str, list[str]]) -> str:
    """Return the problems that `misfits` found as text, on one line."""
    return "; ".join(f"{kind}: {some(names)}" for kind, names in problems.items() if names)


def nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The parameter tree that the forward pass reads: names split at the dots, numbered parts as lists.

    "text.transformer.resblocks.0.ln_1.bias" -> tree["text"]["transformer"]["resblocks"][0]["ln_1"]["bias"].
    `logit_scale` is a scalar array, whichever way it was written.
    """
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = array.reshape(()) if name == "logit_scale" else array
    return _lists(tree)


def _lists(node: Any) -> Any:
    """Every dict whose keys are 0, 1, ... as a list."""
    if not isinstance(node, dict):
        return node
    children = {key: _lists(child) for key, child in node.items()}
    if all(key.isdecimal() for key in children):
        return [children[key] for key in sorted(children, key=int)]
    return children
