"""`bitreel encode`: a video to a .brl stream."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from codec.errors import UsageError
from infra.console import JsonOption, progress, write_json
from infra.kernels import prepare_kernels
from infra.standard_streams import is_pipe, messages, shown_name, standard_input, standard_output

if TYPE_CHECKING:
    from pipeline.decoders import VideoSource
    from pipeline.y4m import Y4MSource


_FIRST_QP = 30.0  # where a bitrate begins from
_OF_NO_MATTER = "matrix not stated"  # to what the samples are; the header has what was assumed
_FAR_OFF = 0.05  # of a bitrate: worth telling


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "encode",
        help="Encode a video to a .brl stream. At most 16 frames are held, which is also the delay.",
        epilog="Examples: bitreel encode clip.mp4 clip.brl --model street-cams@champion --qp 42 · "
        "ffmpeg -i clip.mp4 -pix_fmt yuv420p -f yuv4mpegpipe - | bitreel encode - - --model cams --qp 42 > clip.brl",
    )(encode_command)


def encode_command(
    video: Annotated[
        Path, typer.Argument(metavar="IN", help=".y4m, .yuv (with --size), what FFmpeg opens, or - (Y4M on stdin).")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.brl", help="A file, or - (stdout).")],
    model: Annotated[str, typer.Option(help="A built-in model, name@7, name@champion, or a checkpoint folder.")],
    qp: Annotated[
        float | None,
        typer.Option(help="Quality: 0 (fewest bits) to 63 (best), or between where the codec can."),
    ] = None,
    bitrate: Annotated[
        str | None, typer.Option(metavar="BITS", help="Bits a second in the place of --qp, as 250k or 1.5M.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="At most this many frames.")] = None,
    intra_period: Annotated[int, typer.Option(help="-1: one intra frame; N: one every N frames.")] = -1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size of a raw .yuv file.")] = None,
    pix_fmt: Annotated[str | None, typer.Option(help="Pixel format of a raw .yuv file (yuv420p).")] = None,
    json_path: JsonOption = None,
) -> None:
    """A file appears when it is whole; standard output gets each packet as it is made."""
    from codec.api import QP_COUNT, EncodeOptions, load_codec
    from codec.streams import write_chunks
    from infra.registry import resolve_model

    if (qp is None) == (bitrate is None):
        raise UsageError("give either --qp, the quality, or --bitrate, bits a second")
    if qp is not None and not 0 <= qp <= QP_COUNT - 1:
        raise UsageError(f"--qp {qp:g}: must lie in 0..{QP_COUNT - 1}")
    wanted = parse_bitrate(bitrate)
    if intra_period != -1 and intra_period < 1:
        raise UsageError(f"--intra-period {intra_period}: must be -1 (one intra frame) or 1 and more")
    if out.suffix != ".brl" and not is_pipe(out):
        raise UsageError(f"'{out}': a stream's name must end in .brl")
    if out.is_dir():
        raise UsageError(f"'{out}' is a folder; give the stream's file name")
    codec = load_codec(resolve_model(model), device)
    header_bytes = total_bytes = field_bytes = count = 0
    with _open_sink(out) as sink, _open_source(video, parse_size(size), pix_fmt) as source, progress() as bar:
        prepare_kernels()
        fmt = source.format
        task = bar.add_task("encode", total=_known_frames(source.promised_frames, frames))
        options = EncodeOptions(
            qp=_FIRST_QP if qp is None else qp,
            intra_period=intra_period,
            bits_per_frame=None if wanted is None else wanted / float(fmt.fps),
        )
        chunks = codec.encode_stream(itertools.islice(source, frames), fmt, options)
        for chunk in write_chunks(chunks, sink, count_in_header=not is_pipe(out)):
            sink.flush()
            header_bytes = header_bytes or len(chunk.data)
            total_bytes += len(chunk.data)
            if chunk.report is not None:
                count, field_bytes = count + 1, field_bytes + chunk.report.field_bytes
                bar.advance(task)
        for note in source.notes:
            if not note.startswith(_OF_NO_MATTER):
                messages(out).print(f"note: {note}", markup=False)
    bpp = 8 * total_bytes / (fmt.width * fmt.height * count)
    name = shown_name(out, output=True)
    rate = 8 * total_bytes * float(fmt.fps) / count
    messages(out).print(
        f"{name}: {count} frames, {total_bytes} bytes, {bpp:.4f} bits per pixel, {rate / 1000:.1f} kbit/s", markup=False
    )
    if wanted is not None and abs(rate / wanted - 1) > _FAR_OFF:
        messages(out).print(
            f"that is {100 * (rate / wanted - 1):+.0f} % off the bitrate that was asked for: "
            "a video as short as this, or as hard or easy to code, can't meet it",
            markup=False,
        )
    figures = {
        "file": name, "frames": count, "bytes": total_bytes, "bpp": bpp, "bitrate": rate, "qp": qp, "width": fmt.width,
        "height": fmt.height, "header_bytes": header_bytes, "field_bytes": field_bytes,
        "model_hash": codec.model_hash().hex(),
    }  # fmt: skip
    write_json(json_path, figures)


def _known_frames(promised: int, limit: int | None) -> int | None:
    """How many frames come, by what the container says (0: nothing) and the user's limit; None where neither tells."""
    return min([count for count in (promised or None, limit) if count], default=None)


def parse_bitrate(text: str | None) -> float | None:
    """ "250k" → 250000.0 bits a second. Raises UsageError."""
    if text is None:
        return None
    number, factor = (text[:-1], {"k": 1e3, "m": 1e6}[text[-1].lower()]) if text[-1:] in tuple("kKmM") else (text, 1.0)
    try:
        found = float(number) * factor
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise UsageError(f"--bitrate '{text}': expected bits a second, as 250k or 1.5M")
    return found


@contextmanager
def _open_source(video: Path, size: tuple[int, int] | None, pix_fmt: str | None) -> Iterator[VideoSource | Y4MSource]:
    from pipeline.decoders import open_video
    from pipeline.y4m import Y4MSource

    if is_pipe(video):
        yield Y4MSource(standard_input("a Y4M video"))
    else:
        with open_video(video, size, pix_fmt) as source:
            yield source


@contextmanager
def _open_sink(out: Path) -> Iterator[BinaryIO]:
    """Standard output, or a file under another name that is renamed when all went well."""
    from codec.atomic_files import blaming, commit, unfinished_path

    if is_pipe(out):
        with standard_output("the stream") as sink:
            yield sink
        return
    with blaming(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = unfinished_path(out)
        try:
            with temporary.open("wb") as sink:
                yield sink
            commit(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "352x288" → (352, 288). Raises UsageError."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"--size '{text}': expected WIDTHxHEIGHT, as 352x288")
    return int(width), int(height)
