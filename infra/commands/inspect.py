"""`bitreel inspect`: what a .brl stream says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codec.errors import StreamError, UsageError
from infra.console import JsonOption, console, write_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "inspect",
        help="Show a .brl stream's header, frames, bits per frame and model hash; checks every checksum.",
        epilog="Example: bitreel inspect clip.brl --json clip.json",
    )(inspect_command)


def inspect_command(stream: Annotated[Path, typer.Argument(metavar="FILE.brl")], json_path: JsonOption = None) -> None:
    """Read the container; no model is needed."""
    from rich.table import Table

    from codec.container import END, read_header, read_packets

    if not stream.is_file():
        raise UsageError(f"no stream at '{stream}'")
    try:
        with stream.open("rb") as source:
            header = read_header(source)
            header_bytes = source.tell()
            packets = list(read_packets(source))
    except StreamError as error:
        raise StreamError(f"{stream}: {error}") from error
    frames = [p for p in packets if p.kind != END]
    fmt = header.format
    size = stream.stat().st_size
    pixels = fmt.width * fmt.height
    figures = {
        "file": str(stream), "version": header.version, "codec": header.codec, "model_name": header.model_name,
        "model_hash": header.model_hash.hex(), "width": fmt.width, "height": fmt.height, "fps": str(fmt.fps),
        "matrix": fmt.matrix, "full_range": fmt.full_range, "frame_count": len(frames), "bytes": size,
        "header_bytes": header_bytes, "bpp": 8 * size / (pixels * len(frames)) if frames else None,
        "frames": [
            {"index": p.index, "type": p.frame_type, "qp": p.qp, "bytes": p.bytes, "payload_bytes": len(p.payload)}
            for p in frames
        ],
    }  # fmt: skip
    for key, value in figures.items():
        if key != "frames":
            console.print(f"{key.replace('_', ' '):13} {value}", markup=False, soft_wrap=True)
    table = Table("frame", "type", "QP", "bits", "bits per pixel")
    for column in (0, 2, 3, 4):
        table.columns[column].justify = "right"
    for p in frames:
        table.add_row(str(p.index), p.frame_type, str(p.qp), str(8 * p.bytes), f"{8 * p.bytes / pixels:.4f}")
    console.print(table)
    write_json(json_path, figures)
