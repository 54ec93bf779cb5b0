"""What is in a store, in numbers, is what the rows at once give."""

import numpy as np
import pytest
import torch

from cutaway import Ablate, store
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


def test_a_mean_ablation_takes_its_means_from_a_store(made):
    model, site = opened("clip"), SITES[0]
    inputs = model.inputs(image=[tiny.picture(seed) for seed in range(6)])
    run = model.run(inputs, record=site)
    own = [Ablate(site, "mean", reference, head=1) for reference in (run, made.means(SITES))]
    ends = [model.run(inputs, edits=[edit], record="vision.joint")["vision.joint"] for edit in own]
    assert torch.allclose(*ends, atol=1e-12) and not torch.allclose(
        ends[0], model.run(inputs, record="vision.joint")["vision.joint"]
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_means_of_texts_count_from_the_start_of_each(tmp_path, side, monkeypatch):
    model = opened("llama")
    monkeypatch.setattr(model.tokenizer, "padding_side", side)
    texts, site = ["a red dog", "a cat"], "text.1.resid_post"
    kept = store.harvest(model, texts, site, tmp_path / "texts", progress=False)
    alone = [model.run(model.inputs(text=[text]), record=site)[site][0] for text in texts]
    mean = kept.means(site)[site][0]
    assert torch.allclose(mean[:3], (alone[0][:3] + alone[1][:3]) / 2, atol=1e-12) and len(mean) == len(alone[0])
    assert torch.allclose(mean[3:], alone[0][3:], atol=1e-12)


def test_means_of_different_things_are_refused(tmp_path):
    sd = opened("sd")
    drawn = store.harvest(sd, ["a red dog"], ["denoiser.1.cross.q", "denoiser.latent"], tmp_path / "sd", steps=(0,),
                          asked={"steps": 2}, progress=False)  # fmt: skip
    with pytest.raises(StoreError, match="several values of guidance"):
        drawn.means("denoiser.1.cross.q")
    assert drawn.means("denoiser.1.cross.q", guidance="cond")["denoiser.1.cross.q"].shape[0] == 1
    with pytest.raises(StoreError, match="are no tokens"):
        drawn.means("denoiser.latent")
