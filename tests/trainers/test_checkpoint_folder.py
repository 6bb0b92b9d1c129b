"""Which checkpoints stay, and what a full disk or a damaged file does to a run."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch

from codec.api import CODECS
from codec.errors import BitreelError
from tests.trainers.synthetic import tiny_recipe
from trainers.checkpoint import Snapshot
from trainers.checkpoint_folder import CheckpointFolder, CheckpointNote, KeepingPolicy, Validated, steps_to_keep
from trainers.checkpoint_writer import CheckpointWriter
from trainers.loop import fresh_codec


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")


def snapshot(step: int) -> Snapshot:
    recipe = tiny_recipe()
    codec = fresh_codec(recipe)
    weights = {name: torch.full_like(value, step) for name, value in codec.state_dict().items()}
    return Snapshot(codec, recipe, step, 1, 0, {"loss": float(-step)}, [], weights, {}, {})


def test_the_last_the_best_of_the_phase_and_one_every_so_often_stay() -> None:
    losses = [0.1, 5.0, 4.0, 3.0, 4.5, 6.0]
    notes = [
        CheckpointNote(step, 3600.0 * step, {"loss": loss, "phase": float(step > 0)})
        for step, loss in enumerate(losses)
    ]
    assert steps_to_keep(notes, KeepingPolicy(2)) == {4, 5}
    # Step 0 has the lowest loss, but of another phase.
    assert steps_to_keep(notes, KeepingPolicy(1, best="loss")) == {3, 5}
    assert steps_to_keep(notes, KeepingPolicy(1, hours=2)) == {0, 2, 4, 5}
    # One by one, with what was let go really gone, the same stay.
    kept: list[CheckpointNote] = []
    for note in notes:
        steps = steps_to_keep([*kept, note], KeepingPolicy(1, hours=2))
        kept = [n for n in [*kept, note] if n.step in steps]
    assert {n.step for n in kept} == {0, 2, 4, 5}


def test_the_best_by_validation_stays_and_so_does_what_may_become_it() -> None:
    # By training loss step 3 would be the best, and step 1 that of another phase.
    losses = [9.0, 0.1, 8.0, 1.0, 7.0, 6.0]
    notes = [CheckpointNote(step, 0.0, {"loss": loss, "phase": float(step > 1)}) for step, loss in enumerate(losses)]
    policy = KeepingPolicy(1, best="validation")
    assert steps_to_keep(notes, policy) == {5}
    found = {0: 2.0, 1: 3.0}
    assert steps_to_keep(notes, policy, Validated(found)) == {0, 5}
    assert steps_to_keep(notes, policy, Validated(found, frozenset({2, 4, 7}))) == {0, 2, 4, 5}
    assert steps_to_keep(notes, policy, Validated(found | {2: 1.0}, frozenset({4}))) == {2, 4, 5}
    assert steps_to_keep(notes[3:], policy, Validated(found)) == {5}  # the best one's checkpoint is gone
    assert steps_to_keep(notes, KeepingPolicy(1), Validated(found, frozenset({2}))) == {5}


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path, KeepingPolicy(3))
    assert folder.newest_whole() is None
    for step in (2, 4, 6):
        folder.write(snapshot(step))
    assert folder.steps() == [2, 4, 6]
    (folder.path(6) / "model.safetensors").unlink()
    weights = bytearray((folder.path(4) / "model.safetensors").read_bytes())
    weights[-1] ^= 16
    (folder.path(4) / "model.safetensors").write_bytes(bytes(weights))
    found = folder.newest_whole()
    assert found is not None and found[0] == folder.path(2) and found[1].step == 2
    assert float(found[1].weights["up.bias"][0]) == 2
    assert "damaged: model.safetensors is not what was written; going back" in caplog.text
    assert folder.steps() == [2]
    (folder.path(2) / "training.json").write_text("{")
    with pytest.raises(BitreelError, match=r"no checkpoint in .* is whole"):
        folder.newest_whole()


def test_what_is_written_after_a_damaged_one_stays(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, KeepingPolicy(1))
    for again in range(2):
        for step in (100, 200):
            snapshot(step).write(folder.path(step))
        (folder.path(200) / "training.safetensors").write_bytes(b"")
        found = folder.newest_whole()
        assert found is not None and found[1].step == 100
        folder.write(snapshot(110))
        assert folder.steps() == [110]
        folder.write(snapshot(120))
        assert folder.steps() == [120]
        assert len(list(tmp_path.glob("damaged-step-00000200*"))) == again + 1
        shutil.rmtree(folder.path(120))


def test_a_run_that_went_back_behind_a_damaged_one_has_not_stood_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.train.v2.api.exceptions import WorkerGroupError

    import trainers.ray_train as ray_train

    recipe, attempts = tiny_recipe(), []
    folder = ray_train.checkpoint_folder(tmp_path, recipe)
    for step in (100, 200):
        snapshot(step).write(folder.path(step))

    def fit(*_: object) -> None:
        attempts.append(folder.steps())
        if len(attempts) == 1:
            (folder.path(200) / "model.safetensors").unlink()
            folder.newest_whole()
            snapshot(110).write(folder.path(110))
        raise WorkerGroupError("killed", {})

    monkeypatch.setattr(ray_train, "_fit", fit)
    with pytest.raises(BitreelError, match="without a new checkpoint"):
        ray_train._fit_while_it_advances(recipe, tmp_path, tmp_path, ray_train.Resources(1, 1, 1, False), None, None)
    assert attempts == [[100, 200], [100, 110]]


def test_a_checkpoint_of_another_format_keeps_its_name(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, KeepingPolicy(1))
    for step in (1, 2):
        snapshot(step).write(folder.path(step))
    (folder.path(2) / "training.json").write_text(json.dumps({"format": 3}))
    (folder.path(2) / "training.safetensors").unlink()  # another format may have other files
    found = folder.newest_whole()
    assert found is not None and found[1].step == 1
    folder.write(snapshot(3))
    assert folder.steps() == [2, 3]


def test_a_removal_that_is_killed_leaves_nothing_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path, KeepingPolicy(1))
    folder.write(snapshot(1))

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.is_dir():
            (path / "config.json").unlink()
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(SystemExit):
            folder.write(snapshot(2))
    assert folder.steps() == [2]
    folder.prune()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".step-00000001.part").mkdir()
    folder = CheckpointFolder(tmp_path, KeepingPolicy(1))
    folder.write(snapshot(2))
    folder.write(snapshot(4))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_writing_goes_on_beside_the_training_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = threading.Event()
    write = Snapshot.write

    def slow(self: Snapshot, folder: Path) -> None:
        assert may_write.wait(30)
        write(self, folder)

    monkeypatch.setattr(Snapshot, "write", slow)
    written: list[int] = []
    writer = CheckpointWriter(
        CheckpointFolder(tmp_path, KeepingPolicy(9)), lambda step, path: written.append(step), lambda step, why: None
    )
    writer.submit(snapshot(1))
    assert written == []  # and here we are, with nothing written yet
    second = threading.Thread(target=writer.submit, args=(snapshot(2),))
    second.start()
    second.join(0.2)
    assert second.is_alive()  # the second waits for the first
    may_write.set()
    second.join(30)
    writer.close()
    assert written == [1, 2]


def test_a_full_disk_is_told_of_and_the_next_checkpoint_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, str]] = []
    written: list[int] = []
    folder = CheckpointFolder(tmp_path, KeepingPolicy(1))

    def writer() -> CheckpointWriter:
        return CheckpointWriter(folder, lambda step, path: written.append(step), lambda *what: told.append(what))

    first = writer()
    first.submit(snapshot(1))
    first.wait()
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("trainers.checkpoint.save_file", full)
        first.submit(snapshot(2))
        first.wait()
        assert [step for step, _ in told] == [2] and "No space left on device; make room" in told[0][1]
        assert folder.steps() == [1] and len(list(tmp_path.iterdir())) == 1
        last = writer()
        last.submit(snapshot(3))
        with pytest.raises(BitreelError, match=r"can't write checkpoint .*step-00000003.*No space"):
            last.close()
    first.submit(snapshot(4))
    first.close()
    assert written == [1, 4] and folder.steps() == [4]
