"""Does DCVC-FM base have the paper's size? Parameters and multiply-accumulates of every part, counted on the model.

The counts come from the modules as they are: parameters as stored, products of the convolutions while one frame passes.
Parts that run in exact whole numbers stand beside the same part in floats as the paper describes it, built and counted
likewise. Exit status 1 where a total is more than 10 % from the paper's: 26.6 M parameters intra, 18.3 M inter, 1137
thousand multiply-accumulates a pixel inter, encoder included; or an exact part more than 10 % from its float form.

Example: python -m benchmarks.dcvc_fm_base_table --json table.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from codec.api import create_codec
from codec.dcvc_fm_base.blocks import BlockA, Down, Up
from codec.dcvc_fm_base.complexity import Part, measured_parts
from codec.dcvc_fm_base.config import DCVCFMBaseConfig
from codec.dcvc_fm_base.model import DCVCFMBase

# The paper's (CVPR 2024; the authors' repository): million parameters, thousand multiply-accumulates a pixel.
PAPER = {("intra", "parameters"): 26.6, ("inter", "parameters"): 18.3, ("inter", "kmac"): 1137.0}
TOLERANCE = 0.10
LATENT_PLACES = 16 * 16  # luma pixels


def float_twins(config: DCVCFMBaseConfig) -> dict[tuple[str, str], tuple[int, float]]:
    """(parameters, kmac) of each exact part as the paper describes it, in floats."""
    made: dict[tuple[str, str], tuple[int, float]] = {}

    def prior(channels: int, hyper: int, out: int, fused: int, width: int, maps: int, blocks: int) -> Any:
        """Hyper-decoder, fusion, spatial prior: parameters, and products for each place of the latent. The spatial
        blocks run three times; the hyper-decoder begins at 1/16 of the places."""
        first, second, last = Up(hyper, hyper), Up(hyper, hyper), BlockA(hyper, out)
        macs = _up_macs(first) / 16 + _up_macs(second) / 4 + _macs([last])
        widths = [fused, *[width] * blocks, maps + 2 * channels]
        fusion = [BlockA(a, b) for a, b in pairwise(widths)]
        adaptors = [nn.Conv2d(maps + 3 * channels, width, 1) for _ in range(3)]
        spatial = [BlockA(width), BlockA(width), BlockA(width, 2 * channels)]
        return (
            (_size([first, second, last]), macs),
            (_size(fusion), _macs(fusion)),
            (_size([*adaptors, *spatial]), _macs(adaptors) + 3 * _macs(spatial)),
        )

    c = config
    intra = prior(c.intra_latent, c.intra_hyper, c.intra_latent, c.intra_latent, c.intra_prior, 2, 1)
    motion = prior(c.motion, c.hyper, c.motion, 2 * c.motion, c.motion_prior, c.motion, 1)
    inter = prior(c.latent, c.hyper, c.latent, 3 * c.latent, c.prior, c.latent, 2)
    for model, parts in (("intra", intra), ("inter", inter)):
        for name, (size, macs) in zip(("hyper-decoder", "prior fusion", "spatial prior"), parts, strict=True):
            made[model, f"{name} (exact)"] = size, macs / LATENT_PLACES / 1000
    made["inter", "motion priors (exact)"] = sum(p[0] for p in motion), sum(p[1] for p in motion) / LATENT_PLACES / 1000
    # From c3 at 1/4: two strided residual steps.
    steps = [Down(c.quarter, c.latent), Down(c.latent, c.latent)]
    made["inter", "temporal prior (exact)"] = (
        _size(steps),
        (4 * _macs([steps[0]]) + _macs([steps[1]])) / LATENT_PLACES / 1000,
    )
    return made


def _size(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def _macs(modules: Iterable[nn.Module]) -> int:
    """Of all convolutions once."""
    return sum(layer.weight.numel() for m in modules for layer in m.modules() if isinstance(layer, nn.Conv2d))


def _up_macs(step: Up) -> float:
    """For each place that goes in: its 3x3 runs at the four places that come out."""
    return _macs([step.first, step.skip]) + 4 * _macs([step.second])


def rows(codec: DCVCFMBase) -> list[dict[str, Any]]:
    """A row a part, and one of totals a model. described_*: of the exact part's float form; else None."""
    twins = float_twins(codec.config)
    tables = {  # learned tables of hyper-latents, which are counted with these parts
        ("intra", "hyper-decoder (exact)"): codec.intra.hyper_tables,
        ("inter", "hyper-decoder (exact)"): codec.inter.hyper_tables,
        ("inter", "motion priors (exact)"): codec.inter.motion.hyper_tables,
    }
    made = []
    for part in measured_parts(codec):
        key = part.model, part.name
        described = twins.get(key)
        beside = _size([tables[key]]) if key in tables else 0
        made.append(_row(part, None if described is None else (described[0] + beside, described[1])))
    return made


def _row(part: Part, described: tuple[int, float] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"model": part.model, "part": part.name, "parameters": part.parameters, "kmac": part.kmac,
                           "decoder": part.decodes}  # fmt: skip
    row["described_parameters"], row["described_kmac"] = described or (None, None)
    return row


def totals(table: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Million parameters and kmac of both models."""
    found: dict[tuple[str, str], float] = {}
    for model in ("intra", "inter"):
        mine = [row for row in table if row["model"] == model]
        found[model, "parameters"] = sum(row["parameters"] for row in mine) / 1e6
        found[model, "kmac"] = sum(row["kmac"] for row in mine)
    return found


def failures(table: list[dict[str, Any]]) -> list[str]:
    """What is more than 10 % off."""
    found = []
    for key, paper in PAPER.items():
        here = totals(table)[key]
        if abs(here / paper - 1) > TOLERANCE:
            found.append(f"{key[0]} {key[1]}: {here:.1f}, in the paper {paper}")
    for row in table:
        described = row["described_parameters"]
        if described is not None and abs(row["parameters"] / described - 1) > TOLERANCE:
            found.append(f"{row['model']} {row['part']}: {row['parameters']} parameters, in floats {described}")
    return found


def lines(table: list[dict[str, Any]]) -> list[str]:
    """The table in Markdown."""
    made = ["| model | part | M parameters | kMAC/pixel | the same in floats | in a decoder |", "| --- " * 6 + "|"]
    for row in table:
        described = "" if row["described_parameters"] is None else (
            f"{row['described_parameters'] / 1e6:.3f} M ({row['parameters'] / row['described_parameters'] - 1:+.1%}), "
            f"{row['described_kmac']:.1f} kMAC"
        )  # fmt: skip
        made.append(
            f"| {row['model']} | {row['part']} | {row['parameters'] / 1e6:.3f} | {row['kmac']:.1f} | {described} "
            f"| {'yes' if row['decoder'] else ''} |"
        )
    for (model, what), value in totals(table).items():
        paper = PAPER.get((model, what))
        said = f"; paper {paper} ({value / paper - 1:+.1%})" if paper else ""
        made.append(f"\n{model} {what}: {value:.2f}{' M' if what == 'parameters' else ' kMAC/pixel'}{said}")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    arguments = parser.parse_args()
    codec = create_codec("dcvc-fm-base", {})
    assert isinstance(codec, DCVCFMBase)
    table = rows(codec)
    print("\n".join(lines(table)))
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1))
    problems = failures(table)
    print("\n" + ("; ".join(problems) or "all within 10 %"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
