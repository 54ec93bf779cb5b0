"""A store is read in order, shuffled and by item: each row once, with what it is, in memory that does not grow."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cutaway import store
from cutaway.errors import StoreError
from cutaway.store.shards import Shard, pieces
from cutaway.store.spec import Entry
from cutaway.zoo import tiny
from world import opened

SITES = ("vision.0.resid_post", "vision.1.resid_post")
ITEMS = 22

TOLD = {"shard": 0, "of": "", "words": ["ä"], "constants": {}, "rows": {}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """22 pictures in shards of 8: 374 rows of 17 positions."""
    data = [tiny.picture(seed) for seed in range(ITEMS)]
    folder = tmp_path_factory.mktemp("made") / "store"
    return store.harvest(opened("clip"), data, [*SITES, "vision.joint"], folder, items=8, batch=4, progress=False)


@pytest.fixture(scope="module")
def full(made):
    """All rows of the sites, as one run over all pictures gives them."""
    model = opened("clip")
    run = model.run(model.inputs(image=[tiny.picture(seed) for seed in range(ITEMS)]), record=SITES)
    return {site: run[site].flatten(0, 1) for site in SITES}


@pytest.mark.parametrize("batch", [1, 7, 136, 10_000])
def test_rows_come_in_order_in_whole_batches(made, full, batch):
    got = list(made.rows(SITES, batch=batch))
    assert {len(one) for one in got[:-1]} <= {batch} and sum(map(len, got)) == made.count("vision") == ITEMS * 17
    for site in SITES:
        assert torch.allclose(torch.cat([one[site] for one in got]), full[site], atol=1e-10)
    assert torch.equal(torch.cat([one.item for one in got]), torch.arange(ITEMS).repeat_interleave(17))


def test_some_rows_come_in_order(made, full):
    got = list(made.rows(SITES[0], batch=5, kind="cls"))
    assert torch.allclose(torch.cat([one.x for one in got]), full[SITES[0]][::17], atol=1e-10)
    corner = list(made.rows(SITES[1], row=3, col=[0, 1], item=range(20, 22)))
    assert torch.allclose(corner[0].x, full[SITES[1]].view(ITEMS, 17, -1)[20:, 13:15].flatten(0, 1), atol=1e-10)
    assert list(made.rows(SITES[0], kind="eos")) == []


@pytest.mark.parametrize(("batch", "buffer"), [(10, 64), (7, 100), (50, 10_000), (1, 1)])
def test_shuffled_rows_come_once_each_with_what_they_are(made, full, batch, buffer):
    got = list(made.shuffled(SITES, batch=batch, buffer=buffer, seed=1))
    number = np.concatenate([one.index["item"] * 17 + one.index["position"] for one in got])
    assert sorted(number) == list(range(ITEMS * 17)) and {len(one) for one in got[:-1]} <= {batch}
    for site in SITES:
        assert torch.allclose(torch.cat([one[site] for one in got]), full[site][torch.from_numpy(number)], atol=1e-10)
    again = list(made.shuffled(SITES[0], batch=batch, buffer=buffer, seed=1))
    assert all(torch.equal(a[SITES[0]], b.x) for a, b in zip(got, again, strict=True))
    other = next(iter(made.shuffled(SITES[0], batch=batch, buffer=buffer, seed=2)))
    assert not torch.equal(other.x, again[0].x)
    cls = list(made.shuffled(SITES[0], batch=4, buffer=64, kind="cls"))
    assert sorted(torch.cat([one.item for one in cls]).tolist()) == list(range(ITEMS))


@pytest.mark.parametrize("size", [64, 374])
def test_a_buffer_mixes(made, size):
    """Where a row comes out says little of where it lies: nothing with a buffer of all rows."""
    places = []
    for seed in range(20):
        got = list(made.shuffled(SITES[0], batch=17, buffer=size, seed=seed))
        places.append(np.concatenate([one.index["item"] * 17 + one.index["position"] for one in got]))
    order = np.array(places)
    assert abs(np.corrcoef(order.ravel(), np.tile(np.arange(order.shape[1]), len(order)))[0, 1]) < 0.1
    close = np.mean(np.abs(np.diff(order, axis=1)) < 17)
    chance = np.mean(np.abs(np.diff([np.random.default_rng(s).permutation(374) for s in range(20)], axis=1)) < 17)
    assert close < (1.15 if size == 374 else 5) * chance


def test_an_item_and_the_index_are_labelled(made, full):
    item = made.item(-1)
    assert list(item) == list(made.sites) and item[SITES[0]].dims == ("at", "d_model")
    assert np.allclose(item[SITES[0]], full[SITES[0]][-17:]) and item["vision.joint"].shape == (1, 32)
    assert list(item[SITES[0]]["kind"].values[:2]) == ["cls", "image"] and set(item[SITES[0]]["item"].values) == {21}
    frame = made.index("vision")
    assert len(frame) == ITEMS * 17 and set(frame["kind"]) == {"cls", "image"}
    assert frame.to_xarray().sizes["index"] == len(frame) and len(made.index("vision", shards=[2])) == 6 * 17
    assert len(made) == ITEMS and "22 items of 'tiny:clip'; vision: 374 rows of vision.0.resid_post" in repr(made)


def test_other_programs_can_read_the_files(made, full):
    with safe_open(made.path / Entry.names(0)[0], "pt") as file:
        assert torch.allclose(file.get_tensor(SITES[0]), full[SITES[0]][: 8 * 17], atol=1e-10)
        assert file.get_tensor("index.vision.item").tolist() == sorted(list(range(8)) * 17)
        words = json.loads(file.metadata()["cutaway"])["words"]
    assert words == [""]


def test_tensors_of_every_kind_come_back(tmp_path):
    given = {
        "half": torch.randn(5, 3).bfloat16(), "none": torch.zeros(0, 4), "number": torch.arange(6, dtype=torch.int8),
        "wide": torch.randn(4, 2, dtype=torch.float64)[:, :1].expand(-1, 3), "strided": torch.randn(6, 4)[::2],
    }  # fmt: skip
    path = tmp_path / "one"
    path.write_bytes(b"".join(pieces({name: [x[:2], x[2:]] for name, x in given.items()}, TOLD)))
    file = Shard(path)
    with safe_open(path, "pt") as other:
        for name, x in given.items():
            assert torch.equal(file.read(name), x) and torch.equal(other.get_tensor(name), x)
            assert torch.equal(file.read(name, 1, 3), x[1:3]) and torch.equal(file.read(name, -1), x[-1:])
    assert file.told == TOLD and len(file) == len(given) and file.shape("wide") == (4, 3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda kept: kept.table([SITES[0], "vision.joint"]), "are not the same things.*vision, vision.whole"),
        (lambda kept: kept.index(), "several tables.*vision, vision.whole"),
        (lambda kept: kept.index("text"), "no table 'text'"),
        (lambda kept: list(kept.rows(SITES[0], batch=0)), "batches of 0 rows"),
        (lambda kept: list(kept.shuffled(SITES[0], batch=9, buffer=8)), "from a buffer of 8"),
        (lambda kept: list(kept.rows(SITES[0], colour="red")), "rows have no 'colour'"),
        (lambda kept: next(iter(kept.rows(SITES[0])))["text.0"], "'text.0' was not asked for"),
        (lambda kept: list(kept.rows(SITES[0], kind="imgae")), "no kind is called 'imgae'.*image"),
        (lambda kept: kept.shard(7), "shard 7 is not there"),
    ],
)
def test_what_cannot_be_read_is_said(made, call, said):
    with pytest.raises(StoreError, match=f"(?i){said}"):
        call(made)


def test_no_store_is_said(tmp_path):
    with pytest.raises(StoreError, match="No store lies at"):
        store.open(tmp_path)


def test_the_store_is_imported_when_it_is_asked_for():
    code = "import sys, cutaway.store; cutaway.store; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
