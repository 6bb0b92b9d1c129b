"""VMAF, where an FFmpeg program has libvmaf: of decoded frames against the source, frame by frame."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from types import TracebackType

from codec.errors import BitreelError
from codec.frames import Frame
from infra.evaluation_source import EvaluationSource
from infra.ffmpeg_build import filter_build

MODEL = "vmaf_v0.6.1"


@cache
def vmaf_version() -> str:
    """The model, and the FFmpeg build whose libvmaf runs it. Raises UsageError where no FFmpeg here has libvmaf."""
    return f"{MODEL}, FFmpeg {filter_build('libvmaf').version}"


class VmafMeter:
    """Collects decoded frames in a file below `folder`, then scores all of them. A context manager; the file goes."""

    def __init__(self, source: EvaluationSource, folder: Path) -> None:
        self._source = source
        self._build = filter_build("libvmaf")
        folder.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(dir=folder, prefix=".vmaf-")
        self._path = Path(self._scratch.name) / "decoded.yuv"
        self._handle = self._path.open("wb")

    def add(self, frame: Frame) -> None:
        """The next decoded frame, of the source's size."""
        self._handle.write(frame.to_bytes())

    def scores(self) -> list[float]:
        """VMAF (0..100) of each frame. Raises BitreelError where FFmpeg fails or scores another number of frames."""
        self._handle.close()
        source, log = self._source, Path(self._scratch.name) / "vmaf.json"
        raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{source.width}x{source.height}", "-r", source.fps]
        graph = f"[0:v][1:v]libvmaf=model=version={MODEL}:n_threads=1:log_fmt=json:log_path={_escaped(log)}"
        told = [*raw, "-i", str(self._path), *raw, "-i", source.path, "-lavfi", graph, "-f", "null", "-"]
        self._build.run(told, f"VMAF of {source.name}")
        try:
            found = [float(frame["metrics"]["vmaf"]) for frame in json.loads(log.read_text())["frames"]]
        except (OSError, ValueError, KeyError) as error:
            raise BitreelError(f"VMAF of {source.name}: libvmaf wrote no scores ({error})") from error
        if len(found) != source.frame_count:
            raise BitreelError(f"VMAF of {source.name}: {len(found)} of {source.frame_count} frames have scores")
        return found

    def __enter__(self) -> VmafMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()
        self._scratch.cleanup()


def _escaped(path: Path) -> str:
    """The path as the value of an option within a filter graph: escaped once for the option, once for the graph."""
    text = "".join(f"\\{c}" if c in "\\':" else c for c in str(path))
    return "".join(f"\\{c}" if c in "\\'[],;" else c for c in text)
