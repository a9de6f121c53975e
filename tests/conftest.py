"""What the tests share: small models with random weights from a seed, and a tokenizer of whole words."""

import itertools
import json
import os

# For products as small as these, more BLAS threads only wait for each other. Read when NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

from minivideococa.checkpoint import assemble
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import nest, parameter_shapes
from minivideococa.media.tokenizer import load_tokenizer
from minivideococa.world import VOCABULARY

# The same examples in every run: a test that turns red means that the code has changed.
# --hypothesis-profile=full: more of them, as in `.ci/run slow`.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=20)
settings.register_profile("full", settings.get_profile("suite"), max_examples=100)
settings.load_profile("suite")

NUMBERS = itertools.count()  # of the tests of this process

VISION = {
    "image_size": 14,
    "patch_size": 4,
    "width": 12,
    "layers": 2,
    "head_width": 6,
    "attentional_pool": True,
    "attn_pooler_queries": 4,
    "attn_pooler_heads": 2,
}
TEXT = {
    "context_length": 9,
    "vocab_size": len(VOCABULARY),
    "width": 8,
    "heads": 2,
    "layers": 2,
    "embed_cls": True,
}
DECODER = {"context_length": 9, "vocab_size": len(VOCABULARY), "width": 8, "heads": 2, "layers": 2}


def random_weights(config, seed, dtype):
    """Every tensor of the model, of a size that keeps activations near 1; a norm's weights lie around 1.

    The same seed gives the very same numbers in both dtypes.
    """
    rng = np.random.default_rng(seed)

    def tensor(name, shape):
        if name == "logit_scale":
            return np.array(rng.uniform(1, 3))
        x = rng.standard_normal(shape)
        if len(shape) > 1:
            return x / np.sqrt(shape[-1])
        return 1 + 0.2 * x if ".ln_" in name and name.endswith(".weight") else 0.3 * x

    return {
        name: tensor(name, shape).astype("float32").astype(dtype)
        for name, shape in parameter_shapes(config).items()
    }


def make_model(
    seed=0, dtype="float64", tokenizer=None, vision=None, text=None, decoder=None, video=None, **model
):
    """A small VideoCoCa. `vision`, `text`, `decoder` and `model` override fields of the configuration.

    video: the "video_cfg", as `{"factorized": {"layers": 2, "heads": 2}}`.
    """
    model = {
        "embed_dim": 8,
        "vision_cfg": VISION | (vision or {}),
        "text_cfg": TEXT | (text or {}),
        "multimodal_cfg": DECODER | (decoder or {}),
        **model,
    }
    size = model["vision_cfg"]["image_size"]
    source = {"model_cfg": model, "preprocess_cfg": {"size": size}}
    config = parse_config(source | ({"video_cfg": video} if video else {}))
    return assemble(config, nest(random_weights(config, seed, dtype)), tokenizer)


@pytest.fixture(scope="session")
def tiny_model():
    """`make_model`, for tests to make models from."""
    return make_model


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """The synthetic world's words, one a token: <pad> 0, <start_of_text> 1, <end_of_text> 2, <unk> 3, ..."""
    words = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "decoder": None,
        "added_tokens": [
            {
                "id": i,
                "content": word,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, word in enumerate(VOCABULARY[:4])
        ],
        "normalizer": {"type": "Replace", "pattern": {"Regex": "[.,]"}, "content": " "},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "unk_token": "<unk>",
            "vocab": {word: i for i, word in enumerate(VOCABULARY)},
        },
    }
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    path.write_text(json.dumps(words))
    return load_tokenizer(path, TEXT["context_length"], pad_id=0, clean="lower")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Give each test a cache of its own: a command would find what another test has encoded."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(NUMBERS)}"
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE", str(folder))
    monkeypatch.delenv("MINIVIDEOCOCA_CACHE_LIMIT", raising=False)
