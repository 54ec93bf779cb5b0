"""Closed forms are what their sums over pairs and over patches say, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from cutaway import store
from cutaway.data import World, scene_at
from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.baselines import Directions, random_dictionary
from cutaway.methods.sparse_autoencoders.by_item import by_item, laid
from cutaway.methods.sparse_autoencoders.monosemantic import (
    Locality,
    Monosemanticity,
    locality,
    mean_of,
    monosemanticity,
    morans_i,
    scene_embeddings,
)
from cutaway.methods.sparse_autoencoders.seen import Seen
from cutaway.model.dictionary import Neurons
from cutaway.zoo import tiny
from world import noise, opened

SITE = "vision.1.resid_post"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pictures, folder = [tiny.picture(seed) for seed in range(5)], tmp_path_factory.mktemp("items") / "store"
    return store.harvest(opened("clip"), pictures, SITE, folder, items=2, progress=False)


def sparse(rows: int, width: int, seed: int) -> torch.Tensor:
    return (noise(rows, width, seed=seed) - 0.5).relu()


def by_pairs(features: torch.Tensor, embeddings: torch.Tensor) -> list[float]:
    """The definition: min-max scaled activations, all pairs one by one."""
    low, high = features.min(0).values, features.max(0).values
    scaled, found = (features - low) / (high - low), []
    for k in range(features.shape[1]):
        above = below = 0.0
        for i in range(len(features)):
            for j in range(i + 1, len(features)):
                both = float(scaled[i, k] * scaled[j, k])
                cosine = float(torch.cosine_similarity(embeddings[i], embeddings[j], dim=0))
                above, below = above + both * cosine, below + both
        found.append(above / below if below else float("nan"))
    return found


@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_the_score_is_the_sum_over_pairs(shift):
    features, embeddings = sparse(25, 6, 0) + shift, noise(25, 4, seed=1)
    found = Monosemanticity().add(features[:7], embeddings[:7])
    found.merge(Monosemanticity().add(features[7:], embeddings[7:]))
    assert np.allclose(found.value, by_pairs(features, embeddings), atol=1e-12, rtol=0, equal_nan=True)
    flat = by_pairs(torch.stack([torch.ones(25), torch.arange(25.0)], 1), embeddings)
    assert np.isnan(flat[0])  # min-max scaling of a feature that is alike everywhere
    even = [float(torch.cosine_similarity(embeddings[i], embeddings[j], dim=0)) for i in range(25) for j in range(i)]
    assert found.chance == pytest.approx(np.mean(even), abs=1e-12)


@settings(max_examples=20, deadline=None)
@drawn(st.integers(0, 1000), st.floats(0.01, 100), st.integers(1, 20))
def test_neither_order_nor_batches_nor_scales_change_the_score(seed, scale, size):
    features, embeddings = sparse(20, 5, seed), noise(20, 3, seed=seed + 1)
    whole = Monosemanticity().add(features, embeddings).value
    order, found = torch.randperm(20, generator=torch.Generator().manual_seed(seed)), Monosemanticity()
    for at in order.split(size):
        found.add(features[at] * scale, embeddings[at] * (1 + at[:, None]))
    assert torch.allclose(found.value, whole, atol=1e-9, equal_nan=True)


def test_a_feature_of_one_kind_of_item_scores_one_and_one_of_a_single_item_has_no_score():
    kinds = torch.tensor([0, 0, 1, 1, 2])
    features = torch.stack([(kinds == 0).double(), torch.ones(5).double(), (kinds == 2).double()], 1)
    found = Monosemanticity().add(features, torch.eye(3)[kinds])
    assert found.value[0] == pytest.approx(1) and found.value[[1, 2]].isnan().all()
    assert mean_of(found.value) == pytest.approx(1) and np.isnan(mean_of(found.value, torch.zeros(3).bool()))


def test_features_of_planted_concepts_beat_random_directions_on_scenes():
    """Rows are what a scene shows: axes of concepts mean one thing, random ones many, if often on."""
    scenes = [scene_at("test", at, world=World(things=(1, 1))) for at in range(150)]
    true = scene_embeddings(scenes, ("concept",))
    assert (true.sum(1) == 1).all()
    rows = true[:, true.sum(0) > 1]
    own = Directions("x", torch.eye(rows.shape[1]), torch.zeros(rows.shape[1]), k=1)
    found, *floors = (
        monosemanticity(one, rows, true)
        for one in (own, *(random_dictionary("x", 200, rows.mean(0), torch.cov(rows.T), k=k) for k in (None, 3)))
    )
    many, few = (mean_of(one.value) for one in floors)
    assert mean_of(found.value) == pytest.approx(1) and found.chance < many < 0.3
    assert few > 0.8  # items of one concept are alike here: what is on in few of them scores high by chance


def loop(one: torch.Tensor) -> float:
    """Moran's I, patch by patch."""
    high, wide = one.shape
    z, above, weights = one - one.mean(), 0.0, 0
    for a in range(high):
        for b in range(wide):
            for c in range(high):
                for d in range(wide):
                    if (a, b) != (c, d) and abs(a - c) <= 1 and abs(b - d) <= 1:
                        above, weights = above + float(z[a, b] * z[c, d]), weights + 1
    return high * wide / weights * above / float((z * z).sum())


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (7, 4)])
def test_morans_i_is_its_sum_over_neighbours(size):
    maps = noise(3, *size, seed=3)
    assert np.allclose(morans_i(maps), [loop(one) for one in maps], atol=1e-12)
    assert torch.allclose(morans_i(maps * -3 + 7), morans_i(maps)) and morans_i(torch.ones(4, 4).double()).isnan()


@settings(max_examples=10, deadline=None)
@drawn(st.integers(0, 1000))
def test_shuffled_patches_are_at_chance_and_smooth_maps_are_not(seed):
    maps = noise(400, 8, 8, seed=seed)
    assert float(morans_i(maps).mean()) == pytest.approx(-1 / 63, abs=0.01)
    across = torch.linspace(0, 1, 8, dtype=torch.float64).expand(8, 8)
    assert float(morans_i(across)) > 0.7


def test_features_of_items_are_those_of_their_rows(made):
    neurons = Neurons(SITE, torch.zeros(32))
    (part,) = made.rows(SITE, batch=1000, kind="image")
    features = neurons.encode(part.x).view(5, 16, 64)
    for pool, expected in (("max", features.amax(1)), ("mean", features.mean(1))):
        for batch in (7, 16, 1000):
            got = list(by_item(neurons, made, pool=pool, batch=batch, kind="image"))
            assert torch.cat([item for item, _ in got]).tolist() == [0, 1, 2, 3, 4]
            assert torch.allclose(torch.cat([x for _, x in got]), expected, atol=1e-12)
    alone = list(by_item(neurons, noise(6, 32), batch=4))
    assert torch.cat([item for item, _ in alone]).tolist() == [0, 1, 2, 3, 4, 5]


def test_where_features_lie_is_read_from_a_store(made):
    neurons = Neurons(SITE, torch.zeros(32))
    (part,) = made.rows(SITE, batch=1000, kind="image")
    maps = neurons.encode(part.x).view(5, 4, 4, 64)
    found = locality(neurons, made, batch=9, kind="image")
    by_hand = morans_i(maps.movedim(-1, 1))
    on = (maps > 0).double().mean((1, 2))
    for k in range(64):
        here = [float(by_hand[at, k]) for at in range(5) if on[at, k] > 0]
        assert float(found.value(1.0)[k]) == pytest.approx(np.mean(here)) if here else found.value(1.0)[k].isnan()
        spread = float(on[:, k].sum() / max((on[:, k] > 0).sum(), 1))
        assert bool(found.value(0.5)[k].isnan()) == (spread > 0.5 or not here)
    halves = Locality().add(maps[:2]).merge(Locality().add(maps[2:]))
    assert torch.allclose(halves.value(0.5), found.value(0.5), equal_nan=True)
    assert Locality().merge(halves).value().shape == (64,)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda kept: monosemanticity(Neurons(SITE, torch.zeros(32)), kept, noise(3, 2)), "has no embedding"),
        (lambda kept: Monosemanticity().value, "no item was seen"),
        (lambda kept: scene_embeddings([scene_at("test", 0)], ("colour",)), "not known by 'colour'"),
        (lambda kept: locality(Neurons(SITE, torch.zeros(32)), noise(3, 32)), "on no patch grid"),
        (lambda kept: laid(torch.tensor([0, 0]), torch.zeros(2, 2, dtype=torch.long), noise(2, 2)), "at each place"),
        (lambda kept: list(by_item(Neurons(SITE, torch.zeros(2)),
                                   [Seen(noise(2, 2), noise(2, 2), item=torch.tensor([1, 0]))])), "no order"),
    ],
)  # fmt: skip
def test_what_has_no_score_is_refused(made, wrong, said):
    with pytest.raises(MethodError, match=f"(?i){said}"):
        wrong(made)
