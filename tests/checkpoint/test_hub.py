"""Downloads from the hub, represented by a local server: one download, and no request afterwards."""

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from forked import run
from safetensors.numpy import load_file
from test_tokenizer import word_level

from minivideococa.checkpoint import hub
from minivideococa.checkpoint.folder import read_origin

GOLDEN = Path(__file__).parents[1] / "golden" / "torch"
MODEL_CFG = json.loads((GOLDEN / "coca.json").read_text())
CONFIG = json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": {}}).encode()
SAFETENSORS, PICKLE = (GOLDEN / "coca.safetensors").read_bytes(), (GOLDEN / "coca_legacy.bin").read_bytes()
COMMITS = {"main": "a" * 40, "v1": "b" * 40, "a/b": "c" * 40, "a--b": "d" * 40}
with tempfile.TemporaryDirectory() as folder:
    TOKENIZER = word_level(Path(folder) / "tokenizer.json", ["their"]).read_bytes()

REPOSITORIES = {
    "owner/both": {
        "open_clip_config.json": CONFIG,
        "open_clip_model.safetensors": SAFETENSORS,
        "open_clip_pytorch_model.bin": PICKLE,
        "tokenizer.json": TOKENIZER,
        "README.md": b"not needed",
    },
    "owner/pickle": {
        "open_clip_config.json": CONFIG,
        "open_clip_pytorch_model.bin": PICKLE,
        "tokenizer.json": TOKENIZER,
    },
    "owner/converted": {"config.json": CONFIG, "model.safetensors": SAFETENSORS},
    "owner/other": {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""},
    "owner/gated": {"open_clip_config.json": CONFIG, "open_clip_pytorch_model.bin": PICKLE},
    "owner/empty": {},
    "owner/shards": {"open_clip_config.json": CONFIG, "model-00001-of-00002.safetensors": SAFETENSORS},
}


class Hub(BaseHTTPRequestHandler):
    """The answers of the hub: /api/models/OWNER/NAME/revision/REVISION, and HEAD and GET of
    /OWNER/NAME/resolve/REVISION/FILE, weights being on another host as the hub's are.

    A repository's file is its bytes, or the path of a large one. `server.breaks` counts how often a transfer
    of weights breaks off half-way; `server.lists` False is a mirror that does not list files; `server.portal`
    answers everything with a log-in page.
    """

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.portal:
            return self.answer(200, b"<html>Log in</html>")
        if self.path in self.server.stored:
            return self.answer(200, self.server.stored[self.path])
        if self.path.startswith("/api/models/") and self.server.lists:
            owner, name, *rest = self.path.removeprefix("/api/models/").split("/")
            revision, file = unquote(rest[1]) if rest else "main", None
        elif "/resolve/" in self.path:
            owner, name, _, revision, file = map(unquote, self.path.removeprefix("/").split("/", 4))
        else:
            return self.answer(404)
        files = self.server.repositories.get(f"{owner}/{name}")
        commit = COMMITS.get(revision, revision if revision in COMMITS.values() else None)
        if name == "broken":
            self.close_connection = True
            return None
        if name == "gated" and file:
            return self.answer(403, error="GatedRepo")
        if files is None:
            return self.answer(401, error="RepoNotFound")
        if commit is None:
            return self.answer(404, error="RevisionNotFound")
        if file is None:
            siblings = [{"rfilename": name} for name in files]
            return self.answer(
                200, json.dumps({"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}).encode()
            )
        if file not in files:
            return self.answer(404, error="EntryNotFound", commit=commit)
        data = files[file]
        if file.endswith((".bin", ".safetensors", ".pt")):
            self.server.storage.stored[self.path] = data
            size = len(data) if isinstance(data, bytes) else data.stat().st_size
            return self.answer(
                302,
                commit=commit,
                headers={
                    "Location": f"http://127.0.0.1:{self.server.storage.server_port}{self.path}",
                    "X-Linked-Size": str(size),
                    "X-Linked-Etag": f'"{digest(data)}"',
                },
            )
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        return self.answer(200, data, commit=commit, headers={"ETag": etag})

    do_GET = do_HEAD

    def answer(
        self,
        status: int,
        data: bytes | Path = b"",
        error: str = "",
        commit: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        begin, end = 0, size
        headers = (headers or {}) | {"X-Error-Code": error, "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            status, headers["Content-Range"] = 206, f"bytes {begin}-{size - 1}/{size}"
            self.server.resumed.append(begin)
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(size - begin))
        self.end_headers()
        if self.command != "GET":
            return
        if status in (200, 206) and self.path in self.server.stored and self.server.breaks:
            self.server.breaks -= 1
            end, self.close_connection = begin + (size - begin) // 2, True
        if isinstance(data, bytes):
            self.wfile.write(data[begin:end])
        else:
            with open(data, "rb") as file:
                file.seek(begin)
                for start in range(begin, end, 1 << 20):
                    self.wfile.write(file.read(min(1 << 20, end - start)))

    def log_message(self, *arguments: object) -> None:
        pass


def digest(data: bytes | Path) -> str:
    """SHA-256 of bytes or of a file."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server, storage = (ThreadingHTTPServer(("127.0.0.1", 0), Hub) for _ in range(2))
    server.storage = storage
    for one in (server, storage):
        one.requests, one.stored, one.resumed, one.breaks, one.lists = [], {}, [], 0, True
        one.portal = False
        one.repositories = dict(REPOSITORIES)
        threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    for one in (server, storage):
        one.shutdown()
        one.server_close()


FETCH = """
import sys
from minivideococa.checkpoint.hub import fetch
for spec in sys.argv[1:]:
    try:
        print(fetch(spec))
    except (ValueError, OSError) as error:
        print("refused:", error)
"""
NO_SLEEP = (
    "import time; time.sleep = lambda seconds: None\n"  # huggingface_hub waits a second before it retries
)


def fetch(
    server: ThreadingHTTPServer,
    tmp_path: Path,
    *specs: str,
    raises: bool = False,
    code: str = FETCH,
    **environment: str,
) -> list[str]:
    """Call `hub.fetch` for each spec in a new process. Return the folders or messages.

    With `raises`, raise ValueError with all output if one cannot be fetched.
    """
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and "PROXY" not in name.upper()
    }
    ours = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "MINIVIDEOCOCA_CACHE": str(tmp_path / "cache"),
    }
    result = run(code, list(specs), clean | ours | environment)
    if raises and "refused" in result.stdout:
        raise ValueError(result.stderr + result.stdout.removeprefix("refused: "))
    return result.stdout.splitlines()


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_fetched_once_and_converted(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    specs = ["owner/both", "owner/pickle", "owner/converted", "owner/both@v1"]
    folders = [Path(line) for line in fetch(server, tmp_path, *specs)]
    expected = load_file(GOLDEN / "coca.safetensors")
    assert [folder.name for folder in folders] == [spec.replace("/", "--") for spec in specs]
    for folder in folders:
        assert folder.parent == tmp_path / "cache"
        assert json.loads((folder / "config.json").read_text()) == json.loads(CONFIG)
        assert all(np.array_equal(weights(folder)[name], array) for name, array in expected.items())
    assert (folders[0] / "tokenizer.json").read_bytes() == TOKENIZER
    assert not (folders[2] / "tokenizer.json").exists()

    # only the needed files were requested, all from one commit: of "both" not the pickle
    requests = [request.split()[1] for request in server.requests if "/owner/both/resolve/" in request]
    assert {path.rpartition("/")[2] for path in requests} == {
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer.json",
    }
    assert {path.split("/")[4] for path in requests if "config" not in path} == {"a" * 40, "b" * 40}
    downloads = [request for request in server.storage.requests if request.startswith("GET /owner/both/")]
    assert len(downloads) == 1  # both revisions hold the same weights

    # afterwards there are no requests, and the downloads are not needed
    server.requests.clear()
    server.storage.requests.clear()
    lines = fetch(server, tmp_path, *specs, HF_HOME=str(tmp_path / "another"))
    assert [Path(line) for line in lines] == folders
    assert server.requests == server.storage.requests == []


@pytest.mark.slow
def test_refusals(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    specs = [
        "owner/absent",
        "owner/gated",
        "owner/both@v9",
        "owner/empty",
        "owner/other",
        "owner",
        "owner/a b",
        "https://host/owner/name",
        "owner/na--me",
        "owner/broken",
        "owner/shards",
    ]
    messages = [
        "hf-hub:owner/absent: there is no such repository, or it is private",
        "hf-hub:owner/gated: its owner must grant access",
        "hf-hub:owner/both: the repository has no revision v9",
        "hf-hub:owner/empty: none of open_clip_config.json, config.json is in the repository",
        "not a configuration of open_clip",
        "give hf-hub:OWNER/NAME",
        "give hf-hub:OWNER/NAME",
        "give hf-hub:OWNER/NAME",
        "hf-hub:owner/na--me: ",
        "hf-hub:owner/broken: ",  # by the version of huggingface_hub: not downloaded, or not reached
        "hf-hub:owner/shards: shards without their index are in",
    ]
    lines = fetch(server, tmp_path, *specs)
    assert len(lines) == len(specs)
    for line, expected in zip(lines, messages):
        assert line.startswith("refused: ") and expected in line
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_broken_download_is_resumed(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.storage.breaks = 2
    (line,) = fetch(server, tmp_path, "owner/pickle", code=NO_SLEEP + FETCH)
    assert (
        server.storage.breaks == 0
        and sum(request.startswith("GET") for request in server.storage.requests) == 3
    )
    assert all(
        np.array_equal(weights(Path(line))[name], array)
        for name, array in load_file(GOLDEN / "coca.safetensors").items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["http://no-such-host.invalid", "http://127.0.0.1:9"])
def test_no_connection_fails_at_once(server: ThreadingHTTPServer, tmp_path: Path, endpoint: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError) as error:
        fetch(server, tmp_path, "laion/CoCa-ViT-B-32-laion2B-s13B-b90k", raises=True, HF_ENDPOINT=endpoint)
    took, lines = time.monotonic() - started, str(error.value).splitlines()
    assert len(lines) == 1 and "the hub cannot be reached, and its files are not in the cache: " in lines[0]
    assert lines[0].endswith("; connect, or download the files elsewhere and run minivideococa convert")
    assert took < 4  # with the start of the process and its imports; five tries take 24


@pytest.mark.slow
def test_mirror_without_listing(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.lists = False
    specs = ["owner/both", "owner/converted", "owner/absent", "owner/both@v9"]
    *folders, absent, revision = fetch(server, tmp_path, *specs)
    assert all(weights(Path(folder)) for folder in folders)
    assert "there is no such repository" in absent and "no revision v9" in revision


def test_cache_is_checked_before_the_download(server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written; set MINIVIDEOCOCA_CACHE.*--cache"):
        fetch(
            server, tmp_path, "owner/pickle", raises=True, MINIVIDEOCOCA_CACHE=str(tmp_path / "file" / "in")
        )
    assert server.requests == []


@pytest.mark.slow
def test_offline(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (line,) = fetch(server, tmp_path, "owner/pickle", HF_HUB_OFFLINE="1")
    assert line.startswith(
        "refused: hf-hub:owner/pickle: the hub cannot be reached, and its files are not in"
    )
    assert server.requests == []

    # what is in the cache of huggingface_hub is converted without a connection
    fetch(server, tmp_path, "owner/pickle")
    (line,) = fetch(
        server, tmp_path, "owner/pickle", HF_HUB_OFFLINE="1", MINIVIDEOCOCA_CACHE=str(tmp_path / "new")
    )
    assert weights(Path(line)).keys() == load_file(GOLDEN / "coca.safetensors").keys()


@pytest.mark.slow
def test_offline_with_one_of_two_shards(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    tensors = load_file(GOLDEN / "coca.safetensors")
    index = json.dumps({"weight_map": {name: names[i % 2] for i, name in enumerate(tensors)}})
    whole = {
        "open_clip_config.json": CONFIG,
        "model.safetensors.index.json": index.encode(),
        names[0]: SAFETENSORS,
    }
    server.repositories["owner/parts"] = whole
    fetch(server, tmp_path, "owner/parts")  # the second shard is not there
    (message,) = fetch(server, tmp_path, "owner/parts", HF_HUB_OFFLINE="1")
    assert (
        message
        == f"refused: hf-hub:owner/parts: {names[1]} is not in the cache, and the hub cannot be reached; "
        "connect, or download the files elsewhere and run minivideococa convert"
    )


@pytest.mark.slow
def test_login_page_instead_of_the_hub(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.portal = True
    (message,) = fetch(server, tmp_path, "owner/both")
    assert message.startswith("refused: hf-hub:owner/both: the answer does not come from the hub")


@pytest.mark.slow
def test_each_revision_has_its_own_folder(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    for line, commit in zip(fetch(server, tmp_path, "owner/both@a/b", "owner/both@a--b"), "cd", strict=True):
        assert read_origin(Path(line) / "model.safetensors")["revision"] == commit * 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: (folder / "config.json").unlink(),
    ],
)
def test_damaged_cache_is_named_before_the_download(
    damage: Callable[[Path], None], server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    folder = Path(fetch(server, tmp_path, "owner/both")[0])
    damage(folder)
    server.requests.clear()
    (message,) = fetch(server, tmp_path, "owner/both")
    assert (
        message.startswith(f"refused: {folder}: incomplete or damaged in the cache (")
        and "remove it" in message
    )
    assert server.requests == []
    shutil.rmtree(folder)
    assert weights(Path(fetch(server, tmp_path, "owner/both")[0]))


@pytest.mark.slow
def test_empty_folder_in_the_cache_is_filled(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "cache" / "owner--both").mkdir(parents=True)
    assert weights(Path(fetch(server, tmp_path, "owner/both")[0]))


def test_timeouts_are_not_retried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadTimeout(Exception):
        pass

    def stalled(*arguments: object, **keywords: object) -> None:
        calls.append(arguments)
        raise ReadTimeout("timed out")  # huggingface_hub has tried several times by then

    calls: list[tuple] = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", stalled)
    with pytest.raises(ReadTimeout):
        hub._get("owner/both", "model.safetensors", None)
    assert len(calls) == 1


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MINIVIDEOCOCA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert hub.cache_folder() == tmp_path / ".cache" / "minivideococa"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache_folder() == tmp_path / "xdg" / "minivideococa"
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE", str(tmp_path / "mine"))
    assert hub.cache_folder() == tmp_path / "mine"
