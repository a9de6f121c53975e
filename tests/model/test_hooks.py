"""The trace: names in path order, shapes, and that it records what ran, nothing else and nobody else's."""

import contextlib
import contextvars
import threading

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa.model import decoder, ops, text, vision
from minivideococa.model.hooks import record, record_texts, replace_operations

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 20, 16, 3), np.uint8)
IDS = np.array([[1, 5, 6, 2, 0]])


def run(model, ids=IDS):
    """All that the model does, once."""
    video = model.encode_video(model.preprocess(FRAMES))
    model.encode_text(ids)
    model.decode(video.tokens, ids)
    return video


def names(model):
    vision, text, decoder = (
        range(part.layers) for part in (model.config.vision, model.config.text, model.config.decoder)
    )
    return [
        "frames",
        "pixels",
        "vision.embed",
        *(f"vision.block.{i}" for i in vision),
        "pool.flat",
        "pool.attended",
        "pool.tokens",
        "pool.latent",
        "ids",
        "text.embed",
        *(f"text.block.{i}" for i in text),
        "text.tokens",
        "text.latent",
        *(f"decoder.block.{i}.{half}" for i in decoder for half in ("self", "cross")),
        "logits",
    ]


@pytest.mark.parametrize("form", [True, "parallel", "cascade"])
def test_every_name_in_path_order(tiny_model, form):
    model = tiny_model(
        vision={"width": 8, "head_width": 4, "layers": 3, "attentional_pool": form}, text={"layers": 1}
    )
    with mvc.trace() as t:
        run(model)
    assert list(t) == names(model)
    assert {type(x) for x in t.values()} == {np.ndarray}


@pytest.mark.parametrize("form", [True, "parallel", "cascade"])
def test_shapes(tiny_model, form):
    model = tiny_model(vision={"width": 8, "head_width": 4, "attentional_pool": form})
    with mvc.trace() as t:
        run(model)
    T, S, L, E, V = 3, 14, 5, 8, model.config.text.vocab_size
    N, W, Q = model.config.vision.tokens_per_frame, 8, 4
    caption_tokens = Q - 1 if form is True else Q
    want = {
        "frames": FRAMES.shape,
        "pixels": (T, 3, S, S),
        "pool.flat": (T * N, W),
        "pool.attended": (Q, E),
        "pool.tokens": (caption_tokens, E),
        "pool.latent": (E,),
        "ids": (L,),
        "text.tokens": (L, E),
        "text.latent": (E,),
        "logits": (L, V),
    }
    kinds = {"vision": (T, N, W), "text": (L + 1, E), "decoder": (L, E)}
    assert {name: x.shape for name, x in t.items()} == {
        name: want.get(name) or kinds[name.split(".")[0]] for name in names(model)
    }
    assert t["frames"].dtype == np.uint8 and t["pixels"].dtype == np.float32 and t["ids"].dtype == np.int64


def test_what_is_traced_is_what_came_out(tiny_model):
    model = tiny_model()
    with mvc.trace() as t:
        pixels = model.preprocess(FRAMES)
        tokens = model.encode_frames(pixels)
        video = model.pool(tokens)
        latents = model.encode_text(IDS)
        logits = model.decode(video.tokens, IDS)
    for name, x in {
        "frames": FRAMES,
        "pixels": pixels,
        "vision.block.1": tokens,
        "pool.flat": tokens.reshape(-1, 12),
        "pool.tokens": video.tokens,
        "pool.latent": video.latent,
        "ids": IDS[0],
        "text.latent": latents[0],
        "logits": logits[0],
    }.items():
        np.testing.assert_array_equal(t[name], x, err_msg=name)


def test_several_texts_keep_their_batch_axis(tiny_model):
    model = tiny_model()
    both = np.concatenate([IDS, IDS[:, ::-1]])
    with mvc.trace() as t:
        run(model, both)
    with mvc.trace() as one:
        run(model, both[1:])
    for name in names(model):
        if name == "ids" or name == "logits" or name.startswith(("text", "decoder")):
            assert t[name].shape == (2, *one[name].shape)
            # a product of other size is rounded otherwise
            np.testing.assert_allclose(t[name][1], one[name], rtol=1e-9, atol=1e-12)
        else:
            np.testing.assert_array_equal(t[name], one[name])


def test_tracing_changes_no_result(tiny_model):
    model = tiny_model(dtype="float32")
    plain = run(model)
    with mvc.trace():
        traced = run(model)
    np.testing.assert_array_equal(plain.latent, traced.latent)
    np.testing.assert_array_equal(plain.tokens, traced.tokens)


def test_only_the_inside_is_recorded(tiny_model):
    model = tiny_model()
    tokens = model.encode_frames(model.preprocess(FRAMES))
    with mvc.trace() as t:
        assert t == {}
        model.pool(tokens)
    model.encode_text(IDS)
    assert set(t) == {"pool.flat", "pool.attended", "pool.tokens", "pool.latent"}
    with mvc.trace() as anew:
        pass
    assert anew == {}


def test_off_nothing_is_copied():
    class Untouchable(np.ndarray):
        def copy(self, *args):
            raise AssertionError("copied")

    x = np.zeros((1, 2)).view(Untouchable)
    assert record("x", x) is x and np.shares_memory(record_texts("x", x), x)
    with mvc.trace(), pytest.raises(AssertionError, match="copied"):  # it would have been noticed
        record("x", x)


def test_a_record_is_a_copy():
    x = np.zeros((1, 3))
    with mvc.trace() as t:
        assert record("a", x) is x and np.shares_memory(record_texts("b", x), x)
        x += 1
    assert t["a"].tolist() == [[0, 0, 0]] and t["b"].tolist() == [0, 0, 0]
    t["a"][:] = 7
    assert x.tolist() == [[1, 1, 1]]


def test_later_changes_do_not_reach_a_trace(tiny_model):
    model = tiny_model()
    pixels = model.preprocess(FRAMES)
    with mvc.trace() as t:
        tokens = model.encode_frames(pixels)
        video = model.pool(tokens)
    before = {name: x.copy() for name, x in t.items()}
    for x in (pixels, tokens, video.latent, video.tokens):
        x[:] = 0
    for name, x in before.items():
        np.testing.assert_array_equal(t[name], x, err_msg=name)


def test_a_name_is_replaced_when_computed_again(tiny_model):
    model = tiny_model()
    with mvc.trace() as t:
        model.encode_text(IDS)
        model.encode_text(IDS[:, :3])
    assert t["ids"].tolist() == [1, 5, 6] and t["text.tokens"].shape == (3, 8)
    with mvc.trace() as t:
        ids = model.generate(np.ones((3, 8)), beams=1, min_length=8, cache=False)
    assert t["ids"].tolist() == ids[:-1].tolist()  # the last step's


def test_nested_traces():
    with mvc.trace() as outer:
        record("before", np.zeros(1))
        with mvc.trace() as inner:
            record("inside", np.zeros(1))
        record("after", np.zeros(1))
    record("outside", np.zeros(1))
    assert set(inner) == {"inside"}
    assert {"before", "after"} <= set(outer) and "outside" not in outer


def test_an_error_ends_the_trace():
    with mvc.trace() as outer:
        with pytest.raises(RuntimeError, match="mine"), mvc.trace() as inner:
            record("inside", np.zeros(1))
            raise RuntimeError("mine")
        record("after", np.zeros(1))
    record("outside", np.zeros(1))
    assert set(inner) == {"inside"} and "after" in outer and "outside" not in outer


def test_threads_have_their_own(tiny_model):
    """Two threads trace at the same time, their runs interleaved: each sees its own."""
    model, meet, seen = tiny_model(), threading.Barrier(2, timeout=30), {}

    def work(name, ids):
        with mvc.trace() as t:
            meet.wait()
            model.encode_text(ids)
            meet.wait()
            seen[name] = dict(t)

    threads = [threading.Thread(target=work, args=(n, IDS[:, :n])) for n in (3, 4)]
    with mvc.trace() as mine:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert mine == {}
    assert {n: t["ids"].tolist() for n, t in seen.items()} == {3: [1, 5, 6], 4: [1, 5, 6, 2]}


def test_another_context_is_not_recorded():
    with mvc.trace() as t:
        contextvars.Context().run(record, "elsewhere", np.zeros(1))
        record("here", np.zeros(1))
    assert set(t) == {"here"}


# Patches


def test_patched_with_its_own_tensors_nothing_changes(tiny_model):
    model = tiny_model()
    with mvc.trace() as t:
        run(model)
    with mvc.trace(t) as again:
        run(model)
    assert list(again) == list(t)
    for name, x in t.items():
        np.testing.assert_allclose(again[name], x, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("texts", [1, 2])
def test_the_model_continues_from_a_patch_and_records_its_own(tiny_model, texts):
    """Each tensor in turn is moved a little: it is recorded as before, and the next one follows from it."""
    model, ids = tiny_model(), np.concatenate([IDS, IDS[:, ::-1]])[:texts]
    with mvc.trace() as t:
        run(model, ids)
    order, rng = list(t), np.random.default_rng(1)
    for name in order[2:]:
        if name in (
            "ids",
            "pool.latent",
            "text.latent",
            "logits",
        ):  # an input, and those that nothing follows
            continue
        moved = t[name] + rng.standard_normal(t[name].shape)
        with mvc.trace({name: moved}) as after:
            run(model, ids)
        np.testing.assert_allclose(after[name], t[name], rtol=1e-9, atol=1e-12, err_msg=name)
        changed = [other for other in order if not np.allclose(after[other], t[other])]
        assert changed and order.index(changed[0]) > order.index(name), name
        if name == "vision.block.1":
            np.testing.assert_array_equal(after["pool.flat"], moved.reshape(-1, 12))


def test_patched_pixels_replace_those_of_the_frames(tiny_model):
    model = tiny_model()
    pixels = np.random.default_rng(2).standard_normal((3, 3, 14, 14)).astype(np.float32)
    with mvc.trace({"pixels": pixels}) as t:
        run(model)
    with mvc.trace() as want:
        model.encode_video(pixels)
    np.testing.assert_array_equal(t["pixels"], model.preprocess(FRAMES))
    np.testing.assert_allclose(t["pool.latent"], want["pool.latent"], rtol=1e-9)


# Inside the blocks


@pytest.mark.parametrize("form", [True, "parallel", "cascade"])
@pytest.mark.parametrize("same_width", [False, True])
def test_attention_weights(tiny_model, form, same_width):
    """The weights sum to 1, masked keys have none, and weights times values give the attention's output."""
    width = {"width": 8, "head_width": 4} if same_width or form is not True else {}
    model = tiny_model(vision={"attentional_pool": form, **width})
    c = model.config
    with mvc.trace(weights=True) as t:
        run(model)
    T, N, Q = len(FRAMES), c.vision.tokens_per_frame, c.vision.queries
    assert t["pool.weights"].shape == (c.vision.pooler_heads, Q, T * N)
    assert t["vision.block.1.weights"].shape == (T, c.vision.heads, N, N)
    assert t["text.block.0.weights"].shape == (c.text.heads, 6, 6)
    assert t["decoder.block.1.self.weights"].shape == (c.decoder.heads, 5, 5)
    assert t["decoder.block.1.cross.weights"].shape == (c.decoder.heads, 5, Q - (form is True))
    assert ("pool.contrastive.weights" in t) == (form is not True)
    if form == "parallel":
        assert t["pool.contrastive.weights"].shape == (c.vision.pooler_heads, 1, T * N)
    for name in [name for name in t if name.endswith(".weights")]:
        np.testing.assert_allclose(t[name].sum(axis=-1), 1, err_msg=name)
    assert not np.triu(t["decoder.block.0.self.weights"], 1).any()
    p = model.params["visual"]["attn_pool"]["attn"]["out_proj"]
    heads = t["pool.weights"] @ t["pool.v"]  # [H, Q, D]
    want = heads.swapaxes(0, 1).reshape(Q, -1) @ p["weight"].T + p["bias"]
    np.testing.assert_allclose(t["pool.attention"], want, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(t["pool.attended"], t["pool.attention"])


def test_a_block_is_the_sum_of_its_parts(tiny_model):
    """The residual stream after a block is that before it, the attention's output and the MLP's."""
    model = tiny_model()
    with mvc.trace(weights=True) as t:
        run(model)
    before = {"vision.block.0": "vision.embed", "text.block.1": "text.block.0"}
    before |= {
        "decoder.block.0.cross": "decoder.block.0.self",
        "decoder.block.1.self": "decoder.block.0.cross",
    }
    for name, source in before.items():
        want = t[source] + t[f"{name}.attention"] + t[f"{name}.mlp"]
        np.testing.assert_allclose(t[name], want, rtol=1e-9, atol=1e-12, err_msg=name)
        assert t[f"{name}.mlp.hidden"].shape[-1] == 4 * t[name].shape[-1]
        q, k = t[f"{name}.q"], t[f"{name}.k"]
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        if name.startswith(("vision", "decoder.block.0.cross")):
            powers = np.exp(scores)
            weights = powers / powers.sum(axis=-1, keepdims=True)
            np.testing.assert_allclose(t[f"{name}.weights"], weights, rtol=1e-9, err_msg=name)


def test_mean_pooling_has_weights_of_each_frame(tiny_model):
    model = tiny_model()
    with mvc.trace(weights=True) as t:
        model.encode_video(model.preprocess(FRAMES), "mean")
    vision = model.config.vision
    assert t["pool.weights"].shape == (
        len(FRAMES),
        vision.pooler_heads,
        vision.queries,
        vision.tokens_per_frame,
    )


def test_weights_are_recorded_on_request_alone(tiny_model):
    model = tiny_model()
    with mvc.trace() as plain:
        run(model)
    with mvc.trace(weights=True) as all_of_them:
        run(model)
    assert not any(name.endswith((".weights", ".q", ".k", ".v", ".attention", ".mlp")) for name in plain)
    assert [name for name in all_of_them if name in plain] == list(plain)
    for name, x in plain.items():
        np.testing.assert_array_equal(all_of_them[name], x)


@pytest.mark.parametrize(
    "name", ["pool.weights", "vision.block.0.q", "text.block.0.mlp", "decoder.block.0.cross.v"]
)
def test_inner_activations_can_be_patched(tiny_model, name):
    model = tiny_model()
    with mvc.trace(weights=True) as t:
        run(model)
    with mvc.trace({name: t[name]}, weights=True) as same:
        run(model)
    with mvc.trace({name: np.zeros_like(t[name])}, weights=True) as patched:
        run(model)
    np.testing.assert_allclose(same["logits"], t["logits"], rtol=1e-9, atol=1e-12)
    assert np.abs(patched["logits"] - t["logits"]).max() > 1e-6


def test_until_ends_the_block(tiny_model):
    """Nothing is computed after the activation, and the program continues after the `with` block."""
    model, reached = tiny_model(), []
    for name in ("vision.embed", "vision.block.0", "pool.latent"):
        with mvc.trace(until=name) as t:
            run(model)
            reached.append(name)
        assert list(t)[-1] == name and not reached
    never = pytest.warns(UserWarning, match="no such activation was computed")
    with never, mvc.trace(until="vision.block.99") as t:
        run(model)
    assert "logits" in t


def test_an_inner_trace_does_not_end_the_outer_one():
    with mvc.trace(until="pixels") as outer:
        with mvc.trace(until="logits") as inner:
            record("pixels", np.zeros(1))
            record("logits", np.zeros(1))
        assert set(inner) == {"pixels", "logits"}
        with contextlib.suppress(Exception):  # the caller's: it does not catch the end of the trace
            record("pixels", np.ones(1))
        raise AssertionError("not reached")
    assert outer["pixels"] == 1


# Replaced operations


def test_a_replaced_operation(tiny_model):
    """The replacement runs wherever the model uses the operation, and only inside the block."""
    model = tiny_model()
    before, calls = run(model).latent, []

    def counted(layer_norm):
        def norm(x, weight, bias, eps=1e-5):
            calls.append(x.shape)
            return layer_norm(x, weight, bias, 0.5)

        return norm

    with replace_operations({"ops.layer_norm": counted}):
        inside = run(model).latent
    norms = (
        3 * (1 + 2 * 2) + 3 + 2 * (2 * 2) + 2 + 2 * 5 + 1
    )  # of frames one at a time, or at once: at least these
    assert len(calls) >= norms - 3 * 4 and np.abs(inside - before).max() > 1e-3
    count = len(calls)
    np.testing.assert_array_equal(run(model).latent, before)
    assert len(calls) == count


def test_replacements_are_scoped_to_the_context(tiny_model):
    """Another thread that runs at the same time is not affected; the model's own workers are."""
    model, other = tiny_model(), {}
    pixels = np.random.default_rng(0).standard_normal((6, 3, 14, 14))
    want = model.encode_frames(pixels)
    with replace_operations({"ops.gelu": lambda gelu: lambda x: 0 * x}):
        thread = threading.Thread(target=lambda: other.update(tokens=model.encode_frames(pixels)))
        thread.start()
        mine = model.encode_frames(pixels)
        thread.join()
    np.testing.assert_array_equal(other["tokens"], want)
    assert np.abs(mine - want).max(axis=(1, 2)).min() > 1e-3  # in every frame, whichever worker computed it
    with replace_operations({"vision.transformer": lambda transformer: lambda x, visual, config: x}):
        np.testing.assert_array_equal(
            model.encode_frames(pixels), vision.embed(pixels, model.params["visual"], model.config.vision)
        )


def test_replacements_inside_each_other():
    double = {"ops.normalize": lambda normalize: lambda x: 2 * normalize(x)}
    x = np.array([3.0, 4.0])
    with replace_operations(double), replace_operations(double):
        np.testing.assert_allclose(ops.normalize(x), 4 * x / 5)
    np.testing.assert_allclose(ops.normalize(x), x / 5)


def test_an_unknown_operation_is_an_error():
    for name in ("gelu", "ops.gelu_", "vision.linear", ""):
        unknown = replace_operations({name: lambda f: f})
        with pytest.raises(ValueError, match=r"no replaceable operation .*ops\.gelu"), unknown:
            pass


def test_an_error_ends_a_replacement():
    x = np.array([3.0, 4.0])
    with pytest.raises(KeyError), replace_operations({"ops.normalize": lambda normalize: lambda x: x}):
        raise KeyError
    np.testing.assert_allclose(ops.normalize(x), x / 5)


def test_what_is_no_replacement_is_an_error():
    """The operation to use instead, where a function that makes it is expected, is refused at once."""
    for make in (ops.quick_gelu, lambda gelu: None, None, lambda: 3):
        refused = pytest.raises(ValueError, match=r"^ops\.gelu: give a function that takes the operation")
        with refused, replace_operations({"ops.gelu": make}):
            pass


# Names and values of patches


@pytest.mark.parametrize("name", ["vison.block.0", "vision.block", "logit", "", "pool.q.weights", 3])
def test_a_name_that_no_activation_has(name):
    for arguments in ({"patch": {name: np.zeros(1)}}, {"until": name}):
        with pytest.raises(ValueError, match="is not the name of an activation"), mvc.trace(**arguments):
            pass


def test_a_patch_that_is_never_reached_is_warned_of(tiny_model):
    model = tiny_model()
    for name in ("vision.block.99", "vision.block.0.weights"):
        with (
            pytest.warns(UserWarning, match=f"patch: {name} was never computed"),
            mvc.trace({name: np.zeros(1)}),
        ):
            run(model)


@pytest.mark.parametrize("value", [np.zeros((2, 10, 12)), np.zeros(3), 0.0, None, [[1.0]], "x"], ids=str)
def test_a_patch_of_another_shape_is_an_error(tiny_model, value):
    refused = pytest.raises(ValueError, match=r"^patch of vision\.block\.0: .*, not float64 \[3, 10, 12\]")
    with refused, mvc.trace({"vision.block.0": value}):
        run(tiny_model())


def test_a_patch_keeps_the_dtype_of_the_model(tiny_model):
    model = tiny_model(dtype="float32")
    with mvc.trace() as t:
        run(model)
    patch = {name: x.astype(np.float64) for name, x in t.items() if name not in ("frames", "pixels", "ids")}
    with mvc.trace(patch) as again:
        run(model)
    assert {x.dtype for name, x in again.items() if name in patch} == {np.dtype("float32")}
    doubled = {"vision.block.0": lambda x: 2 * x}
    with mvc.trace(doubled) as after:
        run(model)
    np.testing.assert_array_equal(after["vision.block.0"], t["vision.block.0"])
    assert np.abs(after["pool.latent"] - t["pool.latent"]).max() > 1e-4


@pytest.mark.parametrize("videos", [1, 2, 6])
def test_several_texts_of_a_video_are_recorded_one_by_one(tiny_model, videos):
    """The texts of a video are folded into one sequence for cross-attention, but not in the trace."""
    model, rng = tiny_model(), np.random.default_rng(0)
    tokens, ids = rng.standard_normal((videos, 3, 8)), rng.integers(3, 20, (6, 4))
    with mvc.trace(weights=True) as t:
        kv = decoder.cross_attention_kv(tokens, model.params["text_decoder"], model.config.decoder)
        _, features = text.encode_text(ids, model.params["text"], model.config.text)
        logits = decoder.decode(features, kv, model.params["text_decoder"], model.config.decoder)
    inside = {"q": (2, 4, 4), "weights": (2, 4, 3), "attention": (4, 8), "mlp.hidden": (4, 32), "mlp": (4, 8)}
    for name, shape in inside.items():
        assert t[f"decoder.block.1.cross.{name}"].shape == (6, *shape), name
    for i, row in enumerate(ids):
        with mvc.trace(weights=True) as alone:
            model.decode(tokens[i * videos // 6], row[None])
        for name in inside:
            full = f"decoder.block.1.cross.{name}"
            np.testing.assert_allclose(t[full][i], alone[full], rtol=1e-9, atol=1e-12, err_msg=name)
    with mvc.trace(
        {f"decoder.block.0.cross.{name}": t[f"decoder.block.0.cross.{name}"] for name in inside}, weights=True
    ):
        again = decoder.decode(features, kv, model.params["text_decoder"], model.config.decoder)
    np.testing.assert_array_equal(again, logits)
