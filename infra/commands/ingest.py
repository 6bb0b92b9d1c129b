"""`bitreel ingest`: videos into a clip store."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from codec.errors import UsageError
from infra.console import JsonOption, console, progress, write_json

EXAMPLE = """Cut videos into clips and add them to a store: WebDataset shards and a Parquet manifest.

SRC: files, folders, globs, lists (.txt, .csv, .parquet) or fsspec URLs (s3://…, gs://…). Broken videos go to the
store's quarantine table, the others go on. Run it again and only what is new or unfinished is done.

Example: bitreel ingest ~/videos --store clips --crop 256x256 --downscale 2
"""


def register(app: typer.Typer) -> None:
    app.command("ingest", help=EXAMPLE)(ingest)


def ingest(
    sources: Annotated[list[str], typer.Argument(metavar="SRC...", help="Files, folders, globs, lists, URLs.")],
    store: Annotated[str, typer.Option(help="Folder or URL (s3://…) of the store; made where it is not there.")],
    clip_frames: Annotated[int, typer.Option(help="Frames in a clip; clips never cross a shot cut.")] = 16,
    crop: Annotated[str | None, typer.Option(metavar="WxH", help="Keep only the centre of the pictures.")] = None,
    pixels: Annotated[str, typer.Option(help="yuv420 (planes as stored in the video) or rgb.")] = "yuv420",
    downscale: Annotated[int, typer.Option(help="Shrink by this integer first (area); hides old artefacts.")] = 1,
    decoder: Annotated[str | None, typer.Option(help="decord or pyav; yuv420 stores are always read by pyav.")] = None,
    workers: Annotated[int | None, typer.Option(help="Ray actors that decode; one a CPU by default.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster, e.g. ray://head:10001; else this machine.")] = None,
    drop_static: Annotated[bool, typer.Option("--drop-static", help="Leave out clips in which nothing moves.")] = False,
    drop_black: Annotated[bool, typer.Option("--drop-black", help="Leave out black clips.")] = False,
    drop_near_duplicates: Annotated[
        bool, typer.Option("--drop-near-duplicates", help="Leave out clips that another source has almost the same.")
    ] = False,
    trim_bars: Annotated[bool, typer.Option("--trim-bars", help="Cut black bars off the clips.")] = False,
    held_out: Annotated[
        str, typer.Option(metavar="VAL,TEST", help="Shares of the sources kept out of training; 0,0 trains on all.")
    ] = "0.1,0.1",
    worker_memory: Annotated[int, typer.Option(metavar="MIB", help="Memory that a decoding process may take.")] = 2048,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="A video without progress for so long is given up.")
    ] = 120.0,
    json_path: JsonOption = None,
) -> None:
    from pipeline.ingest import IngestProgress, ingest_videos
    from pipeline.ingest_calls import Curation

    val, test = parse_shares(held_out, "--held-out")
    with progress() as bar:
        task = bar.add_task("ingesting", total=None)

        def show(state: IngestProgress) -> None:
            bar.update(task, completed=state.done, total=state.total)

        report = ingest_videos(
            sources,
            store,
            clip_frames=clip_frames,
            crop=parse_size(crop, "--crop"),
            pixels=pixels,
            downscale=downscale,
            workers=workers,
            decoder=decoder,
            address=address,
            val_fraction=val,
            test_fraction=test,
            held_out=1 if val else 0,
            curation=Curation(drop_static, drop_black, drop_near_duplicates, trim_bars),
            worker_memory=worker_memory,
            stall=timeout,
            on_progress=show,
        )
    rate = report.frames / report.seconds if report.seconds else 0.0
    console.print(
        f"{report.sources} sources: {report.ingested} ingested, {report.skipped} already there, "
        f"{report.duplicates} duplicates, {len(report.quarantined)} quarantined"
    )
    if report.ingested:
        console.print(
            f"{report.clips} clips from {report.frames} frames in {report.seconds:.1f} s ({rate:.0f} frames/s)"
        )
    for reason in report.quarantined.values():
        console.print(f"[yellow]quarantined[/] {escape(reason)}", soft_wrap=True)
    write_json(json_path, vars(report) | {"frames_per_second": rate, "store": store})


def parse_size(text: str | None, option: str) -> tuple[int, int] | None:
    """ "WxH" as (width, height). Raises UsageError where it is something else."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"{option} '{text}' is not a size; write it as WxH, for example 256x256")
    return int(width), int(height)


def parse_shares(text: str, option: str) -> tuple[float, float]:
    """ "0.1,0.05" as two numbers. Raises UsageError where it is something else."""
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} '{text}' is not two shares; write them as 0.1,0.05") from None
    return first, second
