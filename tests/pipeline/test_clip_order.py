"""The order of training: none twice and none lost whatever the world does, well mixed, and kind to a disk's cache."""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset

from codec.errors import BitreelError, UsageError
from pipeline.batch_shares import share_of
from pipeline.clip_list import ClipList, clips_of_split, read_clip_list
from pipeline.clip_order import BUFFER_CLIPS, RUN_BYTES, ClipOrder, epoch_order
from pipeline.loader import ClipLoader
from tests.trainers.small_store import write_clips


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """61 clips of 7 sources, 2 frames of 32x32 each."""
    draw = np.random.default_rng(3)
    sizes = {"a": 20, "b": 1, "c": 13, "d": 2, "e": 9, "f": 15, "g": 1}
    clips = {name: [draw.integers(0, 256, (2, 48, 32), dtype=np.uint8) for _ in range(n)] for name, n in sizes.items()}
    return write_clips(tmp_path_factory.mktemp("order") / "store", clips)


def many_clips(shards: int = 400, each: int = 50, length: int = RUN_BYTES // 5 + 1) -> ClipList:
    """A list as of a large store; the files need not be there."""
    names = np.repeat([f"source{n:04d}-0000.tar" for n in range(shards)], each)
    number = np.tile(np.arange(each), shards)
    columns = {
        "shard": names,
        "key": [f"{s}-{n}" for s, n in zip(names, number, strict=True)],
        "offset": number * length,
    }
    columns |= {"clip_id": columns["key"], "length": np.full(len(names), length)}
    columns |= dict.fromkeys(("frames", "stored_width", "stored_height"), np.full(len(names), 16))
    return ClipList(pa.table(columns))


def test_changes_of_the_world_in_mid_epoch_lose_nothing_and_repeat_nothing(store: Path) -> None:
    """Two ranks, three after a kill, one in the end: over three epochs each clip comes three times, once in each."""
    batch_size, clips = 4, 61

    def rank_keys(world: int, steps: range) -> list[list[list[str]]]:
        """Each life of the training has loaders of its own that know nothing of the last one's."""
        ranks = [
            ClipLoader(
                store, split="train", clip_frames=2, crop=16, batch_size=batch_size, seed=9, rank=rank, world=world
            )
            for rank in range(world)
        ]
        return [[loader.batch(step).keys for loader in ranks] for step in steps]

    lives = [(2, range(9)), (3, range(9, 22)), (1, range(22, 40)), (4, range(40, 46))]
    shares = [step for world, steps in lives for step in rank_keys(world, steps)]
    for step in shares:
        assert max(map(len, step)) - min(map(len, step)) <= 1
        assert sum(map(len, step)) == batch_size
    walked = [key for step in shares for share in step for key in share]
    assert len(walked) == 46 * 4 >= 3 * clips
    for epoch in range(3):
        assert set(Counter(walked[epoch * clips : (epoch + 1) * clips]).values()) == {1}
    unbroken = [key for step in rank_keys(1, range(46)) for key in step[0]]
    assert walked == unbroken
    assert walked[:clips] != walked[clips : 2 * clips]


def test_shares_are_the_batch_and_even() -> None:
    for batch_size in range(1, 20):
        for world in range(1, batch_size + 1):
            shares = [share_of(batch_size, rank, world) for rank in range(world)]
            assert [i for share in shares for i in range(batch_size)[share]] == list(range(batch_size))
            sizes = [share.stop - share.start for share in shares]
            assert max(sizes) - min(sizes) <= 1
    with pytest.raises(UsageError, match="too small for 3 workers"):
        share_of(2, 0, 3)
    with pytest.raises(UsageError, match="not in a world of 3"):
        share_of(8, 3, 3)


def test_an_epoch_is_a_permutation_that_its_seed_and_number_decide() -> None:
    clips = many_clips(40)
    order = epoch_order(clips, 1, 0)
    assert np.array_equal(np.sort(order), np.arange(2000))
    assert np.array_equal(order, epoch_order(many_clips(40), 1, 0))
    for seed, epoch in ((2, 0), (1, 1), (0, 1)):
        assert np.mean(order == epoch_order(clips, seed, epoch)) < 0.01
    walk = ClipOrder(clips, 1)
    places = [1999, 2000, 5999, 0, 12345]
    assert [walk[p] for p in places] == [int(epoch_order(clips, 1, p // 2000)[p % 2000]) for p in places]


def test_batches_mix_sources_as_chance_would() -> None:
    """In a store twenty times the buffer: neighbours of a source meet in a batch hardly more often than by pure chance,
    no place in the epoch is a clip's favourite, and what is near in one epoch is far in the next."""
    clips = many_clips()
    assert len(clips) == 20000 > 19 * BUFFER_CLIPS
    orders = [epoch_order(clips, seed, 0) for seed in range(12)]
    pairs = np.mean([_pairs_in_batches(order // 50, 32) for order in orders])
    chance = np.mean([_pairs_in_batches(np.random.default_rng(s).permutation(20000) // 50, 32) for s in range(12)])
    assert pairs < 3 * chance  # runs of five clips, which the buffer spreads; unshuffled it would be 300 times
    places = np.stack([np.argsort(order) for order in orders])
    assert abs(places.mean(1) - 9999.5).max() < 1
    halves = [places[:, :10000].mean(1), places[:, 10000:].mean(1)]
    assert abs(np.mean(halves[0]) - np.mean(halves[1])) < 600  # 9 standard deviations would be 1000
    assert abs(np.corrcoef(places[0], places[1])[0, 1]) < 0.03
    gaps = np.abs(np.diff(places[1][orders[0]]))
    assert 6000 < gaps.mean() < 7300  # a third of the store: neighbours of one epoch are strangers in the next


def _pairs_in_batches(sources: np.ndarray, batch: int) -> float:
    """Pairs of clips of one source in a batch, on average."""
    batches = np.sort(sources[: len(sources) // batch * batch].reshape(-1, batch), axis=1)
    return float(sum((batches[:, k:] == batches[:, :-k]).sum() for k in range(1, batch)) / len(batches))


def test_a_cache_of_the_buffers_size_fetches_each_run_once() -> None:
    """A disk that hands out whole stretches of RUN_BYTES is asked for each of them once an epoch, not once a clip."""
    clips = many_clips()
    fetched = _fetches(epoch_order(clips, 1, 0) // 5, cache=2 * BUFFER_CLIPS // 5)
    scattered = _fetches(np.random.default_rng(1).permutation(20000) // 5, cache=2 * BUFFER_CLIPS // 5)
    assert fetched < 1.1 * 4000
    assert scattered > 4 * 4000


def _fetches(stretches: np.ndarray, cache: int) -> int:
    """Misses of a cache that drops what was not used for longest."""
    held: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for stretch in stretches.tolist():
        misses += stretch not in held
        held[stretch] = None
        held.move_to_end(stretch)
        if len(held) > cache:
            held.popitem(last=False)
    return misses


def test_small_stores_are_mixed_throughout(store: Path) -> None:
    clips = clips_of_split(store, "train")
    places = np.stack([np.argsort(epoch_order(clips, seed, 0)) for seed in range(400)])
    assert abs(places.mean(0) - 30).max() < 5  # standard deviation 0.9
    assert abs(np.corrcoef(places[:, 0], places[:, 1])[0, 1]) < 0.2


def test_the_list_of_clips_survives_a_file_and_knows_its_store(store: Path, tmp_path: Path) -> None:
    clips = clips_of_split(store, "train")
    clips.write(tmp_path / "clips.parquet")
    again = read_clip_list(tmp_path / "clips.parquet")
    assert again.fingerprint() == clips.fingerprint()
    assert [again[n] for n in range(len(again))] == [clips[n] for n in range(len(clips))]
    other = write_clips(tmp_path / "other", {"a": [np.zeros((2, 48, 32), np.uint8)]})
    assert clips_of_split(other, "train").fingerprint() != clips.fingerprint()
    (tmp_path / "clips.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BitreelError, match=r"clips.parquet' is missing or damaged"):
        read_clip_list(tmp_path / "clips.parquet")


def test_shards_are_plain_webdataset(store: Path) -> None:
    """Another reader, made for the format, finds the same clips."""
    shards = sorted(map(str, (store / "shards").iterdir()))
    found = {}
    for sample in webdataset.WebDataset(shards, shardshuffle=False).decode():
        found[sample["__key__"]] = sample["npy"]
        assert sample["json"]["frames"] == 2
    clips = clips_of_split(store, "train")
    assert found.keys() == clips.places().keys()
    loader = ClipLoader(store, split="train", clip_frames=2, crop=32, batch_size=61, seed=0, reversal=False)
    batch = loader.batch(0)
    for key, luma in zip(batch.keys, batch.luma.numpy()[:, :, 0], strict=True):
        planes = found[key][:, :32]
        assert np.array_equal(luma, planes) or np.array_equal(luma, planes[:, :, ::-1])
