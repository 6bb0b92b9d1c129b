"""Named recipes and gates, one file each."""
