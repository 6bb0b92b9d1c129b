"""Is one stream the same everywhere? It is decoded, and its source encoded, under many configurations of the machine.

Each configuration is a process of its own: threads, oneDNN off, lower instruction sets, memory layouts, the entropy
coder compiled or in plain Python, torch.compile, a GPU where there is one. For each it prints hashes of the decoded
frames and of all that the entropy decoder was asked and answered (table numbers and symbols); they must be those of the
reference: one thread, nothing set. Then the hash of the stream that the encoder makes there. An encoder is free to
choose otherwise; but then the reference must decode its stream to the frames that the encoder promised (marked *). Of
a codec whose frames are floats, frames may differ (marked ~): its symbols must be the same, its streams decode.
Exit status 1 where any of this fails.

Without --model the weights are random, and louder than fresh ones, so that every layer has a say in the probabilities.

Examples: python benchmarks/configurations.py --json hashes.json
          python benchmarks/configurations.py ~/videos/crowd.y4m --model runs/best --size 416x240 --frames 33 --qp 40
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

from machine_configurations import CONFIGURATIONS, FAST

FPS = Fraction(25)


def work(job: dict[str, Any]) -> dict[str, Any]:
    """What the job asks for, in this process, as its configuration says: encode `footage` to `own`, decode `stream`."""
    configuration = CONFIGURATIONS[job["configuration"]]
    reason = configuration.missing()
    if reason:
        return {"skipped": reason}
    import torch

    from codec.api import load_codec

    torch.set_num_threads(configuration.threads)
    codec = load_codec(job["model"], configuration.device)
    result: dict[str, Any] = {
        "instructions": torch.backends.cpu.get_cpu_capability(), "exact_frames": codec.exact_frames
    }  # fmt: skip
    with configuration.tweak(codec):
        if job["own"]:
            result |= encode(codec, job)
        result |= decode(codec, Path(job["stream"]))
    return result


def encode(codec: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Encode the footage to the file `own`; hashes of the stream and of the frames that the encoder promises."""
    from footage import read_footage

    from codec.api import EncodeOptions
    from codec.frames import Frame, VideoFormat, frames_digest

    width, height = job["size"]
    footage = read_footage(Path(job["footage"]), (width, height), job["frames"])
    sink = io.BytesIO()
    promised: list[Frame] = []
    begin = time.perf_counter()
    codec.encode(
        footage, VideoFormat(width, height, FPS), sink, EncodeOptions(job["qp"], job["intra_period"]),
        lambda report, frame: promised.append(frame),
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    stream = sink.getvalue()
    Path(job["own"]).write_bytes(stream)
    hashes = {"stream": hashlib.sha256(stream).hexdigest(), "promised": frames_digest(promised)}
    return {**hashes, "bytes": len(stream), "encode_seconds": seconds}


def decode(codec: Any, stream: Path) -> dict[str, Any]:
    """Decode a stream; hashes of its frames and of what the entropy decoder was asked and answered."""
    from codec.frames import frames_digest

    digest, count = listen()
    begin = time.perf_counter()
    with stream.open("rb") as source:
        frames = frames_digest(codec.decode(source))
    seconds = time.perf_counter() - begin
    return {"frames": frames, "symbols": digest(), "symbol_count": count(), "decode_seconds": seconds}


def listen() -> tuple[Callable[[], str], Callable[[], int]]:
    """Hash, from now on, what SymbolDecoder is asked (table numbers) and answers (symbols).

    Of what kernels take by models of their own, the coder's state tells: any other chance or bit would lead to another.
    """
    import numpy as np

    from codec.entropy_coding import SymbolDecoder

    digest, count = hashlib.sha256(), 0
    decode, run = SymbolDecoder.decode, SymbolDecoder.run

    def heard(self: SymbolDecoder, numbers: Any, *rest: Any) -> Any:
        nonlocal count
        answer = decode(self, numbers, *rest)
        digest.update(np.ascontiguousarray(numbers, "<i8").tobytes())
        digest.update(np.ascontiguousarray(answer, "<i4").tobytes())
        count += len(answer)
        return answer

    def heard_run(self: SymbolDecoder, kernel: Any) -> Any:
        nonlocal count
        answer = run(self, kernel)
        digest.update(np.ascontiguousarray(self._state, "<u8").tobytes())
        count += 1
        return answer

    SymbolDecoder.decode, SymbolDecoder.run = heard, heard_run
    return digest.hexdigest, lambda: count


def run_fresh(job: dict[str, Any]) -> dict[str, Any]:
    """The job in a process of its own, with the configuration's environment."""
    configuration = CONFIGURATIONS[job["configuration"]]
    here = Path(__file__).resolve().parent
    paths = os.pathsep.join(filter(None, [str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]))
    threads = str(configuration.threads)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": threads, **configuration.environment}
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        message = (done.stderr.strip() or "no message").splitlines()[-1]
        return {"failed": f"exit status {done.returncode}: {message}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One row a configuration, the reference first."""
    from footage import write_footage

    width, height = (int(side) for side in arguments.size.split("x"))
    shown = write_footage(arguments.sources, (width, height), arguments.frames, folder / "source.yuv")
    print(f"{width}x{height}, {arguments.frames} frames of {shown}, QP {arguments.qp}")
    job = {
        "model": arguments.model or loud_model(folder / "model", arguments.family), "size": [width, height],
        "frames": arguments.frames, "qp": arguments.qp, "intra_period": arguments.intra_period,
        "footage": str(folder / "source.yuv"), "stream": str(folder / "reference.brl"),
    }  # fmt: skip

    def run(name: str) -> dict[str, Any]:
        own = folder / f"{list(CONFIGURATIONS).index(name)}.brl"
        stream = own if name == "reference" else folder / "reference.brl"
        result = run_fresh({**job, "configuration": name, "own": str(own), "stream": str(stream)})
        if name == "reference" and own.exists():
            own.rename(folder / "reference.brl")
        elif "promised" in result and result["stream"] != reference["stream"]:
            again = run_fresh({**job, "configuration": "reference", "own": "", "stream": str(own)})
            result["own_decodes"] = again.get("frames") == result["promised"] or (
                not result["exact_frames"] and "frames" in again
            )
        return {"configuration": name, **result}

    reference: dict[str, Any] = {}
    reference = run("reference")
    if "failed" in reference:
        sys.exit(f"the reference failed: {reference['failed']}")
    print(f"{reference['bytes']} bytes, {reference['symbol_count']} symbols\n")
    print(f"{'configuration':38} {'frames':14} {'symbols':14} {'stream':14}")
    print(told(reference, reference))
    rows = [reference]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for row in pool.map(run, [name for name in arguments.only if name != "reference"]):
            rows.append(row)
            print(told(row, reference), flush=True)
    return rows


def told(row: dict[str, Any], reference: dict[str, Any]) -> str:
    text = f"{row['configuration']:38} "
    for word in ("skipped", "failed"):
        if word in row:
            return f"{text}{word}: {row[word]}"
    for key in ("frames", "symbols", "stream"):
        mark = " " if row[key] == reference[key] else "*" if key == "stream" and row["own_decodes"] else "≠"
        if key == "frames" and mark == "≠" and not row.get("exact_frames", True):
            mark = "~"
        text += f"{row[key][:12]}{mark}  "
    return text


def same(rows: list[dict[str, Any]]) -> bool:
    """Whether every configuration that ran decoded the reference's frames and symbols, and made a stream that the
    reference decodes."""
    first = rows[0]
    return all(
        "failed" not in row
        and row["symbols"] == first["symbols"]
        and (row["frames"] == first["frames"] or not row.get("exact_frames", True))
        and ((row["stream"], row["promised"]) == (first["stream"], first["frames"]) or row.get("own_decodes", False))
        for row in rows
        if "skipped" not in row
    )


def loud_model(folder: Path, family: str) -> str:
    """A checkpoint of random weights: fresh ones start many layers at zero, and nothing would hang on what they add."""
    import torch

    from codec.api import create_codec, save_codec

    torch.manual_seed(0)
    codec = create_codec(family, {})
    with torch.no_grad():
        for parameter in codec.parameters():
            spread = 1.0 / max(1, parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.3
            parameter.add_(torch.randn_like(parameter) * 0.3 * spread)
    save_codec(codec, folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="videos or folders; none: BITREEL_TEST_CLIPS, or rendered")
    parser.add_argument("--model", help="checkpoint folder; none: random weights")
    parser.add_argument("--family", default="innvc", help="codec of the random weights")
    parser.add_argument("--size", default="128x96")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--qp", type=int, default=40)
    parser.add_argument("--intra-period", type=int, default=-1)
    parser.add_argument("--only", help="names of configurations, separated by ';', or 'fast'")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--json", type=Path, help="also write the hashes here")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(work(json.loads(arguments.job))))
        return
    named = FAST if arguments.only == "fast" else arguments.only.split(";") if arguments.only else list(CONFIGURATIONS)
    arguments.only = named
    unknown = [name for name in named if name not in CONFIGURATIONS]
    if unknown:
        parser.error(f"no configuration '{unknown[0]}'; known: {'; '.join(CONFIGURATIONS)}")
    with tempfile.TemporaryDirectory() as temporary:
        rows = compare(arguments, Path(temporary))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    if not same(rows):
        sys.exit("\nnot the same everywhere: see ≠ or what failed above")
    print("\nthe same everywhere")


if __name__ == "__main__":
    main()
