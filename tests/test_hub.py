"""Checkpoints from the hub: a loopback server that answers as the hub does, asked once and never again."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from minivideococa.checkpoint import hub

GOLDEN = Path(__file__).parent / "golden" / "torch"
MODEL_CFG = json.loads((GOLDEN / "coca.json").read_text())
CONFIG = json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": {}}).encode()
SAFETENSORS, PICKLE = (GOLDEN / "coca.safetensors").read_bytes(), (GOLDEN / "coca_legacy.bin").read_bytes()
COMMITS = {"main": "a" * 40, "v1": "b" * 40}

REPOSITORIES = {
    "owner/both": {"open_clip_config.json": CONFIG, "open_clip_model.safetensors": SAFETENSORS,
                   "open_clip_pytorch_model.bin": PICKLE, "tokenizer.json": b'{"their": "tokenizer"}',
                   "README.md": b"not needed"},
    "owner/pickle": {"open_clip_config.json": CONFIG, "open_clip_pytorch_model.bin": PICKLE,
                     "tokenizer.json": b"{}"},
    "owner/converted": {"config.json": CONFIG, "model.safetensors": SAFETENSORS},
    "owner/other": {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""},
    "owner/empty": {},
}


class Hub(BaseHTTPRequestHandler):
    """HEAD and GET of /OWNER/NAME/resolve/REVISION/FILE, weights being on another host as the hub's are."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        if self.path in self.server.stored:
            return self.answer(200, self.server.stored[self.path])
        if "/resolve/" not in self.path:
            return self.answer(404)
        owner, name, _, revision, file = self.path.removeprefix("/").split("/", 4)
        files = REPOSITORIES.get(f"{owner}/{name}")
        commit = COMMITS.get(revision, revision if revision in COMMITS.values() else None)
        if name == "broken":
            self.close_connection = True
            return None
        if name == "gated":
            return self.answer(403, error="GatedRepo")
        if files is None:
            return self.answer(401, error="RepoNotFound")
        if commit is None:
            return self.answer(404, error="RevisionNotFound")
        if file not in files:
            return self.answer(404, error="EntryNotFound", commit=commit)
        data = files[file]
        if file.endswith((".bin", ".safetensors")):
            self.server.storage.stored[self.path] = data
            self.answer(302, commit=commit, headers={
                "Location": f"http://127.0.0.1:{self.server.storage.server_port}{self.path}",
                "X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"'})
        else:
            self.answer(200, data, commit=commit, headers={"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    do_GET = do_HEAD

    def answer(self, status: int, data: bytes = b"", error: str = "", commit: str = "",
               headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ((headers or {}) | {"X-Error-Code": error, "X-Repo-Commit": commit}).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server, storage = (ThreadingHTTPServer(("127.0.0.1", 0), Hub) for _ in range(2))
    server.storage = storage
    for one in (server, storage):
        one.requests, one.stored = [], {}
        threading.Thread(target=one.serve_forever, daemon=True).start()
    yield server
    for one in (server, storage):
        one.shutdown()
        one.server_close()


def fetch(server: ThreadingHTTPServer, tmp_path: Path, *specs: str, **environment: str) -> list[str]:
    """`hub.fetch` of each spec in a new process, as the address is read at import: folders or messages."""
    code = """if True:
        import sys
        from minivideococa.checkpoint.hub import fetch
        for spec in sys.argv[1:]:
            try:
                print(fetch(spec))
            except ValueError as error:
                print("refused:", error)
    """
    clean = {name: value for name, value in os.environ.items()
             if not name.startswith("HF_") and "PROXY" not in name.upper()}
    run = subprocess.run(
        [sys.executable, "-c", code, *specs], capture_output=True, text=True, check=True,
        cwd=Path(hub.__file__).parents[2],
        env=clean | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hf"),
                     "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
                     "MINIVIDEOCOCA_CACHE": str(tmp_path / "cache")} | environment)
    return run.stdout.splitlines()


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
    assert (folders[0] / "tokenizer.json").read_text() == '{"their": "tokenizer"}'
    assert not (folders[2] / "tokenizer.json").exists()

    # only what is needed was asked for: of "both" no pickle and nothing else; all from one commit
    requests = [request.split()[1] for request in server.requests if "/owner/both/resolve/" in request]
    assert {path.rpartition("/")[2] for path in requests} == {
        "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"}
    assert {path.split("/")[4] for path in requests if "config" not in path} == {"a" * 40, "b" * 40}
    downloads = [request for request in server.storage.requests if request.startswith("GET /owner/both/")]
    assert len(downloads) == 1  # both revisions hold the same weights

    # from then on there is no request at all, nor any need of the downloads
    server.requests.clear()
    server.storage.requests.clear()
    lines = fetch(server, tmp_path, *specs, HF_HOME=str(tmp_path / "another"))
    assert [Path(line) for line in lines] == folders
    assert server.requests == server.storage.requests == []


def test_refusals(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    specs = ["owner/absent", "owner/gated", "owner/both@v9", "owner/empty", "owner/other", "owner",
             "owner/a b", "https://host/owner/name", "owner/na--me", "owner/broken"]
    told = ["hf-hub:owner/absent: there is no such repository, or it is private",
            "hf-hub:owner/gated: its owner must grant access",
            "hf-hub:owner/both: the repository has no revision v9",
            "hf-hub:owner/empty: none of open_clip_config.json, config.json is in the repository",
            "not a configuration of open_clip", "give hf-hub:OWNER/NAME", "give hf-hub:OWNER/NAME",
            "give hf-hub:OWNER/NAME", "hf-hub:owner/na--me: ",
            "hf-hub:owner/broken: it cannot be fetched: "]
    lines = fetch(server, tmp_path, *specs)
    assert len(lines) == len(specs)
    for line, expected in zip(lines, told):
        assert line.startswith("refused: ") and expected in line
    assert not (tmp_path / "cache").exists()


def test_offline(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    line, = fetch(server, tmp_path, "owner/pickle", HF_HUB_OFFLINE="1")
    assert line.startswith("refused: hf-hub:owner/pickle: the hub cannot be reached, and its files are not in")
    assert server.requests == []

    # what huggingface_hub has fetched before, for whomever, is converted without a connection
    fetch(server, tmp_path, "owner/pickle")
    line, = fetch(server, tmp_path, "owner/pickle", HF_HUB_OFFLINE="1",
                  MINIVIDEOCOCA_CACHE=str(tmp_path / "new"))
    assert weights(Path(line)).keys() == load_file(GOLDEN / "coca.safetensors").keys()


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MINIVIDEOCOCA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert hub.cache_folder() == tmp_path / ".cache" / "minivideococa"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache_folder() == tmp_path / "xdg" / "minivideococa"
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE", str(tmp_path / "mine"))
    assert hub.cache_folder() == tmp_path / "mine"
