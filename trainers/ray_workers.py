"""Where a training runs on Ray: the session, and how many CPUs and GPUs each worker gets."""

from __future__ import annotations

import os
from dataclasses import dataclass

from codec.errors import UsageError

# Read by Ray Train when it is imported, hence set before any function here imports it.
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A report waits for the controller's next look; its default of 2 s would outlast many training steps.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")


@dataclass(frozen=True)
class Resources:
    """Workers of a run, CPUs (and threads) of each, and whether each has a GPU."""

    workers: int
    cpus: int
    gpu: bool


def choose_resources(workers: int | None, beside: int = 1) -> Resources:
    """Divide the connected cluster among `workers`; None means one per GPU, or one where there is none. Leaves room for
    as many runs of this kind as shall train `beside` each other.

    Raises UsageError for more workers than CPUs, or than GPUs where some but not enough are there.
    """
    import ray

    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: at least 1 is needed")
    total = ray.cluster_resources()
    gpus = int(total.get("GPU", 0))
    each = workers or max(1, gpus // beside)
    chosen = each * beside
    if 0 < gpus < chosen:
        raise UsageError(f"--workers {chosen}: this Ray cluster has {gpus} GPUs, one for each worker is needed")
    per_node = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    # The most CPUs a worker can have so that all of them fit on the machines there are.
    for cpus in range(max(per_node, default=0), 0, -1):
        if sum(count // cpus for count in per_node) >= chosen:
            return Resources(each, cpus, gpus > 0)
    raise UsageError(f"--workers {chosen}: this Ray cluster has {sum(per_node)} CPUs; use no more workers than that")
