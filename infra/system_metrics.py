"""How busy the machine of a training is, under the names that MLflow shows in its tab of system metrics.

MLflow has a sampler of its own, which ends for good at the first request that fails; this one hands its figures to
whoever keeps them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

SAMPLE_SECONDS = 5.0
REPORT_SECONDS = 30.0  # each report is the mean of the samples since the last


class SystemSampler:
    """Calls `report` with mean figures every `REPORT_SECONDS`, from a thread, until `stop`. Never raises."""

    def __init__(self, report: Callable[[dict[str, float]], None], disk: Path) -> None:
        self._report, self._disk = report, disk
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Report what was sampled since the last report, and end."""
        self._over.set()
        self._thread.join(SAMPLE_SECONDS)

    def _work(self) -> None:
        try:
            for figures in self._means():
                self._report(figures)
        except Exception as error:  # no figure of this kind is worth a training
            logging.getLogger(__name__).warning("no system metrics from now on: %s", error)

    def _means(self) -> Iterator[dict[str, float]]:
        import psutil

        process, first = psutil.Process(), psutil.net_io_counters()
        psutil.cpu_percent()  # the first answer is always 0
        process.cpu_percent()
        samples: list[dict[str, float]] = []
        over = False
        while not over:
            over = self._over.wait(SAMPLE_SECONDS)
            memory, network = psutil.virtual_memory(), psutil.net_io_counters()
            samples.append(
                {
                    "cpu_utilization_percentage": psutil.cpu_percent(),
                    "system_memory_usage_megabytes": memory.used / 1e6,
                    "system_memory_usage_percentage": memory.percent,
                    "disk_usage_percentage": psutil.disk_usage(str(self._disk)).percent,
                    "disk_available_megabytes": psutil.disk_usage(str(self._disk)).free / 1e6,
                    "network_receive_megabytes": (network.bytes_recv - first.bytes_recv) / 1e6,
                    "network_transmit_megabytes": (network.bytes_sent - first.bytes_sent) / 1e6,
                    "process_cpu_percentage": process.cpu_percent(),
                    "process_memory_megabytes": process.memory_info().rss / 1e6,
                }
                | _gpus()
            )
            if over or len(samples) * SAMPLE_SECONDS >= REPORT_SECONDS:
                yield {f"system/{key}": _mean([s[key] for s in samples if key in s]) for key in samples[-1]}
                samples = []


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 2)


def _gpus() -> dict[str, float]:
    """Memory in use on each GPU that this process sees, and how busy it is where NVIDIA's library tells."""
    import torch

    figures: dict[str, float] = {}
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return figures  # asking would make a context on a GPU that is not ours to use
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        figures[f"gpu_{index}_memory_usage_megabytes"] = (total - free) / 1e6
        figures[f"gpu_{index}_memory_usage_percentage"] = 100 * (total - free) / total
        with contextlib.suppress(Exception):
            figures[f"gpu_{index}_utilization_percentage"] = float(torch.cuda.utilization(index))
    return figures
