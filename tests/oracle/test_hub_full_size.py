"""From the hub to a caption, with the real shapes of coca_ViT-B-32: half a gigabyte in float16.

As in the released repository there is no configuration. The transfer breaks off twice. Needs 3 GB of disk.
"""

import json
import os
import subprocess
import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS))

from test_hub import server  # noqa: E402, F401 (the fixture)
from test_released_layouts import CLIP, LAION, PACKAGE, README, random_weights, torch_file  # noqa: E402

from minivideococa.checkpoint import released  # noqa: E402


def test_the_released_b32_from_the_hub(server: ThreadingHTTPServer, tmp_path: Path) -> None:  # noqa: F811
    model_cfg = json.loads((released.FOLDER / "coca_ViT-B-32.json").read_text())
    file = torch_file(tmp_path / "open_clip_pytorch_model.bin", random_weights(model_cfg, dtype="float16"))
    server.repositories[LAION], server.storage.breaks = {**README, "open_clip_pytorch_model.bin": file}, 2
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "MINIVIDEOCOCA_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(PACKAGE),
    }

    def command(*arguments: str | Path) -> subprocess.CompletedProcess:
        run = subprocess.run(
            [sys.executable, "-m", "minivideococa", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert run.returncode == 0, run.stderr
        return run

    options = ("--frames", "1", "--beams", "1", "--max-length", "6")
    fetched = command("caption", CLIP, "--weights", f"hf-hub:{LAION}", *options)
    assert "using open_clip's coca_ViT-B-32" in fetched.stderr
    assert len(server.storage.resumed) == 2 and min(server.storage.resumed) > 1e8
    command("convert", file, tmp_path / "local")
    local = command("caption", CLIP, "--weights", tmp_path / "local", *options)
    assert local.stdout.strip() and local.stdout == fetched.stdout
