"""The face that every codec has: training forward, encoding to a .brl stream, decoding from it, loading, saving.

A codec is one folder below `codec/` and one line in `CODECS`. Nothing outside its folder knows how it works.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from codec.atomic_files import write_atomically, write_json_atomically
from codec.builtin import CONFIG_FILE as CONFIG_FILE
from codec.builtin import WEIGHTS_FILE as WEIGHTS_FILE
from codec.builtin import builtin_models, builtin_names
from codec.container import MAX_PIXELS, MAX_SEGMENT, Packet, StreamHeader
from codec.errors import BitreelError, UsageError
from codec.frames import Frame, VideoFormat
from codec.saved_config import FORMAT, check_origin, loaded_settings, saved_settings
from codec.stream_reader import StreamReader
from codec.streams import QP_COUNT as QP_COUNT
from codec.streams import (
    CodedFrame,
    EncodedChunk,
    EncodeOptions,
    FrameReport,
    StreamReport,
    decode_stream,
    encode_stream,
    write_stream,
)

# Codec family -> "module:class". A further codec adds its folder and one line here.
CODECS: dict[str, str] = {
    "dcvc-fm": "codec.dcvc_fm.model:DCVCFM",
    "dcvc-fm-base": "codec.dcvc_fm_base.model:DCVCFMBase",
    "innvc": "codec.innvc.model:InnVC",
}


@dataclass(frozen=True)
class TrainingConditions:
    """What a recipe's phase decides about one forward pass.

    mask_fraction: share of latent channels kept alive at QP 0 (1.0 = all alive); rises to 1 with QP.
    field_dropout: chance per sample that the conditioning field is switched off, so that the codec works without it.
    picture_gradients: gradients go from a frame to the decoded frames that it was predicted from (DCVC-FM's cascaded
        loss as a whole).
    cascaded: gradients go from a frame to those before it; else each frame answers for itself alone.
    recompute: a frame's networks run once more in the backward pass, rather than being kept until then.
    motion_only: nothing is coded: motion estimation alone, on frames moved by a flow that is known.
    """

    mask_fraction: float = 1.0
    field_dropout: float = 0.0
    picture_gradients: bool = False
    cascaded: bool = True
    recompute: bool = False
    motion_only: bool = False


@dataclass(frozen=True)
class FitSettings:
    """How much work fitting to one video may be. steps: how often the video is coded to see what suits it."""

    steps: int = 8


@dataclass
class TrainingOutput:
    """What `Codec.forward` gives to the objective. B samples, T frames.

    bits: (B, T) estimated bits of each frame (motion included), differentiable.
    field_bits: (B,) estimated bits of the conditioning field or other per-segment side information.
    sse: (B, T) squared error in 8-bit units, planes weighted so that sse / (H·W) is the MSE behind PSNR-YUV 6:1:1.
    luma, chroma: reconstruction, (B, T, 1, H, W) and (B, T, 2, H/2, W/2), float, 0..255, detached.
    motion_error: (B,) how far the motion found is from the true one, in luma pixels, differentiable; where
        `TrainingConditions.motion_only` asked for it.
    """

    bits: Tensor
    field_bits: Tensor
    sse: Tensor
    luma: Tensor
    chroma: Tensor
    motion_error: Tensor | None = None


class Codec(nn.Module, ABC):
    """A neural video codec. Subclasses set `family` and take their config dataclass as the only argument."""

    family: ClassVar[str]
    config_class: ClassVar[type]
    # Whether each frame may have a QP of its own, between whole ones too, and so follow a bitrate.
    steers_quality: ClassVar[bool] = False
    # Whether decoded frames are the same on every machine. Where they come from floats, only symbols are: a stream's
    # checksums of frames then bind under the encoder's own settings alone, and are not asked for.
    exact_frames: ClassVar[bool] = True
    # The `TrainingConditions` it follows of those that not every codec knows: mask_fraction, field_dropout,
    # picture_gradients, motion_only. A recipe that asks for another is refused.
    training_conditions: ClassVar[frozenset[str]] = frozenset()
    # What the names of its motion network's parameters begin with, where it has one that `motion_only` trains.
    motion_network: ClassVar[str] = ""
    # How long a training clip must be for anything in it to have a gradient.
    least_clip_frames: ClassVar[int] = 1
    # Names of modules that may compute in bfloat16 in training: those of which nothing has to be exact.
    free_modules: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.display_name: str = self.family

    @abstractmethod
    def forward(self, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions) -> TrainingOutput:
        """Code a batch of clips as training sees it.

        luma: (B, T, 1, H, W) uint8; chroma: (B, T, 2, H/2, W/2) uint8; H and W multiples of 16.
        qp: (B,) int64 in 0..63. Frame 0 of each clip is intra, the rest inter.
        """

    @abstractmethod
    def encode_frames(self, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions) -> Iterator[CodedFrame]:
        """Code frames, in order, one `CodedFrame` each; the container is none of a codec's business.

        frames all have the size of `fmt`; there is at least one. Holds at most `segment_frames` of them, as they are.
        """

    @abstractmethod
    def decode_frames(self, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
        """The frames of packets, in order, one each and without delay. The first packet is an intra frame's; before an
        intra frame, packets may be missing.

        What a packet holds may be garbage: raises StreamError then, and never takes more memory or time than the
        header's picture size asks for.
        """

    def encode_stream(
        self, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions
    ) -> Iterator[EncodedChunk]:
        """A .brl stream as it comes: the header, then a chunk a frame, then the end packet.

        Takes frames one by one and holds at most one segment of them (16 frames or fewer), so a frame's chunk comes
        when its segment is complete, and memory does not depend on the video's length. The header's frame count stays
        0; `codec.streams.write_chunks` writes chunks to a file and fills it in.

        Raises UsageError on an empty video, a QP or intra period out of range, or a frame of another size than `fmt`.
        """
        return encode_stream(self, frames, fmt, options)

    def encode(
        self,
        frames: Iterable[Frame],
        fmt: VideoFormat,
        sink: BinaryIO,
        options: EncodeOptions,
        on_frame: Callable[[FrameReport, Frame], None] | None = None,
    ) -> StreamReport:
        """Write a .brl stream to `sink`, as `encode_stream` makes it. `on_frame` gets each frame's report and its
        reconstruction; the report that is given back lists all frames, and alone grows with the video's length.

        Raises as `encode_stream`.
        """
        return write_stream(self.encode_stream(frames, fmt, options), sink, on_frame)

    def decode(
        self,
        source: BinaryIO | StreamReader,
        from_frame: int = 0,
        frames: int | None = None,
        *,
        follow: Callable[[], bool] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Frame]:
        """Frames of a .brl stream, in order, each as soon as its packet is there; one frame is held.

        source: a file or a pipe, or a `StreamReader` where the header was wanted first (`follow` and `max_pixels` are
        the reader's own then). from_frame: begin there; decoding begins at the intra frame at or before it, which the
        index finds where the source can seek. frames: at most so many.
        follow: for streams that are still being written: called where bytes are lacking; True means to look again,
        False to end quietly with the frames so far. max_pixels: refuse streams of larger pictures.

        Raises StreamError where the stream is damaged, cut off (without `follow`) or of another model: a damaged
        packet's frame is never given. Frames that are not those the encoder saw are noticed at their run's end, if this
        codec's frames are exact. Raises UsageError where `from_frame` is past the end.
        """
        reader = source if isinstance(source, StreamReader) else StreamReader(source, follow, max_pixels)
        return decode_stream(self, reader, from_frame, frames)

    def fit(
        self,
        frames: Sequence[Frame],
        fmt: VideoFormat,
        options: EncodeOptions,
        settings: FitSettings,
        on_step: Callable[[int, float], None] | None = None,
    ) -> Codec:
        """A codec fitted to one video, for encoding it with `options`; this one is not changed.

        Its streams carry what was fitted, so the codec that was not fitted decodes them: both have one `model_hash`.
        frames: the whole video; may be read from disk one by one, so each access can cost a read. on_step gets each
        step's number, from 0, and its loss.

        Raises UsageError where this kind of codec can't be fitted.
        """
        raise UsageError(f"codec '{self.family}' can't be fitted to a video")

    @property
    def segment_frames(self) -> int:
        """Frames that are coded together, at most 16: how many the encoder holds, and its delay."""
        return int(self.config.segment_frames)

    @abstractmethod
    def complexity(self) -> dict[str, float]:
        """`parameters` (all), `decoder_kmac_per_pixel_intra` and `..._inter` (multiply-accumulates per luma pixel)."""

    def model_hash(self) -> bytes:
        """SHA-256 (32 bytes) over family, config and every weight: equal hashes decode each other's streams."""
        return self._hash_with(self.state_dict())

    def _hash_with(self, weights: Mapping[str, Tensor]) -> bytes:
        digest = hashlib.sha256(self.family.encode())
        digest.update(json.dumps(saved_settings(self.config), sort_keys=True).encode())
        for key, tensor in sorted(weights.items()):
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.digest()


def create_codec(family: str, config: dict[str, Any]) -> Codec:
    """A codec with fresh weights. Raises UsageError for an unknown family or config field, or a segment too long."""
    if family not in CODECS:
        raise UsageError(f"unknown codec '{family}'; known: {', '.join(sorted(CODECS))}")
    cls = _codec_class(family)
    known = {f.name for f in dataclasses.fields(cls.config_class)}
    unknown = sorted(set(config) - known)
    if unknown:
        raise UsageError(f"codec '{family}' has no setting {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)  # whatever the caller's work is done in
        codec = cls(cls.config_class(**config))
    finally:
        torch.set_default_dtype(before)
    if not 1 <= codec.segment_frames <= MAX_SEGMENT:
        raise UsageError(f"segment_frames {codec.segment_frames}: must lie in 1..{MAX_SEGMENT}, the encoder's delay")
    return codec


def _codec_class(family: str) -> type[Codec]:
    module, _, name = CODECS[family].partition(":")
    cls: type[Codec] = getattr(importlib.import_module(module), name)
    return cls


def save_codec(codec: Codec, folder: Path, half: bool = False, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write weights (safetensors) and config (JSON) into `folder`, each by rename.

    weights: its whole state where it is not the codec's own at this moment.

    half: keep the parameters as float16, half the size; buffers stay as they are. The saved model is then another one
    than `codec`, with a hash of its own: that of the rounded weights, which loading gives. Raises BitreelError for a
    weight that float16 can't hold.
    """
    state = codec.state_dict() if weights is None else weights
    weights = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    held = _in_half(codec, weights) if half else weights
    write_atomically(folder / WEIGHTS_FILE, save(held))
    meta = {
        "format": FORMAT,
        "family": codec.family,
        "name": codec.display_name,
        "config": saved_settings(codec.config),
        "weights": "float16" if half else "float32",
        # Of the weights as loading gives them.
        "model_hash": codec._hash_with({k: held[k].to(v.dtype) for k, v in weights.items()}).hex(),
    }
    write_json_atomically(folder / CONFIG_FILE, meta)


def _in_half(codec: Codec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    held = dict(weights)
    for name, parameter in codec.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            held[name] = weights[name].half()
            if not bool(torch.isfinite(held[name]).all()):
                raise BitreelError(f"weight '{name}' is too large for float16, or not finite; keep the full precision")
    return held


def find_model(ref: str | Path) -> Path | None:
    """The folder of a model: `ref` itself where it is a checkpoint folder, else the built-in model of that name."""
    if (Path(ref) / CONFIG_FILE).is_file():
        return Path(ref)
    return builtin_models().get(str(ref))


def load_codec(ref: str | Path, device: str = "cpu") -> Codec:
    """Load a codec from a checkpoint folder, or the built-in model of that name; its parameters are float32 however
    they are kept.

    Raises UsageError where there is neither, or the folder lacks a file, BitreelError where the weights are damaged
    or are not the ones the config names, or another version of bitreel is wanted (codec/saved_config.py).
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"device '{device}' is not known; give cpu, cuda or cuda:N")
    folder = find_model(ref) or Path(ref)
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if not config_path.is_file() or not weights_path.is_file():
        raise UsageError(
            f"no model at '{ref}': a checkpoint folder holds {CONFIG_FILE} and {WEIGHTS_FILE}; "
            f"built-in models: {builtin_names()}"
        )
    label = f"model at '{ref}'"
    try:
        meta = json.loads(config_path.read_text())
        check_origin(meta, CODECS, label)
        settings = loaded_settings(_codec_class(meta["family"]).config_class, meta["config"], label)
        codec = create_codec(meta["family"], settings)
        codec.load_state_dict(load_file(str(weights_path)))
    except (ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BitreelError(f"{label} can't be loaded: {reason}") from error
    if codec.model_hash().hex() != meta.get("model_hash"):
        raise BitreelError(f"{label}: weights do not match the hash in {CONFIG_FILE}; copy both files anew")
    codec.display_name = meta.get("name", codec.family)
    codec.eval()
    try:
        return codec.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device '{device}' is not usable here: {str(error).splitlines()[0]}") from error
