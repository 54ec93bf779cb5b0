"""Scores of descriptions: the five valid ones pass both checks and others fail; planted units are named and drawn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, jaccard_score

import cutaway
from cutaway import data
from cutaway.errors import MethodError
from cutaway.methods.network_dissection.clip_dissect import clip_dissect, soft_wpmi
from cutaway.methods.network_dissection.compositions import composition
from cutaway.methods.network_dissection.concept_masks import shown
from cutaway.methods.network_dissection.cosy import controls, cosy, drawn_to
from cutaway.methods.network_dissection.similarities import (
    SIMILARITIES,
    auprc,
    extra_labels,
    f1,
    iou,
    missing_labels,
    similarities,
)
from cutaway.methods.truth import auroc
from cutaway.zoo.trained import trained
from world import red_unit

DICE = np.random.default_rng(3)
RARE = DICE.random((800, 12)) < 0.03  # as most concepts are
UNIT = 5


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_five_see_missing_and_extra_labels(name):
    assert missing_labels(SIMILARITIES[name], RARE) == 1 == extra_labels(SIMILARITIES[name], RARE)


def recall(units, concepts):
    marks = (units > 0.5).astype(float)
    return (marks.T @ concepts) / np.maximum(concepts.sum(0), 1)


def by_auc(units, concepts):
    once = np.ones((1, len(units)))
    return np.stack([[auroc(one, other, once)[0] for other in concepts.T] for one in units.T])


def precision(units, concepts):
    marks = (units > 0.5).astype(float)
    return (marks.T @ concepts) / np.maximum(marks.sum(0)[:, None], 1)


def test_the_checks_tell_others_apart():
    """Recall is blind to labels that are missing, precision to labels that are too many; AUC hardly sees the first."""
    assert missing_labels(recall, RARE) == 0 and extra_labels(precision, RARE) == 0
    few = RARE[:, RARE.sum(0) > 0]
    fallen = [1 - by_auc(few.astype(float), few & ~(np.cumsum(few, 0) % 2 == 0)).diagonal().min()]
    assert max(fallen) < 0.05


def test_the_five_are_what_they_are_called():
    units, concepts = DICE.normal(size=(200, 3)), DICE.random((200, 4)) < 0.2
    made = similarities(units, concepts, share=0.1)
    both = np.corrcoef(units.T, concepts.T.astype(float))[:3, 3:]
    np.testing.assert_allclose(made["pearson"], both, atol=1e-12)
    for k in range(3):
        marks = units[:, k] > np.quantile(units[:, k], 0.9)
        for c in range(4):
            assert float(made["auprc"][k, c]) == pytest.approx(average_precision_score(concepts[:, c], units[:, k]))
            assert float(made["f1"][k, c]) == pytest.approx(f1_score(concepts[:, c], marks))
            assert float(made["iou"][k, c]) == pytest.approx(jaccard_score(concepts[:, c], marks))
    own = concepts.astype(float)
    for measure in (f1, iou):
        assert measure(own[:, :1], concepts[:, :1], share=0.9 * concepts[:, 0].mean())[0, 0] == 1
    assert auprc(own, concepts).diagonal() == pytest.approx(1)
    with pytest.raises(MethodError, match="a share between"):
        similarities(units, concepts, share=1.0)


def test_soft_wpmi_is_its_formula_and_prefers_what_others_do_not_show():
    units, fits = torch.rand(30, 4), torch.rand(30, 5)
    found, sure = soft_wpmi(units, fits, top=3), np.linspace(0.998, 0.97, 3)
    given = np.zeros((4, 5))
    for k in range(4):
        for rank, i in enumerate(units[:, k].topk(3).indices):
            given[k] += np.log(1 + sure[rank] * (fits[i].double().numpy() - 1))
    np.testing.assert_allclose(found, given - np.log(np.exp(given).mean(0)), atol=1e-6)


@pytest.mark.skipif(not trained("emoji-clip").here, reason="zoo:emoji-clip is not in this checkout")
def test_clip_dissect_names_planted_units_and_not_shuffled_ones():
    clip = cutaway.load("zoo:emoji-clip")
    names = ("fox", "pizza", "rocket", "guitar")
    scenes = [scene for name in names for scene in drawn_to(("concept", name), 12)]
    shows = torch.tensor([[("concept", name) in {*shown(scene)} for name in names] for scene in scenes]).double()
    texts = [data.concept(name).one for name in (*names, "crab", "key")]
    found = clip_dissect(shows, clip, scenes, texts, top=8, sharp=30.0, progress=False)
    assert list(found.texts) == texts[:4] and (found.scores.amax(1) > found.null).all()


def test_a_formula_is_found_and_judged_apart():
    shows = DICE.random((600, 6)) < 0.3
    labels = [*"abcdef"]
    truth = (shows[:, 0] | shows[:, 1]) & ~shows[:, 2]
    values = truth + 0.1 * DICE.random(600)
    for score, share in (("iou", float(truth.mean())), ("auc", 0.05)):
        found = composition(values, shows, labels, score=score, share=share, length=3)
        assert {*found.text.replace("(", "").replace(")", "").split()} == {
            "a",
            "b",
            "c",
            "OR",
            "AND",
            "NOT",
        } and found.held > 0.93
        assert found.held > found.single + 0.05 > found.null
    noise = composition(DICE.random(600), shows, labels, length=3, share=0.3, sizes=(0.01, 0.5))
    assert noise.fitted > noise.held - 0.02 and abs(noise.held - noise.null) < 0.15


def test_drawing_a_concept_tells_a_true_description_from_a_false_one():
    model = red_unit()
    red = ("ground colour", "red")
    made = cosy(
        model, model.sites.one("vision.embed"), [UNIT, UNIT + 1], [red, ("ground colour", "blue")], many=8,
        world=data.World(things=(1, 1), kinds=("plain",), names=("ghost", "snowman")), progress=False,
    )  # fmt: skip
    assert made.auc[0] == 1 and made.mad[0] > 1 and made.auc_random[0] < 0.5 > made.mad_random[0]


@pytest.mark.parametrize(
    "name",
    [("concept", "fox"), ("group", "food-drink"), ("artist", "twemoji"), ("ground", "texture"), ("colour", "red"),
     ("colour", "brown"),
     ("ground colour", "pink"), ("pattern", "dotted"), ("writing", "letters")],
)  # fmt: skip
def test_scenes_are_drawn_to_every_kind_of_concept(name):
    assert all(name in {*shown(one)} for one in drawn_to(name, 3))
    assert not any(name in {*shown(one)} for one in controls(name, 5))
