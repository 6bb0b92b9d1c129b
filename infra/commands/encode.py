"""`bitreel encode`: a video to a .brl stream."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from codec.errors import UsageError
from infra.console import JsonOption, console, progress, write_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "encode",
        help="Encode a video to a .brl stream.",
        epilog="Example: bitreel encode clip.mp4 clip.brl --model street-cams@champion --qp 42",
    )(encode_command)


def encode_command(
    video: Annotated[Path, typer.Argument(metavar="IN", help=".y4m, .yuv (with --size), or what FFmpeg opens.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.brl")],
    model: Annotated[str, typer.Option(help="name@champion, name@7, models:/…, or a checkpoint folder.")],
    qp: Annotated[int, typer.Option(help="Quality: 0 (fewest bits) to 63 (best).")],
    frames: Annotated[int | None, typer.Option(min=1, help="At most this many frames.")] = None,
    intra_period: Annotated[int, typer.Option(help="-1: one intra frame; N: one every N frames.")] = -1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size of a raw .yuv file.")] = None,
    pix_fmt: Annotated[str | None, typer.Option(help="Pixel format of a raw .yuv file (yuv420p).")] = None,
    json_path: JsonOption = None,
) -> None:
    """Write to another name, rename when whole."""
    from codec.api import QP_COUNT, EncodeOptions, FrameReport, load_codec
    from codec.atomic_files import blaming, commit, unfinished_path
    from codec.frames import Frame
    from infra.registry import resolve_model
    from pipeline.decoders import open_video

    if not 0 <= qp < QP_COUNT:
        raise UsageError(f"--qp {qp}: must lie in 0..{QP_COUNT - 1}")
    if intra_period != -1 and intra_period < 1:
        raise UsageError(f"--intra-period {intra_period}: must be -1 (one intra frame) or 1 and more")
    if out.suffix != ".brl":
        raise UsageError(f"'{out}': a stream's name must end in .brl")
    codec = load_codec(resolve_model(model), device)
    with blaming(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished_path(out)
    try:
        with (
            blaming(out),
            open_video(video, parse_size(size), pix_fmt) as source,
            progress() as bar,
            temporary.open("wb") as sink,
        ):
            task = bar.add_task("encode", total=frames)

            def on_frame(report: FrameReport, frame: Frame) -> None:
                bar.advance(task)

            options = EncodeOptions(qp=qp, intra_period=intra_period)
            report = codec.encode(itertools.islice(source, frames), source.format, sink, options, on_frame)
            fmt = source.format
        with blaming(out):
            commit(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    count = len(report.frames)
    bpp = 8 * report.bytes / (fmt.width * fmt.height * count)
    console.print(f"{out}: {count} frames, {report.bytes} bytes, {bpp:.4f} bits per pixel", markup=False)
    figures = {
        "file": str(out), "frames": count, "bytes": report.bytes, "bpp": bpp, "qp": qp, "width": fmt.width,
        "height": fmt.height, "header_bytes": report.header_bytes, "field_bytes": report.field_bytes,
        "model_hash": codec.model_hash().hex(),
    }  # fmt: skip
    write_json(json_path, figures)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "352x288" → (352, 288). Raises UsageError."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"--size '{text}': expected WIDTHxHEIGHT, as 352x288")
    return int(width), int(height)
