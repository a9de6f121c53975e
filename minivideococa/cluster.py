"""Work spread over the workers of a Dask cluster (extra `cluster`), its results in order.

    minivideococa evaluate manifest.jsonl --scheduler tcp://host:8786
    minivideococa index ~/videos -o library --scheduler tcp://host:8786

Dask schedules, moves results and repeats what was lost with a worker. Here is what it does not know: a model
is loaded once in each worker process, and work is handed out a little ahead of its results, however much
there is.
"""

from __future__ import annotations

import pickle
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextvars import ContextVar
from functools import lru_cache, partial
from threading import Lock
from typing import Any, NamedTuple

from . import __version__

TIMEOUT = 10  # seconds, for the scheduler to answer
AHEAD = 1000  # items that are handed out before the first of them has returned; at most so many results wait


class Cluster(NamedTuple):
    """The address of a Dask scheduler, and a function that loads the model in a worker.

    For example `Cluster("tcp://host:8786", partial(minivideococa.load, "hf-hub:OWNER/NAME"))`.
    """

    scheduler: str
    load: Callable[[], Any]

    def with_check(self, hash_of: Callable[[Any], str], model_key: str) -> Cluster:
        """Return the same cluster, where a worker that loads a model of another hash is an error.

        So is one with another version of the package. Both are a ValueError.
        """
        return self._replace(load=partial(_load_same, self.load, hash_of, model_key, __version__))


def require_distributed() -> None:
    """Raise ValueError, one line, if dask.distributed is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise ValueError(
            'a cluster needs dask.distributed: pip install "minivideococa[cluster]", here and on the workers'
        ) from None


def map_in_order(
    cluster: Cluster, function: Callable[[Any, Any], Any], items: Iterable[Any]
) -> Iterator[Any]:
    """Yield `function(loaded, item)` for each item, in order. `loaded` is what `cluster.load` returns.

    An item whose worker dies is computed again by another one. What workers warn of is warned of here, each
    text once. Raises what `function` and `load` raise; ValueError without dask.distributed and for an item on
    which worker after worker dies; OSError if the scheduler does not answer.
    """
    require_distributed()
    import cloudpickle  # of distributed: it also takes functions of a notebook
    from distributed import KilledWorker

    load, waiting, warned = cloudpickle.dumps(cluster.load), deque[Any](), set[str]()
    with _connect(cluster.scheduler) as client:
        try:
            for item in items:
                waiting.append(client.submit(_run, load, function, item, pure=False))
                while waiting and (len(waiting) == AHEAD or waiting[0].done()):
                    yield _result(waiting.popleft(), warned)
            while waiting:
                yield _result(waiting.popleft(), warned)
        except KilledWorker:
            raise ValueError(
                f"{cluster.scheduler}: worker after worker died, perhaps for want of memory"
            ) from None
        except CancelledError:
            raise OSError(f"{cluster.scheduler}: the scheduler no longer answers") from None


def _result(future: Any, warned: set[str]) -> Any:
    """Return the result of a task, after the warnings in it that are not in `warned` yet."""
    result, texts = future.result()
    for text in dict.fromkeys(texts):
        if text not in warned:
            warned.add(text)
            warnings.warn(text, stacklevel=3)
    return result


def _connect(address: str) -> Any:
    """Return a client of the scheduler at an address. Raises ValueError or OSError if there is none."""
    import asyncio

    import distributed

    client_class: Any = distributed.Client

    class Bounded(client_class):  # type: ignore[misc]
        async def _ensure_connected(self, timeout: float | None = None) -> None:
            # Dask itself waits for whatever accepts its connection to answer, however long that takes
            await asyncio.wait_for(super()._ensure_connected(timeout), timeout)

        def __del__(self) -> None:
            """Do nothing: a client that could not connect cannot be closed either, and would print that."""

    try:
        client = Bounded(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = str(error) or f"it does not answer within {TIMEOUT:g} s"
        raise type(error)(
            f"{address}: no Dask scheduler ({reason}); give the address that it prints, such as "
            "tcp://host:8786"
        ) from None
    if not client.scheduler_info()["workers"]:
        warnings.warn(f"{address}: the scheduler has no workers yet; waiting for some", stacklevel=4)
    return client


# In the workers

_lock = Lock()  # a worker may have several threads
_texts: ContextVar[list[str] | None] = ContextVar("texts", default=None)  # of the warnings in a task
_show = warnings.showwarning


def _run(load: bytes, function: Callable[[Any, Any], Any], item: Any) -> tuple[Any, list[str]]:
    """Return the result, and the texts of the warnings. `catch_warnings` is not for several threads."""
    texts: list[str] = []
    token = _texts.set(texts)
    try:
        with _lock:
            if warnings.showwarning is not _note:
                warnings.showwarning = _note
                warnings.simplefilter("always", UserWarning)
            loaded = _loaded(load)
        return function(loaded, item), texts
    finally:
        _texts.reset(token)


def _note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Note a warning of a task; show any other one."""
    texts = _texts.get()
    if texts is None or not issubclass(category, UserWarning):
        _show(message, category, *where, **more)
    else:
        texts.append(str(message))


@lru_cache(maxsize=1)
def _loaded(load: bytes) -> Any:
    return pickle.loads(load)()


def _load_same(load: Callable[[], Any], hash_of: Callable[[Any], str], model_key: str, version: str) -> Any:
    if version != __version__:
        raise ValueError(f"a worker has minivideococa {__version__}, not {version}: install the same")
    model = load()
    if hash_of(model) != model_key:
        raise ValueError("a worker loads other weights than this process: give it the same files")
    return model
