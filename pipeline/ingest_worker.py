"""One ingest worker: takes one source video at a time, writes its shards, and commits it with its manifest fragment.

Runs in the process that a Ray actor keeps, and as a plain object. Imports neither torch nor Ray, so that it starts
quickly.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from codec.errors import UsageError, VideoError
from pipeline.clips import Clip, ClipCutter, Geometry, Picture
from pipeline.decoders import VideoSource, open_video
from pipeline.decord_source import DecordSource, open_rgb
from pipeline.ingest_calls import IngestSettings, Outcome, fragment_name
from pipeline.manifest import CLIP_SCHEMA, MANIFEST, SHARDS, write_fragment
from pipeline.shards import ShardWriter, StoreWriteError, blaming_store
from pipeline.sources import is_remote, stamp_of
from pipeline.splits import split_of
from pipeline.store_folder import open_store_folder

_READ_BYTES = 1 << 20


class _Unsteady(Exception):
    """What was read, or written, is not what it was: the next ingest does better."""


class IngestWorker:
    """`identify` a source, then `ingest` or `forget` it. Never raises for a bad video or a full disk: see Outcome."""

    def __init__(self, settings: IngestSettings, beat: Callable[[], None] = lambda: None) -> None:
        self._settings, self._beat = settings, beat
        self._store = open_store_folder(settings.store)
        self._fetched: Path | None = None  # folder that holds the local copy of a remote source

    def identify(self, location: str) -> Outcome:
        """Checksum and stamp of a source; a remote one is fetched and kept until `ingest` or `forget`."""
        stamp = stamp_of(location)
        try:
            path = self._fetch(location) if is_remote(location) else Path(location)
            digest = blake3()
            with path.open("rb") as handle:
                while block := handle.read(_READ_BYTES):
                    digest.update(block)
                    self._beat()
            return Outcome(checksum=digest.hexdigest(), stamp=stamp)
        except Exception as error:  # remote file systems raise whatever they like
            self.forget()
            missing = isinstance(error, FileNotFoundError)
            reason = "no such file" if missing else f"can't be read ({_first_line(error)})"
            return Outcome(stamp=stamp, error=f"{location}: {reason}", retry=True)

    def ingest(self, location: str, checksum: str, stamp: str) -> Outcome:
        """Cut the identified source into clips and commit them. A source that is committed already is left alone."""
        try:
            fragment = f"{MANIFEST}/{fragment_name(checksum)}.parquet"
            if self._store.exists(fragment):  # by a worker that died right after
                table = pq.ParquetFile(pa.BufferReader(self._store.read(fragment))).read(columns=["source_frames"])
                rows = table["source_frames"].to_pylist()
                return Outcome(checksum=checksum, stamp=stamp, clips=len(rows), frames=rows[0])
            path = Path(location)
            if is_remote(location):
                if self._fetched is None:  # by the process that was here before
                    again = self.identify(location)
                    if again.error:
                        return again
                    if again.checksum != checksum:
                        raise _Unsteady("changed since it was identified; ingest it again")
                assert self._fetched is not None
                (path,) = self._fetched.iterdir()
            clips, frames = self._ingest(path, location, checksum, stamp)
            return Outcome(checksum=checksum, stamp=stamp, clips=clips, frames=frames)
        except StoreWriteError as error:
            return Outcome(checksum=checksum, stamp=stamp, store_error=str(error))
        except _Unsteady as error:
            return Outcome(checksum=checksum, stamp=stamp, error=f"{location}: {error}", retry=True)
        except (VideoError, UsageError) as error:
            if isinstance(error.__cause__, MemoryError):
                return self._too_large(location, checksum, stamp)
            text = str(error) if not is_remote(location) else f"{location}: {str(error).split(': ', 1)[-1]}"
            return Outcome(checksum=checksum, stamp=stamp, error=text, retry=self._short_of_memory())
        except MemoryError:
            return self._too_large(location, checksum, stamp)
        except Exception as error:  # one odd file must not stop the others
            reason = f"{location}: {type(error).__name__}: {_first_line(error)}"
            return Outcome(checksum=checksum, stamp=stamp, error=reason)
        finally:
            self.forget()

    def _short_of_memory(self) -> bool:
        """Whether so much was taken that FFmpeg's complaint may be about memory: it does not always say so."""
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return taken > self._settings.worker_memory // 2

    def _too_large(self, location: str, checksum: str, stamp: str) -> Outcome:
        allowed = self._settings.worker_memory
        reason = f"{location}: needs more than the {allowed} MiB of a worker; allow more with --worker-memory"
        return Outcome(checksum=checksum, stamp=stamp, error=reason, retry=True)

    def forget(self) -> None:
        """Drop the local copy of a remote source."""
        if self._fetched is not None:
            shutil.rmtree(self._fetched, ignore_errors=True)
            self._fetched = None

    def _fetch(self, location: str) -> Path:
        import fsspec

        self.forget()
        self._fetched = Path(tempfile.mkdtemp(prefix="bitreel-fetch-"))
        filesystem, remote = fsspec.core.url_to_fs(location)
        path = self._fetched / Path(remote).name
        filesystem.get_file(remote, str(path), callback=fsspec.Callback(hooks={"beat": lambda *_, **__: self._beat()}))
        return path

    def _ingest(self, path: Path, location: str, checksum: str, stamp: str) -> tuple[int, int]:
        if self._settings.pixels == "yuv420":
            with open_video(path) as source:
                return self._write(source, location, checksum, stamp)
        with open_rgb(path, self._settings.decoder) as chosen:
            try:
                return self._write(chosen, location, checksum, stamp)
            except VideoError as error:
                if isinstance(chosen, VideoSource):
                    raise
                failure = str(error).split(": ", 1)[-1]
        with open_video(path) as other:  # decord failed midway: once more from the start with the other decoder
            other.notes.append(f"read by pyav: {failure}")
            return self._write(other, location, checksum, stamp)

    def _write(self, source: VideoSource | DecordSource, location: str, checksum: str, stamp: str) -> tuple[int, int]:
        settings, fmt = self._settings, source.format
        rgb = settings.pixels == "rgb"
        geometry = Geometry.of(fmt.width, fmt.height, settings.crop, settings.downscale)
        name = fragment_name(checksum)
        decoder, _, version = source.decoder.partition(" ")
        writer = ShardWriter(self._store, name)

        of_all: dict[str, Any] = {
            "source_checksum": checksum,
            "fps_num": fmt.fps.numerator,
            "fps_den": fmt.fps.denominator,
            "source_width": fmt.width,
            "source_height": fmt.height,
            "downscale": geometry.downscale,
            "pixel_format": "rgb24" if rgb else "yuv420p",
            "source_pixel_format": source.pixel_format,
            "matrix": fmt.matrix,
            "colour_range": "full" if fmt.full_range or rgb else "limited",
            "decoder": decoder,
            "decoder_version": version,
        }

        def keep(clip: Clip) -> None:
            height, width = clip.array.shape[1:3]
            facts = of_all | {
                "first_frame": clip.first_frame,
                "frames": len(clip.array),
                "width": geometry.width - clip.bars[2] - clip.bars[3],
                "height": geometry.height - clip.bars[0] - clip.bars[1],
                "stored_width": width,
                "stored_height": height if rgb else height * 2 // 3,
                "crop_x": geometry.x + clip.bars[2],
                "crop_y": geometry.y + clip.bars[0],
                "motion": round(clip.motion, 3),
                "sharpness": round(clip.sharpness, 3),
                "brightness": round(clip.brightness, 3),
                "phash": clip.phash,
                "bars": ",".join(map(str, clip.bars)) if any(clip.bars) else "",
            }
            key = f"{name}-{clip.first_frame:07d}"
            if clip.dropped:
                writer.leave_out(key, facts | {"dropped": clip.dropped})
                return
            writer.add(key, clip.array, facts)

        try:
            cutter = ClipCutter(geometry, settings.clip_frames, rgb, keep, settings.curation, writer)
            for pictures in _few_at_a_time(source, rgb):
                cutter.push(pictures)
                self._beat()
            cutter.finish()
            if not is_remote(location) and stamp_of(location) not in (stamp, ""):
                raise _Unsteady("changed while it was read; ingest it again when it is whole")
            rows = writer.commit()
        except BaseException:
            writer.abort()
            raise
        common = {
            "source": location,  # not in the shard: of several names of one content another may come to be the one
            "source_stamp": stamp,
            "source_frames": cutter.frames,
            "split": split_of(checksum, settings.val_fraction, settings.test_fraction),
            "notes": source.notes,
        }
        with blaming_store(self._store):
            filled = [{"dropped": "", **row, **common} for row in rows]
            write_fragment(self._store, f"{MANIFEST}/{name}", filled, CLIP_SCHEMA)
            if not all(self._store.exists(f"{SHARDS}/{shard}") for shard in {row["shard"] for row in rows} - {""}):
                # The driver that this worker outlived is followed by one that took the shards for leftovers.
                self._store.remove(f"{MANIFEST}/{name}.parquet")
                raise _Unsteady("another ingest removed its shards; ingest it again")
        return len(rows), cutter.frames


def _few_at_a_time(source: VideoSource | DecordSource, rgb: bool) -> Iterator[Sequence[Picture]]:
    """The pictures that clips are made of. RGB ones are large, and their conversion costs more than what calls do."""
    if rgb or isinstance(source, DecordSource):
        return ([picture] for picture in source.rgb())
    return source.views()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
