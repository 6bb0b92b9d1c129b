"""The clips that a run keeps to, from its first step to its last, however long it takes and whatever the store does.

Ingest may go on while a training runs, and the order of clips follows from the list of all of them. So a run writes
its list into its folder when it begins, and reads only that when it goes on: the next batch is the very next one, and
no clip comes twice in an epoch. Clips that the store got since then are for the next run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codec.errors import BitreelError
from pipeline.clip_list import ClipList, clips_of_split, read_clip_list

CLIPS_FILE = "clips.parquet"


def pin_clips(folder: Path, store: Path, on_event: Callable[[str], None] | None = None) -> None:
    """Write the list of a run that begins in `folder`, or compare that of a run that goes on with what the store has.

    `on_event` gets one line for the user where the store has come by other clips or lost some. Raises BitreelError
    where the list is damaged, or where the store has other content under the names of this run's clips; as
    `clips_of_split` where the run begins.
    """
    path = folder / CLIPS_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        clips_of_split(store, "train").write(path)
        return
    kept, now = read_clip_list(path), clips_of_split(store, "train")
    if kept.fingerprint() == now.fingerprint():
        return
    before, after = kept.places(), now.places()
    changed = [key for key, place in before.items() if after.get(key, place) != place]
    if changed:
        raise BitreelError(
            f"store '{store}' was made anew since run '{folder.name}' began: {len(changed)} of its {len(kept)} clips, "
            f"'{changed[0]}' for one, have other content or lie elsewhere; bring the old store back or start a new run"
        )
    if on_event is None:
        return
    said = [
        f"{count} {what}"
        for keys, what in (
            (after.keys() - before.keys(), "came to the store since"),
            (before.keys() - after.keys(), "are no longer there for training"),
        )
        if (count := len(keys))
    ]
    on_event(
        f"run '{folder.name}' keeps to the {len(kept)} clips it began with ({', '.join(said)}); a new run takes all "
        "that the store has"
    )


def pinned_clips(folder: Path) -> ClipList:
    """The list of a run that `pin_clips` has begun. Raises BitreelError where it is damaged."""
    return read_clip_list(folder / CLIPS_FILE)
