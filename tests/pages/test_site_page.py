"""The page that runs the package in a browser: its numbers are the native run's; every way to use it.

PYODIDE is a folder with the whole runtime, see site/README.md; without it these tests are skipped.
"""

import base64
import functools
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

import minivideococa as mvc
from minivideococa.demo import CLIPS
from minivideococa.world import LABELS

ROOT = Path(__file__).parents[2]
RUNTIME = os.environ.get("PYODIDE")
pytestmark = pytest.mark.skipif(not RUNTIME, reason="PYODIDE names no folder with a runtime")
NAMES = [json.loads(line)["clip"] for line in (CLIPS / "clips.jsonl").read_text().splitlines()]
LOCAL = ("http://127.0.0.1:", "blob:", "data:", "about:")
LONG = 90_000  # ms, for a busy machine


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The built page."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, ROOT / "site" / "build.py", "-o", folder, "--runtime", RUNTIME]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="session")
def serve():
    """A function that serves a folder as a plain static host does, and returns its address."""
    servers = []

    def serve(folder):
        handler = functools.partial(Quiet, directory=folder)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for server in servers:
        server.shutdown()


@pytest.fixture(scope="session")
def open_site(browser, built, serve):
    """A function that opens the page in a window of its own. Another host is never asked, and nothing is
    printed on the console."""
    address, complaints = serve(built), []

    def open_site(address=address, ready=True, **options):
        context = browser.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(LONG)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("request", lambda sent: sent.url.startswith(LOCAL) or complaints.append(sent.url))
        page.goto(address)
        if ready:
            page.wait_for_selector("#status[data-state=ready]")
            done(page)
        return page

    open_site.complaints = complaints
    return open_site


@pytest.fixture(scope="session")
def running(open_site):
    """A page that is ready, shared by the tests that leave it so."""
    return open_site()


@pytest.fixture
def page(running, open_site):
    """The shared page; the test fails if anything was printed on its console."""
    yield running
    assert not open_site.complaints


@pytest.fixture(scope="session")
def model():
    return mvc.load()


def done(page):
    """Wait until everything about the open clip has been computed in the page."""
    page.wait_for_function("document.querySelector('#says').dataset.done === document.body.dataset.turn")


def choose(page, name):
    page.locator(f"#clips input[value='{name}']").check(force=True)
    done(page)


def opened(page, name):
    """Wait until a file of one's own has been opened, and everything about it computed."""
    page.wait_for_selector(f"#drop.chosen:has-text('{name}')")
    done(page)


def latent(page):
    return np.array(json.loads(page.get_attribute("#says", "data-latent")))


def native(model, source):
    """What the page is to show: the latent, the caption, the five best labels."""
    video = model.encode(source)
    return video.latent, model.caption(video), mvc.classify(model, video, LABELS)[:5]


def drop(page, name, content, kind=""):
    """Drop a file onto the page."""
    script = """([name, kind, content]) => {
        const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], name, { type: kind }));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(script, [name, kind, base64.b64encode(content).decode()])


def frames_of(name):
    with Image.open(CLIPS / name) as image:
        frames = []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(image.convert("RGB"))
        return frames


def encode(frames, path, *options):
    """Write frames as a video of 10 per second."""
    writer = imageio_ffmpeg.write_frames(
        str(path), frames[0].size, fps=10, macro_block_size=1, output_params=list(options)
    )
    writer.send(None)
    for frame in frames:
        writer.send(frame.tobytes())
    writer.close()


# The numbers


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_clip_gives_the_numbers_of_the_native_run(page, model, name):
    choose(page, name)
    expected, caption, labels = native(model, CLIPS / name)
    assert np.abs(latent(page) - expected).max() < 1e-5
    assert page.inner_text("#caption") == caption
    assert page.locator("#labels li span:first-child").all_inner_texts() == [label for label, _ in labels]
    assert page.inner_text("#labels .percent >> nth=0") == f"{labels[0][1]:.1%}"
    question = page.input_value("#question")
    assert page.inner_text("#answer") == mvc.answer(mvc.load(tuned="questions"), CLIPS / name, question)


def test_a_word_shows_where_it_came_from(page, model):
    choose(page, "brief.gif")
    explanation = mvc.explain(model, CLIPS / "brief.gif")
    words = page.locator("#maps label.word")
    assert words.all_inner_texts() == [word for word in explanation.words if word]
    for index in (1, len(explanation.words) - 2):
        words.nth(index).click()
        shares = page.locator("#frames .percent").all_inner_texts()
        expected = 100 * explanation.frame_weights[index]
        assert np.allclose([float(share.rstrip("%")) for share in shares], expected, atol=0.06)
    page.locator("#maps label", has_text="no map").click()
    assert page.locator("#frames .percent").first.is_hidden()


def test_a_question_of_ones_own(page, model):
    choose(page, "pair.gif")
    page.fill("#question", "is there a green ring?")
    page.click("text=Ask")
    page.wait_for_function("document.querySelector('#answer').textContent === 'no'")
    page.fill("#question", "is there a zebra?")
    page.press("#question", "Enter")
    page.wait_for_selector("#answer-note:has-text('does not know zebra')")


def test_everything_about_the_caption(page):
    choose(page, "single.gif")
    page.click("#everything summary")
    assert "crescent" in page.frame_locator("#everything iframe").locator("main").inner_text()
    page.click("#everything summary")


# Files


def test_a_dropped_gif_is_read_by_the_package_itself(page, model, tmp_path):
    path = tmp_path / "own clip.gif"
    first, *rest = frames_of("pair.gif")[::-1]
    first.save(
        path, save_all=True, append_images=rest, duration=[20 * (1 + i) for i in range(1 + len(rest))], loop=0
    )
    drop(page, path.name, path.read_bytes(), "image/gif")
    opened(page, path.name)
    expected, caption, _ = native(model, path)
    assert np.abs(latent(page) - expected).max() < 1e-5
    assert page.inner_text("#caption") == caption
    assert page.locator("#clips input:checked").count() == 0
    assert path.name in page.inner_text("#drop")


@pytest.mark.parametrize("codec", ["webm", "mp4"])
def test_a_video_is_decoded_by_the_browser_at_the_same_times(page, model, tmp_path, codec):
    """Two shapes, one after the other: frames at other times would give other shares."""
    path = tmp_path / f"clip.{codec}"
    options = ["-c:v", "libvpx-vp9", "-b:v", "0", "-crf", "5"] if codec == "webm" else ["-crf", "5"]
    frames = [frame.resize((128, 128)) for frame in frames_of("split.gif")]
    encode(frames, path, *options)
    page.set_input_files("#file", path)
    opened(page, path.name)
    expected, caption, labels = native(model, path)
    assert latent(page) @ expected > 0.995  # another decoder and its conversion to RGB
    assert page.inner_text("#caption") == caption
    assert page.inner_text("#labels li span >> nth=0") == labels[0][0]


def test_a_picture_is_a_clip_of_equal_frames(page, model):
    picture, file = frames_of("mixed.gif")[0], io.BytesIO()
    picture.save(file, "PNG")
    drop(page, "still.png", file.getvalue(), "image/png")
    opened(page, "still.png")
    expected, caption, _ = native(model, [np.asarray(picture)] * 8)
    assert np.abs(latent(page) - expected).max() < 1e-5
    assert page.inner_text("#caption") == caption


@pytest.mark.parametrize(
    ("name", "content", "kind", "says"),
    [
        ("notes.txt", b"no clip", "text/plain", "notes.txt: not a video"),
        ("torn.png", b"\x89PNG\r\n\x1a\n", "image/png", "torn.png: not a picture"),
        ("torn.gif", b"GIF89a\x05", "image/gif", "torn.gif: "),
        ("torn.mp4", b"\0\0\0\x18ftypmp42", "video/mp4", "torn.mp4: not a video"),
    ],
)
def test_a_file_that_is_no_clip(page, name, content, kind, says):
    drop(page, name, content, kind)
    page.wait_for_selector("#clip-error:not([hidden])")
    message = page.inner_text("#clip-error")
    assert message.startswith(says) and "\n" not in message and "Traceback" not in message
    choose(page, "single.gif")
    assert page.locator("#clip-error").is_hidden()


# Formulas


def run(page):
    page.click("#run")
    page.wait_for_selector("#verdict:is([data-state=right], [data-state=wrong], [data-state=error])")
    return page.inner_text("#verdict")


def edit(page, before, after):
    code = page.input_value("#code")
    assert before in code
    page.fill("#code", code.replace(before, after))


def test_an_edit_that_breaks_the_model_and_one_that_mends_it(page):
    choose(page, "brief.gif")
    page.select_option("#formula", "pooling.attentional_pooler")
    line = '    context = layer_norm(context, **pooler["ln_k"])\n'
    edit(page, line, "")
    verdict = run(page)
    assert verdict.startswith("The model is not the same")
    assert "First divergence: pool.attended." in verdict and "ln_k, the LayerNorm" in verdict
    assert "before\na photo of a yellow crescent" in verdict
    edit(page, "    return", line + "    return")
    verdict = run(page)
    assert verdict.startswith("Right") and "a photo of a yellow crescent (as before)" in verdict
    assert page.locator("#original").is_disabled()  # it is the original again


def test_an_error_names_the_line(page):
    page.select_option("#formula", "ops.gelu")
    page.fill("#code", "def gelu(x):\n    print(x.shape)\n    return x.foo\n")
    verdict = run(page)
    assert "Line 3: AttributeError" in verdict and "Printed:\n\n(8, 65, 640)" in verdict
    page.fill("#code", "def gelu(x):\n    retrn x\n")
    assert "Line 2: invalid syntax" in run(page)
    page.fill("#code", "def other(x):\n    return x\n")
    assert "defines no function gelu" in run(page)
    page.click("#original")


def test_an_exercise_is_checked(page):
    page.select_option("#formula", "shifted_mask")
    page.click("#run")
    page.wait_for_selector("#verdict h3:text('Not written yet')")
    right = """
    B, L = ids.shape
    kept = np.concatenate([np.ones((B, 1), bool), ids != pad_id], axis=1)
    return (np.tril(np.ones((L + 1, L + 1), bool)) & kept[:, None, :])[:, None]"""
    page.fill("#code", page.input_value("#code").rpartition("\n")[0] + right)  # in place of its last line
    assert run(page).startswith("Right")
    edit(page, "np.tril", "np.triu")
    assert run(page).startswith("Wrong")
    page.click("#original")


def test_an_endless_loop_can_be_stopped(open_site):
    page = open_site()
    page.fill("#code", "def attentional_pooler(context, pooler, heads):\n    while True:\n        pass\n")
    page.click("#run")
    page.wait_for_selector("#stop:not([hidden])")
    page.locator("#maps label", has_text="no map").click()  # the page itself is not busy
    page.click("#stop")
    page.wait_for_selector("#status[data-state=ready]")
    page.click("#original")
    assert run(page).startswith("Right")
    page.context.close()
    assert not open_site.complaints


# The page


def test_the_page_is_of_use_before_the_runtime_has_arrived(open_site, browser, built, serve):
    """While the runtime's largest file is held back: examples, maps, code, and progress."""
    page = open_site(address="about:blank", ready=False)
    held = []
    page.context.route(re.compile(r"asm\.wasm"), lambda route: held.append(route))
    page.goto(serve(built))
    page.wait_for_selector("#frames canvas")
    assert page.inner_text("#caption") == "a photo of a yellow crescent"
    assert "when this page was built" in page.inner_text("#origin")
    page.locator("#clips input[value='pair.gif']").check(force=True)
    page.wait_for_selector("#caption:has-text('a red ring')")
    assert page.input_value("#code").startswith("def attentional_pooler")
    page.wait_for_function("document.querySelector('#progress').value > 0.3")
    assert 0.3 < page.evaluate("document.querySelector('#progress').value") < 1
    page.click("#run")
    assert page.inner_text("#verdict").startswith("Waiting for Python")
    for route in held:
        route.continue_()
    page.wait_for_selector("#verdict[data-state=right]")
    page.context.close()


def test_a_changed_file_is_refused(open_site, built, serve, tmp_path):
    """And read anew by another try, not from the browser's cache, for which it is the same file."""
    changed = shutil.copytree(built, tmp_path / "changed")
    wheel = next((changed / "runtime").glob("threadpoolctl*"))
    content = bytearray(wheel.read_bytes())
    content[100] ^= 1
    wheel.write_bytes(content)
    page = open_site(address=serve(changed), ready=False)
    page.wait_for_selector("#status[data-state=failed]")
    assert re.search(r"threadpoolctl\S+: not the expected file", page.inner_text("#state"))
    assert page.locator("#retry").is_visible() and page.inner_text("#caption")
    content[100] ^= 1
    modified = wheel.stat().st_mtime_ns
    wheel.write_bytes(content)
    os.utime(wheel, ns=(modified, modified))
    page.click("#retry")
    page.wait_for_selector("#status[data-state=ready]")
    page.context.close()


def test_by_keyboard_alone(open_site):
    page = open_site()

    def tab_to(selector, most=40):
        for _ in range(most):
            if page.evaluate("(s) => document.activeElement.matches(s)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#clips input")
    page.keyboard.press("ArrowRight")
    done(page)
    assert page.inner_text("#caption") == "a video of a red ring and a green diamond"
    tab_to("#file")
    tab_to("#maps input")
    page.keyboard.press("ArrowLeft")
    tab_to("#question")
    page.keyboard.press("Control+A")
    page.keyboard.type("what shape is green?")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#answer').textContent === 'diamond'")
    tab_to("#code")
    page.keyboard.press("Control+End")
    page.keyboard.press("Enter")
    page.keyboard.type("# the same")
    assert page.input_value("#code").endswith("\n    # the same")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#verdict[data-state=right]")
    tab_to("#ideas summary")  # Tab leaves the editor
    page.context.close()
    assert not open_site.complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(open_site, scheme):
    page = open_site(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme=scheme
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#maps label.word").nth(0).tap()
    heights = page.evaluate(
        "[...document.querySelectorAll('button, select, #maps label, #clips label')]"
        ".filter((x) => x.offsetParent).map((x) => x.getBoundingClientRect().height)"
    )
    assert min(heights) >= 24
    contrast = page.evaluate(CONTRAST)
    assert not contrast, contrast
    page.context.close()
    assert not open_site.complaints


# What is read at a contrast below 4.5 (WCAG 2.2, 1.4.3): its text and the contrast
CONTRAST = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
    const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
    const behind = (x) => {
        for (; x; x = x.parentElement) {
            const colour = numbers(getComputedStyle(x).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const low = [];
    const texts = "p, span, h1, h2, h3, summary, button, label, dt, dd, textarea, a, legend";
    for (const x of document.querySelectorAll(texts)) {
        if (!x.offsetParent || x.disabled || !(x.value ?? x.textContent).trim()) continue;
        const [a, b] = [luminance(numbers(getComputedStyle(x).color)), luminance(behind(x))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) low.push([x.textContent.trim().slice(0, 40), contrast]);
    }
    return low;
}"""


def test_it_is_small_and_complete(built):
    size = sum(path.stat().st_size for path in built.rglob("*") if path.is_file())
    assert size < 30e6
    settings = json.loads((built / "site.json").read_text())
    ((wheel, (_, sha256)),) = settings["wheel"].items()
    assert hashlib.sha256((built / wheel).read_bytes()).hexdigest() == sha256
