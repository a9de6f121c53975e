"""The options of finetuning: valid values, what they mean together, and the flags made from them."""

import dataclasses

import pytest

from minivideococa.cli import main
from minivideococa.training.options import HEADS, TASKS, TuningOptions
from minivideococa.training.parameters import TUNINGS


def test_the_defaults_are_valid_and_complete():
    options = TuningOptions()
    assert (options.task, options.tune, options.head) == ("caption+contrastive", "lit", "generate")
    assert all("help" in field.metadata for field in dataclasses.fields(options))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"task": "captions"}, "^task is 'captions': give caption, contrastive, "),
        ({"tune": "all"}, "^tune is 'all': give lit, frozen, frozen-then-full, full"),
        ({"adapter": "max"}, "^adapter is 'max'"),
        ({"batch": 0}, "^batch is 0: give a whole number"),
        ({"batch": 2.0}, "^batch is 2.0"),
        ({"batch": 4, "micro_batch": 5}, "^micro_batch is 5: give at most the batch, 4"),
        ({"epochs": 1, "steps": 1}, "^epochs=1 and steps=1 exclude each other"),
        ({"learning_rate": float("nan")}, "^learning_rate is nan"),
        ({"beta2": 1.0}, "^beta2 is 1.0"),
        ({"max_norm": 0}, "^max_norm is 0"),
        ({"seed": -1}, "^seed is -1"),
        ({"half": 1}, "^half is 1: give True or False"),
        ({"also": "visual.proj"}, "^also must be a list of at least one text"),
        ({"also": ("visual.proj", " ")}, r"^also\[1\] is blank"),
        ({"head": "classifier"}, "^head=classifier needs task=qa, not caption"),
    ],
)
def test_values_that_make_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        TuningOptions(**values)


def test_options_are_made_from_others_and_keywords():
    options = TuningOptions.create(TuningOptions(batch=4), steps=3)
    assert (options.batch, options.steps) == (4, 3)
    with pytest.raises(TypeError, match="^unknown tuning option 'step'"):
        TuningOptions.create(step=3)
    with pytest.raises(ValueError, match="^options is 3: give a TuningOptions"):
        TuningOptions.create(3)


@pytest.mark.parametrize(
    "values, phases, batches, steps",
    [
        ({}, 1, 7, [7]),
        ({"epochs": 3}, 1, 7, [21]),
        ({"steps": 5}, 1, 7, [5]),
        ({"steps": 5}, 2, 7, [2, 3]),
        ({"epochs": 2}, 2, 3, [3, 3]),
    ],
)
def test_steps_are_split_evenly_among_the_phases(values, phases, batches, steps):
    assert TuningOptions(**values).steps_of(phases, batches) == steps


@pytest.mark.parametrize(
    "name, other", [("caption_weight", "contrastive"), ("contrastive_weight", "caption")]
)
def test_a_loss_without_weight_is_refused(name, other):
    """Its tensors would have no gradients, and weight decay would shrink them."""
    with pytest.raises(ValueError, match=f"^{name} is 0: give task={other}"):
        TuningOptions(**{name: 0})


def test_one_step_is_too_few_for_two_phases():
    with pytest.raises(ValueError, match="^1 step, and tuning has 2 phases"):
        TuningOptions(steps=1).steps_of(2, 7)


def test_intervals_are_a_tenth_of_the_steps_unless_given():
    options = TuningOptions(validate_every=7)
    assert options.interval("validate_every", 500) == 7 and options.interval("save_every", 500) == 50
    assert TuningOptions().interval("validate_every", 5000) == 500
    assert TuningOptions().interval("save_every", 5000) == 100
    assert TuningOptions().interval("save_every", 5) == 1


@pytest.mark.parametrize(
    "values, weights",
    [
        ({}, {"caption": 2.0, "contrastive": 1.0}),
        ({"contrastive_weight": 3}, {"caption": 2.0, "contrastive": 3.0}),
        ({"task": "caption"}, {"caption": 1.0}),
        ({"task": "contrastive"}, {"contrastive": 1.0}),
        ({"task": "qa"}, {"caption": 1.0}),
        ({"task": "qa", "head": "classifier"}, {"answer": 1.0}),
    ],
)
def test_the_losses_of_a_task(values, weights):
    assert TuningOptions(**values).loss_weights == weights


def test_every_field_is_a_flag_with_its_help(capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(TuningOptions):
        if field.name not in ("num_frames", "adapter"):
            assert f"--{field.name.replace('_', '-')} " in text
            help = " ".join(field.metadata["help"].split())
            if type(field.default) in (int, float):
                help += f" (default: {field.default:g})"
            assert help in text
    for choices in (TASKS, TUNINGS, HEADS):
        assert f"{{{','.join(choices)}}}" in text
