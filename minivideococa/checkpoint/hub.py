"""Checkpoints from the Hugging Face hub: downloaded and converted once, available offline from then on.

Only the configuration, the weights and, unless the vocabulary is CLIP's, the tokenizer are downloaded, to the
cache of huggingface_hub. The converted checkpoint is in the cache of this package.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..output import is_writable, require_empty
from ..progress import Progress, no_progress
from .convert import convert
from .folder import CLIP_VOCABULARY, CONFIG, TOKENIZER, WEIGHTS, open_safetensors, read_config
from .sources import CONFIG_NAMES, SHARD, WEIGHT_STEMS, config_name, is_weights, shard_files, weights_name

TIMEOUT = 10  # seconds until the hub must have listed a repository's files
ATTEMPTS = 3  # to download a file whose connection breaks
UNREACHABLE = "the hub cannot be reached, and its files are not in the cache"
ADVICE = "connect, or download the files elsewhere and run minivideococa convert"


def cache_folder() -> Path:
    """Return the folder of converted checkpoints: $MINIVIDEOCOCA_CACHE, or one in the user's cache folder."""
    if folder := os.environ.get("MINIVIDEOCOCA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minivideococa"


def fetch(repo_id: str, *, progress: Progress = no_progress) -> Path:
    """Return the checkpoint folder of "OWNER/NAME" or "OWNER/NAME@REVISION". A second call needs no network.

    `progress` counts the tensors that are converted. Raises ValueError if there is no such repository,
    revision or file, access is denied, there is no connection, `convert` refuses the files, or the folder in
    the cache is damaged; OSError if the cache cannot be read or written.
    """
    if not (match := re.fullmatch(r"([\w.-]+/[\w.-]+)(@([\w./-]+))?", repo_id)):
        raise ValueError(f"hf-hub:{repo_id}: give hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION")
    name, at, revision = match.groups(default="")
    folder = cache_folder() / (name.replace("/", "--") + at.replace("/", "%2F"))  # no name contains "%"
    if not _is_complete(folder):
        _require_writable(folder.parent)
        source = _download(name, revision or None)
        _require_writable(folder.parent, make=True)
        try:
            convert(source, folder, progress=progress)
        except (ValueError, OSError):
            if not _is_complete(folder):  # otherwise another process was faster
                raise
    return folder


def _is_complete(folder: Path) -> bool:
    """Return whether the converted checkpoint exists. Raises ValueError if something else is in its place."""
    try:
        require_empty(folder)
        return False
    except ValueError:
        pass
    try:
        read_config(folder / CONFIG)
        open_safetensors(folder / WEIGHTS)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"{folder}: incomplete or damaged in the cache ({error}); remove it, and it is made again"
        ) from None
    return True


def _require_writable(cache: Path, make: bool = False) -> None:
    """Raise PermissionError unless checkpoints can be written to the cache; with `make`, make its folder."""
    possible = is_writable(cache)
    try:
        if make:
            cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        possible = False
    if not possible:
        raise PermissionError(
            f"{cache}: the cache of checkpoints cannot be written; set MINIVIDEOCOCA_CACHE to "
            "another folder (--cache moves that of encoded videos)"
        )


# Errors -----------------------------------------------------------------------------------------------------


def _download(name: str, revision: str | None) -> Path:
    """Return the folder in huggingface_hub's cache that holds a repository's configuration and weights.

    Raises ValueError, one line that begins with the repository.
    """
    try:
        return _fetch_files(name, revision)
    except Exception as error:  # errors of the HTTP library pass through huggingface_hub
        reason = " ".join(_reason(error, revision).split())
    raise ValueError(f"hf-hub:{name}: {reason}")


def _reason(error: Exception, revision: str | None) -> str:
    """Return why a repository could not be downloaded."""
    if _is(error, "GatedRepoError"):
        return "its owner must grant access: ask for it on the repository's page, then run `hf auth login`"
    if _is(error, "RepositoryNotFoundError"):
        return "there is no such repository, or it is private: then run `hf auth login` first"
    if _is(error, "RevisionNotFoundError"):
        return f"the repository has no revision {revision}"
    if _is(error, "JSONDecodeError"):
        return (
            "the answer does not come from the hub, but perhaps from a proxy or a log-in page: "
            "check the connection and HF_ENDPOINT"
        )
    if _is(error, "OfflineModeIsEnabled"):
        return f"{UNREACHABLE}: HF_HUB_OFFLINE is set; {ADVICE}"
    if _is(error, "ConnectError", "ConnectTimeout", "ConnectionError", "LocalEntryNotFoundError"):
        return f"{UNREACHABLE}: {error.__cause__ or error}; {ADVICE}"
    if isinstance(error, ValueError):  # not a repository's name, or not a checkpoint of open_clip
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"it cannot be stored in the cache of huggingface_hub, which HF_HOME moves: {error}"
    return f"it cannot be downloaded: {error or type(error).__name__}"


def _is(error: BaseException, *names: str) -> bool:
    """Return whether an error's class or one of its base classes has one of these names.

    By name, because versions of huggingface_hub differ in their HTTP library and in the module of their own
    errors.
    """
    return not {cls.__name__ for cls in type(error).__mro__}.isdisjoint(names)


# Downloads --------------------------------------------------------------------------------------------------


def _fetch_files(name: str, revision: str | None) -> Path:
    """Download the needed files of a repository, all from one commit. Raises what huggingface_hub raises."""
    cached = _cached(name, revision)
    try:
        files, commit = _listing(name, revision)
    except Exception as error:
        if cached is None or _is(error, "RepositoryNotFoundError", "RevisionNotFoundError"):
            raise
        return _complete_snapshot(cached, error)
    _require_weights(files)
    if config := config_name(files):
        path = _get(name, config, revision)
        revision = path.parent.name  # the commit, in case of pushes between the downloads
        if read_config(path).text.vocab_size != CLIP_VOCABULARY and TOKENIZER in files:
            _get(name, TOKENIZER, revision)
    snapshot = cached.with_name(commit) if cached and commit else None
    before = [file for file in files if is_weights(file) and snapshot and (snapshot / file).is_file()]
    weights = _get(name, weights_name(before or files, f"hf-hub:{name}"), revision)
    for shard in shard_files(weights):
        if shard != weights:
            _get(name, shard.name, weights.parent.name)
    return weights.parent


def _complete_snapshot(cached: Path, error: Exception) -> Path:
    """Return a snapshot if it has all weights, which makes a missing connection harmless; otherwise raise."""
    weights = [path for path in cached.iterdir() if is_weights(path.name)]
    if not weights:
        raise error
    if missing := [shard for path in weights for shard in shard_files(path) if not shard.exists()]:
        raise ValueError(f"{missing[0].name} is not in the cache, and the hub cannot be reached; {ADVICE}")
    return cached


def _require_weights(files: Sequence[str]) -> None:
    """Raise ValueError unless weights are among a repository's files."""
    if any(map(is_weights, files)):
        return
    shards = any(map(SHARD.search, files))
    weights = "shards without their index are" if shards else "no file of weights is"
    config = "" if config_name(files) else f"none of {', '.join(CONFIG_NAMES)} is in the repository, and "
    raise ValueError(f"{config}{weights} in the repository (.safetensors, .bin or .pt)")


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the repository's snapshot in huggingface_hub's cache, None if there is none."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except Exception as error:
        if not _is(error, "LocalEntryNotFoundError"):
            raise
        incomplete = getattr(error, "snapshot_path", None)  # what is missing may not be needed
        return Path(incomplete) if incomplete else None


def _listing(name: str, revision: str | None) -> tuple[list[str], str | None]:
    """Return the names of a repository's files, and its commit. Without a connection this fails at once.

    On a mirror that cannot list files, look for the usual names, and return None for the commit.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name, revision=revision, timeout=TIMEOUT)
        return [file.rfilename for file in info.siblings or ()], info.sha
    except Exception as error:
        refused = _is(error, "RepositoryNotFoundError", "RevisionNotFoundError")
        if refused or getattr(getattr(error, "response", None), "status_code", None) != 404:
            raise
    suffixes = (".safetensors", ".safetensors.index.json", ".bin")
    weights = [stem + suffix for stem in WEIGHT_STEMS for suffix in suffixes]
    return [file for file in (*CONFIG_NAMES, *weights, TOKENIZER) if _exists(name, file, revision)], None


def _exists(name: str, file: str, revision: str | None) -> bool:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision))
    except Exception as error:
        if not _is(error, "EntryNotFoundError"):
            raise
        return False
    return True


def _get(name: str, file: str, revision: str | None) -> Path:
    """Download a file. If the connection breaks, continue with what has arrived.

    There is no further attempt after a timeout: huggingface_hub itself has made several.
    """
    from huggingface_hub import hf_hub_download

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except Exception as error:
            broken = _is(error, "ReadError", "RemoteProtocolError", "ChunkedEncodingError")
            if not broken or attempt == ATTEMPTS:
                raise
            warnings.warn(f"hf-hub:{name}: {file}: the connection broke ({error}); retrying", stacklevel=2)
    raise AssertionError("unreachable")
