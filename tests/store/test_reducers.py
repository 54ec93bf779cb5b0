"""Any split into batches and any order of merging gives what all rows at once give."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from cutaway.errors import InputError
from cutaway.store.reducers import Gram, Histogram, Mean, TopK
from world import noise

SEEDS = st.integers(0, 10_000)
EDGES = [-1.0, -0.5, 0.0, 0.25, 2.0]


def parts(rows: int, seed: int) -> list[list[tuple[int, int]]]:
    """Stretches of rows, some of them empty, dealt out to a few workers, all in random order."""
    draw = np.random.default_rng(seed)
    cuts = [0, *sorted(draw.integers(0, rows + 1, 6).tolist()), rows]
    stretches = list(pairwise(cuts))
    draw.shuffle(stretches)
    workers: list[list[tuple[int, int]]] = [[] for _ in range(3)]
    for stretch in stretches:
        workers[draw.integers(3)].append(tuple(stretch))
    return workers


def split(make, add, rows, seed):
    """What the reducers of the workers know together."""
    whole = make()
    for worker in parts(rows, seed):
        one = make()
        for start, stop in worker:
            add(one, start, stop)
        whole.merge(one)
    return whole.value


@settings(max_examples=20, deadline=None)
@drawn(SEEDS, st.integers(1, 40), st.sampled_from([(), (3,), (2, 3)]), st.sampled_from([0.0, 1e4]))
def test_the_mean_of_the_parts_is_that_of_the_whole(seed, n, shape, far):
    rows, weight = noise(n, *shape, seed=seed) + far, noise(n, seed=seed + 1).abs() + 0.1
    plain = split(Mean, lambda one, a, b: one.add(rows[a:b]), n, seed)
    weighted = split(Mean, lambda one, a, b: one.add(rows[a:b], weight[a:b]), n, seed)
    expected = (rows * weight.reshape(-1, *[1] * len(shape))).sum(0) / weight.sum()
    scale = 1 + far
    assert (plain - rows.mean(0)).abs().max() < 1e-12 * scale and (weighted - expected).abs().max() < 1e-12 * scale


@settings(max_examples=20, deadline=None)
@drawn(SEEDS)
def test_each_position_has_the_mean_of_the_rows_that_count_there(seed):
    rows = noise(20, 5, 3, seed=seed)
    own = torch.arange(5) < torch.from_numpy(np.random.default_rng(seed).integers(1, 5, 20))[:, None]  # the last: none
    found = split(Mean, lambda one, a, b: one.add(rows[a:b].masked_fill(~own[a:b, :, None], torch.nan), own[a:b]), 20,
                  seed)  # fmt: skip
    for position in range(5):
        here = rows[own[:, position], position]
        if len(here):
            assert (found[position] - here.mean(0)).abs().max() < 1e-12
        else:
            assert found[position].isnan().all()


@settings(max_examples=20, deadline=None)
@drawn(SEEDS, st.integers(1, 40), st.sampled_from([(4,), (2, 4), (2, 3, 4)]), st.sampled_from([0.0, 1e4]))
def test_the_gram_matrix_of_the_parts_is_that_of_the_whole(seed, n, shape, far):
    rows = noise(n, *shape, seed=seed) + far
    found = split(Gram, lambda one, a, b: one.add(rows[a:b]), n, seed)
    places = rows.flatten(1, -2) if len(shape) > 1 else rows[:, None]
    for place, matrix, gram in zip(
        places.unbind(1), found.scatter.reshape(-1, 4, 4), found.gram.reshape(-1, 4, 4), strict=True
    ):
        apart = place - place.mean(0)
        assert (matrix - apart.T @ apart).abs().max() < 1e-12 * n * (1 + far)
        assert (gram - place.T @ place).abs().max() < 1e-12 * n * (1 + far) ** 2
    assert found.count == n and (found.mean - rows.mean(0)).abs().max() < 1e-12 * (1 + far)


def test_the_covariance_is_that_of_numpy():
    rows = noise(30, 4, seed=3) + 7
    found = Gram().add(rows[:11]).add(rows[11:]).value
    assert np.allclose(found.covariance, np.cov(rows.numpy().T), atol=1e-12)


@settings(max_examples=20, deadline=None)
@drawn(SEEDS, st.integers(1, 40), st.sampled_from([(), (3,), (2, 3)]), st.integers(1, 7))
def test_the_largest_of_the_parts_are_those_of_the_whole(seed, n, shape, k):
    rows = noise(n, *shape, seed=seed).mul(2).round()  # many are equal
    found = split(lambda: TopK(k), lambda one, a, b: one.add(rows[a:b], first=a), n, seed)
    order = np.lexsort((np.broadcast_to(np.arange(n).reshape(-1, *[1] * len(shape)), rows.shape), -rows), axis=0)[:k]
    assert (found.items.numpy() == order).all()
    assert (found.values.numpy() == np.take_along_axis(rows.numpy(), order, 0)).all()


@settings(max_examples=20, deadline=None)
@drawn(SEEDS, st.integers(1, 40), st.sampled_from([(), (3,), (2, 3)]))
def test_the_counts_of_the_parts_are_those_of_the_whole(seed, n, shape):
    rows = (noise(n, *shape, seed=seed) * 8).round() / 8  # some lie on an edge
    found = split(lambda: Histogram(torch.tensor(EDGES)), lambda one, a, b: one.add(rows[a:b]), n, seed)
    for unit, inside in zip(rows.reshape(n, -1).T.numpy(), found.inside.reshape(4, -1).T.numpy(), strict=True):
        assert (np.histogram(unit, EDGES)[0] == inside).all()
    assert (found.below == (rows < EDGES[0]).sum(0)).all() and (found.above == (rows > EDGES[-1]).sum(0)).all()
    assert int(found.inside.sum() + found.below.sum() + found.above.sum()) == rows.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32])
def test_sums_are_taken_in_double_precision(dtype):
    rows = (noise(700, 3) * 5 + 100).to(dtype)
    exact = rows.double()
    mean, moments = Mean(), Gram()
    for batch in rows.split(7):
        mean.add(batch)
        moments.add(batch)
    apart = exact - exact.mean(0)
    assert mean.value.dtype == moments.value.scatter.dtype == torch.float64
    assert (mean.value - exact.mean(0)).abs().max() < 1e-11
    assert ((moments.value.scatter - apart.T @ apart) / (apart.T @ apart).diag().max()).abs().max() < 1e-12
    assert (TopK(2).add(rows).value.values == exact.sort(dim=0, descending=True).values[:2]).all()


def test_rows_may_carry_a_graph_and_are_not_changed():
    rows = noise(5, 2).requires_grad_()
    for reducer in (Mean(), Gram(), TopK(2), Histogram(EDGES)):
        before = reducer.add(rows).value
        reducer.add(rows.detach() + 1, **({"first": 5} if isinstance(reducer, TopK) else {}))
        first = next(value for value in vars(before).values() if isinstance(value, torch.Tensor)) if not isinstance(
            before, torch.Tensor) else before  # fmt: skip
        assert not first.requires_grad
    assert not torch.equal(Mean().add(rows).value, Mean().add(rows).add(rows.detach() + 1).value)


def test_what_counts_an_item_twice_is_refused():
    top = TopK(3).add(noise(4)).add(noise(4))
    with pytest.raises(InputError, match=r"Item 6 came before.*items 0 to 7"):
        top.add(noise(3), first=6)
    with pytest.raises(InputError, match="Item 0 came before"):
        top.merge(TopK(3).add(noise(2)))
    assert top.merge(TopK(3).add(noise(2), first=8)).value.items.max() <= 9


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Mean().value, "nothing was added"),
        (lambda: Gram().value, "nothing was added"),
        (lambda: Mean().add(noise(2, 3)).add(noise(2, 4)), r"shape \(4,\) came after rows of shape \(3,\)"),
        (lambda: Gram().add(noise(2, 3)).merge(Gram().add(noise(2, 4))), "rows of one shape"),
        (lambda: Mean().add(noise(2, 3), noise(2).abs() - 9), "some below 0"),
        (lambda: Mean().add(noise(2, 3), noise(2, 4).abs()), r"weights of shape \(2, 4\)"),
        (lambda: TopK(1).add(torch.tensor([1.0, torch.nan])), r"1 of 2 values are no numbers"),
        (lambda: Histogram(EDGES).add(torch.tensor([torch.nan])), r"no numbers \(NaN\)"),
        (lambda: TopK(0), "one at least"),
        (lambda: Histogram([1.0, 0.0]), "each above the one before"),
        (lambda: Histogram([0.0, 1.0]).merge(Histogram([0.0, 2.0])), "other edges"),
    ],
)
def test_nonsense_is_refused(wrong, said):
    with pytest.raises(InputError, match=f"(?i){said}"):
        wrong()
