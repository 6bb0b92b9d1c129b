"""`bitreel decode`: a .brl stream to a video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.errors import StreamError, UsageError
from infra.console import progress
from infra.kernels import prepare_kernels
from infra.standard_streams import is_pipe, messages, open_stream, patience, shown_name, standard_output

if TYPE_CHECKING:
    from codec.container import StreamHeader
    from codec.frames import VideoFormat
    from pipeline.video_files import VideoWriter
    from pipeline.y4m import Y4MSink


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "decode",
        help="Decode a .brl stream to .y4m, .yuv, .mp4 or .mkv, losslessly. .y4m and .yuv carry no colour matrix.",
        epilog="Examples: bitreel decode clip.brl clip.y4m · bitreel decode clip.brl - --from-frame 1000 | ffplay -",
    )(decode_command)


def decode_command(
    stream: Annotated[Path, typer.Argument(metavar="IN.brl", help="A file, or - (stdin).")],
    out: Annotated[Path, typer.Argument(metavar="OUT.(y4m|yuv|mp4|mkv)", help="A file, or - (Y4M on stdout).")],
    model: Annotated[
        str | None,
        typer.Option(help="The model; without, the stream's is found among the built-in models and in the registry."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    from_frame: Annotated[
        int, typer.Option(min=0, metavar="N", help="Begin with frame N; decoding begins at the intra frame before.")
    ] = 0,
    frames: Annotated[int | None, typer.Option(min=1, help="At most this many frames.")] = None,
    follow: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="The file may still be growing: wait up to so long for more, then keep what is there. A pipe is read "
            "until it closes.",
        ),
    ] = None,
) -> None:
    """A file appears only when the stream was found sound up to its end (with --follow: up to where it has come);
    standard output gets each frame as it is decoded."""
    from codec.api import load_codec
    from codec.stream_reader import StreamReader
    from infra.registry import resolve_model

    _check_name(out)
    count = 0
    try:
        with open_stream(stream) as source:
            reader = StreamReader(source, None if follow is None else patience(source, follow))
            codec = load_codec(resolve_model(model) if model else _named_model(reader.header), device)
            prepare_kernels()
            decoded = codec.decode(reader, from_frame, frames)
            frame = next(decoded, None)
            if frame is None:
                raise StreamError("it holds no whole frame yet")
            with _open_writer(out, reader.header.format) as writer, progress() as bar:
                limits = [frames, reader.frame_count and reader.frame_count - from_frame]
                task = bar.add_task("decode", total=min((n for n in limits if n is not None), default=None))
                while frame is not None:
                    writer.write(frame)
                    bar.advance(task)
                    count += 1
                    frame = next(decoded, None)
    except StreamError as error:
        raise StreamError(f"{shown_name(stream)}: {error}") from error
    fmt = reader.header.format
    cut = "" if reader.finished or count == frames else "; the stream is unfinished"
    messages(out).print(f"{shown_name(out, output=True)}: {count} frames, {fmt.width}x{fmt.height}{cut}", markup=False)


def _check_name(out: Path) -> None:
    from pipeline.video_files import SUFFIXES

    if out.is_dir():
        raise UsageError(f"'{out}' is a folder; give the video's file name")
    if out.suffix.lower() not in SUFFIXES and not is_pipe(out):
        raise UsageError(f"can't write '{out}': the name must end in {', '.join(SUFFIXES)}")


@contextmanager
def _open_writer(out: Path, fmt: VideoFormat) -> Iterator[VideoWriter | Y4MSink]:
    from pipeline.video_files import open_writer
    from pipeline.y4m import Y4MSink

    if is_pipe(out):
        with standard_output("the video") as sink:
            yield Y4MSink(sink, fmt)
    else:
        with open_writer(out, fmt) as writer:
            yield writer


def _identity(header: StreamHeader) -> str:
    return f"'{header.model_name}', hash {header.model_hash.hex()[:12]}"


def _named_model(header: StreamHeader) -> Path:
    """The built-in model that has the stream's hash, else the registered version that has it and that the stream's
    header names."""
    from codec.builtin import find_builtin
    from codec.container import stored_name
    from infra.registry import fetch_version, list_models, list_versions

    builtin = find_builtin(header.model_hash.hex())
    if builtin is not None:
        return builtin
    names = [name for name in list_models() if stored_name(name) == header.model_name]
    for name in names:
        for version in reversed(list_versions(name)):
            if version.model_hash and version.model_hash.startswith(header.model_hash.hex()):
                return fetch_version(version)
    what = "has no version with that hash" if names else "is neither built in nor in the registry"
    raise UsageError(f"the stream's model ({_identity(header)}) {what}; give its folder or name with --model")
