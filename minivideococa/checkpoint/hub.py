"""A checkpoint from the Hugging Face hub: fetched and converted once, offline from then on.

Only the configuration, the weights and, where the vocabulary is not CLIP's, the tokenizer are fetched, into
huggingface_hub's own cache. The converted checkpoint is in the cache of this package.
"""

import json
import os
import re
from pathlib import Path

from ..output import refuse_occupied, writable
from ..progress import say
from .convert import CLIP_VOCABULARY, convert
from .folder import CONFIG, TOKENIZER, WEIGHTS, open_safetensors, read_config
from .sources import CONFIG_NAMES, SHARD, WEIGHT_STEMS, config_name, is_weights, shard_files, weights_name

TIMEOUT = 10  # seconds for the hub to say which files a repository has


def cache_folder() -> Path:
    """Where converted checkpoints are: $MINIVIDEOCOCA_CACHE, or minivideococa in the user's cache folder."""
    if folder := os.environ.get("MINIVIDEOCOCA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minivideococa"


def fetch(repo_id: str) -> Path:
    """Return the checkpoint folder of "OWNER/NAME" or "OWNER/NAME@REVISION". A second call makes no request.

    Raises ValueError: no such repository, revision or files in it, no access, no connection, nothing that
    `convert` takes, or a damaged folder in the cache. Raises OSError if the cache cannot be read or written.
    """
    if not (match := re.fullmatch(r"([\w.-]+/[\w.-]+)(@([\w./-]+))?", repo_id)):
        raise ValueError(f"hf-hub:{repo_id}: give hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION")
    name, at, revision = match.groups(default="")
    folder = cache_folder() / (name.replace("/", "--") + at.replace("/", "%2F"))  # "%" is in no name
    if not _complete(folder):
        _require_writable(folder.parent)
        source = _download(name, revision or None)
        _require_writable(folder.parent, make=True)
        try:
            convert(source, folder)
        except (ValueError, OSError):
            if not _complete(folder):  # otherwise another process was faster
                raise
    return folder


def _complete(folder: Path) -> bool:
    """Whether the converted checkpoint is there. Raises ValueError for a folder that is none, and is not empty."""
    try:
        refuse_occupied(folder)
        return False
    except ValueError:
        pass
    try:
        read_config(folder / CONFIG)
        open_safetensors(folder / WEIGHTS)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"{folder}: incomplete or damaged in the cache ({error}); remove it, and it is made anew"
        ) from None
    return True


def _require_writable(cache: Path, make: bool = False) -> None:
    """Raise PermissionError if checkpoints cannot be written there; with `make`, make the folder."""
    possible = writable(cache)
    try:
        if make:
            cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        possible = False
    if not possible:
        raise PermissionError(
            f"{cache}: the cache of checkpoints cannot be written; set MINIVIDEOCOCA_CACHE to "
            "another folder (--cache of `evaluate` moves that of encoded videos)"
        )


def _download(name: str, revision: str | None) -> Path:
    """Return the folder in huggingface_hub's cache that holds a repository's configuration and weights."""
    from huggingface_hub import utils as errors

    try:
        return _fetch_files(name, revision)
    except errors.GatedRepoError:
        problem = "its owner must grant access: ask for it on the repository's page, then `hf auth login`"
    except errors.RepositoryNotFoundError:
        problem = "there is no such repository, or it is private: then `hf auth login` first"
    except errors.RevisionNotFoundError:
        problem = f"the repository has no revision {revision}"
    except json.JSONDecodeError:
        problem = (
            "the answer is not the hub's, but perhaps a proxy's or a log-in page of the network: "
            "check the connection and HF_ENDPOINT"
        )
    except ValueError as error:  # no name of a repository, or no checkpoint of open_clip
        problem = str(error)
    except Exception as error:  # a connection that breaks off is an error of whichever HTTP library is below
        problem = f"it cannot be fetched: {error or type(error).__name__}"
        if _is(error, "OfflineModeIsEnabled"):
            problem = "the hub cannot be reached, and its files are not in the cache: HF_HUB_OFFLINE is set"
        elif _is(error, "ConnectError", "ConnectTimeout", "ConnectionError", "LocalEntryNotFoundError"):
            problem = (
                f"the hub cannot be reached, and its files are not in the cache: {error.__cause__ or error}"
            )
        elif isinstance(error, OSError) and error.filename:
            problem = f"it cannot be kept in the cache of huggingface_hub, which HF_HOME moves: {error}"
    raise ValueError(f"hf-hub:{name}: " + " ".join(problem.split()))


def _is(error: BaseException, *names: str) -> bool:
    """Whether an error's class, or a base of it, has one of these names.

    By name, since the HTTP library below huggingface_hub, and the errors' module in it, differ between its versions.
    """
    return not {cls.__name__ for cls in type(error).__mro__}.isdisjoint(names)


def _fetch_files(name: str, revision: str | None) -> Path:
    """Fetch what is needed of a repository, all of it from one commit. Raises what huggingface_hub raises."""
    from huggingface_hub import utils as errors

    cached = _cached(name, revision)
    try:
        files, commit = _listing(name, revision)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except Exception:  # no connection, which is no harm if everything is there
        weights = [path for path in cached.iterdir() if is_weights(path.name)] if cached else []
        if not weights:
            raise
        if missing := [shard for path in weights for shard in shard_files(path) if not shard.exists()]:
            raise ValueError(
                f"{missing[0].name} was not fetched before, and the hub cannot be reached now"
            ) from None
        return cached

    config = config_name(files)
    if not any(map(is_weights, files)):
        weights_too = (
            "shards without their index are" if any(map(SHARD.search, files)) else "no file of weights is"
        )
        config_too = "" if config else f"none of {', '.join(CONFIG_NAMES)} is in the repository, and "
        raise ValueError(f"{config_too}{weights_too} in the repository (.safetensors, .bin or .pt)")
    if config:
        path = _get(name, config, revision)
        revision = path.parent.name  # all files from one commit, whatever is pushed meanwhile
        if read_config(path).text.vocab_size != CLIP_VOCABULARY and TOKENIZER in files:
            _get(name, TOKENIZER, revision)
    there = cached.with_name(commit) if cached and commit else None
    before = [file for file in files if is_weights(file) and there and (there / file).is_file()]
    weights = _get(name, weights_name(before or files, f"hf-hub:{name}"), revision)
    for shard in shard_files(weights):
        if shard != weights:
            _get(name, shard.name, weights.parent.name)
    return weights.parent


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the repository's snapshot folder in huggingface_hub's cache; None if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub import utils as errors

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except errors.LocalEntryNotFoundError as error:
        incomplete = getattr(error, "snapshot_path", None)  # files that are not needed here may be missing
        return Path(incomplete) if incomplete else None


def _listing(name: str, revision: str | None) -> tuple[list[str], str | None]:
    """Return the names of a repository's files, and its commit. Without a connection it fails at once.

    For a mirror that cannot list files, try the usual names and return those that exist, with None.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub import utils as errors

    def exists(file: str) -> bool:
        try:
            get_hf_file_metadata(hf_hub_url(name, file, revision=revision))
        except errors.EntryNotFoundError:
            return False
        return True

    try:
        info = HfApi().model_info(name, revision=revision, timeout=TIMEOUT)
        return [file.rfilename for file in info.siblings or ()], info.sha
    except errors.HfHubHTTPError as error:
        if (
            _is(error, "RepositoryNotFoundError", "RevisionNotFoundError")
            or error.response.status_code != 404
        ):
            raise
    suffixes = (".safetensors", ".safetensors.index.json", ".bin")
    weights = [stem + suffix for stem in WEIGHT_STEMS for suffix in suffixes]
    return [file for file in (*CONFIG_NAMES, *weights, TOKENIZER) if exists(file)], None


def _get(name: str, file: str, revision: str | None) -> Path:
    """Fetch a file. Retry twice if the connection breaks; what was fetched before is kept.

    After a timeout huggingface_hub itself has retried.
    """
    from huggingface_hub import hf_hub_download

    for tries_left in (2, 1, 0):
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except Exception as error:
            broken_off = _is(error, "ReadError", "RemoteProtocolError", "ChunkedEncodingError")
            if not tries_left or not broken_off:
                raise
            say(f"hf-hub:{name}: {file}: the connection broke ({error}); retrying")
    raise AssertionError("never reached")
