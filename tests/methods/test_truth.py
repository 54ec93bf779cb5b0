"""Maps and scores whose fit is known: the truth itself, its negative, noise."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cutaway.errors import MethodError
from cutaway.methods.truth import auroc, detector, fit, on_patches


def test_the_truth_itself_fits_wholly_and_its_negative_not_at_all():
    truth = np.zeros((8, 8), bool)
    truth[2:4, 3:6] = True
    made = fit(np.stack([truth * 5.0 - 2, truth * -1.0, np.zeros((8, 8))]), truth)
    assert made.iou.tolist() == [1, 0, 0] and made.hit.tolist() == [1, 0, 6 / 64]
    assert np.allclose(made.hit_shuffled, 6 / 64) and made.iou_shuffled[0] < 0.15


def test_the_scale_of_a_map_says_nothing():
    maps = np.random.default_rng(0).normal(size=(4, 3, 8, 8))
    truth = maps[0, 0] > 1
    one, other = fit(maps, truth), fit(7 * maps - 3, truth)
    assert (one.iou == other.iou).all() and (one.hit == other.hit).all() and one.iou.shape == (4, 3)


def test_noise_fits_as_shuffled_patches_do():
    maps = np.random.default_rng(1).normal(size=(4000, 8, 8))
    truth = np.arange(64).reshape(8, 8) < 16
    made = fit(maps, truth, shuffles=64)
    assert abs(made.iou.mean() - made.iou_shuffled.mean()) < 0.01 and abs(made.hit.mean() - 0.25) < 0.04


def test_what_a_mask_covers_and_what_cannot_be_compared():
    assert on_patches(np.eye(4), 2, 2).tolist() == [[0.5, 0], [0, 0.5]]
    with pytest.raises(MethodError, match="whole number"):
        on_patches(np.eye(4), 3, 2)
    with pytest.raises(MethodError, match="Nothing to hold"):
        fit(np.zeros((2, 2)), np.zeros((2, 2), bool))
    with pytest.raises(MethodError, match="holes"):
        fit(np.full((2, 2), np.nan), np.ones((2, 2), bool))


def test_scores_that_know_are_told_from_those_that_do_not():
    draw = np.random.default_rng(0)
    real, group = draw.random(600) < 0.6, np.repeat(np.arange(200), 3)
    scores = {"known": real + 0.5 * draw.normal(size=600), "noise": draw.normal(size=600), "all": real * 1.0}
    made = detector(scores, real, group, than="noise", draws=1000)
    assert made.auroc["all"] == made.low["all"] == 1 and made.auroc["known"] > 0.85
    assert made.low["noise"] < 0.5 < made.high["noise"] and 0.05 < made.high["noise"] - made.low["noise"] < 0.15
    gain, low, high = made.gain["known"]
    assert 0 < low < gain < high and made.gain["noise"] == (0, 0, 0)
    with pytest.raises(MethodError, match="are real"):
        detector(scores, np.ones(600, bool), group, than="all")


def test_it_is_the_auroc_of_scikit_learn():
    draw = np.random.default_rng(3)
    real, scores, weights = draw.random(80) < 0.4, draw.integers(0, 9, 80) * 1.0, draw.integers(0, 4, (5, 80)) * 1.0
    wanted = [roc_auc_score(real, scores, sample_weight=one) for one in weights]
    assert np.allclose(auroc(scores, real, weights), wanted)
    assert np.isnan(auroc(scores, real, real[None] * 1.0)).all()


def test_mentions_of_one_picture_go_together():
    """The same mentions six times over, in one picture each, are known no better than once."""
    draw = np.random.default_rng(0)
    real, scores = draw.random(60) < 0.5, draw.normal(size=60)
    once = detector({"a": scores}, real, np.arange(60), than="a", draws=1000)
    six = detector({"a": np.tile(scores, 6)}, np.tile(real, 6), np.tile(np.arange(60), 6), than="a", draws=1000)
    assert abs((once.high["a"] - once.low["a"]) - (six.high["a"] - six.low["a"])) < 0.04
