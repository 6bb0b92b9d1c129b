"""Where this project reaches into Ray Train: signals in its workers, and a checkpoint before it changes their number.

Imports Ray; nothing that the plain loop needs may import this.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.v2._internal.execution.callback import ControllerCallback

from trainers.run_events import note_event, read_events
from trainers.step_requests import Request
from trainers.stop_notice import ask, heed_sigterm

CHECKPOINT_PATIENCE = 30.0  # seconds that a change of the number of workers waits for a checkpoint

_TorchBackend: Any = TorchConfig().backend_cls


class _NoticingBackend(_TorchBackend):
    """Ray's set-up of PyTorch, and SIGTERM heeded. It runs in each worker's main thread, where signals are set up."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(heed_sigterm)
        super().on_start(worker_group, backend_config)


class NoticingTorchConfig(TorchConfig):
    """As `TorchConfig`, for workers that save their work when they are told to go."""

    @property
    def backend_cls(self) -> Any:
        return _NoticingBackend


class CheckpointBeforeResize(ControllerCallback):
    """Asks for a checkpoint and waits for it before running workers are replaced by more or fewer of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._running = folder, False

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Ray's: the controller went from one state to another."""
        name = type(current_state).__name__
        if name in ("RunningState", "ResizingState"):
            self._running = True
        elif name != "SchedulingState" or type(previous_state).__name__ != "ResizingState":
            self._running = False

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Ray's: workers are about to be started, in place of others where some are running."""
        if not self._running:
            return
        until = time.monotonic() + CHECKPOINT_PATIENCE
        _, place = read_events(self.folder)
        ask(self.folder, Request.CHECKPOINT)
        note_event(self.folder, "resizing", f"changing to {resize_decision.num_workers} workers, after a checkpoint")
        while time.monotonic() < until:
            if any(event["event"] == "checkpoint" for event in read_events(self.folder, place)[0]):
                return
            time.sleep(0.1)
