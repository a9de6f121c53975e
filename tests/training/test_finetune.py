"""Finetuning from a manifest to a tuned part: what is learned, what is kept, and what interrupts it."""

import dataclasses
import gc
import json
import shutil
from itertools import pairwise

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa import eviction
from minivideococa.cache import put
from minivideococa.checkpoint.table import unnest
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry, write_manifest
from minivideococa.training import finetune as module
from minivideococa.training import loop, state, tokens
from minivideococa.training.log import read_log
from minivideococa.training.loop import NotFiniteError
from minivideococa.training.parameters import is_reached, is_tuned

BROKEN = CLIPS.parents[2] / "tests" / "cases" / "broken.mp4"
QUICK = {"num_frames": 2, "batch": 2, "learning_rate": 1e-3}
ENTRIES = [
    Entry(CLIPS / line["clip"], (line["text"], line["text"].replace("a ", "one ")))
    for line in map(json.loads, (CLIPS / "clips.jsonl").read_text().splitlines())
]
QUESTIONS = [
    Entry(CLIPS / "single.gif", question="what shape is green", answer="crescent"),
    Entry(CLIPS / "pair.gif", question="what shape is red", answer="ring"),
    Entry(CLIPS / "pair.gif", question="what shape is green", answer="diamond"),
    Entry(CLIPS / "split.gif", question="what shape is red", answer="ring"),
]

pytestmark = pytest.mark.filterwarnings("ignore:.*different frame", "ignore:.*vocabulary lacks")


@pytest.fixture(scope="module")
def model():
    return mvc.load()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tune(model, cache, tmp_path):
    """`finetune` on the demo's clips, in the folder "run" unless another is given."""

    def tune(entries=ENTRIES, folder="run", **keywords):
        return mvc.finetune(model, entries, tmp_path / folder, **{"cache": cache, **QUICK, **keywords})

    return tune


def contents(folder):
    """The bytes of the tuned part and of all states."""
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.slow
def test_a_full_cache_changes_nothing(tune, tmp_path, monkeypatch):
    """While a run lasts, its frames are not removed; other files are, and the frames after it."""
    tune(steps=4)
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE_LIMIT", "2kB")
    folder, read = tmp_path / "full", tokens.ClipStore.read

    def read_from_full(self, entry):
        put(folder, ["video", str(entry)], {"x": np.zeros(9)})
        eviction.evict(folder, 1)  # as another process
        assert [file.kind for file in eviction.list_files(folder)] == ["tokens"] * len(ENTRIES)
        return read(self, entry)

    monkeypatch.setattr(tokens.ClipStore, "read", read_from_full)
    with pytest.warns(UserWarning, match=r"clips take .* the limit of the cache is 2 kB .* until this run"):
        tune(steps=4, folder="again", cache=folder)
    assert contents(tmp_path / "again") == contents(tmp_path / "run")
    gc.collect()
    put(folder, ["video"], {"x": np.zeros(9)})
    assert len(eviction.list_files(folder)) < len(ENTRIES)


# What is learned


def test_it_learns(tune, tmp_path):
    tuned = tune(steps=12, batch=5, warmup=0)
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    assert len(losses) == 12 and losses[-1] < 0.5 * losses[0]
    assert tuned.tuned_for == "caption+contrastive"


def test_the_tuned_part_is_the_model_that_is_returned(tune, tmp_path):
    tuned = unnest(tune(steps=2).params)
    loaded = unnest(mvc.load(tuned=tmp_path / "run" / "tuned.safetensors").params)
    assert loaded.keys() == tuned.keys()
    assert all(np.array_equal(loaded[name], tuned[name]) for name in tuned)


@pytest.mark.slow
def test_a_whole_checkpoint_needs_no_base(tune, tmp_path):
    for _ in range(2):  # also when the run is repeated
        tuned = unnest(tune(steps=2, whole=True).params)
        loaded = unnest(mvc.load(tmp_path / "run" / "checkpoint").params)
        assert all(np.array_equal(loaded[name], tuned[name]) for name in tuned)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tune_name, task",
    [
        ("lit", "caption+contrastive"),
        ("lit", "caption"),
        ("frozen", "contrastive"),
        ("full", "caption+contrastive"),
        ("frozen-then-full", "contrastive"),
    ],
)
def test_nothing_else_is_tuned_and_the_model_stays_as_it_was(tune, model, tune_name, task):
    """Nor does weight decay shrink what no loss depends on."""
    before = {name: array.copy() for name, array in unnest(model.params).items()}
    wrong = [Entry(a.video, b.captions) for a, b in pairwise(ENTRIES)]  # gradients of some size
    after = unnest(tune(wrong, tune=tune_name, task=task, steps=2, batch=4).params)
    assert all(np.array_equal(array, before[name]) for name, array in unnest(model.params).items())
    phase = "full" if tune_name == "frozen-then-full" else tune_name
    for name, array in before.items():
        expected = is_tuned(name, phase) and is_reached(name, model.config, task, "attentional")
        if name != "logit_scale":  # at its largest value, where it is clamped
            assert np.array_equal(after[name], array) is not expected, name


@pytest.mark.slow
@pytest.mark.parametrize("tune_name", ["lit", "frozen-then-full"])
def test_some_tensors_of_the_encoder_are_tuned_too(tune, model, tmp_path, tune_name):
    """And they are in the tuned part, which a later tuning without them extends."""
    also = ("visual.positional_embedding", "visual.transformer.resblocks.0.ln_1")
    tuned = tune(tune=tune_name, also=also, steps=2, task="caption")
    before, after = unnest(model.params), unnest(tuned.params)
    encoder = [name for name in before if name.startswith("visual.") and not is_tuned(name, "lit")]
    changed = {name for name in encoder if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in encoder if name.startswith(also) or tune_name != "lit"}
    further = mvc.finetune(tuned, ENTRIES, tmp_path / "b", cache=tmp_path / "cache", steps=1, **QUICK)
    assert further.changed >= changed
    loaded = unnest(mvc.load(tuned=tmp_path / "b").params)
    assert all(np.array_equal(loaded[name], after[name]) for name in changed)


def test_a_name_that_no_tensor_has_is_refused(tune):
    with pytest.raises(ValueError, match=r"also \(--also\): no tensor .* begins with visual.position_emb"):
        tune(also=("visual.proj", "visual.position_emb"), steps=1)


@pytest.mark.parametrize("adapter", ["attentional", "mean", "joint", "factorized"])
def test_the_checkpoint_remembers_its_adapter(tune, tmp_path, adapter):
    tune(adapter=adapter, task="caption", steps=1)
    loaded = mvc.load(tuned=tmp_path / "run")
    assert loaded.config.adapter == adapter
    assert loaded.caption(CLIPS / "pair.gif", 2, beams=1)


@pytest.mark.slow
def test_a_tuned_model_is_tuned_further(tune, model, cache, tmp_path):
    """It keeps the layers that were trained before: with a learning rate of 0 it stays as it is."""
    first = tune(adapter="factorized", positions=True, steps=3)
    still = {**QUICK, "learning_rate": 0.0}
    again = mvc.finetune(first, ENTRIES, tmp_path / "again", cache=cache, steps=1, **still)
    assert again.config.factorized == first.config.factorized and again.config.factorized.frames == 2
    before, after = unnest(first.params), unnest(again.params)
    assert set(after) == set(before) > set(unnest(model.params))
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert unnest(mvc.load(tuned=tmp_path / "again").params).keys() == after.keys()


def test_answers_by_a_classifier(tune, tmp_path):
    tuned = tune(QUESTIONS, task="qa", head="classifier", steps=2, validate=QUESTIONS)
    assert tuned.config.answers == ("ring", "crescent", "diamond")
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert all("answer" in line and 0 <= line["accuracy"] <= 1 for line in lines if "loss" in line)
    assert "accuracy" in json.loads((tmp_path / "run" / "summary.json").read_text())["validation"]
    assert mvc.load(tuned=tmp_path / "run").config.answers == tuned.config.answers


def test_only_the_most_frequent_answers_are_classes(tune, tmp_path):
    """A classifier learns from the questions that have one of them."""
    with pytest.warns(UserWarning) as warned:
        tuned = tune(QUESTIONS, task="qa", head="classifier", max_answers=1, steps=1)
    messages = "\n".join(str(warning.message) for warning in warned)
    assert "2 of 4 questions are left out: their answers are not among the 1 most frequent" in messages
    assert "'ring' is the only answer" in messages
    assert tuned.config.answers == ("ring",)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["clips"] == 2


def test_an_answer_that_is_no_class_has_no_validation_loss(tune, tmp_path):
    """It counts for the accuracy alone, wherever in the batches it is."""
    asked = {"task": "qa", "head": "classifier", "steps": 1, "learning_rate": 0}
    unseen = [dataclasses.replace(entry, answer=f"moon {i}") for i, entry in enumerate(QUESTIONS)]
    found = []
    for i, validate in enumerate((QUESTIONS, [*QUESTIONS, *unseen])):
        tune(QUESTIONS, f"{i}", validate=validate, **asked)
        found.append(read_log(tmp_path / f"{i}" / "log.jsonl")[-1]["validation"])
    assert found[1]["loss"] == pytest.approx(found[0]["loss"]) == pytest.approx(np.log(3), rel=1e-5)
    assert found[1]["accuracy"] == found[0]["accuracy"] / 2 > 0
    with pytest.raises(ValueError, match="no answer of the validation set is among the 3 of the classifier"):
        tune(QUESTIONS, "none", validate=unseen, **asked)


def test_words_of_a_classifiers_answers_are_not_needed(tune, recwarn):
    entries = [Entry(CLIPS / "single.gif", question="what shape is green", answer="wooden moon")]
    tune(entries, task="qa", head="classifier", steps=1)
    assert not [warning for warning in recwarn if "lacks wooden" in str(warning.message)]


def test_a_head_that_is_not_used_is_left_out(tune, cache, tmp_path):
    first = tune(QUESTIONS, task="qa", head="classifier", steps=1)
    with pytest.warns(UserWarning, match="without the checkpoint's classifier of answers"):
        again = mvc.finetune(first, QUESTIONS, tmp_path / "b", cache=cache, task="qa", steps=1, **QUICK)
    assert again.config.answers == () and "question_head" not in again.params


def test_words_are_added_on_request(tune, model, tmp_path):
    entries = [Entry(CLIPS / "single.gif", ("a wooden crescent",))]
    with pytest.warns(UserWarning, match="vocabulary lacks wooden: add them with add_words"):
        tune(entries, "without", task="caption", steps=1)
    tuned = tune(entries, "with", task="caption", steps=1, add_words=True)
    assert tuned.config.text.vocab_size == model.config.text.vocab_size + 1
    loaded = mvc.load(tuned=tmp_path / "with")
    assert loaded.tokenizer.unknown(["wooden"]) == []


def test_the_rows_of_new_words_are_drawn_with_the_seed(tune):
    entries = [Entry(CLIPS / "single.gif", ("a wooden crescent",))]
    how = {"task": "caption", "steps": 1, "add_words": True, "learning_rate": 0.0}
    models = [tune(entries, f"seed {seed}", seed=seed, **how) for seed in (0, 1)]
    rows = [tuned.params["text"]["token_embedding"]["weight"][-1] for tuned in models]
    assert not np.array_equal(*rows)


# Captions end


def test_a_caption_is_learned_and_ends(tune, model):
    """One clip and its caption, overfitted: the greedy caption is the caption, and then the end token."""
    text = "an orange star above a small blue square on the left of a red heart"
    text = " ".join(word for word in text.split() if not model.tokenizer.unknown([word]))
    clip = CLIPS / "single.gif"
    assert model.caption(clip, 2, beams=1) != text
    entries = [Entry(clip, (text,))]
    tuned = tune(entries, task="caption", steps=40, learning_rate=2e-3, weight_decay=0)
    ids = tuned.generate(tuned.encode(clip, 2).tokens, beams=1, min_length=0)
    assert ids[-1] == tuned.tokenizer.end_id and len(ids) == len(text.split()) + 2
    assert tuned.caption(clip, 2, beams=1) == text


@pytest.mark.slow
def test_captions_of_all_clips_end_without_repetition(tune):
    tuned = tune(steps=20, batch=5, task="caption")
    for entry in ENTRIES:
        ids = tuned.generate(tuned.encode(entry.video, 2).tokens, beams=1)
        assert ids[-1] == tuned.tokenizer.end_id and len(ids) < 20  # its context


# Phases, validation, early stopping


@pytest.mark.slow
def test_the_phases_of_frozen_then_full(tune, tmp_path):
    tune(tune="frozen-then-full", steps=5, warmup=1)
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["phase"] for line in lines] == ["frozen"] * 2 + ["full"] * 3
    rates = [line["learning_rate"] for line in lines]
    assert rates[0] == rates[2] == 1e-3 and rates[4] < rates[3]  # each phase has a schedule of its own


def fake_validation(monkeypatch, losses):
    """Validation losses from a list, one after another."""
    remaining = iter(losses)
    monkeypatch.setattr(loop, "validate", lambda *_: {"loss": next(remaining)})


def test_the_model_of_the_best_validation_is_the_result(tune, monkeypatch, tmp_path):
    fake_validation(monkeypatch, [3.0, 1.0, 2.0, 2.0, 2.0])
    tuned = tune(steps=5, validate=ENTRIES, validate_every=1, keep=1)
    assert state.saved_steps(tmp_path / "run") == [2, 5]
    _, vectors = state.read_state(tmp_path / "run", 2)
    assert np.isin(unnest(tuned.params)["visual.proj"].ravel(), vectors["values"]).all()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["best_step"], summary["validation"], summary["steps"]) == (2, {"loss": 1.0}, 5)


@pytest.mark.slow
def test_the_best_model_may_be_of_the_first_phase(tune, model, monkeypatch, tmp_path):
    fake_validation(monkeypatch, [3.0, 1.0, 2.0, 2.0])
    asked = {"tune": "frozen-then-full", "validate": ENTRIES, "validate_every": 1, "keep": 1}
    tuned = unnest(tune(steps=4, **asked).params)
    assert np.array_equal(tuned["visual.conv1.weight"], model.params["visual"]["conv1"]["weight"])
    _, vectors = state.read_state(tmp_path / "run", 2)
    assert np.isin(tuned["visual.proj"].ravel(), vectors["values"]).all()


def test_validation_comes_at_intervals_and_at_the_end(tune, monkeypatch, tmp_path):
    fake_validation(monkeypatch, range(9, 0, -1))
    tune(steps=5, validate=ENTRIES, validate_every=2)
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["step"] for line in lines if "validation" in line] == [2, 4, 5]


@pytest.mark.slow
def test_a_run_ends_early_when_validation_no_longer_improves(tune, monkeypatch, tmp_path):
    fake_validation(monkeypatch, [2.0, 3.0, 1.0, 1.0, 1.5, 0.0])
    tune(steps=9, validate=ENTRIES, validate_every=1, patience=2)
    assert state.saved_steps(tmp_path / "run")[-1] == 5
    monkeypatch.setattr(loop, "take_step", None)
    tune(steps=9, validate=ENTRIES, validate_every=1, patience=2)  # the same again: it stays so


def test_patience_ends_a_phase_and_not_the_run(tune, monkeypatch, tmp_path):
    fake_validation(monkeypatch, [1.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    tune(tune="frozen-then-full", steps=8, validate=ENTRIES, validate_every=1, patience=1)
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["phase"] for line in lines if "loss" in line] == ["frozen", "frozen", "full"]


def test_the_second_phase_goes_on_where_the_first_ended(tune, monkeypatch):
    step, seen = loop.take_step, []

    def take_step(run, tuner, log):
        before = tuner.parameters.params["visual"]["proj"].copy()
        losses = step(run, tuner, log)
        seen.append((tuner.phase.name, before, tuner.parameters.params["visual"]["proj"].copy()))
        return losses

    monkeypatch.setattr(loop, "take_step", take_step)
    tune(tune="frozen-then-full", steps=4)
    assert [phase for phase, _, _ in seen] == ["frozen", "frozen", "full", "full"]
    for (_, _, after), (_, before, _) in pairwise(seen):
        assert np.array_equal(after, before)


def test_a_validation_loss_is_the_mean_over_the_clips(tune, tmp_path):
    """5 clips in batches of 2, whose last one has a single clip, are as good as 5 in one batch."""
    entries, values = [Entry(entry.video, ("a red ring",)) for entry in ENTRIES], []
    for batch in (2, 5):
        tune(entries, f"{batch}", task="caption", steps=1, learning_rate=0, batch=batch, validate=entries)
        values.append(read_log(tmp_path / f"{batch}" / "log.jsonl")[-1]["validation"]["loss"])
    assert values[0] == pytest.approx(values[1], rel=1e-5)


# Interruptions


@pytest.mark.slow
@pytest.mark.parametrize("tune_name", ["lit", "frozen-then-full"])
def test_a_run_that_is_interrupted_at_any_step_resumes_to_the_same_bits(
    tune, monkeypatch, tmp_path, tune_name
):
    asked = dict(steps=5, tune=tune_name, validate=ENTRIES, validate_every=2, save_every=2, keep=2)
    tune(folder="whole", **asked)
    expected = contents(tmp_path / "whole")
    step = loop.take_step
    for stop in range(5):
        calls = iter(range(5))

        def take_step(*arguments):
            if next(calls) == stop:
                raise KeyboardInterrupt
            return step(*arguments)

        monkeypatch.setattr(loop, "take_step", take_step)
        with pytest.raises(KeyboardInterrupt):
            tune(folder=f"{stop}", **asked)
        monkeypatch.setattr(loop, "take_step", step)
        tune(folder=f"{stop}", **asked)
        assert contents(tmp_path / f"{stop}") == expected
        steps = [(line["step"], "loss" in line) for line in read_log(tmp_path / f"{stop}" / "log.jsonl")]
        assert steps == [
            (line["step"], "loss" in line) for line in read_log(tmp_path / "whole" / "log.jsonl")
        ]


def test_a_finished_run_is_not_repeated(tune, monkeypatch, tmp_path):
    tune(steps=2)
    before = contents(tmp_path / "run")
    monkeypatch.setattr(loop, "take_step", None)
    tune(steps=2)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    "other, difference",
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"learning_rate": 2e-3}, "learning_rate was 0.001 and is 0.002"),
        ({"entries": ENTRIES[:4]}, "other clips, texts or validation"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(tune, other, difference):
    tune(steps=1)
    with pytest.raises(ValueError, match=f"{difference}"):
        tune(steps=1, **other)


def test_another_model_in_the_same_folder_is_refused(tune, cache, tmp_path):
    tuned = tune(steps=1)
    with pytest.raises(ValueError, match="another model"):
        mvc.finetune(tuned, ENTRIES, tmp_path / "run", cache=cache, steps=1, **QUICK)


@pytest.mark.slow
def test_the_seed_decides_the_bits(tune, tmp_path):
    for folder, seed in ("a", 0), ("b", 0), ("c", 1):
        tune(folder=folder, seed=seed, steps=2)
    a, b, c = (contents(tmp_path / name)["state-2.safetensors"] for name in "abc")
    assert a == b != c


# Bad data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss", "gradient", "weights"])
def test_what_is_not_finite_stops_the_run_and_keeps_the_last_good_part(tune, monkeypatch, tmp_path, name):
    accumulate, calls, step = loop.accumulate, iter(range(9)), 6 if name == "weights" else 4

    def broken(batch, parameters, *arguments):
        losses = accumulate(batch, parameters, *arguments)
        if next(calls) == step - 1:
            if name == "loss":
                return losses | {"loss": float("nan")}
            (parameters.gradients if name == "gradient" else parameters.values)[0] = np.inf
        return losses

    tune(folder="good", steps=6, save_every=3)
    good = state.read_state(tmp_path / "good", 3)[1]["values"].tobytes()
    monkeypatch.setattr(loop, "accumulate", broken)
    wrong = {"loss": "the loss is", "gradient": "the gradient's norm is", "weights": "the tuned weights are"}
    with pytest.raises(NotFiniteError, match=f"step {step}: {wrong[name]} not finite") as error:
        tune(steps=6, save_every=3)
    assert "tuned.safetensors is the last good one, of step 3" in str(error.value)
    assert name == "weights" or ".gif" in str(error.value)
    assert state.saved_steps(tmp_path / "run") == [3]
    _, vectors = state.read_state(tmp_path / "run", 3)
    assert vectors["values"].tobytes() == good
    assert mvc.load(tuned=tmp_path / "run").tuned_for == "caption+contrastive"


def test_a_loss_that_is_not_finite_at_once(tune, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "accumulate", lambda *_: {"loss": float("inf")})
    with pytest.raises(NotFiniteError, match="step 1: the loss is not finite; .*nothing was saved before"):
        tune(steps=2)
    assert not contents(tmp_path / "run")


def test_unreadable_clips_are_left_out_and_counted(tune, tmp_path):
    entries = [*ENTRIES[:2], Entry(BROKEN, ("a red ring",))]
    with pytest.warns(UserWarning, match="left out: .*broken.mp4"):
        tune(entries, steps=1)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["clips"] == 2 and [clip["video"] for clip in summary["left_out"]] == [str(BROKEN)]
    with pytest.raises(ValueError, match="allow_bad .--allow-bad. is 0"):
        tune(entries, "strict", steps=1, allow_bad=0)
    with pytest.warns(UserWarning, match="left out"):
        tune(entries, "strict", steps=1, allow_bad=1)


@pytest.mark.parametrize(
    "entries, keywords, message",
    [
        (
            ENTRIES,
            {"task": "qa"},
            'entries: no entry has "question" with "answer", which task qa learns from: add them',
        ),
        (QUESTIONS, {}, "entries: no entry has .captions., which task caption.contrastive learns from"),
        ([*ENTRIES, "a.mp4"], {}, "entries has a str in it"),
        (ENTRIES, {"validate": [1]}, "validate has a int in it"),
        (ENTRIES, {"plot": "losses.jpg"}, "losses.jpg: a plot is a .png, .pdf or .svg file"),
        (ENTRIES, {"stepz": 1}, "unknown tuning option 'stepz'"),
    ],
)
def test_arguments_that_make_no_sense(tune, tmp_path, entries, keywords, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tune(entries, **keywords)
    assert not contents(tmp_path / "run") if (tmp_path / "run").exists() else True


def test_options_without_effect_are_warned_of(tune):
    unused = {"patience": 2, "validate_every": 1, "positions": True, "max_answers": 7, "half": True}
    unused |= {"caption_weight": 3.0, "contrastive_weight": 3.0}
    with pytest.warns(UserWarning) as warned:
        tune(steps=1, tune="full", task="caption", **unused)
    messages = [str(warning.message) for warning in warned]
    for name in unused:
        assert any(message.startswith(f"{name} has no effect without ") for message in messages), name
    with pytest.warns(UserWarning, match="half has no effect without a frozen image encoder"):
        tune(steps=1, folder="b", also=("visual.conv1",), half=True)


@pytest.mark.slow
def test_it_computes_in_the_models_dtype(cache, tmp_path):
    model = mvc.load(dtype="float64")
    tuned = mvc.finetune(model, ENTRIES, tmp_path / "run", cache=cache, steps=1, **QUICK)
    assert tuned.dtype == np.float64
    assert state.read_state(tmp_path / "run", 1)[1]["values"].dtype == np.float64


@pytest.mark.slow
def test_a_manifest_may_be_a_path(tune, tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    write_manifest(manifest, ENTRIES)
    tune(manifest, "a", steps=2, validate=str(manifest))
    tune(ENTRIES, "b", steps=2, validate=ENTRIES)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_contrastive_loss_of_single_clips_is_warned_of(tune):
    with pytest.warns(UserWarning, match="batches of one clip"):
        tune(steps=1, batch=1)


def test_a_warm_up_that_does_not_end_is_warned_of(tune):
    with pytest.warns(UserWarning, match="warmup is 5 of 5 steps: the learning rate never reaches its peak"):
        tune(steps=5, warmup=5)


def test_a_question_that_is_too_long_is_an_error_before_a_clip_is_encoded(tune, tmp_path):
    long = [Entry(ENTRIES[0].video, question="a " * 30, answer="ring")]
    for keywords in {"entries": long}, {"entries": QUESTIONS, "validate": long}:
        with pytest.raises(ValueError, match="its answer 'ring' has 33 ids, and this model's texts have at"):
            tune(task="qa", steps=1, cache=tmp_path / "cache", **keywords)
    assert not (tmp_path / "cache").exists()


def test_captions_that_are_never_generated_are_warned_of(tune, recwarn):
    """The end token is forbidden in the first places by default."""
    entries = [Entry(entry.video, ("a ring",)) for entry in ENTRIES]
    tune([*entries, Entry(ENTRIES[0].video, ("a red ring and a star",), start=0.1)], steps=1)
    count = len(entries)
    assert any(
        f"{count} of {count + 1} captions are shorter" in str(x.message)
        and "min_length=3 (--min-length 3)" in str(x.message)
        for x in recwarn
    )


def test_captions_of_usual_length_are_not_warned_of(tune, recwarn):
    tune(steps=1)
    assert not [warning for warning in recwarn if "shorter" in str(warning.message)]


def test_too_few_steps_are_an_error_before_a_clip_is_encoded(tune, tmp_path):
    with pytest.raises(ValueError, match="1 step, and tuning has 2 phases"):
        tune(tune="frozen-then-full", steps=1, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# Progress and plot


@pytest.mark.slow
def test_progress_counts_clips_and_notes_the_loss(tune, model, cache, tmp_path):
    stages = []

    class Stage:
        def __init__(self, total, unit):
            stages.append(self)
            self.total, self.unit, self.count, self.notes = total, unit, 0, []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __call__(self, count, note=""):
            self.count += count
            self.notes.append(note)

    tune(steps=7, progress=Stage)
    assert [stage.unit for stage in stages] == ["clips", "clips"]
    assert stages[1].total == stages[1].count == 5 + 5 + 2  # batches of 2, 2 and 1 clips
    assert all(note.startswith("loss ") for note in stages[1].notes[1:])
    tune(steps=7, progress=Stage)  # a finished run counts what is done
    assert stages[3].total == stages[3].count == 12


@pytest.mark.slow
def test_the_plot_is_drawn_at_the_end(tune, tmp_path):
    pytest.importorskip("matplotlib")
    tune(steps=2, plot=tmp_path / "losses.png", validate=ENTRIES)
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_plot_may_be_in_the_folder_of_the_run(tune, tmp_path):
    pytest.importorskip("matplotlib")
    for _ in range(2):  # again, when the folder is there
        tune(steps=1, plot=tmp_path / "run" / "losses.png")
    assert (tmp_path / "run" / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_does_not_overwrite_a_clip(tune, tmp_path):
    pytest.importorskip("matplotlib")
    clip = tmp_path / "clip.png"
    clip.write_bytes((CLIPS / "single.gif").read_bytes())
    for entries in [ENTRIES[0], Entry(clip, ("a ring",))], ENTRIES:
        with pytest.raises(ValueError, match="clip.png: would overwrite an input"):
            tune(entries, plot=clip, validate=[Entry(clip, ("a ring",))])


def test_the_options_are_in_the_tuned_part(tune, tmp_path):
    from minivideococa.checkpoint.tuned import read_tuned

    tune(steps=1)
    part = read_tuned(tmp_path / "run")
    assert part.options["steps"] == 1 and part.task == "caption+contrastive"
    assert part.options.keys() == {field.name for field in dataclasses.fields(module.TuningOptions)}
    shutil.rmtree(tmp_path / "run")
