"""A checkpoint from the Hugging Face hub: fetched and converted once, offline from then on.

Only the configuration, one file of weights and, where the vocabulary is not CLIP's, the tokenizer are
fetched, into huggingface_hub's own cache. The converted checkpoint is in the cache of this package.
"""

import os
import re
from pathlib import Path

from .convert import CLIP_VOCABULARY, CONFIG_NAMES, WEIGHT_NAMES, convert
from .folder import CONFIG, TOKENIZER, read_config


def cache_folder() -> Path:
    """Where converted checkpoints are: $MINIVIDEOCOCA_CACHE, or minivideococa in the user's cache folder."""
    if folder := os.environ.get("MINIVIDEOCOCA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minivideococa"


def fetch(repo_id: str) -> Path:
    """The checkpoint folder of "OWNER/NAME" or "OWNER/NAME@REVISION". A second call makes no request.

    Raises ValueError: no such repository, revision or files in it, no access, no connection, or nothing that
    `convert` takes.
    """
    if not (match := re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", repo_id)):
        raise ValueError(f"hf-hub:{repo_id}: give hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION")
    name, revision = match.groups()
    folder = cache_folder() / repo_id.replace("/", "--")
    if not (folder / CONFIG).is_file():
        source = _download(name, revision)
        try:
            convert(source, folder)
        except ValueError:
            if not (folder / CONFIG).is_file():  # otherwise another process was faster
                raise
    return folder


def _download(name: str, revision: str | None) -> Path:
    """The folder in huggingface_hub's cache that holds a repository's configuration and weights."""
    from huggingface_hub import errors, hf_hub_download

    def get(file: str, revision: str | None) -> Path | None:
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except errors.LocalEntryNotFoundError:  # no connection; a subclass of the next
            raise
        except errors.EntryNotFoundError:
            return None

    def first(files: tuple[str, ...], revision: str | None) -> Path:
        for file in files:
            if path := get(file, revision):
                return path
        raise ValueError(f"none of {', '.join(files)} is in the repository")

    try:
        config = first(CONFIG_NAMES, revision)
        commit = config.parent.name  # all files from one commit, whatever is pushed meanwhile
        parsed = read_config(config)
        fetched_before = [file for file in WEIGHT_NAMES if (config.parent / file).is_file()]
        weights = first(tuple(fetched_before) or WEIGHT_NAMES, commit)
        if parsed.text.vocab_size != CLIP_VOCABULARY:
            get(TOKENIZER, commit)
    except errors.GatedRepoError:
        problem = "its owner must grant access: ask for it on the repository's page, then `hf auth login`"
    except errors.RepositoryNotFoundError:
        problem = "there is no such repository, or it is private: then `hf auth login` first"
    except errors.RevisionNotFoundError:
        problem = f"the repository has no revision {revision}"
    except errors.LocalEntryNotFoundError as error:
        problem = f"the hub cannot be reached, and its files are not in the cache: {error.__cause__ or error}"
    except ValueError as error:  # no name of a repository, or no checkpoint of open_clip
        problem = str(error)
    except Exception as error:  # a connection that breaks off is an error of whichever HTTP library is below
        problem = f"it cannot be fetched: {error}"
    else:
        return weights.parent
    raise ValueError(f"hf-hub:{name}: " + " ".join(problem.split()))
