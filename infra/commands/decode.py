"""`bitreel decode`: a .brl stream to a video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.errors import StreamError, UsageError
from infra.console import console, progress

if TYPE_CHECKING:
    from codec.container import StreamHeader


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "decode",
        help="Decode a .brl stream to .y4m, .yuv, .mp4 or .mkv, losslessly. .y4m and .yuv carry no colour matrix.",
        epilog="Example: bitreel decode clip.brl clip.y4m",
    )(decode_command)


def decode_command(
    stream: Annotated[Path, typer.Argument(metavar="IN.brl")],
    out: Annotated[Path, typer.Argument(metavar="OUT.(y4m|yuv|mp4|mkv)")],
    model: Annotated[
        str | None, typer.Option(help="The model; without, the registry is asked for the one the stream names.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """The video appears only when the whole stream was decoded and found sound."""
    from codec.api import load_codec
    from codec.container import END, read_header, read_packets
    from infra.registry import resolve_model
    from pipeline.video_files import SUFFIXES, open_writer

    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"can't write '{out}': the name must end in {', '.join(SUFFIXES)}")
    if not stream.is_file():
        raise UsageError(f"no stream at '{stream}'")
    try:
        with stream.open("rb") as source:
            header = read_header(source)
            count = sum(packet.kind != END for packet in read_packets(source))
        folder = resolve_model(model) if model else _named_model(header)
        codec = load_codec(folder, device)
        if codec.model_hash()[:16] != header.model_hash:
            raise StreamError(
                f"made by another model ({_identity(header)}) than the given one "
                f"(hash {codec.model_hash().hex()[:12]}); give the right one with --model"
            )
        with stream.open("rb") as source, open_writer(out, header.format) as writer, progress() as bar:
            for frame in bar.track(codec.decode(source), total=count, description="decode"):
                writer.write(frame)
    except StreamError as error:
        raise StreamError(f"{stream}: {error}") from error
    console.print(f"{out}: {count} frames, {header.format.width}x{header.format.height}", markup=False)


def _identity(header: StreamHeader) -> str:
    return f"'{header.model_name}', hash {header.model_hash.hex()[:12]}"


def _named_model(header: StreamHeader) -> Path:
    """The registered version that the stream's header names and whose hash is the stream's."""
    from codec.container import stored_name
    from infra.registry import fetch_version, list_models, list_versions

    names = [name for name in list_models() if stored_name(name) == header.model_name]
    for name in names:
        for version in reversed(list_versions(name)):
            if version.model_hash and version.model_hash.startswith(header.model_hash.hex()):
                return fetch_version(version)
    what = "has no version with that hash" if names else "is not in the registry"
    raise UsageError(f"the stream's model ({_identity(header)}) {what}; give its folder or name with --model")
