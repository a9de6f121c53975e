"""Run code in new processes that start fast: they are forked from one that has imported the packages.

A process of its own is needed where environment variables are read at import, as huggingface_hub does. It is
therefore imported again in every process; what it imports itself is not.
"""

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import minivideococa

PACKAGE = Path(minivideococa.__file__).parents[1]
SERVER = """
import json, os, sys, traceback
import huggingface_hub
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, snapshot_download
import numpy, safetensors.numpy, tokenizers
import minivideococa.checkpoint.hub, minivideococa.media.tokenizer, minivideococa.model.videococa
for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
    del sys.modules[name]
del HfApi, get_hf_file_metadata, hf_hub_download, huggingface_hub, snapshot_download
for line in sys.stdin:
    job = json.loads(line)
    if not (child := os.fork()):
        for descriptor, path in ((1, job["stdout"]), (2, job["stderr"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.environ.clear()
        os.environ.update(job["environment"])
        sys.argv = ["-c", *job["arguments"]]
        status = 0
        try:
            exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def server() -> subprocess.Popen:
    """Start the process that others are forked from."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
    )
    atexit.register(process.communicate, "")
    return process


def run(code: str, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Run code in a new process and wait for its end. Raise CalledProcessError if it fails."""
    if sys.platform != "linux":  # Windows has no fork; on macOS a forked process may not use the network
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=environment | {"PYTHONPATH": str(PACKAGE)},
        )
    with TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / name) for name in ("stdout", "stderr")}
        job = {"code": code, "arguments": arguments, "environment": environment, **files}
        server().stdin.write(json.dumps(job) + "\n")
        server().stdin.flush()
        status = int(server().stdout.readline())
        stdout, stderr = (Path(path).read_text() for path in files.values())
    if status:
        raise subprocess.CalledProcessError(status, arguments, stdout, stderr)
    return subprocess.CompletedProcess(arguments, status, stdout, stderr)
