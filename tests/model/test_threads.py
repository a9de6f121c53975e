"""Frames on several threads give what they give on one; BLAS gets its threads back; progress is told."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Barrier, Event, Lock, Thread, current_thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController, threadpool_limits

import minivideococa as mvc
from minivideococa.model import kernels as threads
from minivideococa.model import vision
from minivideococa.model.config import ADAPTERS
from minivideococa.model.hooks import record, replace_operations, trace

PATIENCE = 10  # seconds that a thread waits for another before the test fails


@contextmanager
def on_threads(count):
    """`map_frames` takes so many threads."""

    @contextmanager
    def frame_threads(_):
        yield count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "frame_threads", frame_threads)
        yield


def each_by_itself(x):
    """[T, 3] -> [T, 2, 3], and what it records on the way."""
    record("doubled", 2 * x)
    record("sums", x.sum(axis=1))
    return np.stack([x, x * x], axis=1)


# spread


@given(st.integers(1, 12), st.integers(1, 14), st.integers(1, 6), st.booleans())
def test_spread_is_the_plain_function(T, piece, count, traced):
    x, lengths, lock = np.random.default_rng(T).standard_normal((T, 3)), [], Lock()

    def function(part):
        with lock:
            lengths.append(len(part))
        return each_by_itself(part)

    with on_threads(count):
        if traced:
            with trace() as tape:
                got = threads.map_frames(function, x, piece)
        else:
            got, tape = threads.map_frames(function, x, piece), None
    np.testing.assert_array_equal(got, np.stack([x, x * x], axis=1))
    assert sum(lengths) == T and min(lengths) >= 1 and max(lengths) <= piece
    if traced:
        assert list(tape) == ["doubled", "sums"]
        np.testing.assert_array_equal(tape["doubled"], 2 * x)
        np.testing.assert_array_equal(tape["sums"], x.sum(axis=1))


@pytest.mark.parametrize("count", [1, 3])
def test_without_a_trace_nothing_is_kept(count):
    class Untouched:
        def copy(self):
            raise AssertionError("recorded for nobody")

    with on_threads(count):
        threads.map_frames(lambda part: (record("x", Untouched()), part)[1], np.zeros(4), 1)


def test_what_ends_first_does_not_come_first():
    """The first piece waits until the last one is done: results and trace keep the order of the frames."""
    last_is_done, x = Event(), np.arange(12.0).reshape(4, 3)

    def function(part):
        if part[0, 0] == 0:
            assert last_is_done.wait(PATIENCE)
        result = each_by_itself(part)
        if part[-1, -1] == 11:
            last_is_done.set()
        return result

    with on_threads(4), trace() as tape:
        got = threads.map_frames(function, x, 1)
    np.testing.assert_array_equal(got[:, 0], x)
    np.testing.assert_array_equal(tape["doubled"], 2 * x)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("more", [0, 1])
def test_all_threads_work_at_the_same_time(count, more):
    """However large a piece may be: as many frames as threads, or twice as many, keep all of them busy."""
    everybody, workers = Barrier(count), set()

    def function(part):
        if current_thread() not in workers:
            workers.add(current_thread())
            everybody.wait(PATIENCE)
        return part

    T = count * (1 + more)
    with on_threads(count):
        threads.map_frames(function, np.zeros((T, 1)), batch=100)
    assert len(workers) == count


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("bad", [0, 3, 7])
def test_errors_of_a_worker_reach_the_caller(count, bad):
    def function(part):
        if bad in part:
            raise ZeroDivisionError(f"frame {bad}")
        return part

    with on_threads(count), trace() as tape, pytest.raises(ZeroDivisionError, match=f"frame {bad}"):
        threads.map_frames(function, np.arange(8.0), 1)
    assert tape == {}


def test_after_an_error_nothing_new_is_begun():
    """A thousand pieces wait: they are given up."""
    begun = []

    def function(part):
        begun.append(part)
        time.sleep(0.001)
        raise ZeroDivisionError

    with on_threads(2), pytest.raises(ZeroDivisionError):
        threads.map_frames(function, np.arange(1000.0), 1)
    assert len(begun) < 500


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("T, piece", [(1, 1), (5, 1), (5, 2), (7, 100)])
def test_a_models_frames_on_threads(tiny_model, monkeypatch, dtype, T, piece):
    """The same up to rounding, as products have other sizes; a trace has the same names in the same order."""
    model = tiny_model(1, dtype)
    monkeypatch.setattr(vision, "BATCH_TOKENS", piece * model.config.vision.tokens_per_frame)
    pixels, results = np.random.default_rng(T).standard_normal((T, 3, 14, 14)).astype(np.float32), []
    for count in (1, 2, 3):
        with on_threads(count), trace() as tape:
            model.encode_video(pixels)
        results.append(tape)
    for tape in results[1:]:
        assert [(name, x.shape, x.dtype) for name, x in tape.items()] == [
            (name, x.shape, x.dtype) for name, x in results[0].items()
        ]
        for name, x in tape.items():
            np.testing.assert_allclose(x, results[0][name], atol=1e-5 if dtype == "float32" else 1e-13)


# map_distinct


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 14), st.booleans())
def test_equal_frames_are_computed_once(numbers, piece, traced):
    """In whatever order they come; a trace computes all of them. Progress is told of all."""
    x, computed, told = np.array(numbers) % 3 * np.ones((2, 3, 1)), [], []  # 0 and 3 are equal
    x = x.transpose(2, 0, 1)  # not contiguous

    def function(part):
        computed.extend(part[:, 0, 0])
        record("doubled", 2 * part)
        return part * part

    with on_threads(1), trace() if traced else nullcontext() as tape:
        got = threads.map_distinct(function, x, piece, told.append)
    np.testing.assert_array_equal(got, x * x)
    assert sum(told) == len(x)
    if traced:
        np.testing.assert_array_equal(tape["doubled"], 2 * x)
    else:
        assert computed == list(dict.fromkeys(n % 3 for n in numbers))


def test_a_trace_does_not_compare_frames(monkeypatch):
    monkeypatch.setattr(threads, "first_equal", lambda x: pytest.fail("frames are compared"))
    with trace():
        np.testing.assert_array_equal(threads.map_distinct(np.negative, np.ones((3, 2)), 1), -np.ones((3, 2)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_equal_frames_of_a_video_are_encoded_once(tiny_model, dtype, adapter):
    """The same bits as encoding all, which a trace does; jointly, where frames see each other, all are."""
    across = {"factorized": {"layers": 1, "heads": 1}}
    model = tiny_model(1, dtype, vision={"image_size": 48}, video=across)  # MANY rows in every product
    pixels = np.random.default_rng(0).standard_normal((3, 3, 48, 48))[[0, 0, 1, 0, 2, 2, 1, 0]]
    frames, parts = [], []

    def counted(embed):
        return lambda pixels, *args: (frames.append(len(pixels)), embed(pixels, *args))[1]

    with on_threads(1):
        with trace():
            want = model.encode_video(pixels, adapter)
        with replace_operations({"vision.embed": counted}):
            got = model.encode_video(pixels, adapter, progress=parts.append)
    assert model.config.vision.tokens_per_frame >= threads.MANY
    assert sum(frames) == (8 if adapter == "joint" else 3) and sum(parts) == 8
    np.testing.assert_array_equal(got.latent, want.latent)
    np.testing.assert_array_equal(got.tokens, want.tokens)


# frame_threads


def blas_threads():
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    if not libraries:
        pytest.skip("threadpoolctl does not know this BLAS")
    return max(library.num_threads for library in libraries)


def set_blas_threads(count):
    """By a thread that ends at once: threadpoolctl 3.8 ignores others while the one that set it lives."""
    thread = Thread(target=threadpool_limits, args=(count, "blas"))
    thread.start()
    thread.join()


@pytest.fixture
def three_blas_threads():
    """BLAS is told to use three threads, whatever the environment says; nothing is computed with them."""
    before = blas_threads()
    set_blas_threads(3)
    if blas_threads() != 3:
        pytest.skip("this BLAS has a number of threads for each thread")
    yield
    set_blas_threads(before)


@pytest.mark.parametrize("frames, count", [(1, 1), (2, 1), (3, 3), (4, 3), (100, 3)])
def test_as_many_threads_as_blas_has(three_blas_threads, frames, count):
    """... if there are frames for all; BLAS keeps to one in each meanwhile. If not, BLAS keeps its own."""
    with threads.frame_threads(frames) as got:
        assert (got, blas_threads()) == (count, 1 if count > 1 else 3)
    assert blas_threads() == 3


def test_blas_gets_its_threads_back_after_an_error(three_blas_threads):
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), threads.frame_threads(3):
            raise error
        assert blas_threads() == 3

    def function(part):
        assert blas_threads() == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.map_frames(function, np.zeros(6), 1)
    assert blas_threads() == 3


def test_blas_gets_its_threads_back_after_several_at_a_time(three_blas_threads):
    """Two videos encoded by two threads of the user's: one begins before the other has ended."""
    x, start = np.arange(6.0), Barrier(4)

    def function(part):
        time.sleep(0.001)
        return part + 1

    def encode(_):
        start.wait(PATIENCE)
        return [threads.map_frames(function, x, 1) for _ in range(5)]

    with ThreadPoolExecutor(4) as users:
        for results in users.map(encode, range(4)):
            np.testing.assert_array_equal(results, [x + 1] * 5)
    assert blas_threads() == 3


def test_two_take_turns(three_blas_threads):
    """Both get three threads: the second waits until the first has given BLAS its own back."""
    both_begin, lock = Barrier(2), Lock()

    def encode(_):
        both_begin.wait(PATIENCE)
        with threads.frame_threads(9) as got:
            assert lock.acquire(blocking=False)
            time.sleep(0.02)
            lock.release()
            return got, blas_threads()

    with ThreadPoolExecutor(2) as users:
        assert list(users.map(encode, range(2))) == [(3, 1)] * 2
    assert blas_threads() == 3


def test_one_blas_thread_is_one_thread():
    blas_threads()
    with threadpool_limits(1, user_api="blas"), threads.frame_threads(100) as got:
        assert got == 1


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_the_environment_is_respected(variable):
    blas_threads()
    code = "from minivideococa.model.kernels import frame_threads\nwith frame_threads(100) as n: print(n)"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {variable: "1", "PYTHONPATH": str(Path(mvc.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert result.stdout == "1\n"


# Progress


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("T", [1, 7])
def test_frames_are_counted(tiny_model, count, T):
    for adapter in ADAPTERS:
        parts = []
        with on_threads(count):
            model = tiny_model(video={"factorized": {"layers": 1, "heads": 1}})
            model.encode_video(np.zeros((T, 3, 14, 14)), adapter, progress=parts.append)
        assert sum(parts) == T


@pytest.mark.parametrize(
    "how", [{"beams": 1}, {}, {"top_k": 3}, {"beams": 4, "beam_groups": 2, "diversity_penalty": 1}], ids=str
)
def test_tokens_are_counted(tiny_model, how):
    """One for each token that is appended to all texts of a batch."""
    parts = []
    texts = tiny_model().generate(
        np.ones((2, 3, 8)), min_length=8, max_length=9, progress=parts.append, **how
    )
    assert sum(parts) == 8 if "top_k" not in how else sum(parts) == max(map(len, texts)) - 1


def test_texts_are_counted(tiny_model, tokenizer):
    model = tiny_model(tokenizer=tokenizer)
    video = model.encode(np.zeros((1, 14, 14, 3), np.uint8))
    labels = ["a red circle", "a square", "nothing"] * 7
    for by in ("latent", "likelihood"):
        parts = []
        mvc.classify(model, video, labels, ["a photo of {}", "{}"], by=by, progress=parts.append)
        assert sum(parts) == 42


# Forks and several callers

FORK = """
import os, threading, time, warnings
warnings.simplefilter("ignore")              # Python 3.12 warns of forks beside threads
import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_limits
from minivideococa.model import kernels as threads
thread = threading.Thread(target=threadpool_limits, args=(2, "blas"))
thread.start(); thread.join()
begun, done = threading.Event(), threading.Event()
def wait(x):
    begun.set()
    done.wait(10)
    return x
encoder = threading.Thread(target=threads.map_frames, args=(wait, np.zeros((4, 3)), 1))
encoder.start()
begun.wait(10)
child = os.fork()
if child == 0:
    workers = set()
    def work(x):
        workers.add(threading.current_thread().name)
        time.sleep(0.01)
        return x + 1
    got = threads.map_frames(work, np.zeros((4, 3)), 1)
    blas = ThreadpoolController().select(user_api="blas").lib_controllers[0].num_threads
    print(got.sum(), len(workers), blas, flush=True)
    os._exit(0)
os.waitpid(child, 0)
done.set()
encoder.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_another_thread_encodes():
    """It has a lock and workers of its own, and BLAS's own number of threads again."""
    blas_threads()
    result = subprocess.run(
        [sys.executable, "-c", FORK],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(mvc.__file__).parents[1])},
    )
    assert result.stdout.split() == ["12.0", "2", "2"], result.stderr


@pytest.mark.slow
def test_several_callers_at_once_get_the_same_bits(tiny_model, three_blas_threads):
    """Frames are cut into the same pieces whoever else encodes."""
    model = tiny_model(1, "float32", vision={"width": 48, "head_width": 12, "image_size": 56})
    rng = np.random.default_rng(0)
    pixels = [rng.standard_normal((T, 3, 56, 56), np.float32) for T in (3, 8, 9, 16, 17)] * 4
    alone = [model.encode_video(x) for x in pixels]
    with ThreadPoolExecutor(4) as users:
        for video, want in zip(users.map(model.encode_video, pixels), alone, strict=True):
            np.testing.assert_array_equal(video.latent, want.latent)
            np.testing.assert_array_equal(video.tokens, want.tokens)


def test_the_pieces_do_not_depend_on_other_callers(three_blas_threads):
    """While BLAS is limited by one caller, another one's frames are still split for all threads."""
    lengths, begun = {"first": [], "second": []}, Event()

    def function(name):
        def run(part):
            lengths[name].append(len(part))
            begun.set()
            time.sleep(0.02)
            return part

        return run

    with ThreadPoolExecutor(2) as users:
        first = users.submit(threads.map_frames, function("first"), np.zeros((7, 1)), 100)
        assert begun.wait(PATIENCE)
        users.submit(threads.map_frames, function("second"), np.zeros((7, 1)), 100).result(PATIENCE)
        first.result(PATIENCE)
    assert sorted(lengths["first"]) == sorted(lengths["second"]) == [2, 2, 3]
