"""The trace: names in path order, shapes, and that it records what ran, nothing else and nobody else's."""

import contextvars
import threading

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa.model.hooks import record, record_texts

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
    N, W, Q = model.config.vision.tokens, 8, 4
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


# A trace that gives arrays to go on from


def test_given_its_own_tensors_nothing_changes(tiny_model):
    model = tiny_model()
    with mvc.trace() as t:
        run(model)
    with mvc.trace(t) as again:
        run(model)
    assert list(again) == list(t)
    for name, x in t.items():
        np.testing.assert_allclose(again[name], x, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("texts", [1, 2])
def test_what_is_given_is_gone_on_from_and_not_recorded(tiny_model, texts):
    """Each tensor in its turn moved a little: it is recorded as before, and the next one is what follows from it."""
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


def test_given_pixels_replace_those_of_the_frames(tiny_model):
    model = tiny_model()
    pixels = np.random.default_rng(2).standard_normal((3, 3, 14, 14)).astype(np.float32)
    with mvc.trace({"pixels": pixels}) as t:
        run(model)
    with mvc.trace() as want:
        model.encode_video(pixels)
    np.testing.assert_array_equal(t["pixels"], model.preprocess(FRAMES))
    np.testing.assert_allclose(t["pool.latent"], want["pool.latent"], rtol=1e-9)
