"""What the page asks of the package, as JSON. Nothing of the model is computed here.

The worker runs this file under Pyodide beside the package's own wheel; build.py runs it natively for the
examples that the page shows before the runtime has arrived, and the tests compare the two.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import inspect
import io
import json
import linecache
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import minivideococa as mvc
from minivideococa import exercises
from minivideococa.demo import ASKED, CLIPS
from minivideococa.media.preprocess import square_frames
from minivideococa.model import hooks
from minivideococa.verify import verify
from minivideococa.verify.formatting import sentences
from minivideococa.world import LABELS

FRAMES = 8  # as the demo; a clip's own frames repeat if it has fewer
YOURS = "<your code>"  # the file name of edited code in a traceback
ASKED_HERE = {"brief.gif": "what appears for a moment?", "split.gif": "what colour is the ring?"}
FORMULAS = (  # in the order of the forward pass; the first is shown first
    "pooling.attentional_pooler",
    "vision.patchify",
    "ops.layer_norm",
    "ops.attention",
    "ops.softmax",
    "ops.gelu",
    "pooling.split_queries",
    "text.attention_mask",
    "decoder.causal_mask",
)


class Session:
    """The embedded checkpoint, one open clip, and an edited formula."""

    def __init__(self) -> None:
        self.model, self.answering = mvc.load(), mvc.load(tuned="questions")
        self.frames = np.zeros((0, 0, 0, 3), np.uint8)
        self.original: dict[str, Any] = {}  # what the model says of the open clip, to compare edits with

    # The clip ----------------------------------------------------------------------------------------------

    def open_file(self, path: str) -> dict[str, Any]:
        """Open a clip that the package reads itself: a GIF."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a short clip's frames repeat
            return self._open(mvc.read_video(path, num_frames=FRAMES))

    def open_frames(self, pixels: Any, width: int, height: int) -> dict[str, Any]:
        """Open frames that the browser has decoded: bytes of RGBA, T times height times width."""
        rgba = np.asarray(pixels, np.uint8).reshape(-1, height, width, 4)  # [T, H, W, 4]
        return self._open(np.ascontiguousarray(rgba[..., :3]))

    def _open(self, frames: np.ndarray) -> dict[str, Any]:
        self.frames, self.original = frames, {}
        size = self.model.config.preprocess.size
        squares = square_frames(frames, self.model.config.preprocess)  # [T, S, S, 3]
        return {"frames": len(frames), "size": size, "strip": _png(np.concatenate(list(squares), axis=1))}

    # What the model says of it -----------------------------------------------------------------------------

    def look(self) -> dict[str, Any]:
        """Caption the clip, and map where each word came from."""
        self.explanation = mvc.explain(self.model, self.frames)
        self.original |= {"caption": self.explanation.text, "shares": shares(self.explanation.pooler.mean(0))}
        return {
            "caption": self.explanation.text,
            "latent": self.explanation.video.latent.tolist(),
            "maps": _maps(self.explanation),
        }

    def page(self) -> dict[str, str]:
        """Return the page of the explanation: every layer, head and query."""
        return {"page": self.explanation.page()}

    def classify(self) -> dict[str, Any]:
        """Return the five likeliest labels."""
        ranked = mvc.classify(self.model, self.frames, LABELS)[:5]
        self.original["label"] = ranked[0][0]
        return {"labels": ranked, "of": len(LABELS)}

    def answer(self, question: str) -> dict[str, Any]:
        """Answer a question about the clip."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            answer = mvc.answer(self.answering, self.frames, question)
        unknown = self.answering.tokenizer.unknown([question])
        notes = [f"The model does not know {', '.join(unknown)}."] if unknown else []
        notes += [str(warning.message) for warning in caught if warning.category is UserWarning]
        return {"question": question, "answer": answer, "notes": notes}

    # An edited formula -------------------------------------------------------------------------------------

    def edit(self, name: str, source: str) -> dict[str, Any]:
        """Run the model with an edited formula: its caption, its best label, and what it printed."""
        self._describe_original()
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), hooks.replace_operations({name: _edited(name, source)}):
                said = self._edited_run()
        except Exception as error:
            return {"error": _one_error(error), "printed": printed.getvalue()[:2000]}
        return {**said, "original": self.original, "printed": printed.getvalue()[:2000]}

    def _edited_run(self) -> dict[str, Any]:
        with mvc.trace(weights=True) as activations:
            video = self.model.encode(self.frames)
        weights = activations["pool.weights"].mean(axis=0)[1:]  # [Q', T N], or what an edit has made of it
        fits = weights.shape[-1] % len(self.frames) == 0
        return {
            "caption": self.model.caption(video),
            "label": mvc.classify(self.model, video, LABELS)[0][0],
            "shares": shares(weights.reshape(len(weights), len(self.frames), -1)) if fits else None,
        }

    def verdict(self, name: str, source: str) -> dict[str, Any]:
        """Compare a trace of the edited model, on two frames, with the package's own: see `verify`."""
        self._describe_original()
        frames = self.frames[[len(self.frames) // 4, 3 * len(self.frames) // 4]]
        ids = self.model.tokenize([self.original["caption"]])
        with (
            contextlib.redirect_stdout(io.StringIO()),
            hooks.replace_operations({name: _edited(name, source)}),
            mvc.trace() as activations,
        ):
            self.model(self.model.preprocess(frames), ids)
        report = verify(self.model, activations)
        rows = [(row.name, row.status, float(np.nan_to_num(row.difference.rel))) for row in report.rows]
        return {"right": report.ok, "sentences": sentences(report), "rows": rows}

    # Exercises ---------------------------------------------------------------------------------------------

    def check(self, name: str, sources: str) -> dict[str, Any]:
        """Check an exercise: see `exercises.check`. sources: JSON, the learner's functions by name.

        The others are at hand, since later exercises may call earlier ones.
        """
        names: dict[str, Any] = {"__name__": "exercises"}
        exec(_template_header(), names)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            for other, source in json.loads(sources).items():
                with contextlib.suppress(Exception if other != name else ()):
                    exec(_compiled(source, f"{other}.py"), names)
            (result,) = exercises.check(names, [name])
        return {**asdict(result), "printed": printed.getvalue()[:2000]}

    def _describe_original(self) -> None:
        """See to it that `original` holds what the unchanged model says of the open clip."""
        if not self.original.keys() >= {"caption", "label"}:
            self.look()
            self.classify()


def source_of(name: str) -> str:
    """Return the source of a formula, as the package has it, without the mark that makes it replaceable."""
    source = inspect.getsource(hooks.REPLACEABLE[name])
    return "".join(
        line for line in source.splitlines(keepends=True) if line.strip() != "@replaceable"
    ).rstrip()


def formulas() -> list[dict[str, str]]:
    """Return the formulas that can be edited, with the source that the package runs."""
    return [{"name": name, "source": source_of(name)} for name in FORMULAS]


def exercise_sources() -> list[dict[str, str]]:
    """Return the exercises, each with the function that a learner fills in."""
    return [{"name": name, "source": source} for name, source in _template_functions()]


def _template_functions() -> Iterator[tuple[str, str]]:
    text = exercises.TEMPLATE.read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, ast.get_source_segment(text, node) or ""


def _template_header() -> str:
    """Return the imports before the functions of the exercises."""
    text = exercises.TEMPLATE.read_text(encoding="utf-8")
    return text[: text.index("\ndef ")]


def _compiled(source: str, file: str) -> Any:
    """Compile a learner's code. Messages quote its lines, which linecache keeps."""
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    return compile(source, file, "exec", dont_inherit=True)


def _edited(name: str, source: str) -> Any:
    """Return what `replace_operations` takes: edited source, run among the names of the formula's module."""
    original = inspect.unwrap(hooks.REPLACEABLE[name])
    names = {**vars(sys.modules[original.__module__]), "np": np, "replaceable": lambda function: function}
    del names[original.__name__]
    exec(_compiled(source, YOURS), names)
    function = names.get(original.__name__)
    if not callable(function):
        raise ValueError(f"the code defines no function {original.__name__}")
    return lambda _: function


def _one_error(error: Exception) -> str:
    """Return an error in one line, with the last line of the edited code that took part in it."""
    if isinstance(error, SyntaxError):
        return f"Line {error.lineno}: {error.msg}."
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == YOURS]
    place = f"Line {lines[-1]}: " if lines else "The model cannot go on: "
    return f"{place}{type(error).__name__}: {error}"


# Pictures ---------------------------------------------------------------------------------------------------


def shares(weights: np.ndarray) -> list[float]:
    """Return each frame's share of attention weights [Q', T, N], averaged over the queries."""
    return weights.sum(axis=-1).mean(axis=0).astype(float).round(4).tolist()


def _maps(explanation: mvc.Explanation) -> list[dict[str, Any]]:
    """Return the maps that the page shows: of each word, of all caption queries and of the latent's query."""
    words = [word for word in explanation.words if word]
    maps = [_map(word, *x) for word, *x in zip(words, explanation.maps, explanation.frame_weights)]  # noqa: B905
    pooled = {"caption": explanation.pooler.mean(axis=(0, 1)), "latent": explanation.latent.mean(axis=0)}
    for name, weights in pooled.items():  # [T, N], the class token first
        maps.append(_map(name, weights[:, 1:], weights.sum(axis=-1)))
    return [{**x, "word": i < len(words)} for i, x in enumerate(maps)]


def _map(name: str, patches: np.ndarray, frames: np.ndarray) -> dict[str, Any]:
    """Return a map of patches, [T, rows, cols] or [T, rows * cols], and each frame's share [T]."""
    rows = patches.reshape(len(patches), -1).astype(float).round(5)
    return {"name": name, "map": rows.tolist(), "frames": frames.astype(float).round(4).tolist()}


def _png(pixels: np.ndarray) -> str:
    """Return pixels uint8 [H, W, 3] as the data URL of a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# For the worker and build.py --------------------------------------------------------------------------------


def clips() -> list[dict[str, str]]:
    """Return the bundled clips, each with a question: the first that the demo asks of it, if there is one."""
    questions = ASKED_HERE | {clip: question for clip, question, _ in reversed(ASKED)}
    entries = [json.loads(line) for line in (CLIPS / "clips.jsonl").read_text().splitlines()]
    return [{**entry, "question": questions[entry["clip"]]} for entry in entries]


def example(session: Session, clip: dict[str, str]) -> dict[str, Any]:
    """Return all that the page shows of a bundled clip."""
    opened = session.open_file(str(CLIPS / clip["clip"]))
    return {**opened, **session.look(), **session.classify(), **session.answer(clip["question"])}


def call(session: Session, method: str, *arguments: Any) -> str:
    """Return the result of a method of the session as JSON; {"error": ...} for a wrong input."""
    try:
        return json.dumps(getattr(session, method)(*arguments))
    except (ValueError, OSError, ImportError) as error:
        return json.dumps({"error": str(error).replace(f"{Path.cwd()}/", "")})
    except Exception as error:  # of edited code
        return json.dumps({"error": _one_error(error)})
