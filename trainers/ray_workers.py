"""Where a training runs on Ray: the session, and how many CPUs and GPUs each worker gets."""

from __future__ import annotations

import os
from dataclasses import dataclass

from codec.errors import UsageError

# How long workers may wait for places that were just promised: a dead node's are still promised for a while, and each
# wait for them is followed by another look; the default is 60 s.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")  # read by Ray Train when it is imported, as all of these
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A worker's death and a run's end are seen at the controller's next look; its default is 2 s.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
# A notice that a machine goes leaves half a minute or two; the default is 5 s.
os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")

# How many workers: a number, the least and the most, or None for one a GPU, or one.
Workers = int | tuple[int, int] | None


@dataclass(frozen=True)
class Resources:
    """Workers of a run, least and most, CPUs (and threads) of each, and whether each has a GPU."""

    least: int
    most: int
    cpus: int
    gpu: bool


def parse_workers(text: str | None) -> Workers:
    """ "3" or "2-6" as it is given on a command line. Raises UsageError for anything else."""
    if text is None:
        return None
    least, dash, most = text.partition("-")
    if not least.isdigit() or (dash and not most.isdigit()):
        raise UsageError(f"--workers {text}: expected a number, or the least and the most as in 2-6")
    numbers = (int(least), int(most)) if dash else int(least)
    _check(numbers)
    return numbers


def choose_resources(workers: Workers, batch_size: int | None = None, beside: int = 1) -> Resources:
    """Divide the connected cluster among `workers`; None means one per GPU, or one where there is none.

    With a least and a most, each worker gets what it would with one on each machine there is now, within these limits;
    never more workers than clips in a batch, where one is given. `beside` runs of this kind find room at once. Raises
    UsageError for more workers than CPUs, or than GPUs where some but not enough are there.
    """
    import ray

    _check(workers)
    total = ray.cluster_resources()
    gpus = int(total.get("GPU", 0))
    # A head often has no CPUs to give: nothing is to be placed there.
    per_node = [cpus for node in ray.nodes() if node["Alive"] and (cpus := int(node["Resources"].get("CPU", 0)))]
    if isinstance(workers, tuple):
        least, most = workers
        most = max(least, min(most, batch_size or most))
        now = max(least, min(most, (gpus or len(per_node)) // beside))
    else:
        least = most = now = workers or max(1, gpus // beside)
    asked = f"--workers {now}" if least == most else f"--workers {least}-{most}"
    if 0 < gpus < least * beside:
        raise UsageError(f"{asked}: this Ray cluster has {gpus} GPUs, one for each worker is needed")
    # The most CPUs a worker can have so that all of them fit on the machines there are.
    for cpus in range(max(per_node, default=0), 0, -1):
        if sum(count // cpus for count in per_node) >= now * beside:
            return Resources(least, most, cpus, gpus > 0)
    raise UsageError(f"{asked}: this Ray cluster has {sum(per_node)} CPUs; use no more workers than that")


def _check(workers: Workers) -> None:
    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    if least is not None and most is not None and (least < 1 or most < least):
        raise UsageError(f"--workers {least}{'' if most == least else f'-{most}'}: give 1 or more, the least first")
