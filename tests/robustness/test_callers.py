"""One model used by eight threads at once: the same results as one by one."""

import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import ThreadpoolController, threadpool_limits

import minivideococa as mvc
from minivideococa.demo import CLIPS
from minivideococa.media import images
from minivideococa.model import kernels
from minivideococa.model.hooks import replace_operations

pytestmark = pytest.mark.slow

THREADS = 8
NAMES = ("pair", "single", "split", "mixed")
LABELS = ["a red ring", "a blue star", "a green crescent"]


@pytest.fixture(scope="module")
def model():
    return mvc.load()


@pytest.fixture
def blas_threads():
    """Return a function that sets BLAS's number of threads until the end of the test."""
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    if not libraries:
        pytest.skip("threadpoolctl does not know this BLAS")

    def set_number(count):  # by a thread that ends at once, as in tests/model/test_threads.py
        thread = Thread(target=threadpool_limits, args=(count, "blas"))
        thread.start()
        thread.join()

    before = libraries[0].num_threads
    yield set_number
    set_number(before)


def encoded(model, clip):
    video = model.encode(clip, 4)
    return [video.latent, video.tokens]


def captions(model, clip):
    return [np.array(model.generate(model.encode(clip, 4).tokens)), model.caption(clip)]


def ranking(model, clip):
    return mvc.retrieve(model, LABELS[0], [model.encode(path, 2) for path in (clip, CLIPS / "brief.gif")])


def classified(model, clip):
    video = model.encode(clip, 2)
    return [mvc.classify(model, video, LABELS, by=by) for by in ("latent", "likelihood")]


def answered(model, clip):
    return mvc.answer(model, model.encode(clip, 2), "there is", LABELS)


def explained(model, clip):
    explanation = mvc.explain(model, clip, num_frames=2)
    return [explanation.text, *explanation.probabilities, *explanation.frame_weights]


def traced(model, clip):
    with mvc.trace() as tape:
        video = model.encode(clip, 2)
        model.decode(video.tokens, model.tokenize("a red ring"))
    return [*tape, *tape.values()]


def patched(model, clip):
    """A patch and a replaced operation are those of the thread alone."""
    shift = float(NAMES.index(clip.stem))
    with mvc.trace(patch={"vision.block.1": lambda x: x + shift}):
        latents = [model.encode(clip, 2).latent]
    with replace_operations({"ops.gelu": lambda gelu: lambda x: gelu(x) + shift}):
        return [*latents, model.encode(clip, 2).latent]


def verified(model, clip):
    with mvc.trace() as tape:
        model.encode(clip, 2)
    report = mvc.verify.verify(model, dict(tape))
    return [report.ok, *(row.local_error for row in report.rows)]


WORK = [encoded, captions, ranking, classified, answered, explained, traced, patched, verified]


def one_by_one_and_at_once(work, model):
    """Return the results for four clips twice, one by one and in eight threads that begin together."""
    clips = [CLIPS / f"{name}.gif" for name in NAMES] * (THREADS // len(NAMES))
    alone = [work(model, clip) for clip in clips]
    together = Barrier(THREADS)

    def run(clip):
        together.wait(60)
        return work(model, clip)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns often
    try:
        with ThreadPoolExecutor(THREADS) as threads:
            return alone, list(threads.map(run, clips))
    finally:
        sys.setswitchinterval(interval)


def flat(results):
    """Return the arrays in nested results; a text or a number is one, too."""
    if isinstance(results, list | tuple):
        return [x for part in results for x in flat(part)]
    return [np.asarray(results)]


@pytest.mark.parametrize("work", WORK)
def test_the_same_bits_with_one_thread_of_blas(work, model, blas_threads):
    blas_threads(1)
    for alone, at_once in zip(*one_by_one_and_at_once(work, model), strict=True):
        for a, b in zip(flat(alone), flat(at_once), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("work", [encoded, captions, classified, explained])
def test_the_same_to_rounding_with_several(work, model, blas_threads):
    """Encoded videos have the same bits. The rest need not: BLAS is limited while another caller encodes."""
    blas_threads(2)
    for alone, at_once in zip(*one_by_one_and_at_once(work, model), strict=True):
        for a, b in zip(flat(alone), flat(at_once), strict=True):
            if work is encoded or a.dtype.kind == "U":
                np.testing.assert_array_equal(a, b)
            else:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_in, n_out", [(768, 3072), (3072, 768)])
def test_products_of_a_decoder_do_not_depend_on_the_threads(n_in, n_out, blas_threads):
    """Of L/14: a text keeps its bits though BLAS is limited to one thread, while another caller encodes."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((6, n_in), np.float32), rng.standard_normal((n_out, n_in), np.float32)
    results = []
    for count in (1, 2, 4):
        blas_threads(count)
        results.append(kernels.matmul(x, weight))
    np.testing.assert_array_equal(results, [results[0]] * 3)


def test_the_filters_of_warnings_stay_as_they_are(monkeypatch):
    """They belong to the whole process: two threads that open images may not restore each other's."""
    assert images.is_image(str(CLIPS / "pair.gif"))  # loads Pillow's formats
    opened = Image.open

    def slow(*arguments, **options):
        time.sleep(0.2)
        return opened(*arguments, **options)

    monkeypatch.setattr(Image, "open", slow)
    before = list(warnings.filters)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(images.is_image, str(CLIPS / "pair.gif"))
        time.sleep(0.1)
        assert threads.submit(images.is_image, str(CLIPS / "pair.gif")).result() and first.result()
    assert warnings.filters == before
