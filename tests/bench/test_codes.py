"""Planted codes are what they say, and their scores are best for whoever is told the code."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from cutaway.bench.code_scores import HELD, CodeScores, code_scores, matched, written
from cutaway.bench.codes import PRESETS, Codes, TrueDirections, planted_codes
from cutaway.errors import InputError, MethodError
from cutaway.methods.result import load
from cutaway.methods.sparse_autoencoders.baselines import Directions
from cutaway.model.dictionary import NOWHERE, At
from cutaway.model.tokens import KINDS
from world import noise

TINY = Codes(features=40, d=24, roots=2, branching=2, depth=2, often=0.3, seed=1)
BOTH = Codes(features=48, d=32, roots=3, branching=2, depth=1, often=0.4, modalities=True)


@pytest.fixture(scope="module")
def scored() -> CodeScores:
    # a "dictionary" that knows all directions, and one that has a child's with its parent's added
    plain = Directions("planted.codes", BOTH.directions, torch.zeros(32), k=5)
    return code_scores(BOTH, {"dots": [plain, plain]}, untrained=noisy(0), items=1024, seeds=2, progress=False)


def noisy(seed: int) -> Directions:
    return Directions("planted.codes", torch.nn.functional.normalize(noise(48, 32, seed=seed).float(), dim=-1),
                      torch.zeros(32), k=5)  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_size_and_sparsity_that_they_are_for(name):
    codes = planted_codes(name)
    size = (256, 64) if name.startswith("small") else (1024, 128)
    assert tuple(codes.directions.shape) == size
    assert torch.allclose(codes.directions.norm(dim=1), torch.ones(size[0]), atol=1e-5)
    assert 0.13 < codes.superposition < 0.18
    rows = next(codes.rows(512))
    assert 3 < float((rows.code > 0).sum(1).float().mean()) < 13


@pytest.mark.parametrize("codes", [TINY, BOTH])
def test_frequencies_trees_and_lengths_are_as_told(codes):
    parts = list(codes.rows(20_480))
    code, kind = torch.cat([one.code for one in parts]), torch.cat([one.seen.kind for one in parts])
    on = code > 0
    for side, hidden in (("image", "text"), ("text", "picture")):
        rows = on[kind == KINDS.index(side)] if codes.modalities else on
        expected = codes.frequency.where(torch.from_numpy(codes.modality != hidden), 0.0)
        expected = expected if codes.modalities else codes.frequency
        assert np.allclose(rows.double().mean(0), expected, atol=0.015)
    for at, parent in enumerate(codes.parents.tolist()):
        if parent >= 0:
            assert not (on[:, at] & ~on[:, parent]).any() and codes.modality[at] == codes.modality[parent]
            siblings = (codes.parents == parent).nonzero().flatten()
            assert int(on[:, siblings].sum(1).max()) == 1
    assert float(code[on].min()) >= 0.2 and float(code[on].mean()) == pytest.approx(1, abs=0.01)
    assert float(on.sum(1).double().mean()) == pytest.approx(codes.l0, rel=0.03)
    made = code @ codes.directions + codes.shift[kind]
    left = torch.cat([one.seen.x for one in parts]) - made
    assert float(left.std()) == pytest.approx(codes.noise, abs=0.001)


def test_tops_are_bound_by_a_few_factors():
    apart, bound = (planted_codes("small", bound=bound, roots=1, depth=0, often=0.4) for bound in (0.0, 0.6))
    least = []
    for codes in (apart, bound):
        on = torch.cat([one.code > 0 for one in codes.rows(8192)])[:, codes.tops[:20]].double()
        least.append(float(torch.corrcoef(on.T).fill_diagonal_(0).abs().max()))
    assert least[0] < 0.06 and least[1] > 0.2


@settings(max_examples=10, deadline=None)
@drawn(st.integers(0, 3000), st.integers(1, 1500))
def test_an_item_is_the_same_rows_in_any_call(first, items):
    whole = torch.cat([one.seen.x for one in BOTH.rows(4608)])
    parts = list(BOTH.rows(items, first=first))
    assert torch.equal(torch.cat([one.seen.x for one in parts]), whole[2 * first : 2 * (first + items)])
    numbers = torch.cat([one.seen.item for one in parts])
    assert numbers.tolist() == [at for at in range(first, first + items) for _ in range(2)]


def test_both_rows_of_an_item_share_what_is_shared():
    rows = next(BOTH.rows(512))
    shared = torch.from_numpy(BOTH.modality == "shared")
    assert torch.equal(rows.code[0::2, shared] > 0, rows.code[1::2, shared] > 0)
    other = planted_codes("small-modalities", seed=1)
    assert not torch.equal(other.directions, planted_codes("small-modalities").directions)
    means = [rows.seen.x[rows.seen.kind == KINDS.index(kind)].mean(0) for kind in ("image", "text")]
    assert float((means[0] - means[1]).norm()) > BOTH.gap / 2


def test_the_oracle_has_the_best_of_every_score(scored):
    data = scored.data
    for name in ("mcc", "uniqueness", "f1", "precision", "recall", "right_modality"):
        best = data[name].sel(dictionary="oracle", seed=0)
        assert float(best) == pytest.approx(1) and (data[name].fillna(0) <= float(best) + 1e-12).all()
    for name in ("absorption", "absorption_alone", "missing"):
        assert float(data[name].sel(dictionary="oracle", seed=0)) == 0 and (data[name].fillna(0) >= 0).all()
    assert data["seed"].size == 2 and np.isnan(data["mcc"].sel(dictionary="oracle", seed=1))


def test_floors_stand_beside_and_are_worse_than_the_true_directions(scored):
    true, dots = (scored.data.sel(dictionary=name, seed=0) for name in ("true directions", "dots"))
    assert float(true["mcc"]) == pytest.approx(1) and float(true["f1"]) > 0.85 and float(true["right_modality"]) == 1
    assert float(dots["mcc"]) == pytest.approx(1) and float(true["f1"]) > float(dots["f1"])
    for name in ("untrained", "random", "neurons", "neurons, as sparse"):
        one = scored.data.sel(dictionary=name, seed=0)
        assert float(one["mcc"]) < 0.6 and float(one["f1"]) < 0.3 and float(one["right_modality"]) < 0.7
    chance = scored["right_modality"].sel(dictionary=["untrained", "random"]).mean()
    assert 0.15 < float(chance) < 0.6


def test_a_table_tells_the_noise_of_a_reseed_and_is_kept(scored, tmp_path):
    table = scored.summary().set_index("dictionary")
    assert "±" in table.loc["random", "mcc"] and "±" not in table.loc["oracle", "mcc"]
    assert table.loc["dots", "mcc"].endswith("± 0.000")
    back = load(scored.save(tmp_path / "scores.nc"))
    assert isinstance(back, CodeScores) and back.plot().get_ylim()[1] > 1 and "<img" in back.to_html()
    assert len(scored.to_dataframe()) == scored["mcc"].size


def test_a_dictionary_that_absorbs_is_told_from_one_that_does_not():
    """The parent's latent is silenced where a child is on, and the child's writes the parent too."""
    parents = TINY.parents
    taken = TINY.directions.clone()
    for at, parent in enumerate(parents.tolist()):
        if parent >= 0:
            taken[at] = torch.nn.functional.normalize(taken[at] + 0.7 * taken[parent], dim=0)

    @dataclass(frozen=True)
    class Absorbing(TrueDirections):
        def encode(self, x: torch.Tensor, at: At = NOWHERE) -> torch.Tensor:
            found = super().encode(x, at)
            for parent in parents.unique().tolist()[1:]:
                children = (parents == parent).nonzero().flatten()
                found[:, parent] = found[:, parent].where((found[:, children] == 0).all(1), 0.0)
            return found

        def decode(self, features: torch.Tensor, x: torch.Tensor, at: At = NOWHERE) -> torch.Tensor:
            return features @ taken

    scores = code_scores(TINY, {"absorbing": Absorbing(TINY)}, items=1024, seeds=1, progress=False)
    own, honest = (scores.data.sel(dictionary=name, seed=0) for name in ("absorbing", "true directions"))
    assert float(own["absorption"]) > 0.8 and float(own["absorption_alone"]) < 0.1
    assert float(honest["absorption"]) < 0.05 and float(own["mcc"]) > 0.9


@settings(max_examples=15, deadline=None)
@drawn(st.integers(0, 1000), st.floats(0.1, 10))
def test_a_match_knows_neither_order_nor_length_nor_sign(seed, scale):
    truth, dice = noise(6, 5, seed=seed), torch.Generator().manual_seed(seed)
    order = torch.randperm(6, generator=dice)
    signs = torch.randint(0, 2, (6, 1), generator=dice) * 2 - 1
    own = matched(truth[order] * scale * signs, truth)
    assert own.mcc == pytest.approx(1) and own.uniqueness == 1 and torch.equal(own.best, order)
    directions = noise(9, 5, seed=seed + 1)
    one = matched(directions, truth)
    other = matched(directions[torch.randperm(9, generator=dice)] * scale, truth)
    assert one.mcc == pytest.approx(other.mcc) and one.uniqueness == other.uniqueness
    assert len(one.latents) == 6 and 0 < one.mcc <= 1


def test_what_is_asked_in_vain_is_refused():
    with pytest.raises(InputError, match="No codes are called 'smal'"):
        planted_codes("smal")
    with pytest.raises(InputError, match="room for all of them"):
        Codes(features=20, roots=3)
    with pytest.raises(MethodError, match="name of a floor"):
        code_scores(TINY, {"random": noisy(0)}, progress=False)
    with pytest.raises(MethodError, match="one at least"):
        code_scores(TINY, {"nothing": []}, progress=False)


def test_what_is_written_for_pictures_and_texts_is_meaned():
    own = TrueDirections(BOTH)
    assert own.asks == ("kind",) and torch.allclose(written(BOTH, own), BOTH.directions, atol=1e-5)
    assert next(BOTH.rows(4, first=HELD)).seen.item[0] == HELD
