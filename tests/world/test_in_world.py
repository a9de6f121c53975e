"""Detection of clips of the synthetic world, and what the command line prints about other videos."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw

import minivideococa as mvc
from minivideococa import cli
from minivideococa.checkpoint import with_tensors
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.checkpoint.tuned import write_tuned
from minivideococa.demo import CLIPS
from minivideococa.world import CLIP_SETS, draw_clip, in_world, is_embedded, sample_clip
from minivideococa.world.detection import STATISTICS, distance

SEED = 20_000  # neither training nor weights/measure_in_world.py draws from it
COUNT = 12  # clips of each set; weights/measure_in_world.py measures the rates on 720 clips in all


@pytest.fixture(scope="module")
def model():
    return mvc.load()


@pytest.fixture(scope="module")
def clips():
    """Frames uint8 [8, 64, 64, 3] of COUNT clips of each set."""
    return {
        kind: [draw_clip(sample_clip(kind, np.random.default_rng([SEED, i]))) for i in range(COUNT)]
        for kind in CLIP_SETS
    }


@pytest.fixture(scope="module")
def tokens(model, clips):
    """Frame tokens [8, N, W] of all clips, encoded once, since pooling takes little of the time."""
    return {
        kind: [model.encode_frames(model.preprocess(frames)) for frames in some]
        for kind, some in clips.items()
    }


def everything(by_kind):
    return [x for some in by_kind.values() for x in some]


def texture(slope, seed):
    """A still uint8 [1, 128, 128, 3] with amplitudes as 1 / frequency ** slope, like photographs."""
    rng, size = np.random.default_rng(seed), 128
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = 1 / size
    spectrum = np.fft.fft2(rng.standard_normal((3, size, size))) * frequency**-slope
    channels = np.moveaxis(np.fft.ifft2(spectrum).real, 0, -1)
    grey = channels.mean(axis=-1, keepdims=True)
    picture = grey + 0.3 * (channels - grey)
    return np.clip(128 + 50 * (picture - picture.mean()) / picture.std(), 0, 255).astype(np.uint8)[None]


FOREIGN = {
    "noise": np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8),
    "large noise": np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8),
    "red": np.full((1, 64, 64, 3), (220, 30, 30), np.uint8),
    "green": np.full((1, 64, 64, 3), (30, 180, 30), np.uint8),
    "stripes": np.repeat(np.array([[220, 30, 30], [30, 60, 220]], np.uint8).repeat(8, 0), 4, 0)[
        None, None
    ].repeat(64, 1),
} | {f"1/f ** {slope}, {seed}": texture(slope, seed) for slope in (0.7, 1.0, 1.5, 2.0) for seed in range(5)}


# Detection


@pytest.mark.slow
def test_at_least_95_percent_of_held_out_clips_are_detected_with_attentional_pooling(model, tokens):
    detected = [in_world(model.pool(x)) for x in everything(tokens)]
    assert len(detected) == COUNT * len(CLIP_SETS) and np.mean(detected) >= 0.95


def test_at_least_95_percent_of_held_out_clips_are_detected_with_mean_pooling(model, tokens):
    assert np.mean([in_world(model.pool(x, "mean")) for x in everything(tokens)]) >= 0.95


@pytest.mark.slow
def test_at_least_95_percent_of_held_out_clips_are_detected_with_the_joint_encoder(model, clips):
    videos = [model.encode(frames, adapter="joint") for kind in clips.values() for frames in kind[:7]]
    assert np.mean([in_world(video) for video in videos]) >= 0.95


@pytest.mark.slow
def test_at_least_95_percent_of_held_out_clips_are_detected_with_their_captions(model, tokens):
    videos = [model.pool(x) for kind in tokens.values() for x in kind[:10]]
    assert np.mean([in_world(video, model.caption(video)) for video in videos]) >= 0.95


def test_at_least_95_percent_of_stills_are_detected(model, tokens):
    assert np.mean([in_world(model.pool(x[4:5])) for x in everything(tokens)]) >= 0.95


@pytest.mark.parametrize("adapter", ["attentional", "mean"])
def test_encoding_the_frames_once_gives_what_encode_gives(model, clips, tokens, adapter):
    frames, x = clips["split"][0], tokens["split"][0]
    once = model.pool(x, adapter).tokens
    np.testing.assert_array_equal(model.encode(frames, adapter=adapter).tokens, once)


@pytest.mark.slow
def test_clips_written_by_shapes_are_detected(model, written):
    detected = [in_world(model.encode(path)) for path in sorted(written.glob("*.mp4"))]
    assert len(detected) == 12 and sum(detected) >= 11


@pytest.mark.parametrize("T", [1, 8, 16])
@pytest.mark.parametrize("adapter", ["attentional", "mean", "joint"])
def test_the_demos_clips_are_detected(model, T, adapter):
    assert all(in_world(model.encode(path, T, adapter)) for path in sorted(CLIPS.glob("*.gif")))


@pytest.mark.parametrize("adapter", ["attentional", "mean", "joint"])
@pytest.mark.parametrize("name", FOREIGN)
def test_other_images_are_rejected(model, name, adapter):
    assert not in_world(model.encode(FOREIGN[name], adapter=adapter))


@pytest.mark.parametrize("grey", [40, 128, 235, 255])
def test_a_plain_image_is_detected_and_its_caption_is_nothing(model, grey):
    video = model.encode(np.full((1, 96, 128, 3), grey, np.uint8))
    assert in_world(video) and "nothing" in model.caption(video)


def test_the_distance_is_mahalanobis(model):
    """Against the definition, solving with the covariance; it is 0 at the mean."""
    rng = np.random.default_rng(1)
    A, mean = rng.standard_normal((5, 5)), rng.standard_normal(5)
    covariance = A @ A.T + np.eye(5)
    video = mvc.Video(np.zeros(5), rng.standard_normal((7, 5)))
    difference = video.tokens.mean(axis=0) - mean
    assert distance(video, mean, np.linalg.inv(covariance)) == pytest.approx(
        difference @ np.linalg.solve(covariance, difference)
    )
    assert distance(mvc.Video(np.zeros(5), mean[None]), mean, np.eye(5)) == 0


@pytest.mark.slow
def test_the_dtype_makes_no_difference(clips):
    exact = mvc.load(dtype="float64")
    model = mvc.load()
    for frames in [kind[0] for kind in clips.values()] + [FOREIGN["noise"]]:
        assert in_world(exact.encode(frames)) == in_world(model.encode(frames))


def test_is_embedded(tmp_path):
    assert (
        is_embedded(None)
        and is_embedded(str(embedded_checkpoint()))
        and is_embedded(embedded_checkpoint() / ".")
    )
    assert not is_embedded("hf-hub:laion/CoCa-ViT-L-14-laion2B-s13B-b90k") and not is_embedded(tmp_path)


# The command line


@pytest.fixture
def foreign(tmp_path):
    Image.fromarray(texture(1.5, 0)[0]).save(tmp_path / "foreign.png")
    return str(tmp_path / "foreign.png")


def run(capsys, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr()


def test_a_caption_of_other_footage_carries_a_caveat(capsys, foreign):
    out, err = run(capsys, "caption", foreign)
    caption, note = out.splitlines()
    assert note.startswith("(may not be a description: ")
    assert "coloured shapes" in note and "--weights" in note
    assert caption == mvc.load().caption(foreign) and "coloured shapes only" in err
    assert json.loads(run(capsys, "caption", foreign, "--json").out) == {
        "video": foreign,
        "caption": caption,
        "in_world": False,
    }


def test_a_caption_of_nothing_carries_a_caveat(capsys, tmp_path):
    """A page of text looks like an empty background, which no synthetic clip is."""
    page = Image.new("RGB", (640, 360), "white")
    for line in range(12):
        ImageDraw.Draw(page).text(
            (20, 20 + 26 * line), "the quick brown fox jumps over the lazy dog, again and again", "black"
        )
    page.save(tmp_path / "page.png")
    out = run(capsys, "caption", tmp_path / "page.png").out
    assert "nothing" in out and "(may not be a description: " in out
    assert json.loads(run(capsys, "caption", tmp_path / "page.png", "--json").out)["in_world"] is False


@pytest.mark.parametrize("clip", sorted(CLIPS.glob("*.gif")), ids=lambda path: path.stem)
def test_a_caption_of_a_synthetic_clip_has_no_caveat(capsys, clip):
    out, err = run(capsys, "caption", clip)
    assert out.count("\n") == 1 and "coloured shapes only" not in out + err
    assert json.loads(run(capsys, "caption", clip, "--json").out)["in_world"] is True


def test_caveats_are_for_the_embedded_checkpoint_only(capsys, foreign, tmp_path):
    assert run(capsys, "caption", foreign, "--weights", embedded_checkpoint()).out.count("\n") == 2
    shutil.copytree(embedded_checkpoint(), tmp_path / "other", ignore=shutil.ignore_patterns(STATISTICS))
    assert run(capsys, "caption", foreign, "--weights", tmp_path / "other").out.count("\n") == 1
    assert "in_world" not in json.loads(
        run(capsys, "caption", foreign, "--weights", tmp_path / "other", "--json").out
    )


def test_a_tuned_part_has_no_caveat(capsys, foreign, tmp_path):
    """It was tuned on videos of the user's own, which need not show shapes."""
    model = mvc.load()
    values = {"visual.proj": model.params["visual"]["proj"]}
    part = write_tuned(tmp_path / "tuned.safetensors", with_tensors(model, values, tuned_for="caption"))
    for command in ["caption", foreign], ["classify", foreign, "--labels", "a red ring,a blue star"]:
        out, err = run(capsys, *command, "--tuned", part)
        assert "coloured shapes" not in out + err
    assert cli.main(["answer", foreign, "a wooden", "--tuned", str(part)]) == 2
    message = capsys.readouterr().err
    assert "this checkpoint's vocabulary lacks wooden" in message and "coloured shapes" not in message


@pytest.mark.slow
def test_caveats_of_the_other_commands(capsys, foreign):
    clip = CLIPS / "single.gif"
    for path, known in ((clip, True), (foreign, False)):
        for command in (
            ["classify", path, "--labels", "a red circle,a blue star"],
            ["answer", path, "a red"],
        ):
            out, err = run(capsys, *command, "--json")
            assert json.loads(out)["in_world"] is known and ("coloured shapes only" in err) is not known
    out, err = run(capsys, "retrieve", "a green crescent", foreign, clip, "--json")
    assert {row["video"]: row["in_world"] for row in json.loads(out)["videos"]} == {
        str(clip): True,
        foreign: False,
    }
    assert "coloured shapes only" in err
    assert "coloured shapes only" not in run(capsys, "retrieve", "a green crescent", clip).err
