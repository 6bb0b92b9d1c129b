"""Compile the coder's kernels for this machine ahead of their first use, several at once:
`python -m codec.kernel_cache`.

numba keeps what it compiled on disk, so this is done once for each version of Bitreel, of numba and each kind of CPU.
Where no place can be written, or a process fails, kernels are compiled when they are needed, as if this were not there.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from codec.errors import BitreelError

_MODULES = (
    "codec.exact.layer_kernels",
    "codec.inter.post_filter_kernels",
    "codec.inter.walk_kernels",
    "codec.innvc.filter_gains_kernels",
    "codec.lifting_kernels",
    "codec.motion_compensation_kernels",
    "codec.sample_filter_kernels",
    "codec.sample_kernels",
    "codec.sample_measure_kernels",
)


def intra() -> None:
    """Code an intra frame of one block."""
    from codec.inter.quantization import intra_steps
    from codec.intra.coding import IntraSettings, encode_intra

    luma, chroma = np.full((16, 16), 128, np.int32), np.full((8, 8), 128, np.int32)
    encode_intra((luma, chroma, chroma.copy()), IntraSettings(30, intra_steps()))


def search() -> None:
    """Look for the motion of one block."""
    from codec.motion_search import search_motion

    grey = torch.full((1, 16, 16), 128.0)
    search_motion(grey, [grey], (1,), torch.tensor([4.0]))


def motion() -> None:
    """Code the motion of one block."""
    from codec.entropy_coding import SymbolEncoder
    from codec.motion import Motion
    from codec.motion_chances import MotionChances
    from codec.motion_coding import encode_motion

    encode_motion(SymbolEncoder(), Motion.still(1, 16, 16), (1,), MotionChances())


def rest() -> None:
    """Everything that compiles when it is imported, and a half of symbols."""
    from codec.adaptive_tables import AdaptiveTables
    from codec.distributions import ScaleTables
    from codec.inter.symbol_mixing import Half, SymbolMixing, new_mixer

    for name in _MODULES:
        importlib.import_module(name)
    scales, zeros = ScaleTables("laplace", 7.5), torch.zeros(1, 2, dtype=torch.int64)
    half = Half(0, torch.tensor([[0, 1]]), False, zeros + 9, zeros + 9, zeros)
    SymbolMixing(2, 2, new_mixer()).encode(zeros.int(), half, AdaptiveTables(scales.tables()).tables())


GROUPS = {each.__name__: each for each in (intra, motion, search, rest)}  # those that take longest first


def place() -> Path | None:
    """The file that says that it was done; None without numba."""
    try:
        import llvmlite
        import numba

        from codec.rans import kernels_digest
    except ImportError:
        return None
    from llvmlite import binding

    processor = binding.get_host_cpu_name(), sorted(binding.get_host_cpu_features().items())
    versions = kernels_digest(), numba.__version__, llvmlite.__version__, platform.python_version()
    # numba goes by the files' times, which an installation sets anew.
    files = [(str(path), path.stat().st_mtime_ns) for path in sorted(Path(__file__).parent.rglob("*kernels.py"))]
    told = processor, versions, os.environ.get("NUMBA_CPU_NAME", ""), files
    name = f"bitreel-kernels-{hashlib.sha256(repr(told).encode()).hexdigest()[:16]}"
    own = Path(__file__).parent / "__pycache__"
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(given) / name
    if os.access(own if own.is_dir() else own.parent, os.W_OK):
        return own / name
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bitreel" / name


def compile_all(done: Path) -> None:
    """Compile all kernels, each group in a process of its own, as many at once as there are cores.

    Raises BitreelError with the last line that a process said where one fails.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for failed in filter(None, pool.map(_in_process, GROUPS)):
            raise BitreelError(f"can't compile the coder's kernels: {failed}")
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()


def _in_process(group: str) -> str | None:
    command = [sys.executable, "-m", "codec.kernel_cache", group]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    return (ended.stderr.strip() or "no message").splitlines()[-1] if ended.returncode else None


def main() -> None:
    if sys.argv[1:]:
        GROUPS[sys.argv[1]]()
        return
    if (done := place()) is None or done.exists():
        return
    try:
        compile_all(done)
    except (BitreelError, OSError) as error:
        print(f"{error}; they are compiled when they are needed", file=sys.stderr)


if __name__ == "__main__":
    main()
