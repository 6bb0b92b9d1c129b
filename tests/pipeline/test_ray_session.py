"""An address where nobody listens is refused at once, with the address in the message."""

import pytest

from codec.errors import BitreelError
from pipeline.ray_session import ray_session


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_nobody_at_the_address(address: str) -> None:
    with pytest.raises(BitreelError, match=f"Ray can't be used at {address}"), ray_session(address):
        pass
