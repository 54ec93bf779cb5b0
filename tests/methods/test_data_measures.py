"""Measures of training-data attribution against numbers by hand."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from cutaway.errors import MethodError
from cutaway.methods.data_attribution import lds, loo_correlation, mislabel_auc, retrieval


def test_the_linear_score_is_the_correlation_of_ranks_of_sums():
    dice = np.random.default_rng(0)
    scores, kept = dice.normal(size=(3, 20)), dice.random((15, 20)) < 0.5
    outcome = kept @ scores.T
    outcome[:, 1], outcome[:, 2] = -np.exp(outcome[:, 1]), dice.normal(size=15)
    found = lds(scores, kept, outcome)
    assert found[:2] == pytest.approx([1, -1])
    assert found[2] == pytest.approx(spearmanr(outcome[:, 2], kept @ scores[2])[0])


def test_a_constant_has_no_correlation_and_shapes_must_pair_up():
    kept = np.eye(4, dtype=bool)
    assert np.isnan(lds(np.zeros((1, 4)), kept, np.ones((4, 1)))).all()
    with pytest.raises(MethodError, match=r"subset.*three"):
        lds(np.zeros((1, 4)), kept[:2], np.ones((2, 1)))


def test_leaving_out_is_correlated_without_regard_to_scale():
    scores = np.array([[1.0, 2, 4], [1, 2, 3]])
    assert loo_correlation(scores, np.array([[3.0, 6, 12], [3, 2, 1]])) == pytest.approx([1, -1])


def test_wrong_items_are_told_apart_with_ties_by_half():
    assert mislabel_auc(np.array([2.0, 2, 1]), np.array([True, False, False])) == 0.75
    with pytest.raises(MethodError, match="both kinds"):
        mislabel_auc(np.ones(2), np.ones(2, bool))


def test_sources_are_found_as_early_as_they_stand_and_chance_is_exact():
    dice = np.random.default_rng(0)
    found = retrieval(np.array([[4.0, 3, 2, 1, 0], [0, 1, 2, 3, 4]]), [{1, 2}, set()], k=2)
    assert (found["recall"], found["reciprocal_rank"], found["chance_recall"]) == (0.5, 0.5, 0.4)
    drawn = [1 / (1 + dice.permutation(5)[:2].min()) for _ in range(4000)]
    assert found["chance_reciprocal_rank"] == pytest.approx(np.mean(drawn), abs=0.02)
    assert retrieval(np.zeros((1, 5)), [{0}])["reciprocal_rank"] == 0.2
    with pytest.raises(MethodError, match="with \\[7\\]"):
        retrieval(np.zeros((1, 5)), [{7}])
