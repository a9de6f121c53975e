"""The page of an explanation in a browser: by keyboard, by pointer, on a phone, in both colour schemes."""

import numpy as np
import pytest
from examples import random_explanation

import minivideococa as mvc
from minivideococa.demo import CLIPS
from minivideococa.explanation.page import Section, page, page_of_sections

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
READY = "html[data-ready]"


@pytest.fixture
def explained(open_page):
    """A function that opens the page of explanations, by default of one."""

    def explained(*explanations, html=None, **options):
        opened = open_page(html or page(explanations or [random_explanation(side=32)], "clip.gif"), **options)
        opened.wait_for_selector(READY)
        return opened

    return explained


def pictures(opened):
    """The pixels of the frames of the first strip, as data URIs."""
    return opened.evaluate(
        "[...document.querySelector('.strip').querySelectorAll('canvas')].map((c) => c.toDataURL())"
    )


def unfold(opened):
    """Open the parts that are folded."""
    opened.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    return opened


def word(opened, text):
    return opened.locator(".caption").first.get_by_role("radio", name=text)


def checked(opened, group=".caption"):
    return opened.locator(f"{group} [aria-checked=true]").first.inner_text()


# Words


def test_arrow_keys_move_along_the_caption(explained):
    opened = explained()
    assert checked(opened) == "ring"  # the last word
    before = pictures(opened)
    word(opened, "ring").focus()
    opened.keyboard.press("ArrowLeft")
    assert checked(opened) == "red" and pictures(opened) != before
    assert opened.evaluate("document.activeElement.textContent") == "red"
    assert "red, probability" in opened.locator("#announcement").inner_text()
    opened.keyboard.press("ArrowRight")
    assert checked(opened) == "ring" and pictures(opened) == before
    for key, text in [("Home", "a"), ("End", "end"), ("ArrowRight", "a"), ("ArrowLeft", "end")]:
        opened.keyboard.press(key)
        assert checked(opened) == text


def test_tab_reaches_everything_in_order(explained):
    opened = unfold(explained())
    reached = []
    for _ in range(12):
        opened.keyboard.press("Tab")
        reached.append(
            opened.evaluate("document.activeElement.className || document.activeElement.type || ''")
        )
        if opened.evaluate("document.activeElement === document.body"):
            break
    assert reached[:6] == ["checkbox", "theme", "word", "range", "", "segment"]
    assert reached[6:8] == ["bar", "scroll"]


def test_hover_shows_a_word_and_a_click_keeps_it(explained):
    opened = explained()
    before = pictures(opened)
    word(opened, "red").hover()
    assert checked(opened) == "red" and pictures(opened) != before
    opened.locator("h1").hover()
    assert checked(opened) == "ring" and pictures(opened) == before
    word(opened, "red").click()
    opened.locator("h1").hover()
    assert checked(opened) == "red"


def test_a_tap_picks_a_word(explained):
    opened = explained(**PHONE)
    word(opened, "red").tap()
    assert checked(opened) == "red"


def test_the_likeliest_words_of_each_step(explained):
    opened = explained()
    word(opened, "red").click()
    assert opened.locator(".next h3").inner_text() == "Likeliest words after “a”"
    rows = opened.locator(".next li").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["red", "blue", "star", "end", "of"] and "70%" in rows[0]
    assert opened.locator(".next .chosen").count() == 1


# Frames


def test_the_slider_and_vertical_arrows_change_the_frame(explained):
    opened = explained()
    slider, shown = opened.get_by_label("Frame", exact=True), opened.locator("output")
    slider.focus()
    opened.keyboard.press("Home")
    assert shown.inner_text().startswith("frame 1 of 3, at 0.50 s: ")
    large = opened.locator(".large canvas")
    before = large.evaluate("(canvas) => canvas.toDataURL()")
    opened.keyboard.press("ArrowRight")
    assert shown.inner_text().startswith("frame 2 of 3") and large.evaluate("(c) => c.toDataURL()") != before
    word(opened, "ring").focus()
    for key, frame in [("ArrowDown", 3), ("ArrowDown", 3), ("ArrowUp", 2)]:
        opened.keyboard.press(key)
        assert shown.inner_text().startswith(f"frame {frame} of 3")
    opened.locator(".strip li").first.click()
    assert shown.inner_text().startswith("frame 1 of 3") and slider.input_value() == "0"


def test_how_much_each_frame_counted(explained):
    explanation = random_explanation(side=32)
    opened = explained(explanation)
    word(opened, "red").click()
    shares = [float(text.strip("%")) for text in opened.locator(".strip .share").all_inner_texts()]
    np.testing.assert_allclose(shares, 100 * explanation.frame_weights[1], atol=0.51)
    widths = [box.evaluate("(bar) => bar.clientWidth") for box in opened.locator(".strip .fill").all()]
    rooms = [box.evaluate("(bar) => bar.clientWidth") for box in opened.locator(".strip .weight").all()]
    np.testing.assert_allclose(np.divide(widths, rooms), explanation.frame_weights[1], atol=0.02)
    rows = unfold(opened).locator("tbody tr").all_inner_texts()
    assert len(rows) == 4 and float(rows[1].split()[1]) == pytest.approx(
        100 * explanation.frame_weights[1, 0], abs=0.51
    )


def test_maps_can_be_hidden(explained):
    """Then each canvas is the frame, enlarged and otherwise unchanged."""
    explanation = random_explanation(side=32)
    opened = explained(explanation)
    opened.get_by_role("checkbox", name="Maps").uncheck()
    canvas = opened.locator(".strip canvas").nth(1)
    size, pixels = canvas.evaluate(
        "(c) => [c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
    )
    drawn = np.array(pixels, np.uint8).reshape(size, size, 4)[..., :3]
    scale = size // 32
    assert np.array_equal(drawn, explanation.frames[1].repeat(scale, axis=0).repeat(scale, axis=1))


def test_the_brightest_patch_is_that_of_most_weight(explained):
    """On a black clip: the drawn colours grow with the weights."""
    explanation = random_explanation(frames=np.zeros((3, 32, 32, 3), np.uint8))
    explanation.maps[2] = np.arange(48.0).reshape(3, 4, 4) / 48 / 24
    opened = explained(explanation)
    values = opened.locator(".strip canvas").evaluate_all(
        "(all) => all.map((c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
    )
    drawn = np.array(values).reshape(3, 256, 256, 4)
    values = drawn[:, 32::64, 32::64, :3].sum(axis=-1).ravel()  # the middle of each patch
    assert (np.diff(values) >= 0).all() and values[-1] > 3 * values[0] and len(set(values)) > 40


@pytest.mark.parametrize(("spread", "flat"), [(0.6, True), (0.3, False)])
def test_a_flat_map_looks_flat(explained, spread, flat):
    """Most patches weigh at least half of the most: no outline, one colour in the middle, and a sentence."""
    explanation = random_explanation(frames=np.zeros((3, 32, 32, 3), np.uint8))
    explanation.maps[2] = 0.01 * spread
    explanation.maps[2, 0, 0, 0] = 0.01
    opened = explained(explanation)
    values = opened.locator(".strip canvas").first.evaluate(
        "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    drawn = np.array(values).reshape(256, 256, 4)[..., :3]
    assert (len(np.unique(drawn.reshape(-1, 3), axis=0)) == 2) == flat  # an outline has colours of its own
    assert ("This map is flat" in opened.locator(".rest").inner_text()) == flat
    assert abs(drawn[200, 200].astype(int) - drawn[32, 32]).max() > 20


def test_frames_have_numbers_and_times(explained):
    opened = explained(random_explanation())
    assert opened.locator(".film .time").all_inner_texts() == ["1 · 0.50 s", "2 · 1.50 s", "3 · 2.50 s"]
    for explanation in (random_explanation(times=None), random_explanation(T=20)):
        opened = explained(explanation)
        numbers = [str(t + 1) for t in range(len(explanation.frames))]
        assert opened.locator(".film .time").all_inner_texts() == numbers
        assert opened.locator(".strip .time").all_inner_texts() == numbers


def test_frames_without_times(explained):
    opened = explained(random_explanation(times=None))
    assert "s:" not in opened.locator("output").inner_text()


def test_the_frames_are_shown_without_maps_once(explained):
    """Panels of the same frames have them in common."""
    one, other = random_explanation(side=32), random_explanation(1, side=32)
    same = random_explanation(2, side=32, frames=one.frames)
    for explanations, films in [([one], [3]), ([one, same], [3]), ([one, other], [3, 3])]:
        opened = explained(*explanations)
        shown = opened.locator(".film").evaluate_all("(all) => all.map((film) => film.children.length)")
        assert [count for count in shown if count] == films
    assert opened.locator(".panel .film").count() == 2


# Layers, heads and queries


def shown_patches(opened, **choices):
    """The patches [T, rows, cols] that a panel of these choices shows."""
    return opened.evaluate(
        """(choices) => {
            const panel = { ...makePanel(data.sections[0].panels[0], {}), ...choices };
            return [...shownMap(panel).patches];
        }""",
        choices,
    )


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("head", [-1, 0])
@pytest.mark.parametrize("pooler_head", [-1, 2])
def test_maps_of_layers_and_heads_are_those_of_numpy(explained, layer, head, pooler_head):
    explanation = random_explanation(side=32)
    opened = explained(explanation)

    def mean(x, index):
        return x.mean(axis=0) if index == -1 else x[index]

    cross = mean(mean(explanation.cross, layer), head)[1]  # [Q'] of the word "red"
    tokens = np.einsum("q,qtn->tn", cross, mean(explanation.pooler, pooler_head))
    choices = {"source": "decoder", "word": 1, "layer": layer, "decoderHead": head, "poolerHead": pooler_head}
    expected = tokens[:, 1:].ravel()
    np.testing.assert_allclose(shown_patches(opened, **choices), expected, atol=expected.max() / 100)


@pytest.mark.parametrize("query", [-1, 3])
def test_maps_of_queries_are_those_of_numpy(explained, query):
    explanation = random_explanation(side=32)
    opened = explained(explanation)
    expected = (explanation.latent[1] if query == -1 else explanation.pooler[1, query])[:, 1:].ravel()
    shown = shown_patches(opened, source="pooler", query=query, poolerHead=1)
    np.testing.assert_allclose(shown, expected, atol=expected.max() / 300)


def test_layers_heads_and_queries_are_chosen_by_keyboard(explained):
    opened = unfold(explained())
    maps = [pictures(opened)]
    opened.get_by_role("radio", name="Word", exact=True).focus()
    opened.keyboard.press("ArrowRight")
    assert checked(opened, ".segments") == "Decoder layers and heads"
    maps.append(pictures(opened))
    layer = opened.get_by_label("Decoder layer")
    layer.focus()
    layer.select_option("layer 1")
    assert opened.evaluate("document.activeElement.value") == "1"  # the new menu at the place of the old one
    assert "decoder.block.1.cross" in opened.locator(".formula").inner_text()
    maps.append(pictures(opened))
    opened.get_by_role("radio", name="Decoder layers").focus()
    opened.keyboard.press("ArrowRight")
    assert "latent" in opened.locator(".formula").inner_text()
    maps.append(pictures(opened))
    opened.locator(".bars [tabindex='0']").focus()
    opened.keyboard.press("ArrowRight")
    assert "caption token 1" in opened.locator(".formula").inner_text()
    maps.append(pictures(opened))
    assert len({tuple(strip) for strip in maps}) == 5


def test_the_path_of_shapes(explained):
    blocks = ((f"decoder.block.{i}.cross", (4, 16)) for i in range(12))
    shapes = random_explanation(side=32).shapes
    rows = explained(random_explanation(side=32, shapes=(*shapes[:2], *blocks, shapes[2])))
    rows = unfold(rows).locator(".shapes li").all_inner_texts()
    assert "frames" in rows[0] and "3 × 32 × 32 × 3" in rows[0] and "9,216 numbers" in rows[0]
    assert "decoder.block.0–11.cross" in rows[2] and "4 × 16" in rows[2]
    assert "L, V" in rows[3] and "4 × 40" in rows[3] and len(rows) == 4


def test_what_a_large_model_leaves_out_is_said(explained):
    opened = unfold(explained(random_explanation(T=8, grid=16, queries=255, pooler_heads=2)))
    opened.get_by_role("radio", name="Decoder layers").click()
    assert opened.get_by_label("Pooler head").count() == 0
    assert "Of 255 caption tokens, the 16 of most weight" in opened.locator(".formula").inner_text()


@pytest.mark.parametrize(("T", "columns"), [(1, 4), (8, 4), (64, 8)])
def test_few_and_many_frames(explained, T, columns):
    opened = explained(random_explanation(T=T, side=32))
    style = opened.locator(".strip").evaluate("(strip) => getComputedStyle(strip).gridTemplateColumns")
    assert opened.locator(".strip canvas").count() == T and len(style.split()) == columns
    opened.get_by_label("Frame", exact=True).focus()
    opened.keyboard.press("End")
    assert opened.locator("output").inner_text().startswith(f"frame {T} of {T}")


def test_in_a_notebook(open_page):
    """`_repr_html_` puts the page into a frame, where scripts of another page have no part in it."""
    explanation = mvc.explain(mvc.load(), CLIPS / "pair.gif")
    frame = open_page(f"<body>{explanation._repr_html_()}").frame_locator("iframe")
    frame.locator(READY).wait_for()
    assert frame.locator(".caption").get_by_role("radio", name="diamond").is_visible()
    frame.get_by_role("radio", name="red").click()
    assert frame.locator(".caption [aria-checked=true]").inner_text() == "red"


# Side by side


def test_the_same_word_and_frame_are_shown_side_by_side(explained):
    other = random_explanation(1, words=("red", "a", "star", ""), adapter="mean", side=32)
    opened = explained(random_explanation(side=32), other)
    assert opened.locator(".label").all_inner_texts() == ["attentional", "mean"]
    word(opened, "red").click()
    assert opened.locator("[aria-checked=true].word").all_inner_texts() == ["red", "red"]
    word(opened, "ring").click()  # the other caption has no such word
    assert opened.locator("[aria-checked=true].word").all_inner_texts() == ["ring", "red"]
    for frame in (0, 2, 1):
        opened.get_by_label("Frame", exact=True).first.fill(str(frame))
        shown = opened.locator("output").all_inner_texts()
        assert [text[:12] for text in shown] == [f"frame {frame + 1} of 3"] * 2
    left, right = (box.bounding_box() for box in opened.locator(".panel").all())
    assert left["y"] == right["y"] and left["x"] < right["x"]


def test_clips_of_different_lengths_side_by_side(explained):
    opened = explained(random_explanation(T=5, side=32), random_explanation(T=2, side=32))
    opened.get_by_label("Frame", exact=True).first.fill("4")
    assert [text[:12] for text in opened.locator("output").all_inner_texts()] == [
        "frame 5 of 5",
        "frame 2 of 2",
    ]


def test_frames_of_the_same_time_are_shown_side_by_side(explained):
    """Of 8 and of 2 frames of a clip: the first half of the one is the first frame of the other."""
    opened = explained(random_explanation(T=8, side=32), random_explanation(T=2, side=32))
    eight, two = opened.get_by_label("Frame", exact=True).all()
    for frame, shown in [(3, 0), (4, 1), (0, 0), (7, 1)]:
        eight.fill(str(frame))
        assert (eight.input_value(), two.input_value()) == (str(frame), str(shown))
    two.fill("0")
    assert eight.input_value() == "2"  # at a quarter of the clip


def test_each_panel_opens_at_its_frame_of_most_weight(explained):
    one, other = random_explanation(side=32), random_explanation(1, side=32)
    one.frame_weights[2], other.frame_weights[2] = (0.1, 0.2, 0.7), (0.6, 0.3, 0.1)
    opened = explained(one, other)
    shown = opened.locator("output").all_inner_texts()
    assert [text[:12] for text in shown] == ["frame 3 of 3", "frame 1 of 3"]


def test_more_is_folded(explained):
    opened = explained(viewport={"width": 1280, "height": 800})
    assert not opened.locator(".segments").is_visible() and opened.locator(".large").is_visible()


def test_several_sections_are_folded(explained):
    sections = [Section([random_explanation(i, side=32)] * 2, f"clip {i}", "a note") for i in range(2)]
    opened = explained(html=page_of_sections(sections, "clips", lead="What is here.", folded=True))
    assert opened.locator("h2").all_inner_texts() == ["clip 0", "clip 1"]
    assert opened.locator(".clip > .note").all_inner_texts() == ["a note"] * 2
    assert opened.locator(".lead").inner_text() == "What is here."
    assert opened.locator(".film img").count() == 6 and not opened.locator(".large").first.is_visible()
    opened.locator("summary").first.click()
    assert opened.locator(".large").first.is_visible()


# How it looks, and who can use it


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(explained, width):
    long = (
        "pneumonoultramicroscopicsilicovolcanoconiosis",
        *"a man and a woman are arm wrestling".split(),
        "",
    )
    for explanations in ([random_explanation(words=long, side=32)], [random_explanation(side=32)] * 2):
        opened = unfold(explained(*explanations, viewport={"width": width, "height": 800}))
        assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_fingers_find_the_words(explained):
    """At least 24 pixels (WCAG 2.2, success criterion 2.5.8)."""
    opened = unfold(explained(**PHONE))
    for box in opened.locator("button:not(.bar), select, input[type=range], summary").all():
        if box.is_visible():
            size = box.bounding_box()
            assert size["height"] >= 24 and size["width"] >= 20, box.inner_text()


def test_dark_and_light(explained):
    def background(opened):
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = explained(color_scheme="light"), explained(color_scheme="dark")
    assert background(light) != background(dark)
    expected = background(dark)
    light.get_by_role("button", name="Dark colours").click()
    assert background(light) == expected
    assert light.get_by_role("button", name="Dark colours", pressed=True).is_visible()
    dark.emulate_media(color_scheme="light")
    dark.wait_for_selector("html[data-theme=light]")  # the page follows the system


CONTRAST = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((total, c, i) => total + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    const colour = rgba(getComputedStyle(node).backgroundColor);
    return colour[3] === 255 ? colour : behind(node.parentElement);
  };
  const faint = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.closest(".hidden, noscript, script, template")) continue;
    const [a, b] = [luminance(rgba(getComputedStyle(node).color)), luminance(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push([node.className || node.tagName, node.textContent.trim(), ratio]);
  }
  return faint;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(explained, scheme):
    """4.5 to 1 (WCAG 2.2, success criterion 1.4.3)."""
    opened = unfold(explained(random_explanation(side=32, question="what is red?"), color_scheme=scheme))
    opened.get_by_role("radio", name="Decoder layers").click()
    assert opened.evaluate(CONTRAST) == []


def test_every_control_and_picture_has_a_name(explained):
    opened = unfold(explained(random_explanation(side=32), random_explanation(side=32)))
    for source in ("Decoder layers and heads", "Pooler queries"):
        opened.get_by_role("radio", name=source).first.click()
        snapshot = opened.locator("body").aria_snapshot()
        nameless = [
            line.strip()
            for line in snapshot.splitlines()
            if line.split("[")[0].strip(" -:") in ("button", "radio", "img", "slider", "combobox", "checkbox")
        ]
        assert not nameless
    assert opened.locator("html").get_attribute("lang") == "en" and opened.title() == "clip.gif"


def test_text_is_shown_as_it_is(explained):
    evil = "</script><img src=x onerror=alert(1)>"
    opened = explained(html=page([random_explanation(words=(evil, ""), text=evil)], evil))
    assert opened.locator("h1").inner_text() == evil and checked(opened) == evil


def test_without_scripts_the_caption_is_there(open_page):
    opened = open_page(page([random_explanation(text="a red ring")], "clip.gif"), java_script_enabled=False)
    assert "a red ring" in opened.locator("body").inner_text()


def test_the_browser_refuses_to_load_anything(open_page):
    """Whatever a script tries: the policy in the page forbids it."""
    opened = open_page(page([random_explanation()], "clip.gif"))
    opened.wait_for_selector(READY)
    refused = opened.evaluate("fetch('https://example.org').then(() => false, () => true)")
    assert refused and any("Content Security Policy" in line for line in open_page.complaints)
    open_page.complaints.clear()


def test_a_complaint_is_noticed(open_page):
    """What the other tests rely on."""
    opened = open_page(
        "<script>console.error('one'); throw Error('two')</script><img src='http://127.0.0.1:9/three'>"
    )
    opened.wait_for_load_state()
    found = " ".join(open_page.complaints)
    assert all(word in found for word in ("one", "two", "three"))
    open_page.complaints.clear()
