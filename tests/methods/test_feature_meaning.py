"""Modality, sparse probes and absorption of features, where it is known what they mean."""

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from cutaway import store
from cutaway.errors import MethodError
from cutaway.methods.result import load
from cutaway.methods.sparse_autoencoders.absorption import Absorbed, absorbed, feature_absorption, main_features
from cutaway.methods.sparse_autoencoders.baselines import Directions, random_dictionary
from cutaway.methods.sparse_autoencoders.modality import Modality, modality, modality_classes
from cutaway.methods.sparse_autoencoders.probing import SparseProbes, separating, sparse_probing
from cutaway.methods.sparse_autoencoders.seen import Seen
from cutaway.model.dictionary import Neurons
from cutaway.zoo import tiny
from world import noise, opened

# --- modality ---------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_a_loop_over_pairs():
    a, b = ((noise(30, 5, seed=seed) - 0.3).relu() for seed in (0, 1))
    found = Modality().add(a[:11], b[:11]).merge(Modality().add(a[11:], b[11:]))
    directions = noise(5, 7, seed=2)
    for k in range(5):
        shares = [float(x / (x + y)) for x, y in zip(a[:, k], b[:, k], strict=True) if x + y > 0]
        assert float(found.dominance[k]) == pytest.approx(np.mean(shares), abs=1e-12)
        assert float(found.score[k]) == pytest.approx(float(a[:, k].sum() / (a[:, k].sum() + b[:, k].sum())))
        for j in range(5):
            cosine = float(torch.cosine_similarity(directions[k], directions[j], dim=0))
            together = np.mean([float(a[n, k] * b[n, j]) for n in range(30)])
            assert float(found.bridge(directions)[k, j]) == pytest.approx(together * cosine, abs=1e-12)


@settings(max_examples=15, deadline=None)
@drawn(st.integers(0, 1000), st.floats(0.1, 10))
def test_the_sides_are_alike_and_lengths_do_not_count(seed, scale):
    a, b = ((noise(20, 4, seed=seed + at) - 0.3).relu() for at in range(2))
    one, other, longer = (Modality().add(*pair) for pair in ((a, b), (b, a), (a * scale, b * scale)))
    for name in ("score", "dominance"):
        mine, theirs, same = (getattr(x, name) for x in (one, other, longer))
        assert torch.allclose(mine, 1 - theirs, equal_nan=True) and torch.allclose(mine, same, equal_nan=True)
    directions = noise(4, 3, seed=seed)
    assert torch.allclose(one.bridge(directions), other.bridge(directions).T)


def test_planted_modalities_are_found_and_streams_may_be_cut_anywhere():
    shared, picture, text = noise(50, 2).abs(), noise(50, 2, seed=1).abs(), noise(50, 2, seed=2).abs()
    none = torch.zeros(50, 2, dtype=torch.float64)
    pictures, texts = torch.cat([shared, picture, none, none], 1), torch.cat([shared * 0.8, none, text, none], 1)
    axes = Directions("x", torch.eye(8).double(), torch.zeros(8))
    streams = [[Seen(part, part, item=at) for part, at in zip(x.split(n), torch.arange(50).split(n), strict=True)]
               for x, n in ((pictures, 7), (texts, 20))]  # fmt: skip
    found = modality(axes, *streams)
    expected = ["shared"] * 2 + ["picture"] * 2 + ["text"] * 2 + ["neither"] * 2
    assert modality_classes(found.score).tolist() == modality_classes(found.dominance).tolist() == expected
    assert modality_classes(found.score, spread=True).tolist() == expected
    bridge = found.bridge(axes.directions)
    assert (bridge.diagonal()[:2] > 0.5).all() and float(bridge.sum() - bridge.diagonal()[:2].sum()) == 0


def test_pictures_and_words_of_a_decoder_come_from_one_store(tmp_path):
    model, site = opened("llava"), "text.1.resid_post"
    items = [model.inputs(image=tiny.picture(seed), text=text) for seed, text in enumerate(["a dog", "a red cat"])]
    kept = store.harvest(model, items, site, tmp_path / "both", progress=False)
    found = modality(Neurons(site, torch.zeros(32)), kept, kept)
    parts = [[next(kept.rows(site, kind=kind, item=item)).x for item in (0, 1)] for kind in ("image", "text")]
    sides = [torch.stack([torch.cat([x, -x], 1).relu().amax(0) for x in part]) for part in parts]
    assert torch.allclose(found.score, Modality().add(*sides).score, equal_nan=True)


# --- k-sparse probes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probed() -> SparseProbes:
    """Three classes, each a direction of its own among others, under noise, rotated out of the neurons."""
    y = np.arange(240) % 3
    code = torch.nn.functional.one_hot(torch.from_numpy(y), 3).double()
    turn = torch.linalg.qr(noise(32, 32, seed=4)).Q
    x = code @ turn[:3] * 2 + 0.3 * noise(240, 32, seed=5)
    own = Directions("x", turn[:16], torch.zeros(32))
    even = random_dictionary("x", 16, torch.zeros(32).double(), seed=0)
    features = {"own": own.encode(x), "random": even.encode(x)}
    labels = {"class": y, "shuffled": np.random.default_rng(0).permutation(y)}
    return sparse_probing(features, labels, activations=x, ks=(1, 4), seeds=(0, 1), progress=False)


def test_one_feature_says_what_many_neurons_say(probed):
    score = probed["score"].mean("seed").sel(label="class")
    assert float(score.sel(dictionary="own", k=1)) > 0.99 and float(probed["full"].sel(label="class").mean()) > 0.99
    for other in ("random", "neurons"):
        assert float(score.sel(dictionary=other, k=1)) < 0.98
        assert float(score.sel(dictionary=other, k=4)) > float(score.sel(dictionary=other, k=1))


def test_labels_by_chance_cannot_be_read(probed, tmp_path):
    assert float(abs(probed["score"].sel(label="shuffled").mean() - 0.5)) < 0.1
    assert probed["classes"].values.tolist() == [3, 3]
    back = load(probed.save(tmp_path / "probes.nc"))
    table = back.summary()
    assert list(table["dictionary"]) == ["own", "random", "neurons", "all activations"]
    assert back.plot().get_ylabel() == "held-out AUROC"


@settings(max_examples=10, deadline=None)
@drawn(st.integers(0, 100))
def test_features_are_taken_by_how_far_their_means_lie_apart(seed):
    x, real = noise(30, 6, seed=seed).numpy(), np.arange(30) % 3 == 0
    gaps = [abs(x[real, k].mean() - x[~real, k].mean()) for k in range(6)]
    order = np.random.default_rng(seed).permutation(6)
    assert separating(x, real).tolist() == np.argsort(gaps)[::-1].tolist()
    assert order[separating(x[:, order], real)].tolist() == separating(x, real).tolist()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: sparse_probing({"a": noise(4, 2), "b": noise(5, 2)}, {"y": [0, 1, 0, 1]}), "same items"),
        (lambda: sparse_probing({"a": noise(4, 2)}, {"y": [0, 1, 0, 1]}), "no class of 'y' has 8 items"),
        (lambda: Modality().score, "no pair was seen"),
        (lambda: modality(Neurons("x", torch.zeros(3)), noise(4, 3), noise(5, 3)), "do not pair up|has no text"),
        (lambda: Modality().add(torch.zeros(1, 9000), torch.zeros(1, 9000)), "too many pairs"),
        (
            lambda: feature_absorption(Neurons("x", torch.zeros(3)), noise(4, 3), list("abcd"), list("abc")),
            "one of each",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(wrong, said):
    with pytest.raises(MethodError, match=f"(?i){said}"):
        wrong()


# --- absorption -------------------------------------------------------------------------------------------------------


def world(absorbing: bool) -> tuple[Directions, torch.Tensor, list[str], list[str]]:
    """Items of two kinds with three things each; the first thing's direction may have taken its kind's over."""
    kinds, things = np.arange(240) % 2, np.arange(240) // 2 % 3
    kind_axis, thing_axis = torch.eye(8).double()[:2], torch.eye(8).double()[2:]
    both = torch.from_numpy(kinds * 3 + things)
    x = kind_axis[kinds] + thing_axis[both] + 0.05 * noise(240, 8)
    directions = torch.cat([kind_axis, thing_axis])
    if absorbing:
        directions[2] = torch.nn.functional.normalize(thing_axis[0] + kind_axis[0], dim=0)
    return (Directions("x", directions, torch.zeros(8)), x, [f"kind{one}" for one in kinds],
            [f"thing{one}" for one in both.tolist()])  # fmt: skip


class Greedy(Directions):
    """A latent of a thing explains the kind away, where it can."""

    def encode(self, x, at=None):
        features = torch.where(super().encode(x) > 0.8, super().encode(x), 0.0)
        features[:, 0] = features[:, 0].where(features[:, 2] < 1.2, 0.0)
        return features


def test_the_thing_that_took_over_its_kind_is_found():
    plain, x, kinds, things = world(True)
    dictionary = Greedy("x", plain.directions, plain.mean)
    found = feature_absorption(dictionary, x, kinds, things, k=1)
    assert found["kind0", "thing0"].rate > 0.9
    assert all(one.rate < 0.1 for pair, one in found.items() if pair != ("kind0", "thing0"))
    honest = feature_absorption(world(False)[0], x, kinds, things, k=1)
    assert len(honest) == len(found) == 6 and sum(one.absorbed for one in honest.values()) == 0


def test_random_features_miss_and_shuffled_kinds_are_missed_everywhere():
    _, x, kinds, things = world(False)
    floor = random_dictionary("x", 16, x.mean(0), torch.cov(x.T), k=2, seed=0)
    found = sum(feature_absorption(floor, x, kinds, things, k=1).values(), Absorbed(0, 0, 0))
    assert found.rows > 60 and found.missed >= found.absorbed >= 0 and found.missing > 0.1


def test_rows_are_counted_as_told():
    directions = torch.eye(3)
    features = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]])
    w = torch.tensor([1.0, 0.5, -1.0])
    found = absorbed(features, directions, w, torch.tensor([0]))
    assert found == Absorbed(5, 4, 2) and found.rate == 0.4 and found.missing == 0.8
    assert absorbed(features, directions, w, torch.tensor([0, 1])).missed == 2
    assert absorbed(features[:1], directions, w, torch.tensor([0])) == Absorbed(1, 0, 0)
    assert np.isnan(Absorbed(0, 0, 0).rate)


def test_features_stand_for_a_class_as_long_as_each_adds():
    real = np.arange(60) % 2 == 0
    codes = np.stack([real * (np.arange(60) < 30), real * (np.arange(60) >= 30), real * 0.0], 1) * 1.0
    assert main_features(codes, real).tolist() == [0, 1]
    assert main_features(1 - codes + real[:, None] * np.array([0, 0, 1.0]), real).tolist() == [2]  # not what is off
    assert main_features(codes + real[:, None] * np.array([2.0, 0, 0]), real).tolist() == [0]
