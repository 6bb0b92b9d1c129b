"""The configurations of a machine under which a stream must stay the same, and how each is brought about."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def lacks_nothing() -> str | None:
    return None


def lacks_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no GPU here"


def lacks_x86() -> str | None:
    return None if platform.machine().lower() in ("x86_64", "amd64") else "no x86 processor here"


def lacks_compiler() -> str | None:
    return None if shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++") else "no C++ compiler here"


@contextlib.contextmanager
def nothing(codec: Any) -> Iterator[None]:
    yield


@contextlib.contextmanager
def onednn_off(codec: Any) -> Iterator[None]:
    import torch

    with torch.backends.mkldnn.flags(enabled=False):
        yield


@contextlib.contextmanager
def channels_last(codec: Any) -> Iterator[None]:
    """Weights in channels-last order, and every input that reaches a layer."""
    import torch

    def turned(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        def turn(x: Any) -> Any:
            wide = isinstance(x, torch.Tensor) and x.dim() == 4
            return x.contiguous(memory_format=torch.channels_last) if wide else x

        return tuple(turn(x) for x in inputs)

    codec.to(memory_format=torch.channels_last)
    for module in codec.modules():
        module.register_forward_pre_hook(turned)
    yield


@contextlib.contextmanager
def batched(codec: Any) -> Iterator[None]:
    """Every layer sees its input as the middle one of a batch of three, beside two others."""
    import torch

    def in_company(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Any) -> Any:
            if x.dim() != 4 or len(x) != 1:
                return forward(x)
            return forward(torch.cat([x.flip(3), x, -x]))[1:2]

        return run

    for module in codec.modules():
        if not list(module.children()) and list(module.parameters()):
            module.forward = in_company(module.forward)
    yield


@contextlib.contextmanager
def onednn_off_channels_last(codec: Any) -> Iterator[None]:
    with onednn_off(codec), channels_last(codec):
        yield


@contextlib.contextmanager
def low_precision(codec: Any) -> Iterator[None]:
    """bfloat16 or TF32 products where the hardware has them."""
    import torch

    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    yield


@contextlib.contextmanager
def cudnn_searches(codec: Any) -> Iterator[None]:
    import torch

    torch.backends.cudnn.benchmark = True
    yield


@contextlib.contextmanager
def flush_denormals(codec: Any) -> Iterator[None]:
    import torch

    torch.set_flush_denormal(True)
    yield


@contextlib.contextmanager
def autocast(codec: Any) -> Iterator[None]:
    """The caller's own mixed precision, left on."""
    import torch

    with torch.autocast(next(codec.parameters()).device.type, torch.bfloat16):
        yield


@contextlib.contextmanager
def float64_by_default(codec: Any) -> Iterator[None]:
    import torch

    torch.set_default_dtype(torch.float64)
    yield


@contextlib.contextmanager
def inference_mode(codec: Any) -> Iterator[None]:
    """Within a caller's inference mode."""
    import torch

    with torch.inference_mode():
        yield


@contextlib.contextmanager
def compiled(codec: Any) -> Iterator[None]:
    """torch.compile on every public method of the network that decides the probabilities."""
    import torch

    torch._dynamo.config.recompile_limit = 256  # a graph for each group and size
    network = codec.prior
    for name in (n for n in vars(type(network)) if not n.startswith("_")):
        method = getattr(network, name)
        if callable(method):
            object.__setattr__(network, name, torch.compile(method))
    yield
    if not torch._dynamo.utils.counters["stats"]["unique_graphs"]:
        sys.exit("nothing was compiled")


@dataclass(frozen=True)
class Configuration:
    """name; environment: set before the process starts; threads: torch's; device: the codec's; tweak: a context, given
    the codec, in which it works; missing: says what this machine lacks for it, None where it lacks nothing."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    device: str = "cpu"
    tweak: Callable[[Any], AbstractContextManager[None]] = nothing
    missing: Callable[[], str | None] = lacks_nothing


def _numpy_features() -> str:
    """NumPy's names of the instruction sets that it chooses at run time."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return " ".join(found)


_NO_AVX = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": _numpy_features(),
    "NUMBA_CPU_NAME": "generic",
}
CONFIGURATIONS = {
    c.name: c
    for c in (
        Configuration("reference"),
        Configuration("2 threads", threads=2),
        Configuration("as many threads as cores, at least 4", threads=max(4, os.cpu_count() or 1)),
        Configuration("oneDNN off", tweak=onednn_off),
        Configuration("oneDNN off, 2 threads, channels last", threads=2, tweak=onednn_off_channels_last),
        Configuration("oneDNN with AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
        Configuration("oneDNN with SSE4.1", {"ONEDNN_MAX_CPU_ISA": "SSE41"}),
        Configuration("no AVX-512 anywhere", {**_NO_AVX, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
                                          "MKL_ENABLE_INSTRUCTIONS": "AVX2", "MKL_CBWR": "AVX2",
                                          "OPENBLAS_CORETYPE": "Haswell", "NUMBA_CPU_NAME": "haswell"},
                          missing=lacks_x86),
        Configuration("no AVX anywhere", _NO_AVX, missing=lacks_x86),
        Configuration("no AVX anywhere, oneDNN off", _NO_AVX, tweak=onednn_off, missing=lacks_x86),
        Configuration("entropy coder not compiled", {"NUMBA_DISABLE_JIT": "1"}),
        Configuration("channels last", tweak=channels_last),
        Configuration("in a batch", tweak=batched),
        Configuration("low matmul precision", tweak=low_precision),
        Configuration("denormals flushed", tweak=flush_denormals),
        Configuration("inference mode", tweak=inference_mode),
        Configuration("within autocast", tweak=autocast),
        Configuration("float64 by default", tweak=float64_by_default),
        Configuration("torch.compile of the prior", tweak=compiled, missing=lacks_compiler),
        Configuration("GPU", device="cuda", missing=lacks_gpu),
        Configuration("GPU, TF32 allowed", device="cuda", tweak=low_precision, missing=lacks_gpu),
        Configuration("GPU, cuDNN searches", device="cuda", tweak=cudnn_searches, missing=lacks_gpu),
    )
}  # fmt: skip
FAST = ["reference", "oneDNN off, 2 threads, channels last", "entropy coder not compiled"]
