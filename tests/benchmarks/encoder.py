"""The frozen image encoder, pixels [8, 3, S, S] -> frame tokens [8, N, W], in three libraries.

The bare matrix products of the encoder are timed too: no program that uses this BLAS can be faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import models
import numpy as np
from models import load_minivideococa, load_open_clip, model_config, pixels
from race import Racer, median, race
from report import Section, ratio, seconds

if TYPE_CHECKING:
    from minivideococa.model.config import VisionConfig

FRAMES = 8
OPSET = 20  # the first with Gelu as a single operation; later ones are not faster


def competitors(model: str) -> dict[str, tuple]:
    """Return name -> (function below, arguments after the folder)."""
    return {
        "minivideococa": ("ours",),
        "torch (open_clip)": ("torch", model),
        "onnxruntime": ("onnxruntime",),
        "bare matrix products": ("bare",),
    }


def flops(config: VisionConfig, frames: int) -> tuple[int, int]:
    """Return the operations of the linear layers and of attention's two products; a multiply-add is two."""
    tokens, width = config.tokens_per_frame, config.width
    block = width * (3 * width + width + 2 * config.mlp_width)  # queries, keys, values; out; up and down
    patches = (tokens - 1) * width * 3 * config.patch_size**2
    linear = patches + config.layers * tokens * block
    attention = config.layers * 2 * tokens**2 * width
    return 2 * frames * linear, 2 * frames * attention


def measure(folder: Path, model: str, rounds: int, threads: int) -> Section:
    for old in folder.glob("*.npy"):
        old.unlink()
    with Racer("encoder.export", str(folder), model, threads=threads) as export:
        export()
    with ExitStack() as stack:
        racers = {
            name: stack.enter_context(Racer(f"encoder.{function}", str(folder), *more, threads=threads))
            for name, (function, *more) in competitors(model).items()
        }
        turns = race(racers, rounds)
    ours, torch, onnxruntime, bare = turns.values()

    config = model_config(folder).vision
    linear, attention = flops(config, FRAMES)
    rate, bare_rate = (linear + attention) / median(ours), (linear + attention) / median(bare)
    linear_rate = linear / median(bare, "linear")
    rows = [
        [name, *seconds(mine), f"{(linear + attention) / median(mine) / 1e9:.0f}", ratio(mine, ours)]
        for name, mine in turns.items()
    ]
    rows.append(["of them the linear layers", *seconds(bare, "linear"), f"{linear_rate / 1e9:.0f}", ""])
    return Section(
        f"Image encoder: CoCa ViT-{model}, {FRAMES} frames of {config.image_size} x {config.image_size}",
        ["", "seconds", "min - max", "GFLOP/s", "times ours"],
        rows,
        [
            f"torch takes {ratio(torch, ours)} times as long as minivideococa, onnxruntime "
            f"{ratio(onnxruntime, ours)} times.",
            f"minivideococa reaches {rate / linear_rate:.0%} of the rate of the bare linear layers, "
            f"{rate / bare_rate:.0%} of the rate of all bare matrix products. The linear layers are "
            f"{linear / 1e9:.0f} GFLOP, attention's two products {attention / 1e9:.0f}.",
            f"The frame tokens differ from torch's by {difference(folder, 'ours'):.0e} (minivideococa) and "
            f"{difference(folder, 'onnxruntime'):.0e} (onnxruntime) at most, relative to the largest.",
        ],
        turns,
    )


def difference(folder: Path, name: str) -> float:
    """Return the largest difference of a competitor's frame tokens from torch's, relative to the largest.

    Raises RuntimeError if it is 1e-4 or more.
    """
    expected = np.load(folder / "torch.npy")
    result = float(abs(np.load(folder / f"{name}.npy") - expected).max() / abs(expected).max())
    if not result < 1e-4:
        raise RuntimeError(f"the frame tokens of {name} differ from torch's by {result:.1e} of the largest")
    return result


# Run in the child processes; the frame tokens are saved for comparison --------------------------------------


def ours(folder: str) -> Callable[[], None]:
    mvc, x = load_minivideococa(folder), pixels(folder, FRAMES)
    return lambda: save_once(folder, "ours", mvc.encode_frames(x))


def torch(folder: str, model: str) -> Callable[[], None]:
    import torch

    encoder, x = torch_encoder(folder, model), torch.from_numpy(pixels(folder, FRAMES))

    def run() -> None:
        with torch.inference_mode():
            save_once(folder, "torch", encoder(x).numpy())

    return run


def torch_encoder(folder: str, model: str):
    """Return open_clip's image encoder as a module: its VisionTransformer up to the pooler."""
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self, visual: torch.nn.Module) -> None:
            super().__init__()
            self.visual = visual

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.visual.transformer(self.visual._embeds(x))

    return Encoder(load_open_clip(folder, model).visual).eval()


def export(folder: str, model: str) -> Callable[[], None]:
    """Return a function that exports the module above to encoder.onnx, for a process without torch."""
    import torch

    path = Path(folder) / "encoder.onnx"

    def run() -> None:
        if not path.exists():
            x = torch.from_numpy(pixels(folder, FRAMES))
            torch.onnx.export(
                torch_encoder(folder, model),
                (x,),
                path,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                external_data=True,
            )

    return run


def onnxruntime(folder: str) -> Callable[[], None]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = models.threads(), 1
    session = onnxruntime.InferenceSession(
        Path(folder) / "encoder.onnx", options, providers=["CPUExecutionProvider"]
    )
    x = {session.get_inputs()[0].name: pixels(folder, FRAMES)}
    return lambda: save_once(folder, "onnxruntime", session.run(None, x)[0])


def bare(folder: str) -> Callable[[], dict[str, float]]:
    """Return a function that computes only the encoder's matrix products, into preallocated arrays.

    `linear` is the time of the linear layers, each one product for all frames: the patches, and in each block
    the input projection, the output projection and the two layers of the MLP. Attention's two products per
    block, frame and head follow; they are small and therefore slow.
    """
    mvc, rng = load_minivideococa(folder), np.random.default_rng(0)
    config, visual = mvc.config.vision, mvc.params["visual"]
    weights = [visual["conv1"]["weight"].reshape(config.width, -1)]
    for block in visual["transformer"]["resblocks"]:
        weights += [
            block["attn"]["in_proj_weight"],
            block["attn"]["out_proj"]["weight"],
            block["mlp"]["c_fc"]["weight"],
            block["mlp"]["c_proj"]["weight"],
        ]
    rows = [FRAMES * (config.tokens_per_frame - 1)] + [FRAMES * config.tokens_per_frame] * (len(weights) - 1)
    longest, widest = max(rows), max(max(w.shape) for w in weights)
    x, y = rng.standard_normal(longest * widest, np.float32), np.empty(longest * widest, np.float32)
    products = [
        (x[: n * w.shape[1]].reshape(n, -1), w.T, y[: n * w.shape[0]].reshape(n, -1))
        for n, w in zip(rows, weights, strict=True)
    ]

    heads = FRAMES, config.heads, config.tokens_per_frame, config.width // config.heads
    queries, keys, values = rng.standard_normal((3, *heads), np.float32)
    scores, mixed = np.empty((*heads[:3], config.tokens_per_frame), np.float32), np.empty(heads, np.float32)

    def run() -> dict[str, float]:
        start = time.perf_counter()
        for inputs, weight, outputs in products:
            np.matmul(inputs, weight, out=outputs)
        linear = time.perf_counter() - start
        for _ in range(config.layers):
            np.matmul(queries, keys.swapaxes(-1, -2), out=scores)
            np.matmul(scores, values, out=mixed)
        return {"linear": linear}

    return run


def save_once(folder: str, name: str, tokens: np.ndarray) -> None:
    path = Path(folder) / f"{name}.npy"
    if not path.exists():  # the first run is the warm-up
        np.save(path, tokens)
