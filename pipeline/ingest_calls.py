"""What the driver of an ingest and its workers say to each other: plain data, quick to import."""

from __future__ import annotations

from dataclasses import dataclass, fields

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Curation:
    """Which clips are left out, and whether bars are trimmed; see `pipeline.curation`."""

    drop_static: bool = False
    drop_black: bool = False
    drop_near_duplicates: bool = False
    trim_bars: bool = False

    @property
    def names(self) -> list[str]:
        """The rules that are on, as `store.json` lists them."""
        return [rule.name for rule in fields(self) if getattr(self, rule.name)]


@dataclass(frozen=True)
class IngestSettings:
    """What one ingest does to every source. crop is (width, height) or None; decoder "decord", "pyav" or None.

    worker_memory: MiB of private memory for each decoding process. stall: seconds that a file may go without progress.
    """

    store: str
    clip_frames: int
    crop: tuple[int, int] | None
    pixels: str
    downscale: int
    decoder: str | None
    val_fraction: float
    test_fraction: float
    curation: Curation = Curation()
    worker_memory: int = 2048
    stall: float = 120.0


@dataclass(frozen=True)
class Outcome:
    """What became of one call. error: why the video was refused, and whether to `retry` it in a later run;
    crash: how the process that had it ended, and whether it was `killed` from outside or `silent` for too long;
    store_error: why the store can't be written."""

    checksum: str = ""
    stamp: str = ""
    clips: int = 0
    frames: int = 0
    error: str = ""
    retry: bool = False
    crash: str = ""
    killed: bool = False
    silent: bool = False
    store_error: str = ""


def fragment_name(checksum: str) -> str:
    """The name of a source's manifest fragment and the start of its shards' and clips' names."""
    return checksum[:20]
