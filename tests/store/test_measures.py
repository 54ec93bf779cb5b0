"""What is in a store, in numbers, is what the rows at once give."""

import numpy as np
import pytest
import torch

from cutaway import store
from cutaway.errors import StoreError
from cutaway.store.measures import Spread, by_patch, measured
from cutaway.zoo import tiny
from world import opened

SITES = ("vision.0.attn.z", "vision.1.resid_post")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    data = [tiny.picture(seed) for seed in range(6)]
    folder = tmp_path_factory.mktemp("made") / "store"
    return store.harvest(opened("clip"), data, SITES, folder, items=4, batch=2, progress=False)


def test_lengths_means_and_spreads_are_those_of_all_rows_at_once(made):
    found = measured(made, batch=7).set_index(["site", "kind"])
    for site in SITES:
        for kind in ("cls", "image"):
            (part,) = made.rows(site, batch=10**6, kind=kind)
            x, row = part.x.flatten(1), found.loc[site, kind]
            by_hand = x.norm(dim=1).mean(), x.norm(dim=1).max(), x.mean(0).norm(), x.var(0, correction=0).sum().sqrt()
            assert np.allclose(
                row[["norm", "largest", "mean", "spread"]].astype(float), [float(one) for one in by_hand]
            )
            assert row["rows"] == len(x)
    assert measured(made, SITES[0], by="item")["item"].tolist() == list(range(6))


def test_a_large_mean_costs_no_digits():
    rows = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-4 + 1e6
    found = Spread()
    for part in rows.split(77):
        found.add(part)
    assert found.add(rows[:0]).spread == pytest.approx(float(rows.var(0, correction=0).sum().sqrt()), rel=1e-5)


def test_lengths_lie_over_the_picture(made):
    (part,) = made.rows(SITES[1], batch=10**6, kind="image")
    assert np.allclose(by_patch(made, SITES[1], batch=11), part.x.norm(dim=1).view(6, 4, 4).mean(0))


def test_words_lie_on_no_grid(tmp_path):
    kept = store.harvest(opened("clip"), ["a dog"], "text.0.resid_post", tmp_path / "store", progress=False)
    with pytest.raises(StoreError, match="lie on no patch grid"):
        by_patch(kept, "text.0.resid_post")
