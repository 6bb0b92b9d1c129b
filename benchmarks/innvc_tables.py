"""The figures of `innvc_figures` as tables for people."""

from __future__ import annotations

from typing import Any


def print_figures(figures: dict[str, Any]) -> None:
    """All parts that were measured, on standard output."""
    print(f"model {figures['model']['name']} ({figures['model']['hash'][:12]}), {len(figures['clips'])} clips")
    failures = figures["decode_hash_failures"]
    print(f"QPs {', '.join(map(str, figures['qps']))}; streams that decode to other frames elsewhere: {failures:.0f}")
    for name, span in figures["span"].items():
        print(f"  {name:24} lossy {span['lowest']:5.1f} to {span['highest']:5.1f} dB, a span of {span['span']:.1f} dB")
    if "rate" in figures:
        print("\nBD-rate, percent (negative: fewer bits at equal quality)")
        _print_rates(figures["rate"], figures["clips"])
    if "field" in figures:
        print("\nField on against off, BD-rate in percent")
        _print_rates(figures["field"]["bd_rates"], figures["clips"])
        print(f"lossless size {figures['field']['lossless_percent']:+.2f} %")
    if "lossless" in figures:
        _print_lossless(figures["lossless"])
    if "bits" in figures:
        _print_bits(figures["bits"])


def _print_rates(rows: list[dict[str, Any]], clips: list[str]) -> None:
    groups: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        place = row["sequence"] or row["aggregation"]
        groups.setdefault((row["anchor"], row["metric"], row["range"]), {})[place] = row
    for (anchor, metric, limits), by_place in groups.items():
        whole = [place for place in by_place if place not in clips]
        said = ", ".join(f"{place} {_percent(by_place[place])}" for place in whole)
        print(f"{anchor}, {metric}, {limits}: {said}")
        print("    " + ", ".join(f"{clip} {_percent(by_place[clip])}" for clip in clips if clip in by_place))


def _percent(row: dict[str, Any]) -> str:
    if row["percent"] is not None:
        return f"{row['percent']:+.1f}"
    if row.get("percent_of_those") is not None:
        return f"refused ({row['clips_that_answer']} clips answer: {row['percent_of_those']:+.1f})"
    return "refused"


def _print_lossless(clips: list[dict[str, Any]]) -> None:
    print("\nWithout loss: bytes, and percent more (+) or less (-) than each peer")
    for clip in clips:
        peers = ", ".join(f"{peer} {size} ({clip['percent'][peer]:+.1f} %)" for peer, size in clip["peers"].items())
        print(f"{clip['clip']:24} {clip['bytes']} {'exact' if clip['exact'] else 'NOT EXACT'}; {peers}")
    for peer in clips[0]["peers"] if clips else ():
        print(f"mean against {peer}: {sum(c['percent'][peer] for c in clips) / len(clips):+.1f} %")


def _print_bits(rows: list[dict[str, Any]]) -> None:
    print("\nWhere the bits go: percent of P frames' payload; of all frames' bytes what intra frames take")
    names = [name for name in (rows[0]["share_of_p_frames"] if rows else ()) if name not in ("intra", "coefficients")]
    heads = "".join(f"{name.removeprefix('channels '):>9}" for name in names)
    print(f"{'QP':>3} {'dB':>6} {'99 % in':>8}{heads}{'intra':>8} {'I/P':>5}")
    for row in rows:
        ratio = "-" if row["intra_to_p_frame"] is None else f"{row['intra_to_p_frame']:.1f}"
        shares = "".join(f"{100 * row['share_of_p_frames'][name]:9.2f}" for name in names)
        first = f"{row['qp']:3} {row['psnr_yuv']:6.2f} {row['channels_99']['P']:8}"
        print(f"{first}{shares}{100 * row['intra_share_of_frame_bytes']:8.1f} {ratio:>5}")
