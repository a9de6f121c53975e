"""minivideococa: VideoCoCa in NumPy, to read, to check other implementations against, and to run on a CPU.

    import minivideococa as mvc
    model = mvc.load()
    print(model.caption("video.mp4"))

Importing it is light: a name's module is imported when the name is first used.
"""

from importlib import import_module

from .model.hooks import trace  # at once: the function shall hide the module of the same name

TYPE_CHECKING = False  # as in typing, whose import takes as long as that of all else here
if TYPE_CHECKING:
    from .checkpoint import load
    from .media.video import read_video
    from .model.config import Video
    from .model.videococa import VideoCoCa
    from .tasks import answer, classify, retrieve, score

__version__ = "0.2.0"
__all__ = ["Video", "VideoCoCa", "answer", "classify", "load", "read_video", "retrieve", "score", "trace"]

_HOMES = {
    "load": "checkpoint",
    "VideoCoCa": "model.videococa",
    "Video": "model.config",
    "read_video": "media.video",
    "answer": "tasks",
    "classify": "tasks",
    "retrieve": "tasks",
    "score": "tasks",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
