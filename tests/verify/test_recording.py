"""Recording a port's tensors: by hand, by hooks on modules as PyTorch has them, from Flax's nested dict.

The modules here are fakes with PyTorch's interface; tests/oracle/test_recording_oracle.py has the real ones.
"""

import os
import re
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from verify_helpers import FOLDER, FRAMES, IDS, TRUTH, noise, raises_one_line, run

import minivideococa as mvc
from minivideococa.verify import (
    Input,
    Output,
    Recording,
    flax_intermediates,
    recording,
    torch_hooks,
    verify,
    verify_file,
    write_trace,
)

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(mvc.__file__).parents[1])}
TABLE = {"pixels": Input("visual"), "vision.embed": "visual.ln_pre", "vision.block.0": "visual.blocks.0"}


class Tensor:
    """What a tensor of PyTorch has to offer here. Like one it shares its memory with `numpy()`."""

    def __init__(self, x, dtype=None, attached=True):
        self.x, self.dtype, self.attached = np.asarray(x), f"torch.{dtype or np.asarray(x).dtype}", attached

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return Tensor(self.x[index], self.dtype.removeprefix("torch."), self.attached)

    shape = property(lambda self: self.x.shape)

    def detach(self):
        return Tensor(self.x, self.dtype.removeprefix("torch."), attached=False)

    def cpu(self):
        return self

    def float(self):
        return Tensor(self.x.astype("float32"), attached=self.attached)

    def transpose(self, a, b):
        return Tensor(self.x.swapaxes(a, b), self.dtype.removeprefix("torch."), self.attached)

    def numpy(self):
        if self.attached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.\nUse detach() instead.")
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.x


class Handle:
    def __init__(self, hooks, hook):
        hooks.append(hook)
        self.remove = lambda: hooks.remove(hook)


class Module:
    """A module of PyTorch: a function, submodules by name, and hooks."""

    with_kwargs = True

    def __init__(self, function=lambda x: x, **children):
        self.function, self.children, self.before, self.after = function, children, [], []

    def __call__(self, *args, **kwargs):
        for hook in list(self.before):
            hook(self, args, kwargs) if self.with_kwargs else hook(self, args)
        output = self.function(*args, **kwargs)
        for hook in list(self.after):
            hook(self, args, output)
        return output

    def __getattr__(self, name):
        if name in self.__dict__.get("children", {}):
            return self.children[name]
        raise AttributeError(name)

    def get_submodule(self, path):
        module = self
        for name in filter(None, path.split(".")):
            module = getattr(module, name)
        return module

    def named_modules(self, prefix=""):
        yield prefix, self
        for name, child in self.children.items():
            yield from child.named_modules(f"{prefix}.{name}".lstrip("."))

    def register_forward_pre_hook(self, hook, **options):
        if options and not self.with_kwargs:
            raise TypeError("register_forward_pre_hook() got an unexpected keyword argument 'with_kwargs'")
        return Handle(self.before, hook)

    def register_forward_hook(self, hook):
        return Handle(self.after, hook)

    def hooks(self):
        return [hook for _, module in self.named_modules() for hook in module.before + module.after]


def port(model):
    """Our image encoder as a port in PyTorch: modules that return the model's activations."""

    def tensor_of(name):
        return lambda pixels: Tensor(activations(model, pixels)[name])

    parts = {
        "ln_pre": Module(tensor_of("vision.embed")),
        "blocks": Module(**{"0": Module(lambda x: (tensor_of("vision.block.0")(x), "weights"))}),
    }

    def run_all(pixels):
        parts["ln_pre"](pixels)
        parts["blocks"].get_submodule("0")(pixels)

    return Module(visual=Module(run_all, **parts))


def activations(model, pixels):
    with mvc.trace() as seen:
        model.encode_video(pixels.x)
    return seen


@contextmanager
def suppressed_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def vision(tiny_model):
    """A model, its port in PyTorch, and pixels."""
    model = tiny_model()
    return model, port(model), Tensor(model.preprocess(FRAMES))


# By hand


def test_a_function_is_recorded_and_verified(tiny_model):
    model = tiny_model()
    with mvc.verify.recording() as recorded:
        for name, x in run(model).items():
            recorded[name] = x
    report = verify(model, recorded)
    assert report.ok and len(report.compared) == 18 and str(report) == mvc.verify.text(report)


def test_what_is_recorded_is_a_copy():
    recorded, x = Recording(), np.zeros((2, 3))
    recorded["vision.embed"] = x.T
    recorded["vision.block.0"] = Tensor(x)
    x += 1
    assert not recorded["vision.embed"].any() and not recorded["vision.block.0"].any()
    assert recorded["vision.embed"].flags.c_contiguous and recorded["vision.embed"].shape == (3, 2)


@pytest.mark.parametrize("make", [lambda x: Tensor(x, "bfloat16"), lambda x: jnp.asarray(x, jnp.bfloat16)])
def test_bfloat16_is_held_as_float32_and_judged_as_bfloat16(tiny_model, tmp_path, make):
    """NumPy does not have it, so neither does the file, whose metadata says so."""
    model = tiny_model()
    tape = run(model)
    with recording(tmp_path / "t.safetensors") as recorded:
        recorded["ids"] = tape["ids"]
        recorded["text.embed"] = make(np.asarray(jnp.asarray(tape["text.embed"], jnp.bfloat16), "float32"))
    assert recorded["text.embed"].dtype == np.float32 and recorded.dtypes["text.embed"] == "bfloat16"
    assert load_file(tmp_path / "t.safetensors")["text.embed"].dtype == np.float32
    assert verify(model, recorded).ok and verify(model, recorded).dtype == "bfloat16"
    assert not verify(model, dict(recorded)).ok  # as float32


def test_a_bfloat16_trace_is_judged_so_from_its_file(tmp_path, truth):
    with recording(tmp_path / "t.safetensors") as recorded:
        recorded["ids"] = truth["ids"]
        recorded["text.embed"] = jnp.asarray(truth["text.embed"], jnp.bfloat16)
    report = verify_file(tmp_path / "t.safetensors", FOLDER)
    assert report.ok and report.dtype == "bfloat16"


def test_a_trace_of_ours_can_be_written_without_its_model(tmp_path, truth):
    write_trace(tmp_path / "t.safetensors", {"ids": truth["ids"], "text.embed": truth["text.embed"]})
    assert verify_file(tmp_path / "t.safetensors", FOLDER).ok


def test_nothing_is_written_where_the_block_fails(tmp_path, vision):
    with pytest.raises(ZeroDivisionError), recording(tmp_path / "t.safetensors") as recorded:
        recorded["ids"] = [1, 2]
        _ = 1 / 0
    _, port, pixels = vision
    with pytest.raises(ZeroDivisionError), torch_hooks(port, TABLE, output=tmp_path / "t.safetensors"):
        port.visual(pixels)
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == [] and port.hooks() == []


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    worked = []
    with pytest.raises(FileNotFoundError), recording(tmp_path / "no" / "t.safetensors"):
        worked.append(1)
    assert not worked


@pytest.mark.parametrize("name", ["vision.blocks.0", "visual", "", 3, "vision.block.0.qq"])
def test_names_that_no_trace_has_are_refused(vision, name):
    recorded = Recording()
    raises_one_line(recorded.__setitem__, name, np.zeros(1), match="not the name of an activation")
    raises_one_line(torch_hooks(vision[1], {name: "visual"}).__enter__, match="not the name of an activation")
    raises_one_line(flax_intermediates, {}, {name: "a"}, match="not the name of an activation")


def test_what_is_no_tensor_is_refused():
    import jax

    recorded = Recording()
    for x in {"a": 1}, "words", None, [np.zeros(2), np.zeros(3)], object():
        raises_one_line(recorded.__setitem__, "logits", x, match="logits: ")
    raises_one_line(recorded.__setitem__, "logits", Attached(0), match="logits: Attached cannot be copied")
    with pytest.raises(ValueError, match="return it from the jitted function"):
        jax.jit(lambda x: recorded.__setitem__("logits", x))(np.zeros(2))
    assert not recorded


class Attached(Tensor):
    """A tensor whose conversion fails, as PyTorch's of float8."""

    def detach(self):
        return self


# By hooks


def test_hooks_record_inputs_and_outputs(vision, tmp_path):
    model, port, pixels = vision
    with torch_hooks(port, TABLE, output=tmp_path / "t.safetensors") as recorded:
        port.visual(pixels)
    assert list(recorded) == list(TABLE) and port.hooks() == []
    report = verify(model, recorded)
    assert report.ok and report.compared == ["vision.embed", "vision.block.0"]
    assert load_file(tmp_path / "t.safetensors").keys() == TABLE.keys()
    port.visual(Tensor(0 * pixels.x))  # no longer recorded
    np.testing.assert_array_equal(recorded["pixels"], pixels.x)


def test_hooks_go_where_the_block_fails(vision):
    _, port, _ = vision
    with pytest.raises(ValueError, match="no module"):
        torch_hooks(port, TABLE | {"logits": "head"}).__enter__()
    assert port.hooks() == []


def test_a_fault_is_named(vision):
    model, port, pixels = vision
    block = port.visual.blocks.get_submodule("0")
    right = block.function
    block.function = lambda x: (Tensor(noise(right(x)[0].x, 0.1)), None)
    with torch_hooks(port, TABLE) as recorded:
        port.visual(pixels)
    report = verify(model, recorded)
    assert not report.ok and report.first_divergence.name == "vision.block.0"


@pytest.mark.parametrize("with_kwargs", [True, False])
def test_inputs_of_old_and_new_versions(monkeypatch, with_kwargs):
    """Before 2.0 PyTorch passes arguments by position alone."""
    monkeypatch.setattr(Module, "with_kwargs", with_kwargs)
    pool = Module(lambda x, context: x)
    table = {"pool.flat": Input("pool", lambda x, context: context), "pool.attended": Input("pool")}
    with torch_hooks(Module(pool=pool), table) as recorded:
        pool(np.ones(2), np.zeros((1, 3)))
    assert recorded["pool.flat"].shape == (1, 3) and recorded["pool.attended"].shape == (2,)


def test_inputs_by_name():
    text = Module(lambda ids: ids)
    with torch_hooks(Module(text=text), {"ids": Input("text")}) as recorded:
        text(ids=np.array([1, 2]))
    assert recorded["ids"].tolist() == [1, 2]


def test_functions_of_outputs():
    head = Module(lambda x: {"latent": x, "loss": 0})
    table = {"pool.latent": Output("head", lambda output: output["latent"])}
    with torch_hooks(Module(head=head), table) as recorded:
        head(np.ones(3))
    assert recorded["pool.latent"].tolist() == [1, 1, 1]
    with suppressed_warnings(), torch_hooks(Module(head=head), {"pool.latent": "head"}):
        raises_one_line(head, np.ones(3), match="pool.latent: dict is no tensor: give a function")


def test_tensors_assigned_beside_the_hooks(vision):
    model, port, pixels = vision
    with torch_hooks(port, TABLE) as recorded:
        port.visual(pixels)
        recorded["pool.latent"] = model.encode_video(pixels.x).latent
    assert verify(model, recorded).compared[-1] == "pool.latent"


def test_batches_of_frames_are_joined(vision):
    model, port, pixels = vision
    with torch_hooks(port, TABLE, join_frames=True) as recorded:
        port.visual(pixels[:2])
        port.visual(pixels[2:])
    report = verify(model, recorded)
    assert report.ok and report.rows[0].shape[0] == 3


def test_batches_that_are_not_joined_are_mentioned(vision):
    _, port, pixels = vision
    with pytest.warns(UserWarning, match="pixels was computed 2 times .* join_frames"):  # noqa: SIM117
        with torch_hooks(port, TABLE) as recorded:
            port.visual(pixels[:2])
            port.visual(pixels[2:])
    assert len(recorded["pixels"]) == 1


def test_of_steps_of_generation_the_last_counts(tiny_model):
    """Every step computes a text that is longer by one id; the last one is a whole trace."""
    model = tiny_model()
    text = Module(lambda ids: run(model, ids=ids)["text.block.0"])
    table = {"ids": Input("text"), "text.block.0": "text"}
    with warnings.catch_warnings(), torch_hooks(Module(text=text), table, join_frames=True) as recorded:
        warnings.simplefilter("error")
        for length in 2, 3, 4:
            text(IDS[:, :length])
    assert recorded["ids"].shape == (1, 4) and verify(model, recorded).ok


@pytest.mark.parametrize("video", [0, 1])
def test_one_video_of_a_batch(tiny_model, video):
    """Frames as [B T, N, W], texts as [B, L], pooled tokens as [B, Q, E]."""
    model = tiny_model()
    tapes = [run(model, frames, IDS + i) for i, frames in enumerate([FRAMES, FRAMES[::-1]])]
    names = [name for name in tapes[0] if name != "frames"]
    of_frames = [name for name in names if name.startswith(("pixels", "vision"))]
    stored = {
        name: (np.concatenate if name in of_frames else np.stack)([t[name] for t in tapes]) for name in names
    }
    modules = {name.replace(".", "_"): Module(lambda x: x) for name in names}
    table = {name: name.replace(".", "_") for name in names}
    with torch_hooks(Module(**modules), table, videos=2, video=video) as recorded:
        for name in names:
            modules[name.replace(".", "_")](stored[name])
    report = verify(model, recorded)
    assert report.ok and len(report.compared) == 17
    np.testing.assert_array_equal(recorded["ids"][0], IDS[0] + video)


def test_a_batch_that_does_not_divide_is_refused(vision):
    _, port, pixels = vision
    for options, match in [({"videos": 2}, "no multiple of 2"), ({"videos": 3, "video": 3}, "give 0 to 2")]:
        with suppressed_warnings(), torch_hooks(port, TABLE, **options):
            raises_one_line(port.visual, pixels, match=match)


def test_axes_of_a_sequence_first_port_are_arranged_by_a_function():
    module = Module(lambda x: Tensor(np.zeros((5, 2, 3))))  # [N, T, W]
    table = {"vision.block.0": Output("block", lambda x: x.transpose(0, 1))}
    with torch_hooks(Module(block=module), table) as recorded:
        module(1)
    assert recorded["vision.block.0"].shape == (2, 5, 3)


def test_a_module_that_is_not_there_is_refused_with_the_nearest_name(vision):
    hooks = torch_hooks(vision[1], {"vision.embed": "visual.ln_pr"})
    raises_one_line(
        hooks.__enter__, match="vision.embed: Module has no module 'visual.ln_pr': visual.ln_pre?"
    )


def test_tensors_that_were_not_computed_are_mentioned(vision):
    _, port, _ = vision
    with pytest.warns(UserWarning, match="not computed inside the block: vision.embed, vision.block.0"):  # noqa: SIM117
        with torch_hooks(port, {"vision.embed": "visual.ln_pre", "vision.block.0": "visual.blocks.0"}):
            pass


# Flax


def test_the_nested_dict_of_flax(tiny_model):
    model = tiny_model()
    tape = run(model)
    intermediates = {
        "visual": {
            "ln_pre": {"__call__": (np.zeros(1), tape["vision.embed"])},  # of two calls
            "block_0": {"__call__": ((tape["vision.block.0"], "weights"),)},
            "attended": (tape["pool.attended"],),  # as `sow` stores it
        },
        "latent": tape["pool.latent"],
    }
    recorded = flax_intermediates(
        intermediates,
        {
            "vision.embed": "visual.ln_pre",
            "vision.block.0": Output("visual.block_0", lambda output: output[0]),
            "pool.attended": "visual.attended",
            "pool.latent": "latent",
        },
    )
    recorded["frames"] = tape["frames"]
    report = verify(model, recorded)
    assert report.ok and len(report.compared) == 4


def test_batches_of_frames_in_flax():
    tree = {"embed": {"__call__": (np.ones((2, 3)), np.ones((1, 3)))}, "text": (np.ones(2), np.zeros(3))}
    recorded = flax_intermediates(tree, {"vision.embed": "embed", "text.embed": "text"}, join_frames=True)
    assert recorded["vision.embed"].shape == (3, 3) and recorded["text.embed"].shape == (3,)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("visual.ln", "there is no 'ln': there are ln_pre"),
        ("visual", "'visual' is no tensor: go on with one of ln_pre"),
        ("visual.ln_pre.__call__.x", "there is no 'x'"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path, match):
    tree = {"visual": {"ln_pre": {"__call__": (np.zeros(2),)}}}
    raises_one_line(flax_intermediates, tree, {"vision.embed": path}, match=match)


# The report in a test


def test_ok_needs_a_tensor_of_the_network_that_was_judged(tiny_model):
    model = tiny_model()
    tape = run(model)
    pixels_alone = verify(model, {name: tape[name] for name in ("frames", "pixels")})
    assert not pixels_alone.ok and "none of the network" in repr(pixels_alone)
    overflowing = {"pixels": tape["pixels"].astype("float64") * 1e160, "vision.embed": tape["vision.embed"]}
    report = verify(model, overflowing)
    assert {row.status for row in report.rows} == {"not judged"} and not report.ok
    part = verify(model, {"ids": tape["ids"], "text.embed": tape["text.embed"]})
    assert part.ok and "text.block.0" in part.missing and "1 of 5 tensors compared" in repr(part)


def test_a_failing_test_shows_the_report(tmp_path, truth):
    """As pytest prints an object in an assertion: its representation, up to 240 characters."""
    (tmp_path / "test_port.py").write_text(
        f"""
import minivideococa as mvc
from safetensors.numpy import load_file

def test_port():
    tensors = load_file({TRUTH!r})
    tensors["logits"] *= 2
    report = mvc.verify.verify(mvc.load({FOLDER!r}), tensors)
    assert report.ok, report
"""
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", str(tmp_path)]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=120, env=ENVIRONMENT
    )
    line = next(line for line in result.stdout.split("\n") if "AssertionError" in line)
    assert re.search(r"18 of 18 tensors compared; first divergence: logits, off by \d", line), result.stdout
    assert result.returncode == 1 and "..." not in line


def test_the_package_is_reached_from_the_plain_import():
    code = "import minivideococa as mvc; print(mvc.verify.recording.__name__, mvc.verify.verify.__name__)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert result.stdout.split() == ["recording", "verify"]
