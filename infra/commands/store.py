"""`bitreel store ls|verify|stats|repair|compact|copy`: what a clip store holds, whether it is whole, and its upkeep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from codec.errors import BitreelError
from infra.console import JsonOption, console, progress, write_json

StoreArgument = Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL (s3://…) of the store.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Look at a clip store, check it, repair it, tidy it or copy it.", no_args_is_help=True)
    group.command("ls", help="List the sources of a store.\n\nExample: bitreel store ls clips")(ls)
    group.command(
        "verify",
        help="Check every shard against the manifest, clip by clip, both ways. --quick checks names, sizes and places "
        "without reading shards.\n\nExample: bitreel store verify clips",
    )(verify)
    group.command(
        "stats",
        help="Counts, sizes, motion, sharpness, what was left out by which rule, and the quarantine table.\n\n"
        "Example: bitreel store stats clips",
    )(stats)
    group.command(
        "repair",
        help="Make a damaged store whole: forget the sources that do not verify and remove their shards, so that the "
        "next ingest of their videos takes them again. Reads every shard.\n\n"
        "Example: bitreel store repair clips --dry-run",
    )(repair)
    group.command(
        "compact",
        help="Merge the manifest's fragments into large parts. An ingest into a folder does so by itself from 1000 "
        "fragments on; no ingest may write to a store behind a URL meanwhile.\n\n"
        "Example: bitreel store compact clips",
    )(compact)
    group.command(
        "copy",
        help="Copy a store, or what a copy lacks; to train on a remote store, copy it to a disk first.\n\n"
        "Example: bitreel store copy s3://bucket/clips clips",
    )(copy)
    app.add_typer(group, name="store")


def ls(
    store: StoreArgument,
    split: Annotated[str | None, typer.Option(help="Only the sources of train, val or test.")] = None,
    json_path: JsonOption = None,
) -> None:
    from rich.table import Table

    from pipeline.store import list_sources

    found = list_sources(store, split)
    table = Table("source", "split", "clips", "frames", "of", "size", "decoder", "notes", box=None)
    for entry in found:
        name, counts = Path(entry.source).name, (entry.clips, entry.frames, entry.source_frames)
        notes = "; ".join(entry.notes)
        table.add_row(escape(name), entry.split, *map(str, counts), entry.size, entry.decoder, escape(notes))
    console.print(table)
    write_json(json_path, [vars(entry) for entry in found])


def verify(
    store: StoreArgument,
    quick: Annotated[bool, typer.Option("--quick", help="Read no shards: names, sizes and places only.")] = False,
    json_path: JsonOption = None,
) -> None:
    from pipeline.verification import verify_layout, verify_store

    with progress() as bar:
        task = bar.add_task("verifying", total=None)
        if quick:
            result = verify_layout(store)
        else:
            result = verify_store(store, lambda done, total: bar.update(task, completed=done, total=total))
    write_json(json_path, vars(result) | {"damaged": sorted(result.damaged)})
    _print_problems(result.problems)
    if result.uncommitted:
        console.print(f"an ingest is writing to the store: {result.uncommitted} of its shards are not committed yet")
    if result.problems:
        raise BitreelError(
            f"store '{store}' has {len(result.problems)} problems; `bitreel store repair {store}` forgets the damaged "
            "sources and keeps the rest, then ingest their videos again"
        )
    console.print(f"{result.clips} clips in {result.shards} shards agree with the manifest ({_size(result.bytes)})")


def stats(store: StoreArgument, json_path: JsonOption = None) -> None:
    from pipeline.store import store_stats

    figures = store_stats(store)
    console.print(
        f"{figures['sources']} sources, {figures['clips']} clips, {figures['frames']} frames, "
        f"{figures['shards']} shards, {_size(figures['bytes'])}"
    )
    console.print("made with  " + ", ".join(f"{k}={v}" for k, v in figures["settings"].items()))
    for split, counts in figures["splits"].items():
        console.print(f"{split:<10} {counts['sources']} sources, {counts['clips']} clips, {counts['frames']} frames")
    for name in ("sizes", "source_pixel_formats", "decoders"):
        console.print(f"{name.replace('_', ' '):<10} " + ", ".join(f"{k}: {v}" for k, v in figures[name].items()))
    for name in ("motion", "sharpness", "brightness"):
        _print_spread(name, figures[name])
    dropped = figures["dropped"]
    kept = f" (still in the shards: {_size(figures['dropped_bytes'])})" if figures["dropped_bytes"] else ""
    console.print(f"{'left out':<10} " + (", ".join(f"{k}: {v} clips" for k, v in dropped.items()) or "nothing") + kept)
    console.print(f"{'bars':<10} trimmed off {figures['trimmed_bars']} clips")
    console.print(f"{'quarantine':<10} {len(figures['quarantine'])} sources")
    for entry in figures["quarantine"]:
        console.print(f"  {escape(entry['reason'])}", soft_wrap=True)
    write_json(json_path, figures)


def repair(
    store: StoreArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")] = False,
    json_path: JsonOption = None,
) -> None:
    from pipeline.repair import repair_store

    with progress() as bar:
        task = bar.add_task("verifying", total=None)
        done = repair_store(store, dry_run, lambda done, total: bar.update(task, completed=done, total=total))
    write_json(json_path, vars(done))
    _print_problems(done.problems)
    if not done.problems:
        console.print("nothing to repair")
        return
    would = "would be " if dry_run else ""
    for source in done.forgotten:
        console.print(f"{would}forgotten {escape(source)}", soft_wrap=True)
    for name in done.removed:
        console.print(f"{would}removed {escape(name)}", soft_wrap=True)
    if not dry_run:
        console.print("now ingest their videos again: what is whole is skipped")


def compact(store: StoreArgument) -> None:
    from pipeline.compaction import compact_manifest

    console.print(f"{compact_manifest(store)} fragments merged")


def copy(
    store: StoreArgument, target: Annotated[str, typer.Argument(metavar="TARGET", help="Folder or URL to copy to.")]
) -> None:
    from pipeline.store_copy import copy_store

    with progress() as bar:
        task = bar.add_task("copying", total=None)
        copied, size = copy_store(store, target, lambda done, total: bar.update(task, completed=done, total=total))
    console.print(f"{copied} files copied ({_size(size)})")


def _print_problems(problems: list[str]) -> None:
    for problem in problems:
        console.print(f"[red]wrong[/] {escape(problem)}", soft_wrap=True)


def _print_spread(name: str, spread: dict[str, Any]) -> None:
    console.print(f"{name:<10} " + ", ".join(f"{k} {v:.2f}" for k, v in spread.items()))


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
