"""Errors that a person can act on: one line that says what was wrong, where, and what to do."""

from __future__ import annotations


class BitreelError(Exception):
    """Work failed for a reason the user can understand. The command line prints the message alone and exits with 1."""

    exit_status = 1


class UsageError(BitreelError):
    """The command or call was wrong (bad option, missing file). The command line exits with 2."""

    exit_status = 2


class StreamError(BitreelError):
    """A .brl stream is truncated, altered, not a .brl at all, or was made by another model."""


class VideoError(BitreelError):
    """A video can't be read: missing, empty, truncated, garbage, without frames or without a video stream."""
