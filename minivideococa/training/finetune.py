"""Finetune a model on a manifest of clips with captions, or with questions and answers.

VideoCoCa (arXiv 2212.04979), section 3: CoCa's losses on video, with all of the model tuned or parts of it.
The loop is in `loop`, what a run leaves on disk is in `state`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..cache import default_folder, model_hash
from ..checkpoint import with_tensors
from ..checkpoint.config import parse_config
from ..checkpoint.folder import TUNED
from ..checkpoint.table import parameter_shapes
from ..checkpoint.tuned import write_tuned, write_whole
from ..checkpoint.vocabulary import add_words
from ..evaluation.manifest import Entry, read_manifest
from ..inputs import join_names, path_name
from ..model.config import Array, Config
from ..model.generation import DecodingOptions
from ..model.videococa import VideoCoCa
from ..output import atomic_write, json_text, resolve_output
from ..progress import Progress, no_progress
from . import state
from .data import Dataset, examples_of, frequent_answers, require_room, texts_of, with_answer_among
from .log import Log, plot_losses, require_matplotlib
from .loop import NotFiniteError, Phase, Run, Tuner, train
from .options import TuningOptions
from .parameters import new_factorized, new_question_head, phases, tunes_encoder
from .step import Objective
from .tokens import ClipStore

LAYERS = 4  # across the frames, in the factorized adapter: VideoCoCa's

Entries = Iterable[Entry] | str | os.PathLike[str]  # or the path of a manifest


def finetune(
    model: VideoCoCa,
    entries: Entries,
    output: str | os.PathLike[str],
    *,
    validate: Entries | None = None,
    cache: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    whole: bool = False,
    options: TuningOptions | None = None,
    progress: Progress = no_progress,
    **keywords: Any,
) -> VideoCoCa:
    """Finetune a model, and return the tuned one. `model` itself is not changed.

    A run that was interrupted, in whatever way, goes on where it was last saved when it is called again with
    the same arguments, and gives the same bits as if it had not been. With a validation set, the result is
    the model with the lowest validation loss; otherwise that after the last step.

    Parameters
    ----------
    entries : the clips to learn from, see `evaluation.manifest`, or the path of a manifest. Of a clip with
        several captions one is drawn in each epoch.
    output : the folder of the run, see `training.state`. At the end it holds tuned.safetensors, which
        `load(tuned=...)` lays over the checkpoint it was tuned from.
    validate : the clips on which the loss is measured at intervals, as `entries`.
    cache : the folder of frame tokens (of frames, where the image encoder is tuned), which are computed once.
        Default: where `evaluate` keeps its videos.
    plot : a PNG, PDF or SVG file for a plot of the losses. Needs matplotlib.
    whole : also write a whole checkpoint, in the folder "checkpoint" of `output`.
    options, keywords : how to finetune: the fields of `TuningOptions`.
    progress : called once for each stage: clips to encode, and clips to learn from.

    Clips that cannot be read are left out with a warning, up to `allow_bad`; summary.json lists them.

    Raises ValueError for an invalid argument, a manifest without what the task needs, too many unreadable
    clips, an output folder that is in use or holds something else, such as a run with other options, and for
    a request that does not fit into memory; NotFiniteError, a ValueError, if a loss is not finite, after
    writing the last good tuned.safetensors; and OSError if a file cannot be written.
    """
    options = TuningOptions.create(options, **keywords)
    examples, tested = read_examples("entries", entries, options.task), None
    if validate is not None:
        tested = read_examples("validate", validate, options.task)
    require_tensors(options.also, model.config)
    _warn_of_unused(model, options, tested is not None)
    folder = Path(path_name(output, "give a folder for the run", "output"))
    if plot is not None:
        plot = check_plot(plot, folder, [example.video for example in (*examples, *(tested or []))])
    cache = default_folder() if cache is None else cache
    with state.run_folder(folder):
        facts = {"options": asdict(options), "model": model_hash(model)}
        state.require_same_run(folder, facts)  # before hours of encoding
        run = prepare(model, examples, tested, folder, cache, options, progress)
        facts["data"] = _fingerprints(run)
        state.require_same_run(folder, facts)
        state.record_run(folder, facts)
        steps = state.saved_steps(folder)
        with Log(folder / state.LOG, steps[-1] if steps else 0) as log:
            try:
                tuner = train(run, log, progress)
            except NotFiniteError as error:
                raise NotFiniteError(f"{error}; {_keep_last_good(run)}") from None
        tuned = finish(run, tuner)
        if whole:
            write_whole(folder / state.CHECKPOINT, tuned)
        _write_summary(run, tuner, log, whole)
        if plot:
            plot_losses(plot, log.lines, tuner.position.best_step)
    return tuned


# Before the first step


def read_examples(name: str, entries: Any, task: str) -> list[Entry]:
    """Return the examples of entries, or of the manifest at a path. `name` is the argument's, for messages.

    Raises as `read_manifest` and `examples_of`.
    """
    if isinstance(entries, str | os.PathLike):
        return examples_of(read_manifest(entries), task, str(entries))
    checked: list[Entry] = list(entries) if isinstance(entries, Iterable) else [entries]
    for entry in checked:
        if not isinstance(entry, Entry):
            raise ValueError(f"{name} has a {type(entry).__name__} in it: give a list of Entry")
    return examples_of(checked, task, name)


def _warn_of_unused(model: VideoCoCa, options: TuningOptions, validates: bool) -> None:
    """Warn of options that are given and have no effect."""
    needs = {
        "patience": (validates, "a validation set"),
        "validate_every": (validates, "a validation set"),
        "positions": (options.adapter == "factorized", "adapter factorized"),
        "max_answers": (options.head == "classifier", "head classifier"),
        "half": (not all(pixels_of(options, model.config).values()), "a frozen image encoder"),
        "caption_weight": (len(options.loss_weights) == 2, "task caption+contrastive"),
        "contrastive_weight": (len(options.loss_weights) == 2, "task caption+contrastive"),
    }
    for name, (is_used, condition) in needs.items():
        if not is_used and getattr(options, name) != getattr(TuningOptions, name):
            warnings.warn(f"{name} has no effect without {condition}", stacklevel=3)


def check_plot(plot: str | os.PathLike[str], folder: Path, videos: Sequence[Path]) -> Path:
    """Return the place of a plot, before the work starts. It may be in the run's folder, which is made later.

    Raises ValueError for another suffix than .png, .pdf and .svg, without matplotlib, and for the name of one
    of the videos; and as `resolve_output`.
    """
    place = Path(path_name(plot, "give a file for the plot", "plot")).resolve()
    if place.parent != folder.resolve() or folder.exists():
        place = resolve_output(place, videos)
    if place.suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{plot}: a plot is a .png, .pdf or .svg file: give such a name")
    require_matplotlib()
    return place


def prepare(
    model: VideoCoCa,
    examples: list[Entry],
    tested: list[Entry] | None,
    folder: Path,
    cache: str | os.PathLike[str],
    options: TuningOptions,
    progress: Progress,
) -> Run:
    """Return the run: the model with its new layers and words, and the data of each phase, encoded.

    examples, tested: the training and the validation set.
    """
    answers: tuple[str, ...] = ()
    if options.head == "classifier":
        answers = frequent_answers(examples, options.max_answers)
        examples = _classified(examples, answers, tested)
    names = phases(options.tune)
    options.steps_of(len(names), -(-len(examples) // options.batch))  # before hours of encoding
    model = _with_words(model, texts_read([*examples, *(tested or [])], options), options)
    model = with_layers(model, answers, options)
    adapter = model.config.adapter
    model.config.check_frames(options.num_frames, adapter)
    if options.task == "qa" and not answers:
        require_room(model, [*examples, *(tested or [])])
    takes_pixels = pixels_of(options, model.config)
    stores = {
        pixels: _clip_store(model, cache, pixels, options) for pixels in dict.fromkeys(takes_pixels.values())
    }
    for store in stores.values():
        examples = store.prepare(examples, progress)
        tested = store.prepare(tested, progress) if tested else tested

    def dataset(examples: Sequence[Entry], phase: str) -> Dataset:
        store, size, seed = stores[takes_pixels[phase]], options.batch, options.seed
        return Dataset(model, examples, options.task, store, batch_size=size, seed=seed, answers=answers)

    _warn_of_short_captions(model, examples)
    weights = options.loss_weights
    if "contrastive" in weights and min(options.batch, len(examples)) == 1:
        warnings.warn("batches of one clip: the contrastive loss has nothing to contrast", stacklevel=3)
    steps = options.steps_of(len(names), -(-len(examples) // options.batch))
    if options.warmup is not None and options.warmup >= min(steps):
        warnings.warn(
            f"warmup is {options.warmup} of {min(steps)} steps: the learning rate never reaches its peak",
            stacklevel=3,
        )
    return Run(
        model,
        options,
        Objective(model.config, adapter, weights),
        folder,
        [
            Phase(name, count, dataset(examples, name), dataset(tested, name) if tested else None)
            for name, count in zip(names, steps, strict=True)
        ],
    )


def _classified(examples: list[Entry], answers: Sequence[str], tested: Sequence[Entry] | None) -> list[Entry]:
    """Return the examples that a classifier of these answers can learn from, and warn of what is odd.

    Raises ValueError if the validation set has none of the answers: no loss could be measured on it.
    """
    known = with_answer_among(examples, answers)
    if left := len(examples) - len(known):
        warnings.warn(
            f"{left} of {len(examples)} questions are left out: their answers are not among the "
            f"{len(answers)} most frequent (max_answers)",
            stacklevel=4,
        )
    if len(answers) == 1:
        warnings.warn(
            f"{answers[0]!r} is the only answer: the classifier has nothing to tell apart", stacklevel=4
        )
    if tested is not None and not with_answer_among(tested, answers):
        raise ValueError(
            f"no answer of the validation set is among the {len(answers)} of the classifier: take questions "
            "with the same answers for both"
        )
    return known


def _clip_store(
    model: VideoCoCa, cache: str | os.PathLike[str], pixels: bool, options: TuningOptions
) -> ClipStore:
    """Return the store of what phases learn from: pixels where they tune the image encoder, else tokens."""
    return ClipStore(
        model,
        cache,
        num_frames=options.num_frames,
        adapter=model.config.adapter,
        pixels=pixels,
        half=options.half,
        allow_bad=options.allow_bad,
    )


def pixels_of(options: TuningOptions, config: Config) -> dict[str, bool]:
    """Return whether each phase needs pixels: the image encoder is tuned, so its tokens change."""
    return {phase: tunes_encoder(config, phase, options.also) for phase in phases(options.tune)}


def require_tensors(also: Sequence[str], config: Config) -> None:
    """Raise ValueError unless each of the names begins the name of a tensor."""
    for name in also:
        if not any(tensor.startswith(name) for tensor in parameter_shapes(config)):
            raise ValueError(
                f"also (--also): no tensor of this checkpoint has a name that begins with {name}"
            )


def texts_read(examples: Sequence[Entry], options: TuningOptions) -> list[str]:
    """Return the texts of examples that are tokenized, each once. The answers of a classifier are not."""
    is_class = options.head == "classifier"
    return texts_of([replace(example, answer=None) if is_class else example for example in examples])


def _with_words(model: VideoCoCa, texts: Sequence[str], options: TuningOptions) -> VideoCoCa:
    """Return a model that knows the words of the texts, if `add_words`; else warn of those it lacks."""
    unknown = model.require_tokenizer().unknown(texts)
    if unknown and options.add_words:
        return add_words(model, unknown, options.seed)
    if unknown:
        warnings.warn(
            f"the checkpoint's vocabulary lacks {join_names(unknown, 20)}: add them with add_words "
            "(--add-words)",
            stacklevel=4,
        )
    return model


def _warn_of_short_captions(model: VideoCoCa, examples: Sequence[Entry]) -> None:
    """Warn if generation could not give most of the captions back, because it forbids so early an end."""
    captions = [caption for example in examples for caption in example.captions]
    ends = [length - 1 for length in model.require_tokenizer().lengths(captions)]  # ids before the end token
    short = sum(end < DecodingOptions().min_length for end in ends)
    if short > len(captions) / 2:
        warnings.warn(
            f"{short} of {len(captions)} captions are shorter than those that are generated by default: "
            f"to caption, give min_length={min(ends)} (--min-length {min(ends)})",
            stacklevel=4,
        )


def with_layers(model: VideoCoCa, answers: Sequence[str], options: TuningOptions) -> VideoCoCa:
    """Return a model with the new layers that the options ask for, and without those that they do not use.

    Layers across the frames that the checkpoint has are kept where its adapter is; a question head is new
    where its answers are others.
    """
    old, adapter = model.config, options.adapter or model.config.adapter
    video: dict[str, Any] = {"adapter": adapter}
    if adapter == "factorized":
        positions = options.num_frames if options.positions else None
        new = {"layers": LAYERS, "heads": old.text.heads, "positions": positions}
        video["factorized"] = old.source["video_cfg"]["factorized"] if old.factorized else new
    if answers:
        video["answers"] = list(answers)
    config = parse_config({**old.source, "video_cfg": video})
    if lost := [
        name
        for name, was, stays in (
            ("classifier of answers", old.answers, config.answers),
            ("layers across the frames", old.factorized, config.factorized),
        )
        if was and not stays
    ]:
        warnings.warn(f"the result is without the checkpoint's {' and '.join(lost)}", stacklevel=4)
    tensors: dict[str, Array] = {}
    if not old.factorized:
        tensors |= new_factorized(config, options.seed, model.dtype)
    if config.answers != old.answers:
        tensors |= new_question_head(config, options.seed, model.dtype)
    return with_tensors(model, tensors, config=config, tuned_for=options.task)


def _fingerprints(run: Run) -> list[Any]:
    """Return hashes of the data, for comparison when the run is resumed."""
    return [
        [phase.training.fingerprint(), phase.validation.fingerprint() if phase.validation else None]
        for phase in run.phases
    ]


# After the last step


def finish(run: Run, tuner: Tuner) -> VideoCoCa:
    """Write tuned.safetensors, of the best validation if there was one. Return the tuned model.

    The tuner's parameters are then those of the tuned model.
    """
    best, parameters = tuner.position.best_step, tuner.parameters
    if best is not None and best != tuner.position.step:
        position, vectors = state.read_state(run.folder, best)
        if position.phase != tuner.position.phase:
            parameters = run.parameters(run.phases[position.phase], run.model.params)
        parameters.values[:] = vectors["values"]
    tuned = with_tensors(run.model, parameters.tensors(), config=run.model.config, tuned_for=run.options.task)
    write_tuned(run.folder / TUNED, tuned, options=asdict(run.options))
    return tuned


def _keep_last_good(run: Run) -> str:
    """Write tuned.safetensors of the newest saved state, if there is one. Return what to do."""
    hint = "lower the learning rate, and give another folder"
    if not (steps := state.saved_steps(run.folder)):
        return f"nothing was saved before; {hint}"
    finish(run, Tuner.restore(run, steps[-1]))
    return f"{run.folder / TUNED} is the last good one, of step {steps[-1]} or its best validation; {hint}"


def _write_summary(run: Run, tuner: Tuner, log: Log, whole: bool) -> None:
    """Write summary.json."""
    phase, position = run.phases[-1], tuner.position
    validation = {line["step"]: line["validation"] for line in log.lines if "validation" in line}
    stores = [data.store for data in (phase.training, phase.validation) if data]
    left_out = {key: clip for store in stores for key, clip in store.left_out.items()}
    steps = [line for line in log.lines if "loss" in line]
    summary = {
        "task": run.options.task,
        "steps": position.step,
        "epochs": round(position.step / len(phase.training), 3),
        "clips": len(phase.training.examples),
        "loss": {"first": steps[0]["loss"], "last": steps[-1]["loss"]} if steps else None,
        "validation": validation.get(position.best_step) if position.best_step else None,
        "best_step": position.best_step,
        "seconds": round(sum(line["seconds"] for line in steps), 1),
        "left_out": [
            {"video": str(clip.video), "start": clip.start, "end": clip.end, "why": why}
            for clip, why in left_out.values()
        ],
        "tuned": str(run.folder / TUNED),
        "checkpoint": str(run.folder / state.CHECKPOINT) if whole else None,
    }
    with atomic_write(run.folder / state.SUMMARY) as partial:
        partial.write_text(json_text(summary) + "\n", encoding="utf-8")
