"""`convert --to open_clip` against open_clip: it loads strictly, and gives the same latents and logits."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from common import Arrays, random_pixels, random_weights
from open_clip.coca_model import CoCa
from open_clip.factory import load_state_dict
from safetensors.numpy import load_file

import minivideococa as mvc
from minivideococa.checkpoint import assemble, with_tensors
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.checkpoint.table import nest, parameter_shapes, unnest
from minivideococa.checkpoint.tuned import write_tuned, write_whole
from minivideococa.checkpoint.vocabulary import add_words

VISION = {
    "image_size": 20,
    "patch_size": 5,
    "width": 24,
    "layers": 2,
    "head_width": 8,
    "attentional_pool": True,
    "attn_pooler_queries": 5,
    "attn_pooler_heads": 4,
}
TEXT = {"context_length": 7, "vocab_size": 30, "width": 16, "layers": 2, "heads": 2, "embed_cls": True}
DECODER = {"context_length": 7, "width": 16, "layers": 2, "heads": 4}
NEW = {
    "adapter": "factorized",
    "factorized": {"layers": 2, "heads": 2, "positions": 4},
    "answers": ["a", "b"],
}


def model(
    vision: dict | None = None, text: dict | None = None, video: dict | None = None, **fields: object
) -> mvc.VideoCoCa:
    """Return a small model with random weights, without the fields that only open_clip needs."""
    cfg = {
        "embed_dim": 16,
        "vision_cfg": VISION | (vision or {}),
        "text_cfg": TEXT | (text or {}),
        "multimodal_cfg": DECODER,
        **fields,
    }
    config = parse_config({"model_cfg": cfg} | ({"video_cfg": video} if video else {}))
    return assemble(config, nest(random_weights(parameter_shapes(config), 5)))


def exported(ours: mvc.VideoCoCa, folder: Path) -> Path:
    """Export a model from a checkpoint folder of it."""
    write_whole(folder / "ours", ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert(folder / "ours", folder / "theirs", to="open_clip")


def from_factory(folder: Path) -> CoCa:
    """Load a folder by its name alone, as `open_clip.create_model` does for a repository."""
    return open_clip.create_model(f"local-dir:{folder}").eval()


def from_class(folder: Path) -> CoCa:
    """Build the class from the configuration, and load the state dict strictly."""
    cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    assert cfg.pop("custom_text") is True  # for the factory
    theirs = CoCa(**cfg).eval()
    theirs.load_state_dict(load_state_dict(str(folder / "open_clip_model.safetensors")), strict=True)
    return theirs


def assert_same_outputs(ours: mvc.VideoCoCa, theirs: CoCa, cls_mask: bool = False) -> None:
    """Compare the latents of an image and of texts, and the logits, in float64."""
    theirs = theirs.double()
    theirs.text.correct_cls_mask = cls_mask
    wide = {name: x.astype("float64") for name, x in unnest(ours.params).items()}
    ours = assemble(ours.config, nest(wide))
    size, vocabulary = ours.config.vision.image_size, ours.config.text.vocab_size
    pixels = random_pixels(1, size, 2).astype("float64")
    ids = np.random.RandomState(3).randint(1, vocabulary, (1, ours.config.text.context_length))
    ids[0, -1] = vocabulary - 1  # the last word is one of them
    ids[0, -3:-1] = ours.config.text.pad_id
    video = ours.encode_video(pixels, "attentional")
    found: Arrays = {
        "image": video.latent,
        "text": ours.encode_text(ids)[0],
        "logits": ours.decode(video.tokens, ids)[0, :-1],  # open_clip returns those that have a label
        "scale": np.array(ours.logit_scale),
    }
    with torch.no_grad():
        result = theirs(torch.from_numpy(pixels), torch.from_numpy(ids))
    expected = {
        "image": result["image_features"].reshape(-1),  # [1, E], or [1, 1, E] of a pooler with one query
        "text": result["text_features"][0],
        "logits": result["logits"][0],
        "scale": result["logit_scale"].reshape(()),
    }
    for name, x in expected.items():
        assert found[name].shape == tuple(x.shape), name
        assert abs(found[name] - x.numpy()).max() < 1e-12 * max(1, abs(x.numpy()).max()), name


FORMS = {
    "attentional": {},
    "one width": {"vision": {"width": 16}},
    "cascade": {"vision": {"width": 16, "attentional_pool": "cascade"}},
    "parallel": {"vision": {"width": 16, "attentional_pool": "parallel"}},
    "quick_gelu": {"quick_gelu": True},
    "no ln_pre": {"vision": {"no_ln_pre": True}},
    "logit_scale [1]": {"nonscalar_logit_scale": True},
    "padding ids": {"pad_id": 3, "text": {"pad_id": 2}},
    "correct_cls_mask": {"text": {"correct_cls_mask": True}},
    "new layers": {"video": NEW},
}


@pytest.mark.parametrize("load", [from_factory, from_class])
@pytest.mark.parametrize("form", FORMS)
def test_open_clip_loads_it(form: str, load, tmp_path: Path) -> None:
    ours = model(**FORMS[form])
    theirs = load(exported(ours, tmp_path))
    assert isinstance(theirs, CoCa)
    assert_same_outputs(ours, theirs, cls_mask=form == "correct_cls_mask")


def test_preprocessing_is_the_checkpoints(tmp_path: Path) -> None:
    ours = model()
    source = ours.config.source | {"preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": 0.5}}
    out = exported(assemble(parse_config(source), ours.params), tmp_path)
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{out}")
    normalize = transform.transforms[-1]
    assert list(normalize.mean) == [0.1, 0.2, 0.3] and list(normalize.std) == [0.5] * 3


@pytest.mark.parametrize("load", [from_factory, from_class])
def test_a_tuned_part_with_a_grown_vocabulary(load, tmp_path: Path) -> None:
    """On the embedded checkpoint: tuned tensors, new words and new layers."""
    base = mvc.load()
    grown = add_words(base, ["what colour is the star?", "two"])
    config = parse_config(grown.config.source | {"video_cfg": NEW})
    fresh = random_weights(parameter_shapes(config), 6)
    shapes = parameter_shapes(base.config)
    tuned = {name: x for name, x in fresh.items() if name not in shapes or name.startswith("text_decoder")}
    ours = with_tensors(grown, tuned, config=config, tuned_for="qa")
    part = write_tuned(tmp_path / "tuned.safetensors", ours)
    with pytest.warns(UserWarning, match="no factorized layers and no question head: stored apart"):
        out = convert(embedded_checkpoint(), tmp_path / "theirs", "float32", tuned=part, to="open_clip")
    theirs = load(out)
    V = ours.config.text.vocab_size
    assert base.config.text.vocab_size < V == theirs.text.token_embedding.num_embeddings
    assert_same_outputs(ours, theirs)
    new = load_file(out / "new_layers.safetensors")
    assert new and not new.keys() & theirs.state_dict().keys()
    back = mvc.load(convert(out, tmp_path / "back", tuned=out / "new_layers.safetensors"))
    before, after = unnest(ours.params), unnest(back.params)
    assert before.keys() == after.keys() and back.config == ours.config and back.tuned_for == "qa"
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert back.tokenizer.unknown("what colour is the star?") == []
    # the same ids as the checkpoint's own tokenizer
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    ids = tokenizer.encode("what colour is the star", add_special_tokens=False).ids
    assert ids == ours.tokenize("What colour is the star?")[0, 1 : len(ids) + 1].tolist()


def test_finetuned_there_and_taken_back(tmp_path: Path) -> None:
    """What open_clip saves of an exported model is converted as any other state dict of its own."""
    out = exported(model(), tmp_path)
    theirs = from_factory(out)
    with torch.no_grad():
        theirs.visual.proj.add_(1)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "epoch_1.pt")
    back = convert(tmp_path / "epoch_1.pt", tmp_path / "back", config=out / "open_clip_config.json")
    tensors = load_file(back / "model.safetensors")
    assert all(np.array_equal(tensors[name], x.numpy()) for name, x in theirs.state_dict().items())
