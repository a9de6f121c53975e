"""Fixtures of the tests of libraries: a small model, pictures, and a library of their latents."""

import library_contents
import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="package", autouse=True)
def one_blas_thread():
    """Limit BLAS to one thread: the matrices are small, and two threads often wait for each other."""
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture
def model(tiny_model, tokenizer):
    return tiny_model(2, dtype="float32", tokenizer=tokenizer)


@pytest.fixture
def picture():
    """Write a random picture, whose content depends on the seed alone."""

    def picture(path, seed):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 16, 3), np.uint8)).save(path)
        return str(path)

    return picture


@pytest.fixture
def pictures(tmp_path, picture):
    """The paths of six random pictures, a.png to f.png."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    return [picture(folder / f"{name}.png", seed) for seed, name in enumerate("abcdef")]


@pytest.fixture
def clip(tmp_path):
    """The path of a GIF of eight frames, one a second, each of one colour of its own."""
    path = tmp_path / "clip.gif"
    frames = [Image.fromarray(np.full((16, 16, 3), (255 - 32 * t, 32 * t, 90), np.uint8)) for t in range(8)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000)
    return str(path)


@pytest.fixture
def library(tmp_path):
    """The path of a library, which does not exist yet."""
    return str(tmp_path / "library")


@pytest.fixture
def encoded(monkeypatch):
    """The paths of the clips that are encoded."""
    from minivideococa.library import build

    paths, encode = [], build.encode_clip

    def note(model, found, *arguments):
        paths.append(found.clip.path)
        return encode(model, found, *arguments)

    monkeypatch.setattr(build, "encode_clip", note)
    return paths


@pytest.fixture
def small_shards(monkeypatch):
    """Shards that are full with three clips of one frame."""
    from minivideococa.library import store

    monkeypatch.setattr(store, "SHARD_BYTES", 3 * 2 * 8 * 2)


@pytest.fixture
def contents():
    """Return {path: (latent, frames, times)} of a library, after a check that nothing is in it twice."""
    return library_contents.contents
