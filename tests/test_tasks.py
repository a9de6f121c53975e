"""Classification and retrieval against their formulas; the kinds of input they take, and their errors."""

import warnings
from pathlib import Path

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa import tasks
from minivideococa.model.hooks import replace_operations
from minivideococa.world import draw_clip, sample_clip

LABELS = ["a red circle", "a blue square", "a green star", "an orange heart"]
TEMPLATES = ["a photo of {}.", "there is {}", "{} and nothing"]


@pytest.fixture(scope="module")
def model(tiny_model, tokenizer):
    return tiny_model(2, text={"context_length": 9}, tokenizer=tokenizer)


def random_frames(seed):
    return np.random.default_rng(seed).integers(0, 256, (3, 20, 16, 3), np.uint8)


def a_video(latent):
    """An encoded video whose latent is known."""
    return mvc.Video(latent=np.asarray(latent), tokens=np.zeros((3, 8)))


def write_gif(path, seed):
    from PIL import Image

    images = [Image.fromarray(frame) for frame in random_frames(seed)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    return path


def refused(call, *facts):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(fact in message for fact in facts), message


# classify


def naive_probabilities(model, video, labels, templates):
    """Softmax over scaled cosines with the normalized mean of each label's unit latents."""
    scores = []
    for label in labels:
        latents = [model.encode_text(t.format(label))[0] for t in templates]
        mean = sum(latents) / len(latents)
        scores.append(np.exp(model.logit_scale * (mean @ video.latent) / np.sqrt(mean @ mean)))
    return {label: score / sum(scores) for label, score in zip(labels, scores)}


@pytest.mark.parametrize("templates", [None, TEMPLATES, TEMPLATES[:1], tuple(TEMPLATES)])
def test_classify(model, templates):
    for seed in range(3):
        video = model.encode(random_frames(seed))
        result = mvc.classify(model, video, LABELS, templates)
        want = naive_probabilities(model, video, LABELS, templates or ["a video of {}."])
        assert [label for label, _ in result] == sorted(LABELS, key=want.get, reverse=True)
        assert dict(result) == pytest.approx(want, rel=1e-9)
        assert sum(p for _, p in result) == pytest.approx(1, abs=1e-12)
        assert {type(p) for _, p in result} == {float}


def test_the_logit_scale_sharpens(model, tiny_model, tokenizer):
    sharp = tiny_model(2, tokenizer=tokenizer)
    sharp.params["logit_scale"] = model.params["logit_scale"] + 1
    video = model.encode(random_frames(0))
    first, second = mvc.classify(model, video, LABELS)[0], mvc.classify(sharp, video, LABELS)[0]
    assert first[0] == second[0] and second[1] > first[1]


def test_classify_depends_on_the_templates(model):
    video = model.encode(random_frames(0))
    assert dict(mvc.classify(model, video, LABELS)) != dict(mvc.classify(model, video, LABELS, TEMPLATES))


def test_one_label_is_certain(model):
    assert mvc.classify(model, random_frames(0), ["nothing"]) == [("nothing", 1.0)]


def test_classify_takes_every_kind_of_video(model, tmp_path):
    path = write_gif(tmp_path / "clip.gif", 0)
    by_path = mvc.classify(model, path, LABELS)
    assert by_path == mvc.classify(model, str(path), LABELS)
    assert by_path == mvc.classify(model, model.encode(path), LABELS)
    frames = random_frames(0)
    assert mvc.classify(model, frames, LABELS) == mvc.classify(model, model.encode(frames), LABELS)


def test_labels_may_contain_braces(model):
    """A label is inserted literally."""
    labels = ["a {} circle", "a {0} star", "100% {x}"]
    assert {label for label, _ in mvc.classify(model, random_frames(0), labels)} == set(labels)
    assert mvc.classify(model, random_frames(0), ["nothing"], ["{} in {braces}"]) == [("nothing", 1.0)]


def test_label_latents_are_unit_means(model):
    latents = tasks.label_latents(model, LABELS, TEMPLATES)
    assert latents.shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(latents, axis=1), 1, rtol=1e-12)
    sentences = [model.encode_text([t.format(LABELS[2])])[0] for t in TEMPLATES]
    mean = np.mean(sentences, axis=0)
    np.testing.assert_allclose(latents[2], mean / np.linalg.norm(mean), rtol=1e-9)


@pytest.mark.parametrize(
    "labels, templates",
    [
        ([], None),
        (LABELS, []),
        (LABELS, ["a video."]),
        (LABELS, ["a {}.", "no place"]),
        (LABELS, ["{} and {}"]),
        ("a red circle", None),
        (LABELS, "a video of {}."),
    ],
    ids=[
        "no labels",
        "no templates",
        "no place",
        "one without a place",
        "two places",
        "labels a text",
        "templates a text",
    ],
)
def test_classify_refuses(model, labels, templates):
    refused(lambda: mvc.classify(model, random_frames(0), labels, templates))


def test_classify_and_retrieve_need_a_tokenizer(tiny_model):
    wordless = tiny_model()
    refused(lambda: mvc.classify(wordless, random_frames(0), LABELS), "tokenizer")
    refused(lambda: mvc.retrieve(wordless, "a red circle", [random_frames(0)]), "tokenizer")
    refused(lambda: mvc.retrieve(wordless, random_frames(0), LABELS), "tokenizer")


# retrieve


def test_videos_for_a_text(model):
    videos = [model.encode(random_frames(seed)) for seed in range(5)]
    text = model.encode_text("a green star")[0]
    result = mvc.retrieve(model, "a green star", videos)
    want = [float(text @ v.latent) for v in videos]
    assert [i for i, _ in result] == sorted(range(5), key=lambda i: -want[i])
    assert [c for _, c in result] == pytest.approx([want[i] for i, _ in result], abs=1e-12)
    assert {(type(i), type(c)) for i, c in result} == {(int, float)}


def test_texts_for_a_video(model):
    video = model.encode(random_frames(1))
    want = model.encode_text(LABELS) @ video.latent
    result = mvc.retrieve(model, video, LABELS)
    assert [i for i, _ in result] == list(np.argsort(-want))
    assert [c for _, c in result] == pytest.approx(sorted(want, reverse=True), abs=1e-12)


def test_cosines(model):
    text = model.encode_text("a red circle")[0]
    other = np.roll(text, 1) - (np.roll(text, 1) @ text) * text
    other /= np.linalg.norm(other)
    halfway = (text + other) / np.sqrt(2)
    result = mvc.retrieve(model, "a red circle", [a_video(x) for x in (other, -text, halfway, text)])
    assert [i for i, _ in result] == [3, 2, 0, 1]
    assert [c for _, c in result] == pytest.approx([1, np.sqrt(0.5), 0, -1], abs=1e-12)


def test_retrieve_takes_every_kind_of_video(model, tmp_path):
    paths = [write_gif(tmp_path / f"{seed}.gif", seed) for seed in range(2)]
    frames = random_frames(7)
    mixed = [paths[0], str(paths[1]), frames, model.encode(random_frames(8))]
    encoded = [model.encode(video) for video in mixed]
    assert mvc.retrieve(model, "a red circle", mixed) == mvc.retrieve(model, "a red circle", encoded)
    for query in (Path(paths[0]), frames):
        assert mvc.retrieve(model, query, LABELS) == mvc.retrieve(model, model.encode(query), LABELS)


def test_a_string_query_is_a_text(model, tmp_path, monkeypatch):
    """Even where a file has that name."""
    monkeypatch.chdir(tmp_path)
    write_gif(tmp_path / "circle.gif", 0)
    video = model.encode(random_frames(0))
    ((_, cosine),) = mvc.retrieve(model, "circle.gif", [video])
    assert cosine == pytest.approx(float(model.encode_text("circle.gif")[0] @ video.latent))


def test_retrieve_refuses_no_candidates(model):
    refused(lambda: mvc.retrieve(model, "a red circle", []), "video")
    refused(lambda: mvc.retrieve(model, random_frames(0), []), "text")


def test_retrieve_refuses_a_string_for_a_list(model):
    refused(lambda: mvc.retrieve(model, "a red circle", "clip.mp4"), "video")
    refused(lambda: mvc.retrieve(model, random_frames(0), "a red circle"), "text")


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.mp4"):
        mvc.retrieve(model, "a red circle", [tmp_path / "absent.mp4"])


# order


def test_best_first_keeps_the_order_of_equals():
    assert tasks.best_first(np.array([1.0, 3, 1, 3, 2, 3, 1])).tolist() == [1, 3, 5, 4, 0, 2, 6]
    many = np.tile([0.5, 0.25], 50)
    assert tasks.best_first(many).tolist() == [*range(0, 100, 2), *range(1, 100, 2)]


@pytest.mark.parametrize("copies", [2, 5, 9, 33])
def test_copies_of_a_video_keep_their_order(tiny_model, tokenizer, copies):
    """Equal videos have equal cosines, whatever their places in the list."""
    model = tiny_model(
        tokenizer=tokenizer, dtype="float32", embed_dim=72, text={"width": 72}, decoder={"width": 72}
    )
    rng = np.random.default_rng(copies)
    latents = [x / np.linalg.norm(x) for x in rng.standard_normal((3, 72)).astype(np.float32)]
    videos = [a_video(latents[i % 3]) for i in range(3 * copies)]
    order = [i for i, _ in mvc.retrieve(model, "a red circle", videos)]
    for first in range(0, 3 * copies, copies):
        assert order[first : first + copies] == [*range(order[first] % 3, 3 * copies, 3)]


def test_copies_of_a_text_are_adjacent(model):
    video = model.encode(random_frames(0))
    order = [LABELS[i % 4] for i, _ in mvc.retrieve(model, video, LABELS * 5)]
    assert all(len(set(order[first : first + 5])) == 1 for first in range(0, 20, 5))


# Texts longer than the context


LONG = " and ".join(["a red circle"] * 5)


def cut_messages(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


def test_each_task_warns_once_of_texts_that_are_cut(model):
    video, message = model.encode(random_frames(0)), "the text has 21 ids; the first 9 are used"
    several = "2 of 3 texts have more than 9 ids, up to 25; the first 9 are used"
    labels = ["a red circle", LONG, LONG + " star"]
    for by in ("latent", "likelihood"):
        calls = {
            by: lambda by=by: mvc.classify(model, video, [LONG], ["{}"], by),
            "template": lambda by=by: mvc.classify(model, video, labels, by=by),
        }
        assert cut_messages(calls[by]) == [message]
        assert cut_messages(calls["template"]) == [several]
    assert cut_messages(lambda: tasks.label_latents(model, labels)) == [several]
    assert cut_messages(lambda: mvc.retrieve(model, LONG, [video])) == [message]
    assert cut_messages(lambda: mvc.retrieve(model, video, [LONG])) == [message]
    assert cut_messages(lambda: mvc.score(model, video, [LONG], "there is")) == [
        "the text has 23 ids; the first 9 are used"
    ]
    assert cut_messages(lambda: mvc.answer(model, video, "there is", ["a", "a b " * 5])) == [
        "a text has 14 ids; the first 9 are used"
    ]
    assert cut_messages(lambda: mvc.retrieve(model, video, ["a red circle"])) == []


def test_a_prompt_without_room_is_refused_without_a_warning(model):
    video = model.encode(random_frames(0))

    def call():
        refused(lambda: mvc.score(model, video, ["a star"], LONG), "leaves no room")

    assert cut_messages(call) == []


# Several captions


@pytest.fixture(scope="module")
def encoded():
    """The embedded checkpoint, and videos whose captions have different lengths."""
    model = mvc.load()
    clips = [
        sample_clip(("single", "pair")[i % 2], np.random.default_rng([7, i]), 2)
        for i in range(tasks.CAPTIONS + 2)
    ]
    return model, [model.encode(draw_clip(clip)) for clip in clips]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"beams": 1}, {}, {"beams": 3, "candidates": 2}, {"temperature": 1.0}])
def test_several_captions_are_those_of_one_by_one(encoded, options):
    (model, videos), counted = encoded, []
    captions = mvc.caption_many(model, videos, progress=counted.append, **options)
    assert captions == [model.caption(video, **options) for video in videos]
    assert counted == [tasks.CAPTIONS, 2] and mvc.caption_many(model, [], **options) == []


def test_videos_with_different_numbers_of_caption_tokens(encoded):
    model, videos = encoded
    fewer = mvc.Video(videos[1].latent, videos[1].tokens[:20])
    captions = mvc.caption_many(model, [videos[0], fewer], beams=1)
    assert captions == [model.caption(video, beams=1) for video in (videos[0], fewer)]


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_finished_captions_leave_the_batch(encoded, beams):
    """A step computes the texts that are still being written, and no others."""
    model, videos = encoded
    rows = []

    def counting(embed):
        return lambda ids, text: rows.append(len(ids)) or embed(ids, text)

    with replace_operations({"text.embed": counting}):
        alone = []
        for video in videos:
            model.caption(video, beams=beams)
            alone.append(len(rows))  # steps
            assert set(rows) == {beams}
            rows.clear()
        mvc.caption_many(model, videos[: tasks.CAPTIONS], beams=beams)
    alone = alone[: tasks.CAPTIONS]
    assert min(alone) < max(alone)
    assert rows == [beams * sum(steps > step for steps in alone) for step in range(max(alone))]


def test_a_video_alone_is_no_list_of_videos(model):
    refused(lambda: mvc.caption_many(model, "video.mp4"), "videos must be a list")
