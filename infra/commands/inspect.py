"""`bitreel inspect`: what a .brl stream says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from codec.errors import StreamError
from infra.console import JsonOption, console, write_json
from infra.standard_streams import open_stream, patience, shown_name


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "inspect",
        help="Show a .brl stream's header, frames, bits per frame and model hash; checks every checksum.",
        epilog="Example: bitreel inspect clip.brl --json clip.json",
    )(inspect_command)


def inspect_command(
    stream: Annotated[Path, typer.Argument(metavar="FILE.brl", help="A file, or - (stdin).")],
    follow: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="The file may still be growing: wait up to so long for more."),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Read the container; no model is needed."""
    from rich.table import Table

    from codec.container import END
    from codec.stream_index import StreamIndex
    from codec.stream_reader import StreamReader

    rows: list[dict[str, Any]] = []
    size = 0
    try:
        with open_stream(stream) as source:
            reader = StreamReader(source, None if follow is None else patience(source, follow))
            for p in reader.packets():
                size = p.offset + p.bytes
                if p.kind != END:
                    rows.append(
                        {"index": p.index, "type": p.frame_type, "qp": p.qp, "bytes": p.bytes,
                         "payload_bytes": len(p.payload)}
                    )  # fmt: skip
            if not rows:
                raise StreamError("it holds no whole frame yet")
    except StreamError as error:
        raise StreamError(f"{shown_name(stream)}: {error}") from error
    header, index = reader.header, reader.index or StreamIndex()
    fmt = header.format
    pixels = fmt.width * fmt.height
    figures = {
        "file": shown_name(stream), "version": header.version, "codec": header.codec, "model_name": header.model_name,
        "model_hash": header.model_hash.hex(), "width": fmt.width, "height": fmt.height, "fps": str(fmt.fps),
        "matrix": fmt.matrix, "full_range": fmt.full_range, "segment_frames": header.segment_frames,
        "finished": reader.finished, "frame_count": len(rows),
        "intra_frames": sum(row["type"] == "I" for row in rows), "bytes": size,
        "header_bytes": reader.header_bytes, "bpp": 8 * size / (pixels * len(rows)),
        "frames": rows,
        "index": [
            {"frame": start, "offset": offset, "checksum": f"{checksum:08x}"}
            for start, offset, checksum in zip(index.starts, index.offsets, index.checksums, strict=True)
        ],
    }  # fmt: skip
    for key, value in figures.items():
        if key not in ("frames", "index"):
            shown = f"{value:.4f}" if isinstance(value, float) else value
            console.print(f"{key.replace('_', ' '):14} {shown}", markup=False, soft_wrap=True)
    table = Table("frame", "type", "QP", "bits", "bits per pixel")
    for column in (0, 2, 3, 4):
        table.columns[column].justify = "right"
    for row in rows:
        bits = 8 * row["bytes"]
        table.add_row(str(row["index"]), row["type"], str(row["qp"]), str(bits), f"{bits / pixels:.4f}")
    console.print(table)
    write_json(json_path, figures)
