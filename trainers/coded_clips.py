"""What the tools that learn from coded clips share: a model, the clips of a store, a command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.api import Codec, load_codec
from codec.dcvc_fm import coding_state as dcvc_fm_state
from codec.dcvc_fm import encoder as dcvc_fm_encoder
from codec.errors import BitreelError, UsageError
from codec.frames import Frame, VideoFormat
from codec.innvc import coding_state as innvc_state
from codec.innvc import encoder as innvc_encoder
from codec.inter.state import InterState
from codec.streams import CodedFrame, EncodeOptions
from pipeline.loader import ClipLoader

_FAMILIES: dict[str, tuple[Callable[[Any, VideoFormat], InterState], Callable[..., Iterator[CodedFrame]]]] = {
    "innvc": (innvc_state.CodingState, innvc_encoder.encode_frames),
    "dcvc-fm": (dcvc_fm_state.CodingState, dcvc_fm_encoder.encode_frames),
}
Progress = Callable[[str], object]
# (model, store, file, clips, crop, seed, progress): writes the file
Tool = Callable[[Path, Path, Path, int, int, int, Progress], None]


@dataclass(frozen=True)
class InterCodec:
    """A model whose frames can be coded from a state that a tool has prepared."""

    codec: Codec
    new_state: Callable[[Any, VideoFormat], InterState]
    encode: Callable[..., Iterator[CodedFrame]]

    def code(self, frames: Iterable[Frame], options: EncodeOptions, state: InterState) -> Iterator[CodedFrame]:
        """Coded frames, one by one; the state changes with them."""
        return self.encode(self.codec, frames, state.format, options, state)

    def state(self, crop: int) -> InterState:
        return self.new_state(self.codec, VideoFormat(crop, crop))


def load_inter_codec(model: Path) -> InterCodec:
    """Raises UsageError where the model's family has no such states."""
    codec = load_codec(model)
    found = _FAMILIES.get(codec.family)
    if found is None:
        raise UsageError(f"'{model}' is of the family {codec.family}; this tool knows {', '.join(sorted(_FAMILIES))}")
    return InterCodec(codec, *found)


def clips_of(store: Path, frames: int, clips: int, crop: int, seed: int) -> Iterator[list[Frame]]:
    """`clips` clips of so many frames, crop x crop, of the store's split "train".

    Raises UsageError where the store has none; BitreelError where it is damaged.
    """
    loader = ClipLoader(store, split="train", clip_frames=frames, crop=crop, batch_size=1, seed=seed, reversal=False)
    for number in range(clips):
        batch = loader.batch(number)
        planes = batch.luma[0, :, 0].numpy(), batch.chroma[0].numpy()
        yield [Frame(y.copy(), uv[0].copy(), uv[1].copy()) for y, uv in zip(*planes, strict=True)]


def run_tool(make: Tool, name: str, description: str | None, clips: int) -> None:
    """A tool's command line; clips: how many it codes unless told otherwise."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("--store", type=Path, required=True, help="clips, as `bitreel ingest` makes them")
    parser.add_argument("--out", type=Path, required=True, help="file to write; one that is there is replaced")
    parser.add_argument("--clips", type=int, default=clips, help="how many clips to code")
    parser.add_argument("--crop", type=int, default=224, help="side of the pictures, a multiple of 16")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        make(
            given.model, given.store, given.out, given.clips, given.crop, given.seed,
            lambda line: print(line, flush=True),
        )  # fmt: skip
    except BitreelError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
