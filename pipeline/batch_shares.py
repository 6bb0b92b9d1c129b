"""How a batch is dealt out to the ranks of a training. Imports nothing but our errors."""

from __future__ import annotations

from codec.errors import UsageError


def share_of(batch_size: int, rank: int, world: int) -> slice:
    """This rank's clips of a batch, numbered over the whole of it: equal shares, the first ranks one more if need be.

    Raises UsageError where a rank would have none, or is not in the world.
    """
    if not 0 <= rank < world:
        raise UsageError(f"rank {rank} is not in a world of {world}")
    if world > batch_size:
        raise UsageError(f"batch_size {batch_size} is too small for {world} workers: each needs a clip of its own")
    least, more = divmod(batch_size, world)
    first = rank * least + min(rank, more)
    return slice(first, first + least + (rank < more))
