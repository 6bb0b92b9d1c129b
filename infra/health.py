"""What works on this machine: each part is used for real, on a tiny thing, and says how to mend it where it fails."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from codec.frames import Frame, VideoFormat

Verdict = Literal["ok", "warn", "fail"]
LOW_DISK_GIB = 5.0
_SIZE = (96, 64)
_FRAMES = 6


@dataclass(frozen=True)
class Check:
    """One line of the answer. mend: what to do; empty where nothing need be done."""

    name: str
    verdict: Verdict
    found: str
    mend: str = ""


def check_all() -> Iterator[Check]:
    """Every check, as it is done. A "fail" means that a part every user needs does not work."""
    with tempfile.TemporaryDirectory(prefix="bitreel-doctor-") as scratch:
        clip = Path(scratch) / "clip.mp4"
        checks: list[tuple[str, Callable[[], Check]]] = [
            ("Python", check_python),
            ("PyTorch", check_torch),
            ("GPU", check_gpu),
            ("PyAV", lambda: check_pyav(clip)),
            ("decord", lambda: check_decord(clip)),
            ("x265", check_x265),
            ("Ray", check_ray),
            ("MLflow", lambda: check_mlflow(Path(scratch))),
            ("disk", check_disk),
        ]
        for name, check in checks:
            try:
                yield check()
            except Exception as error:  # whatever it is, it belongs in the answer
                reason = (str(error).splitlines() or [""])[0] or type(error).__name__
                yield Check(name, "fail", f"{type(error).__name__}: {reason}", _MENDS[name])


_REINSTALL = "install Bitreel's dependencies anew: pip install -c constraints.txt -e ."
_MENDS = {
    "Python": "use Python 3.11 or newer",
    "PyTorch": _REINSTALL,
    "GPU": "see `nvidia-smi`; the driver must be as new as PyTorch's CUDA",
    "PyAV": _REINSTALL,
    "decord": "pip install decord; until then use --decoder pyav",
    "x265": "install PyAV's own wheel, which has libx265: pip install --force-reinstall --only-binary :all: av",
    "Ray": "look at the logs in /tmp/ray/session_latest/logs; /dev/shm and /tmp need free space",
    "MLflow": _REINSTALL,
    "disk": "free some space",
}


def check_python() -> Check:
    """Python's and Bitreel's versions."""
    found = f"{platform.python_version()}, bitreel {importlib.metadata.version('bitreel')}, {os.cpu_count()} CPUs"
    return Check("Python", "ok", found)


def check_torch() -> Check:
    """A convolution with a known answer."""
    import torch

    ones = torch.ones(1, 1, 4, 4)
    total = float(torch.nn.functional.conv2d(ones, torch.ones(1, 1, 3, 3)).sum())
    if total != 36.0:
        return Check("PyTorch", "fail", f"{torch.__version__}: a convolution gives {total}, not 36", _MENDS["PyTorch"])
    return Check("PyTorch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def check_gpu() -> Check:
    """Whether PyTorch computes on a GPU; none is only a warning."""
    import torch

    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
        return Check("GPU", "warn", f"none usable (PyTorch is built for {built})", "training works on CPU, slowly")
    total = float(torch.ones(8, device="cuda").sum())
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    if total != 8.0:
        return Check("GPU", "fail", f"{names}: a sum gives {total}, not 8", _MENDS["GPU"])
    return Check("GPU", "ok", f"{names}, CUDA {torch.version.cuda}")


def check_pyav(clip: Path) -> Check:
    """Write a lossless clip (H.264) and read the same pixels back."""
    import av

    from pipeline.decoders import open_video
    from pipeline.video_files import open_writer

    frames = _test_frames()
    with open_writer(clip, VideoFormat(*_SIZE)) as writer:
        for frame in frames:
            writer.write(frame)
    with open_video(clip) as source:
        read = [frame.to_bytes() for frame in source]
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    if read != [frame.to_bytes() for frame in frames]:
        return Check("PyAV", "fail", f"{av.__version__}: a lossless clip comes back changed", _MENDS["PyAV"])
    return Check("PyAV", "ok", f"{av.__version__}, libavcodec {ffmpeg}")


def check_decord(clip: Path) -> Check:
    """Read the clip that PyAV wrote."""
    if not clip.is_file():
        return Check("decord", "warn", "not tried: there is no clip to read, since PyAV failed", "mend PyAV first")
    try:
        import decord
    except (ImportError, OSError) as error:
        return Check("decord", "warn", f"can't be loaded: {error}", _MENDS["decord"])
    count = len(decord.VideoReader(str(clip)))
    if count != _FRAMES:
        return Check("decord", "warn", f"{decord.__version__}: gives {count} of {_FRAMES} frames", _MENDS["decord"])
    return Check("decord", "ok", str(decord.__version__))


def check_x265() -> Check:
    """Encode one frame and read the version that x265 writes into its stream."""
    from infra.x265_anchor import encoder_version

    return Check("x265", "ok", encoder_version())


def check_ray() -> Check:
    """Start Ray here (or use the running one) and have a task done in another process."""
    import ray

    from pipeline.ray_session import ray_session

    with ray_session(None):
        there = ray.get(ray.remote(num_cpus=1)(_process_id).remote(), timeout=120)
        cpus = int(ray.cluster_resources().get("CPU", 0))
    if there == os.getpid():
        return Check("Ray", "fail", f"{ray.__version__}: the task ran in this very process", _MENDS["Ray"])
    return Check("Ray", "ok", f"{ray.__version__}, {cpus} CPUs")


def check_mlflow(scratch: Path) -> Check:
    """Log a run to a new SQLite database and read it back; say where real runs go."""
    import mlflow

    from infra.tracking import connect, tracking_uri, without_login

    client = connect(f"sqlite:///{scratch / 'mlflow.db'}")
    experiment = client.create_experiment("doctor", artifact_location=(scratch / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    client.log_metric(run_id, "answer", 42.0)
    answer = client.get_run(run_id).data.metrics["answer"]
    if answer != 42.0:
        return Check("MLflow", "fail", f"{mlflow.__version__}: a metric comes back as {answer}", _MENDS["MLflow"])
    uri = tracking_uri()
    if not uri.startswith("sqlite:"):
        connect(uri)
    return Check("MLflow", "ok", f"{mlflow.__version__}, runs go to {without_login(uri)}")


def check_disk() -> Check:
    """Free space here and where temporary files go."""
    places = {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    free = {name: shutil.disk_usage(path).free / 2**30 for name, path in places.items()}
    found = ", ".join(f"{gib:.0f} GiB free {'for ' if 'files' in name else ''}{name}" for name, gib in free.items())
    if min(free.values()) < LOW_DISK_GIB:
        return Check("disk", "warn", found, f"less than {LOW_DISK_GIB:.0f} GiB is little for stores and runs")
    return Check("disk", "ok", found)


def _process_id() -> int:
    return os.getpid()


def _test_frames() -> list[Frame]:
    width, height = _SIZE
    y, x = np.mgrid[:height, :width]
    frames = []
    for i in range(_FRAMES):
        luma = ((x * 2 + y + 8 * i) % 220 + 16).astype(np.uint8)
        u = ((x[::2, ::2] + 4 * i) % 200 + 20).astype(np.uint8)
        v = ((y[::2, ::2] + 4 * i) % 200 + 20).astype(np.uint8)
        frames.append(Frame(luma, u, v))
    return frames
