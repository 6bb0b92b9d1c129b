"""A whole `run_training` of the tiny codec as a process: `python -m tests.infra.tiny_training STORE RECIPE [RUN]`.

RECIPE: changes to the tiny recipe as JSON; RUN: one to go on with. The environment paces steps (TINY_PACE).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def main(store: str, changes: str, resume: str | None = None) -> None:
    import ray

    from codec.errors import BitreelError
    from infra.training_job import run_training
    from tests.trainers.synthetic import tiny_recipe
    from tests.trainers.tiny_codec import install

    install()
    variables = {key: os.environ[key] for key in ("TINY_PACE", "TINY_DEATHS") if key in os.environ}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={
            "worker_process_setup_hook": "tests.trainers.tiny_codec.install",
            "env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])} | variables,
        },
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as the command line does
    try:
        done = run_training(tiny_recipe(**json.loads(changes)), Path(store), workers=1, resume=resume)
        print(json.dumps({"run": done.run, "run_id": done.run_id}))
    except BitreelError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main(*sys.argv[1:])
