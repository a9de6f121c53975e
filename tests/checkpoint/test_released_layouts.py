"""The layouts of the released weights on the hub, from a server that answers as the hub does.

The layouts are tried with small models in place of open_clip's two. oracle/test_hub_full_size.py has the real
shapes.
"""

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_hub import digest, fetch, server  # noqa: F401 (the fixture)
from test_unpickler import program, tensor, write_zip

from minivideococa import tasks
from minivideococa.checkpoint import load, released
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.folder import read_origin
from minivideococa.checkpoint.table import parameter_shapes

pytestmark = pytest.mark.filterwarnings("ignore:.*no configuration beside it")

PACKAGE = Path(released.__file__).parents[2]
CLIP = PACKAGE / "minivideococa" / "data" / "demo" / "pair.gif"
SMALL = {
    "embed_dim": 8,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 16,
        "patch_size": 8,
        "width": 12,
        "layers": 1,
        "head_width": 6,
        "output_tokens": True,
        "attentional_pool": True,
        "attn_pooler_queries": 4,
        "attn_pooler_heads": 2,
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 49408,
        "width": 8,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
PRESETS = {
    "coca_ViT-B-32": SMALL,
    "coca_ViT-L-14": SMALL | {"vision_cfg": SMALL["vision_cfg"] | {"width": 18, "layers": 2}},
}
README = {"README.md": b"---\nlicense: mit\n---\n"}


def random_weights(model_cfg: dict, seed: int = 0, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Return weights that keep activations near 1. Large ones repeat a block of random numbers."""
    block = np.random.default_rng(seed).standard_normal(999_983).astype(dtype)

    def tensor(shape: tuple[int, ...]) -> np.ndarray:
        scale = np.dtype(dtype).type(1 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.5)
        return np.resize(block[: math.prod(shape)] * scale, shape)

    shapes = parameter_shapes(parse_config(model_cfg))
    return {name: tensor(shape) for name, shape in shapes.items()} | {"logit_scale": np.array(2, dtype)}


def torch_file(path: Path, weights: Mapping[str, np.ndarray], wrap: bool = False) -> Path:
    """A file as torch.save writes it; with `wrap` a training checkpoint."""
    kind = {"float32": "FloatStorage", "float16": "HalfStorage"}
    described = {}
    for key, (name, array) in enumerate(weights.items()):
        stride = tuple(array.strides[i] // array.itemsize for i in range(array.ndim))
        described[name] = tensor(str(key), kind[str(array.dtype)], array.size, 0, array.shape, stride)
    data = program({"epoch": 1, "state_dict": described} if wrap else described)
    return write_zip(
        path, data, {str(key): array.reshape(-1).data for key, array in enumerate(weights.values())}
    )


def safetensors_file(path: Path, weights: Mapping[str, np.ndarray]) -> Path:
    save_file(dict(weights), path)
    return path


def shards(folder: Path, weights: Mapping[str, np.ndarray]) -> dict[str, Path | bytes]:
    """model-00001-of-00002.safetensors, its twin, and their index, with a byte order mark."""
    names, weight_map = list(weights), {}
    files: dict[str, Path | bytes] = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        files[file] = safetensors_file(folder / file, {name: weights[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    return files | {"model.safetensors.index.json": index.encode("utf-8-sig")}


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small models in the place of open_clip's two configurations."""
    (tmp_path / "presets").mkdir()
    for name, model_cfg in PRESETS.items():
        (tmp_path / "presets" / f"{name}.json").write_text(json.dumps(model_cfg))
    monkeypatch.setattr(released, "FOLDER", tmp_path / "presets")
    return tmp_path / "presets"


LAION, FINETUNED = (
    "laion/CoCa-ViT-B-32-laion2B-s13B-b90k",
    "laion/mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k",
)
LAYOUTS = {  # repository: model, its files, the file of weights that is used
    LAION: ("coca_ViT-B-32", "bin", "open_clip_pytorch_model.bin"),
    "laion/CoCa-ViT-L-14-laion2B-s13B-b90k": ("coca_ViT-L-14", "bin", "open_clip_pytorch_model.bin"),
    FINETUNED: ("coca_ViT-B-32", "flat bin", "open_clip_pytorch_model.bin"),
    "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k": (
        "coca_ViT-L-14",
        "flat bin safetensors",
        "open_clip_pytorch_model.safetensors",
    ),
    "apple/mobileclip2_coca_dfn2b_s13b_mscoco38k_s12m_context77": (
        "coca_ViT-L-14",
        "pt",
        "mobileclip2_coca.pt",
    ),
    "someone/sharded": ("coca_ViT-B-32", "shards", "model.safetensors.index.json"),
}


def repository(folder: Path, model: str, files: str) -> dict[str, bytes | Path]:
    """The files of a repository, in `folder` too."""
    folder.mkdir()
    weights = random_weights(PRESETS[model], seed=len(files))
    stored: dict[str, bytes | Path] = dict(README)
    if "flat" in files:
        stored["open_clip_config.json"] = json.dumps(PRESETS[model]).encode("utf-8-sig")
    if "bin" in files:
        stored["open_clip_pytorch_model.bin"] = torch_file(folder / "open_clip_pytorch_model.bin", weights)
    if "safetensors" in files:
        name = "open_clip_pytorch_model.safetensors"
        stored[name] = safetensors_file(folder / name, weights)
    if "pt" in files:
        stored["mobileclip2_coca.pt"] = torch_file(folder / "mobileclip2_coca.pt", weights, wrap=True)
    if "shards" in files:
        stored |= shards(folder, weights)
    for name, data in stored.items():
        if isinstance(data, bytes):
            (folder / name).write_bytes(data)
    return stored


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*using the weights in open_clip_pytorch_model.safetensors")
def test_every_layout_from_the_hub_gives_the_model_of_the_local_files(
    server: ThreadingHTTPServer,  # noqa: F811
    tmp_path: Path,
    presets: Path,
) -> None:
    for i, (name, (model, files, _)) in enumerate(LAYOUTS.items()):
        server.repositories[name] = repository(tmp_path / str(i), model, files)
    code = f"""if True:
        import sys
        from pathlib import Path
        import minivideococa as mvc
        from minivideococa.checkpoint import released
        released.FOLDER = Path({str(presets)!r})
        for name in sys.argv[1:]:
            print(repr(mvc.load("hf-hub:" + name).caption({str(CLIP)!r}, 2, max_length=8)))
    """
    captions = fetch(server, tmp_path, *LAYOUTS, code=code)
    assert len(captions) == len(LAYOUTS) and len(set(captions)) > 1

    for i, (name, (_, _, weights)) in enumerate(LAYOUTS.items()):
        fetched = tmp_path / "cache" / name.replace("/", "--")
        local = convert(tmp_path / str(i), tmp_path / f"local{i}")
        for file in ("config.json", "tokenizer.json"):
            assert (fetched / file).read_bytes() == (local / file).read_bytes()
        expected, tensors = (load_file(folder / "model.safetensors") for folder in (local, fetched))
        assert tensors.keys() == expected.keys()
        assert all(np.array_equal(tensors[key], expected[key]) for key in expected)
        if name in (LAION, FINETUNED):
            assert repr(load(local).caption(CLIP, 2, max_length=8)) == captions[i]

        origin = read_origin(fetched / "model.safetensors")
        assert (origin["repository"], origin["revision"], origin["weights"]) == (name, "a" * 40, weights)
        if not weights.endswith(".json"):
            assert origin["sha256"] == digest(server.repositories[name][weights])
    assert not [request for request in server.requests if "README" in request]


@pytest.mark.parametrize("model", PRESETS)
def test_a_configuration_with_the_same_shapes_is_used_with_a_warning(
    model: str, tmp_path: Path, presets: Path
) -> None:
    repository(tmp_path / "hub", model, "bin")
    with pytest.warns(
        UserWarning, match=f"open_clip_pytorch_model.bin: .*; using open_clip's {model}"
    ) as warned:
        source = json.loads((convert(tmp_path / "hub", tmp_path / "out") / "config.json").read_text())
    assert source["model_cfg"] == PRESETS[model] and [warning.filename for warning in warned] == [__file__]
    bare = tmp_path / "hub" / "open_clip_pytorch_model.bin"
    assert json.loads((convert(bare, tmp_path / "b") / "config.json").read_text()) == source


def test_weights_fit_no_configuration(tmp_path: Path, presets: Path) -> None:
    (tmp_path / "hub").mkdir()
    weights = random_weights(PRESETS["coca_ViT-L-14"]) | {"visual.proj": np.ones((7, 8), "f4")}
    torch_file(tmp_path / "hub" / "w.pt", weights)
    with pytest.raises(FileNotFoundError) as error:
        convert(tmp_path / "hub", tmp_path / "out")
    for expected in (
        "it has none of open_clip_config.json, config.json",
        "coca_ViT-B-32 or coca_ViT-L-14",
        "closest: coca_ViT-L-14",
        "visual.proj [7, 8], not [8, 8]",
        "--config",
        "coca_base and coca_roberta-ViT-B-32 are not supported",
    ):
        assert expected in str(error.value)
    with pytest.raises(ValueError, match="it has no configuration; give --config FILE"):
        convert(tmp_path / "hub" / "w.pt", tmp_path / "out")


def test_weights_of_another_model_are_refused_in_a_short_line(tmp_path: Path) -> None:
    """One missing and one unexpected tensor are named, not all."""
    torch_file(tmp_path / "w.pt", {f"layer{i}.weight": np.ones((2, 3), "f4") for i in range(40)})
    with pytest.raises(ValueError, match="give --config FILE.* and 39 more") as error:
        convert(tmp_path / "w.pt", tmp_path / "out")
    assert len(str(error.value).removeprefix(str(tmp_path))) < 400


def test_a_repository_is_not_a_source_of_convert(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes local files; give hf-hub:... to --weights directly"):
        convert("hf-hub:laion/CoCa-ViT-B-32-laion2B-s13B-b90k", tmp_path / "out")


@pytest.mark.parametrize(
    "config, expected",
    [
        ("coca_base", "no attentional pooler; supported: coca_ViT-B-32, coca_ViT-L-14"),
        ("coca_roberta-ViT-B-32", "its text tower is RoBERTa"),
        ("coca_ViT-L-14", "misshapen"),
        ("coca_ViT-H-14", "give a file or coca_ViT-B-32 or coca_ViT-L-14"),
        ("a\0b", "the name of a configuration"),
    ],
)
def test_configuration_by_name(config: str, expected: str, tmp_path: Path, presets: Path) -> None:
    path = torch_file(tmp_path / "w.bin", random_weights(PRESETS["coca_ViT-B-32"]))
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        convert(path, tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()
    convert(path, tmp_path / "out", config="coca_ViT-B-32")


@pytest.mark.slow
def test_the_choice_among_several_weights_is_a_warning(tmp_path: Path, presets: Path) -> None:
    def choice(dest: str) -> str:
        """Return the warning of a conversion.."""
        with pytest.warns(UserWarning, match="using the weights in") as warned:
            convert(tmp_path / "run", tmp_path / dest)
        assert [warning.filename for warning in warned] == [__file__] * 2
        return str(warned[0].message)

    (tmp_path / "run").mkdir()
    for epoch in (9, 10):
        weights = random_weights(PRESETS["coca_ViT-B-32"], seed=epoch)
        torch_file(tmp_path / "run" / f"epoch_{epoch}.pt", weights, wrap=True)
    assert "using the weights in epoch_10.pt, not those in epoch_9.pt" in choice("a")
    safetensors_file(tmp_path / "run" / "some.safetensors", random_weights(PRESETS["coca_ViT-B-32"]))
    assert "in some.safetensors, not those in epoch_10.pt, epoch_9.pt" in choice("b")
    torch_file(tmp_path / "run" / "open_clip_pytorch_model.bin", random_weights(PRESETS["coca_ViT-B-32"]))
    assert "in open_clip_pytorch_model.bin, not those in" in choice("c")


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda index: {"weight_map": {}}, "no weight_map"),
        (lambda index: [], "no weight_map"),
        (
            lambda index: {"weight_map": index["weight_map"] | {"visual.proj": "../x.safetensors"}},
            "not a file beside it",
        ),
        (lambda index: {"weight_map": index["weight_map"] | {"visual.proj": "a\0b"}}, "not a file beside it"),
        (
            lambda index: {"weight_map": index["weight_map"] | {"visual.proj": "absent.safetensors"}},
            "absent.safetensors",
        ),
        (
            lambda index: {"weight_map": index["weight_map"] | {"new": "model-00001-of-00002.safetensors"}},
            "'new' is not in",
        ),
    ],
)
def test_malformed_indices(change, expected: str, tmp_path: Path, presets: Path) -> None:
    repository(tmp_path / "hub", "coca_ViT-B-32", "shards")
    index = tmp_path / "hub" / "model.safetensors.index.json"
    index.write_text(json.dumps(change(json.loads(index.read_text(encoding="utf-8-sig")))))
    with pytest.raises((ValueError, FileNotFoundError), match=expected) as error:
        convert(tmp_path / "hub", tmp_path / "out")
    assert "\n" not in str(error.value) and str(tmp_path / "hub") in str(error.value)


@pytest.mark.slow
def test_single_shard(tmp_path: Path, presets: Path) -> None:
    (tmp_path / "hub").mkdir()
    weights = random_weights(PRESETS["coca_ViT-B-32"])
    safetensors_file(tmp_path / "hub" / "model-00001-of-00001.safetensors", weights)
    load(convert(tmp_path / "hub", tmp_path / "out"))


def test_shards_without_their_index(tmp_path: Path, presets: Path) -> None:
    repository(tmp_path / "hub", "coca_ViT-B-32", "shards")
    (tmp_path / "hub" / "model.safetensors.index.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"hub: shards without their index \(model.safetensors.index.json\)"
    ):
        convert(tmp_path / "hub", tmp_path / "out")


@pytest.mark.parametrize("files", ["bin", "pt", "flat bin", "shards"])
def test_load_asks_to_convert_a_released_folder(files: str, tmp_path: Path, presets: Path) -> None:
    repository(tmp_path / "hub", "coca_ViT-B-32", files)
    with pytest.raises(
        FileNotFoundError, match="hub: config.json is missing: run minivideococa convert on it first"
    ):
        load(tmp_path / "hub")


# Defects of the weights


@pytest.fixture
def finetuned(tmp_path: Path, presets: Path) -> Iterator[Path]:
    """The finetuned B/32 in huggingface_hub's cache."""
    snapshots = tmp_path / f"models--{FINETUNED.replace('/', '--')}" / "snapshots"
    snapshots.mkdir(parents=True)
    repository(snapshots / ("c" * 40), "coca_ViT-B-32", "flat bin")
    yield snapshots / ("c" * 40)


@pytest.mark.slow
def test_classify_and_retrieve_warn_of_degraded_latents(finetuned: Path, tmp_path: Path) -> None:
    first = convert(finetuned, tmp_path / "first")
    second = convert(first, tmp_path / "second", dtype="float16")  # the origin is kept
    for folder in (first, second):
        assert read_origin(folder / "model.safetensors") == {
            "repository": FINETUNED,
            "revision": "c" * 40,
            "weights": "open_clip_pytorch_model.bin",
            "sha256": digest(finetuned / "open_clip_pytorch_model.bin"),
        }
        model = load(folder)
        assert model.origin == read_origin(folder / "model.safetensors")
        video = model.encode(CLIP, 2)
        with pytest.warns(
            UserWarning, match="for captions only: finetuning degraded their latents"
        ) as warned:
            tasks.classify(model, video, ["a", "b"])
            tasks.retrieve(model, "a", [video])
        assert [warning.filename for warning in warned] == [__file__] * 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tasks.classify(model, video, ["a", "b"], by="likelihood")  # does not compare latents


@pytest.mark.parametrize(
    "repository, warns",
    [
        (FINETUNED, True),
        (FINETUNED.replace("laion/", "mirror/"), True),
        (LAION, False),
        ("laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k", False),
        ("", False),
    ],
)
def test_caveats(repository: str, warns: bool) -> None:
    assert (released.weights_caveat({"repository": repository}) is not None) == warns
