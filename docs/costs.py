"""List a model's dimensions, and count the parameters and the multiply-adds of each stage from them alone.

python docs/costs.py                     # prints the tables of walkthrough.md

A multiply-add is one product and one sum of a matrix product. Norms, GELU, softmax and preprocessing are not
counted: they take time, but their number grows with the activations, not with the weights.
"""

from __future__ import annotations

import inspect
from math import prod

from minivideococa.checkpoint.folder import embedded_checkpoint, read_config
from minivideococa.checkpoint.released import named_config
from minivideococa.checkpoint.table import parameter_shapes
from minivideococa.media.tokenizer import clip_tokenizer_json, parse_tokenizer
from minivideococa.model.config import Config, StackConfig
from minivideococa.model.ops import layer_norm

FRAMES = 8
STAGES = {  # the names of the tensors of each stage begin so
    "vision": (
        "visual.conv1",
        "visual.class_emb",
        "visual.positional",
        "visual.ln_pre",
        "visual.transformer",
    ),
    "pooling": ("visual.attn_pool", "visual.ln_post", "visual.proj"),
    "text": ("text.",),
    "decoder": ("text_decoder.",),
}


def models() -> dict[str, Config]:
    """Return the configurations of the embedded checkpoint and of the two released shapes."""
    released = {name: named_config(f"coca_ViT-{name}") for name in ("B-32", "L-14")}
    return {
        "tiny": read_config(embedded_checkpoint() / "config.json"),
        **{name.replace("-", "/"): config for name, config in released.items() if config},
    }


def parameters(config: Config) -> dict[str, int]:
    """Return the number of parameters of each stage."""
    shapes = parameter_shapes(config)
    return {
        stage: sum(prod(shape) for name, shape in shapes.items() if name.startswith(beginnings))
        for stage, beginnings in STAGES.items()
    }


def multiply_adds(config: Config, adapter: str = "attentional", frames: int = FRAMES) -> dict[str, int]:
    """Return the multiply-adds of each stage: for `frames` frames, and one text padded to the context."""
    length = config.text.context_length
    return {
        "vision": vision(config, frames, jointly=adapter == "joint"),
        "pooling": pooling(config, frames),
        "text": text(config, length + 1) + config.embed_dim**2,  # the class position; the projection
        "decoder": caption_kv(config) + decoder(config, length),
    }


def vision(config: Config, frames: int, jointly: bool = False) -> int:
    """Return the multiply-adds of the image encoder. `jointly`: a token attends to those of all frames."""
    c = config.vision
    N, patches = c.tokens_per_frame, c.tokens_per_frame - 1
    keys = frames * N if jointly else N
    return frames * (patches * 3 * c.patch_size**2 * c.width + c.layers * block(c, N, keys))


def pooling(config: Config, frames: int) -> int:
    """Return the multiply-adds of the pooler with `attentional_pool: true`, over the tokens of all frames."""
    c, E = config.vision, config.embed_dim
    M = frames * c.tokens_per_frame
    return 2 * M * c.width * E + 2 * c.queries * E**2 + 2 * c.queries * M * E + E**2


def text(config: Config, new: int, before: int = 0) -> int:
    """Return the multiply-adds of the unimodal decoder on `new` positions after `before` cached ones."""
    return config.text.layers * block(config.text, new, before + new)


def caption_kv(config: Config) -> int:
    """Return the multiply-adds of the keys and values of the caption tokens, computed once for a video."""
    return config.decoder.layers * 2 * (config.vision.queries - 1) * config.embed_dim**2


def decoder(config: Config, new: int, before: int = 0) -> int:
    """Return the multiply-adds of the multimodal decoder and its logits, without `caption_kv`."""
    c, E, captions = config.decoder, config.embed_dim, config.vision.queries - 1
    cross = block(c, new, captions) - 2 * new * E**2  # its keys and values are those of the caption tokens
    return c.layers * (block(c, new, before + new) + cross) + new * E * config.text.vocab_size


def block(c: StackConfig, length: int, keys: int) -> int:
    """Return the multiply-adds of a residual block: projections, attention to `keys` keys, MLP."""
    return length * (4 * c.width**2 + 2 * keys * c.width + 2 * c.width * c.mlp_width)


def generation(config: Config, length: int, cache: bool = True) -> int:
    """Return the multiply-adds of greedily generating `length` ids, the start token included."""
    total = caption_kv(config)
    for ids in range(1, length):
        if cache:
            total += text(config, 1, ids - 1) + decoder(config, 1, ids - 1)
        else:  # all positions, and the class position, which is then not used but for the latent
            total += text(config, ids + 1) + config.embed_dim**2 + decoder(config, ids)
    return total


def dimensions(config: Config) -> dict[str, str]:
    """Return all that an implementation needs to know beside the weights."""
    v, t, d, pixels = config.vision, config.text, config.decoder, config.preprocess
    tiny = embedded_checkpoint() / "tokenizer.json"
    text = tiny.read_text(encoding="utf-8") if config == models()["tiny"] else clip_tokenizer_json()
    ids = parse_tokenizer(text, "", t.context_length, t.pad_id, config.tokenizer_clean, t.vocab_size)
    eps = inspect.signature(layer_norm).parameters["eps"].default
    return {
        "S, P, N": f"{v.image_size}, {v.patch_size}, {v.tokens_per_frame}",
        "mean of the pixels, by channel": ", ".join(map(str, pixels.mean)),
        "their standard deviation": ", ".join(map(str, pixels.std)),
        "image encoder: layers, W, MLP": f"{v.layers}, {v.width}, {v.mlp_width}",
        "image encoder: heads": heads(v.heads, v.width),
        "pooler: Q, Q', E": f"{v.queries}, {v.queries - 1}, {config.embed_dim}",
        "pooler: heads": heads(v.pooler_heads, config.embed_dim),
        "unimodal decoder: layers, E, MLP": f"{t.layers}, {t.width}, {t.mlp_width}",
        "unimodal decoder: heads": heads(t.heads, t.width),
        "multimodal decoder: layers, E, MLP": f"{d.layers}, {d.width}, {d.mlp_width}",
        "multimodal decoder: heads": heads(d.heads, d.width),
        "V, L": f"{t.vocab_size}, {t.context_length}",
        "ids of start, end, padding": f"{ids.start_id}, {ids.end_id}, {ids.pad_id}",
        "GELU": "QuickGELU" if v.quick_gelu else "exact (erf)",
        "epsilon of every LayerNorm": f"{eps:g}",
    }


def heads(count: int, width: int) -> str:
    return f"{count} of width {width // count}"


def table(name: str) -> str:
    """Return the Markdown table of a stage, or of "dimensions", "total", "generation" (16 ids), "tuning"."""
    configs = models()
    rows = rows_of(name, list(configs.values()))
    lines = [["", *configs], ["---"] * (len(configs) + 1)] + [[title, *row] for title, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows_of(name: str, configs: list[Config]) -> dict[str, list[str]]:
    """Return the rows of a table, a number for each model."""
    if name == "generation":
        kinds = {"with the cache": True, "without": False}
        return {
            title: [human(generation(config, 16, cache)) for config in configs]
            for title, cache in kinds.items()
        }
    if name == "dimensions":
        rows = [dimensions(config) for config in configs]
        return {title: [of[title] for of in rows] for title in rows[0]}
    parts = [parameters(config) for config in configs]
    if name == "tuning":
        return {
            "`frozen`: the pooler": [human(of["pooling"]) for of in parts],
            "`lit`: all but the encoder": [human(sum(of.values()) - of["vision"]) for of in parts],
            "`full`": [human(sum(of.values())) for of in parts],
        }
    work = [multiply_adds(config) for config in configs]
    if name == "total":
        return shares("parameters", parts) | shares("multiply-adds", work)
    return {
        "parameters": [human(of[name]) for of in parts],
        "multiply-adds": [human(of[name]) for of in work],
    }


def shares(title: str, row: list[dict[str, int]]) -> dict[str, list[str]]:
    """Return the rows of all stages, with the share of each, and of their sum."""
    rows = {
        f"{title}, {stage}": [f"{human(of[stage])} ({of[stage] / sum(of.values()):.0%})" for of in row]
        for stage in STAGES
    }
    return rows | {f"{title}, all": [human(sum(of.values())) for of in row]}


def human(n: float) -> str:
    """Return a number with three digits and a unit: 12345678 is "12.3 M"."""
    for unit in ("", " k", " M", " G"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g} T"


if __name__ == "__main__":
    for stage in ("dimensions", *STAGES, "total", "generation", "tuning"):
        print(f"{stage}\n{table(stage)}\n")
