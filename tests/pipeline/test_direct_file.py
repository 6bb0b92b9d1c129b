"""Files written past the page cache hold what was written, whatever the pieces."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from pipeline.direct_file import DirectFile


@pytest.mark.parametrize("pieces", [[], [1], [4096], [511, 1 << 20, 3], [(5 << 20) + 7, 100, 2 << 20]])
def test_what_is_written_is_there(tmp_path: Path, pieces: list[int]) -> None:
    file, expected = DirectFile(tmp_path / "a"), b""
    buffer = bytearray(6 << 20)
    for index, size in enumerate(pieces):
        data = np.random.default_rng(index).bytes(size)
        buffer[:size] = data
        file.write(memoryview(buffer)[:size])
        buffer[:size] = bytes(size)  # the caller's again
        expected += data
        assert file.tell() == len(expected)
    file.finish()
    assert (tmp_path / "a").read_bytes() == expected


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = DirectFile(tmp_path / "a")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            for _ in range(4):
                file.write(bytes(1 << 20))
            file.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        file.close()
    assert error.value.errno == errno.EFBIG


def test_a_file_system_without_direct_writes_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = os.open, []

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & getattr(os, "O_DIRECT", 0):
            refused.append(path)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, mode)

    monkeypatch.setattr("pipeline.direct_file.os.open", refuse)
    file = DirectFile(tmp_path / "a")
    monkeypatch.undo()
    file.write(b"abc")
    file.finish()
    assert refused and (tmp_path / "a").read_bytes() == b"abc"


def test_what_is_made_in_the_file_s_own_memory_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.direct_file._MOST_FOR_BOTH", 60 << 20)  # the largest room has one buffer only
    file, expected = DirectFile(tmp_path / "a"), b""
    for index, (size, used) in enumerate([(5000, 5000), (3 << 20, 1 << 20), (9 << 20, 9 << 20), (40 << 20, 7), (1, 1)]):
        file.write(b"between")
        file.room(100)[:3] = b"not"  # asked for, but not taken
        data = np.random.default_rng(index).bytes(size)
        file.room(size)[:] = data
        file.advance(used)
        expected += b"between" + data[:used]
        assert file.tell() == len(expected)
    file.finish()
    assert (tmp_path / "a").read_bytes() == expected
