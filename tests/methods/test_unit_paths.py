"""Second-order effects are exact where they are all there is; multimodal units are found where one was made."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import cutaway
from cutaway import data
from cutaway.errors import MethodError, SiteError
from cutaway.methods.neuron_descriptions.multimodal import (
    forms_of,
    multimodal_units,
    one_against_all,
    ranked,
    shown_by_all,
)
from cutaway.methods.neuron_descriptions.second_order import second_order
from cutaway.model.edits import Ablate, Patch
from cutaway.questions.bank import text_bank
from cutaway.questions.rows import unit
from world import noise, opened

SCENES = list(data.scenes("test", 3))
TEXTS = ["a red dog", "a blue cat", "a green car"]


def bank(model):
    return text_bank(model, TEXTS, progress=False)


@pytest.mark.checks("second_order", "truth")
def test_with_all_else_held_the_two_orders_are_the_whole_effect():
    """One layer behind the unit: with its pattern, norms and MLP held, no other path is left."""
    model, texts = opened("clip"), bank(opened("clip"))
    found = second_order(model, SCENES, texts, "vision.1.mlp.post", progress=False)
    inputs = model.inputs(image=[data.render(one) for one in SCENES])
    held = ["vision.2.attn.pattern", "vision.2.attn.norm.scale", "vision.2.mlp.out", "vision.norm.scale"]
    clean = model.run(inputs, record=[*held, "vision.joint"])
    words = unit(texts.embeddings)
    for one in (0, 17, 40):
        edits = [Ablate("vision.1.mlp.post", unit=one), *(Patch(site, clean) for site in held)]
        lost = clean["vision.joint"] - model.run(inputs, record="vision.joint", edits=edits)["vision.joint"]
        both = (found["first"] + found["second"]).sel(unit=one)
        np.testing.assert_allclose(both, lost @ words.T, atol=1e-7)
    assert float(np.abs(found["second"]).mean()) > 0


@pytest.mark.checks("second_order", "baseline", "floor")
def test_the_exact_effect_is_that_of_ablation_and_the_last_layer_has_no_second_order():
    model = opened("clip")
    found = second_order(model, SCENES, bank(model), "vision.1.mlp.post", exact=3, progress=False)
    assert found["exact"].sizes["unit"] == 3
    table = found.agreement()
    assert table.loc["both", "correlation"] > 0.5 and table.loc["both", "correlation"] < 1 - 1e-9
    assert table.loc["first", "correlation"] > 0.5  # of a model that was not trained most goes straight
    moved = type(found)(found.data.assign(exact=found["exact"].roll(unit=1)), found.provenance)
    assert moved.agreement().loc["both", "correlation"] < table.loc["both", "correlation"]  # another unit's effect
    last = second_order(model, SCENES, bank(model), "vision.2.mlp.post", progress=False)
    assert float(np.abs(last["second"]).max()) == 0 < float(np.abs(last["first"]).max())
    with pytest.raises(SiteError, match="class token"):
        second_order(model, SCENES, bank(model), "vision.1.resid_post", progress=False)


def test_ranks_give_the_area_under_the_curve():
    values, labels = noise(30, 3).numpy().round(1), np.repeat(np.arange(5), 6)
    found = one_against_all(ranked(values), labels, 5)
    for label in range(5):
        for k in range(3):
            assert found[label, k] == pytest.approx(roc_auc_score(labels == label, values[:, k]))


def test_forms_show_a_concept_as_they_say():
    made = forms_of(["fox", "car"], 3, seed=1)
    assert {thing.artist for one in made["drawn"] for thing in one.things} <= {*data.SEEN_ARTISTS}
    assert all(one.things[0].artist == data.UNSEEN_ARTIST for one in made["other artist"])
    assert [one.label.text for one in made["written"]] == ["fox"] * 3 + ["car"] * 3
    assert not any(one.things for one in made["written"]) and len(set(shown_by_all(12))) == 12


@pytest.mark.checks("multimodal_units", "baseline", "floor")
def test_noise_is_selective_for_nothing_beyond_the_null():
    """The strongest concept of each unit is high by chance alone, and the null knows by how much."""
    found = multimodal_units(cutaway.load("tiny:clip"), each=2, shuffles=4, progress=False)
    every = found.shares().set_index("forms")
    assert every.loc["written", "bound"] > 0.8  # two pictures of each of 16 concepts, the best of these
    assert every.loc["drawn + other artist + written", "beyond"] < 0.1
    with pytest.raises(MethodError, match="at least"):
        multimodal_units(cutaway.load("tiny:clip"), ["fox"], progress=False)


@pytest.mark.checks("multimodal_units", "truth")
def test_a_unit_that_is_told_the_concept_is_multimodal_for_it():
    found = multimodal_units(cutaway.load("tiny:clip"), "fox, car,pizza", each=3, shuffles=6, progress=False)
    labels = np.repeat(np.arange(3), 3)
    told = one_against_all(ranked((labels == 1)[:, None].astype(float)), labels, 3)
    assert told[1, 0] == 1 and (told[[0, 2], 0] == 0.25).all()
    data = found.data.copy(deep=True)
    data["auroc"][:, :, 5] = told[None, :, 0]
    made = type(found)(data, found.provenance)
    assert int(made.multimodal().sel(concept="car").values.argmax()) == 5 and float(made.multimodal()[1, 5]) == 1
    assert torch.tensor(made.summary()["worst"].values[0]) == 1
