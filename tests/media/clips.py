"""Clips encoded by ffmpeg for the tests of this folder, and ffmpeg's own full decode to compare with."""

import subprocess
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

TEST = "testsrc2=s=64x48:r=25:d=2,noise=alls=30:allf=t:all_seed=7"  # 50 different frames
LOSSLESS = ["-c:v", "ffv1"]
H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "3", "-b_strategy", "0", "-g", "20"]
VP9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"]
MPEG4 = ["-c:v", "mpeg4", "-bf", "2"]

# Encoding and decoding are deterministic: equal clips are encoded and decoded once in a session.
_encoded: dict[tuple, bytes] = {}
_decoded: dict[tuple, np.ndarray] = {}


def ffmpeg(*arguments: str | Path | int, **options) -> bytes:
    """Run ffmpeg and return its standard output."""
    command = [get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout


def make(path: Path, *encoding: str | Path, source: str = TEST) -> Path:
    """Encode a clip."""
    key = (path.suffix, source, *encoding)
    if key in _encoded:
        path.write_bytes(_encoded[key])
    else:
        ffmpeg("-f", "lavfi", "-i", source, *encoding, path)
        _encoded[key] = path.read_bytes()
    return path


def add_cover_art(path: Path, cover: Path) -> Path:
    """Encode a clip that has a picture as a second video stream, marked as cover art."""
    disposition = ["-c:v:1", "copy", "-disposition:v:1", "attached_pic"]
    return make(path, "-i", cover, "-map", "0", "-map", "1", *H264, *disposition)


def make_album(path: Path, cover: Path) -> Path:
    """Encode sound with cover art and no video."""
    sound = ["-f", "lavfi", "-i", "sine=d=1", "-i", cover, "-map", "0", "-map", "1"]
    ffmpeg(*sound, "-c:v", "copy", "-disposition:v", "attached_pic", path)
    return path


def decode_all(path: Path, width: int = 64, height: int = 48, stream: str | None = None) -> np.ndarray:
    """Decode every frame with ffmpeg's plainest command: uint8 [n, H, W, 3]."""
    key = (path.suffix, path.read_bytes(), stream)
    if key not in _decoded:
        mapping = ["-map", stream] if stream else ["-an"]
        output = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        _decoded[key] = np.frombuffer(ffmpeg("-i", path, *mapping, *output), np.uint8)
    return _decoded[key].reshape(-1, height, width, 3)


def middle_frames(frames: np.ndarray, num_frames: int) -> np.ndarray:
    """Return frame floor((t + 1/2) * n / T) of n for each t."""
    middles = [Fraction(2 * t + 1, 2) * len(frames) / num_frames for t in range(num_frames)]
    return frames[[floor(middle) for middle in middles]]
