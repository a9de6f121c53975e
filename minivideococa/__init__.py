"""minivideococa: VideoCoCa in NumPy, to read, to verify other implementations against, and to run on a CPU.

    import minivideococa as mvc

    model = mvc.load()
    print(model.caption("video.mp4"))

The import is cheap: the module of a name is imported when the name is first used.
"""

from importlib import import_module

TYPE_CHECKING = False  # as in typing, whose import would take as long as the rest
if TYPE_CHECKING:
    from . import verify as verify
    from .checkpoint import load
    from .explanation.explain import explain
    from .explanation.explanation import Explanation
    from .library import index, search
    from .media.video import read_video
    from .model.config import Video
    from .model.hooks import trace
    from .model.videococa import VideoCoCa
    from .tasks import answer, caption_many, caption_stretches, classify, retrieve, score
    from .training.finetune import finetune

__version__ = "0.2.0"
__all__ = [
    "Explanation",
    "Video",
    "VideoCoCa",
    "answer",
    "caption_many",
    "caption_stretches",
    "classify",
    "explain",
    "finetune",
    "index",
    "load",
    "read_video",
    "retrieve",
    "score",
    "search",
    "trace",
]

_MODULES = {
    "load": "checkpoint",
    "trace": "model.hooks",
    "Video": "model.config",
    "VideoCoCa": "model.videococa",
    "read_video": "media.video",
    "answer": "tasks",
    "caption_many": "tasks",
    "caption_stretches": "tasks",
    "classify": "tasks",
    "retrieve": "tasks",
    "score": "tasks",
    "index": "library",
    "search": "library",
    "finetune": "training.finetune",
    "explain": "explanation.explain",
    "Explanation": "explanation.explanation",
}


def __getattr__(name: str) -> object:
    if name == "verify":  # a package, whose import binds its name here
        return import_module(".verify", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
