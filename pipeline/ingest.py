"""Ingest: many source videos into a clip store, by a pool of Ray actors that may die without harm.

A source is done at the moment its manifest fragment gets its name; everything before that is thrown away and done anew.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from codec.errors import BitreelError, UsageError, VideoError
from pipeline.ingest_actor import IngestActor
from pipeline.ingest_calls import Curation, IngestSettings, Outcome
from pipeline.manifest import (
    QUARANTINE,
    QUARANTINE_SCHEMA,
    create_or_check_store,
    read_manifest,
    read_quarantine,
    write_fragment,
)
from pipeline.ray_session import ray_session
from pipeline.shards import StoreWriteError, blaming_store
from pipeline.sources import find_sources, is_remote, printable, stamp_of
from pipeline.store_folder import StoreFolder, open_store_folder
from pipeline.store_lock import sole_writer
from pipeline.store_settling import remove_leftovers, settle_store
from pipeline.worker_pool import Finished, WorkerPool

LEAST_MEMORY = 256  # MiB: a decoding process takes half of it before it sees a video
MAX_ATTEMPTS = 3  # processes that one source may cost
# Actors that may be lost with the same source in hand, to nodes that go and to whoever kills them. A video kills its
# process, not the actor that guards it, so a source is not given up for bad luck.
MAX_LOSSES = 20
# Starts in a row after which no worker is expected to come up any more: nodes that come and go take some of them away.
_FAILED_STARTS = 30


@dataclass(frozen=True)
class IngestProgress:
    """One source is finished: `done` of `total`; status "ingested", "skipped", "duplicate" or "quarantined"."""

    done: int
    total: int
    source: str
    status: str


@dataclass
class IngestReport:
    """What one run did. clips and frames (read from videos) count this run alone; crashes: processes that
    videos cost; worker_deaths: actors lost at work, with their nodes or alone; quarantined: source -> reason."""

    sources: int = 0
    ingested: int = 0
    skipped: int = 0
    duplicates: int = 0
    clips: int = 0
    frames: int = 0
    seconds: float = 0.0
    crashes: int = 0
    worker_deaths: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)


def ingest_videos(
    sources: Iterable[str | Path],
    store: str | Path,
    *,
    clip_frames: int = 16,
    crop: tuple[int, int] | None = None,
    pixels: str = "yuv420",
    downscale: int = 1,
    workers: int | None = None,
    decoder: str | None = None,
    address: str | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    held_out: int = 1,
    curation: Curation = Curation(),
    worker_memory: int = 2048,
    stall: float = 120.0,
    on_progress: Callable[[IngestProgress], None] | None = None,
) -> IngestReport:
    """Cut videos into clips and add them to the store (made where it is not there).

    sources: files, folders, globs, lists (.txt, .csv, .parquet) or fsspec URLs. crop: (width, height), centre of the
    picture after downscaling by the integer `downscale` (area). pixels: "yuv420" or "rgb". decoder: "decord" (rgb only)
    or "pyav". held_out: at least so many sources stay out of training, where there are three times as many. workers:
    actors; by default one a CPU. address: of a Ray cluster whose nodes see the store under the same
    path; without it Ray starts here, or the Ray already connected is used.

    Broken videos go to the quarantine table and the rest go on. Sources that are in the store already are skipped, the
    same content under two names is taken once. Raises UsageError for wrong arguments, no videos, or a store made with
    other settings; BitreelError where the disk is full, another process is writing, or no video at all could be read.
    """
    folder = open_store_folder(store if "://" in str(store) else Path(store).resolve())
    settings = IngestSettings(
        store=folder.url,
        clip_frames=clip_frames,
        crop=crop,
        pixels=pixels,
        downscale=downscale,
        decoder=decoder,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        curation=curation,
        worker_memory=worker_memory,
        stall=stall,
    )
    _check_arguments(settings, workers)
    found = find_sources(sources)
    begin = time.monotonic()
    with blaming_store(folder):
        made_with = {"pixels": pixels, "clip_frames": clip_frames, "crop": list(crop) if crop else None}
        create_or_check_store(folder, made_with | {"downscale": downscale, "curation": curation.names})
    with sole_writer(folder):
        run = _Run(folder, settings, found, on_progress)
        try:
            remove_leftovers(folder)
            run.work(workers, address)
        finally:
            remove_leftovers(folder)
        if run.report.ingested or run.report.duplicates or curation.drop_near_duplicates:
            settle_store(folder, held_out, curation.drop_near_duplicates, run.names)
    run.report.seconds = time.monotonic() - begin
    if len(run.report.quarantined) == run.report.sources:
        reasons = list(run.report.quarantined.values())
        raise VideoError(
            reasons[0] if len(reasons) == 1 else f"none of {len(reasons)} videos can be used: {reasons[0]}"
        )
    return run.report


class _Run:
    """The state of one run: what waits, what is known, what was done."""

    def __init__(
        self,
        store: StoreFolder,
        settings: IngestSettings,
        locations: list[str],
        on_progress: Callable[[IngestProgress], None] | None,
    ) -> None:
        self.report = IngestReport(sources=len(locations))
        self._store, self._settings, self._on_progress = store, settings, on_progress
        self._attempts: dict[str, int] = {}
        self._losses: dict[str, int] = {}
        self._at_work = 0
        self._claimed: dict[str, str] = {}  # location -> the checksum that it was last to be ingested with
        self._claimants: dict[str, str] = {}  # checksum -> the location that has it in this run
        self._copies: dict[str, list[str]] = {}  # checksum -> locations that were passed over for that one
        self.names: dict[str, tuple[str, str]] = {}  # checksum -> the first of its locations by name, its stamp
        self._done = 0
        clips = read_manifest(store, ["source_checksum", "source", "source_stamp"], dropped=True)
        sources = clips.group_by(clips.column_names).aggregate([])
        self._taken = set(sources["source_checksum"].to_pylist())
        bad = (row for row in read_quarantine(store).to_pylist() if not self._may_do_better(row))
        self._bad = {row["source_checksum"]: row for row in bad}
        known = dict.fromkeys(zip(sources["source"].to_pylist(), sources["source_stamp"].to_pylist(), strict=True), "")
        known |= {(row["source"], row["source_stamp"]): row["reason"] for row in self._bad.values()}
        todo = []
        for location in locations:
            stamp = stamp_of(location)
            reason = known.get((printable(location), stamp)) if stamp else None
            if reason is None:
                todo.append(location)
            elif reason:
                self._tell_quarantined(location, reason)
            else:
                self.report.skipped += 1
                self._tell(location, "skipped")
        # Long ones first, so that the pool does not wait for one of them at the end.
        self.pending: deque[str] = deque(sorted(todo, key=lambda item: -_bytes(item)))

    def _may_do_better(self, quarantined: dict[str, Any]) -> bool:
        timeout = quarantined["timeout"]
        return bool(quarantined["retry"]) or (timeout is not None and self._settings.stall > timeout)

    def work(self, workers: int | None, address: str | None) -> None:
        """Let a pool of actors work until nothing waits."""
        if not self.pending:
            return
        with ray_session(address) as cpus:
            pool = WorkerPool(IngestActor, (self._settings,), min(workers or cpus, len(self.pending)))
            try:
                while self.pending or self._at_work:
                    while pool.idle and self.pending:
                        location = self.pending.popleft()
                        self._at_work += 1
                        pool.start(pool.idle.pop(), "identify", (location, ""), location)
                    call = pool.wait()
                    if call is not None:
                        self._settle(pool, call)
                    elif pool.failed_starts >= _FAILED_STARTS:
                        reason = pool.failure or "see Ray's logs, and `bitreel doctor`"
                        raise BitreelError(f"no ingest worker comes up: {reason}")
            finally:
                pool.close()

    def _settle(self, pool: WorkerPool, call: Finished) -> None:
        """Deal with a call that ended: its tag is (location, "") for `identify`, (location, checksum) for `ingest`."""
        location, checksum = call.tag
        self._at_work -= 1
        if call.died:
            self._worker_died(location, checksum)
            return
        outcome: Outcome = call.result or Outcome(checksum=checksum, error=f"{location}: {call.failure}", retry=True)
        if outcome.store_error:
            raise StoreWriteError(outcome.store_error)
        identified = not checksum and not outcome.error and not outcome.crash
        if identified:
            name = (printable(location), outcome.stamp)
            self.names[outcome.checksum] = min(name, self.names.get(outcome.checksum, name))
        if identified and self._claim(location, outcome.checksum):
            self._at_work += 1
            pool.start(call.worker, "ingest", (location, outcome.checksum), location, outcome.checksum, outcome.stamp)
            return
        if outcome.crash:
            self._crashed(location, checksum, outcome)
        elif outcome.error:
            self._quarantine(location, outcome)
        elif checksum:
            self.report.ingested += 1
            self.report.clips += outcome.clips
            self.report.frames += outcome.frames
            self._drop_quarantine(location)
            self._tell(location, "ingested")
        elif is_remote(location):
            call.worker.forget.remote()
        pool.idle.append(call.worker)

    def _claim(self, location: str, checksum: str) -> bool:
        """Whether an identified source is to be ingested: not the same content as another, not known to be broken."""
        if checksum in self._bad:
            self._tell_quarantined(location, self._bad[checksum]["reason"])
            return False
        if checksum in self._taken:
            self.report.duplicates += 1
            self._copies.setdefault(checksum, []).append(location)
            self._tell(location, "duplicate")
            return False
        self._taken.add(checksum)
        self._claimed[location], self._claimants[checksum] = checksum, location
        return True

    def _crashed(self, location: str, checksum: str, outcome: Outcome) -> None:
        """A video cost its process: try again later, but not for ever."""
        self.report.crashes += 1
        self._attempts[location] = self._attempts.get(location, 0) + 1
        if self._attempts[location] < MAX_ATTEMPTS:
            self._again(location, checksum)
            return
        reason = f"{location}: {outcome.crash}; tried {MAX_ATTEMPTS} times"
        if outcome.silent:
            reason += "; --timeout gives it longer"
        # Killed from outside, it may do better on another day; what crashes will do so again, and what hangs too unless
        # it is given more time.
        retry = outcome.killed or not checksum
        given_up = Outcome(checksum=checksum, stamp=stamp_of(location), error=reason, retry=retry)
        self._quarantine(location, given_up, self._settings.stall if outcome.silent else None)

    def _worker_died(self, location: str, checksum: str) -> None:
        self.report.worker_deaths += 1
        self._losses[location] = self._losses.get(location, 0) + 1
        if self._losses[location] < MAX_LOSSES:
            self._again(location, checksum)
            return
        reason = f"{location}: {MAX_LOSSES} workers were lost while they had it"
        self._quarantine(location, Outcome(checksum=checksum, stamp=stamp_of(location), error=reason, retry=True))

    def _again(self, location: str, checksum: str) -> None:
        self._taken.discard(checksum)
        self._claimants.pop(checksum, None)
        self.pending.append(location)

    def _quarantine(self, location: str, outcome: Outcome, timeout: float | None = None) -> None:
        row = {
            "source": location,
            "source_checksum": outcome.checksum,
            "source_stamp": outcome.stamp,
            "reason": outcome.error,
            "retry": outcome.retry,
            "timeout": timeout,
        }
        if outcome.checksum and not outcome.retry:
            self._bad[outcome.checksum] = row
        with blaming_store(self._store):
            write_fragment(self._store, _quarantine_name(location), [row], QUARANTINE_SCHEMA)
        self._tell_quarantined(location, outcome.error)
        if outcome.retry:
            self._take_a_copy(location)

    def _take_a_copy(self, location: str) -> None:
        """What failed at this location may do well at another that was passed over for it: its file may be gone, or the
        server that has it."""
        checksum = self._claimed.get(location, "")
        copies = self._copies.get(checksum)
        if copies and self._claimants.get(checksum, location) == location:
            self._taken.discard(checksum)
            self._claimants.pop(checksum, None)
            self.report.duplicates -= 1
            self._done -= 1  # told of as a duplicate, it is told of once more
            self.pending.append(copies.pop())

    def _drop_quarantine(self, location: str) -> None:
        """What was broken and is now read leaves the table."""
        self._store.remove(f"{_quarantine_name(location)}.parquet")

    def _tell_quarantined(self, location: str, reason: str) -> None:
        self.report.quarantined[printable(location)] = printable(reason)
        self._tell(location, "quarantined")

    def _tell(self, location: str, status: str) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(IngestProgress(self._done, self.report.sources, printable(location), status))


def _quarantine_name(location: str) -> str:
    """One entry a location: a file that is replaced by a whole one, or broken in another way, replaces its entry."""
    return f"{QUARANTINE}/{blake3(printable(location).encode()).hexdigest()[:20]}"


def _bytes(location: str) -> int:
    path = Path(location)
    return path.stat().st_size if not is_remote(location) and path.is_file() else 0


def _check_arguments(settings: IngestSettings, workers: int | None) -> None:
    if settings.pixels not in ("yuv420", "rgb"):
        raise UsageError(f"--pixels is yuv420 or rgb, not '{settings.pixels}'")
    if settings.decoder not in (None, "decord", "pyav"):
        raise UsageError(f"--decoder is decord or pyav, not '{settings.decoder}'")
    if settings.decoder == "decord" and settings.pixels == "yuv420":
        raise UsageError("decord gives RGB only; for a yuv420 store leave --decoder out, or use --pixels rgb")
    if settings.clip_frames < 1 or settings.downscale < 1 or (workers is not None and workers < 1):
        raise UsageError("--clip-frames, --downscale and --workers must be at least 1")
    if settings.worker_memory < LEAST_MEMORY or settings.stall <= 0:
        raise UsageError(f"--worker-memory must be at least {LEAST_MEMORY} (MiB), --timeout more than 0 (seconds)")
    if settings.crop is not None and (min(settings.crop) < 2 or any(side % 2 for side in settings.crop)):
        raise UsageError(f"--crop {settings.crop[0]}x{settings.crop[1]}: both sides must be even and at least 2")
    fractions = (settings.val_fraction, settings.test_fraction)
    if not (min(fractions) >= 0 and sum(fractions) < 1):  # NaN is neither
        raise UsageError("--held-out: shares must be 0 or more and leave something to train on")
