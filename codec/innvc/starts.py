"""What InnVC's coding starts from, learned from footage with its weights. All files are part of the format."""

from pathlib import Path

SYMBOL_START = Path(__file__).with_name("symbol_start.npz")  # by `trainers.symbol_start`
POST_FILTER = Path(__file__).with_name("post_filter.npz")  # by `trainers.post_filter_fit`
FILTER_GAINS = Path(__file__).with_name("filter_gains.npz")  # by `trainers.filter_gains_fit`
