"""A full FFmpeg program, for what PyAV's own build lacks: VVenC, VMAF, and an SVT-AV1 that states its version.

Looked for in this order: $BITREEL_FFMPEG, the one that the package imageio-ffmpeg brings, `ffmpeg` on the PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from codec.errors import BitreelError, UsageError

VARIABLE = "BITREEL_FFMPEG"


@dataclass(frozen=True)
class FfmpegBuild:
    """An FFmpeg program and what it says of itself; encoders and filters are the names that it lists."""

    path: str
    version: str
    encoders: frozenset[str]
    filters: frozenset[str]

    def run(self, arguments: list[str], what: str, environment: dict[str, str] | None = None) -> str:
        """Run it and give what it wrote to standard error. Raises BitreelError with its reason where it fails."""
        done = _run(self.path, ["-nostdin", "-y", *arguments], environment)
        if done.returncode != 0:
            faults = [line.strip() for line in done.stderr.splitlines() if "rror" in line]
            reason = faults[0] if faults else f"exit status {done.returncode}"
            raise BitreelError(f"{what}: FFmpeg failed: {reason[:300]}")
        return done.stderr


def encoder_build(encoder: str) -> FfmpegBuild:
    """A build with that encoder. Raises UsageError where there is none, saying what to install."""
    return _first(lambda build: encoder in build.encoders, f"the encoder {encoder}")


def filter_build(name: str) -> FfmpegBuild:
    """A build with that filter. Raises UsageError where there is none, saying what to install."""
    return _first(lambda build: name in build.filters, f"the filter {name}")


def _first(fits: Callable[[FfmpegBuild], bool], what: str) -> FfmpegBuild:
    looked = []
    for path in _programs():
        build = _describe(path)
        if fits(build):
            return build
        looked.append(f"{path} ({build.version})")
    found = f"; without it: {', '.join(looked)}" if looked else ""
    raise UsageError(
        f"no FFmpeg with {what}: pip install imageio-ffmpeg, or set {VARIABLE} to a program that has it{found}"
    )


def _programs() -> Iterator[str]:
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise UsageError(f"{VARIABLE}='{named}': no such program")
        yield named
    try:
        import imageio_ffmpeg

        yield str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # not installed, or without a program for this machine
        pass
    if on_path := shutil.which("ffmpeg"):
        yield on_path


@cache
def _describe(path: str) -> FfmpegBuild:
    first = (_run(path, ["-version"]).stdout.splitlines() or [""])[0]
    version = first.removeprefix("ffmpeg version ").split(" Copyright")[0]
    return FfmpegBuild(path, version, _listed(path, "-encoders"), _listed(path, "-filters"))


def _listed(path: str, option: str) -> frozenset[str]:
    """Second words of the lines, which are the names; other lines give words that are no names."""
    words = (line.split() for line in _run(path, [option]).stdout.splitlines())
    return frozenset(line[1] for line in words if len(line) > 1)


def _run(
    path: str, arguments: list[str], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [path, "-hide_banner", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", env={**os.environ, **(environment or {})}, check=False,
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"'{path}' can't be run as FFmpeg: {error.strerror or error}") from error
