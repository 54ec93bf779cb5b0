"""Planted states are found and read as what they are; other learners and untrained models say less."""

import pytest
import torch

import cutaway
from cutaway import data
from cutaway.errors import MethodError, SiteError
from cutaway.methods import concept_dictionary
from cutaway.methods.network_dissection.cosy import drawn_to
from cutaway.zoo.trained import trained
from world import fresh, opened

NAMES = ("dog", "car", "bird", "house")
SHOWN = ("fox", "pizza", "rocket", "guitar", "crab", "key")


@pytest.fixture(scope="module")
def found():
    """A decoder that reads each state as the word it came from, on texts that end with what their scenes show."""
    model = fresh("llama")
    with torch.no_grad():
        model.module.lm_head.weight.copy_(model.module.model.embed_tokens.weight)
    scenes = [scene for name in NAMES for scene in drawn_to(("concept", name), 8)]
    rows = [model.inputs(text=f"a big {name}") for name in NAMES for _ in range(8)]
    return concept_dictionary(
        model, rows, scenes=scenes, site="text.0.resid_pre", concepts=4, words=1, penalty=0.02, progress=False
    )


@pytest.mark.checks("concept_dictionary", "truth")
def test_planted_states_are_read_as_their_words(found):
    one = found.data.sel(learner=["semi-nmf", "k-means"])
    assert [{*row} for row in one["word"].values[..., 0]] == [{*NAMES}] * 2
    assert float(one["explained"].min()) > 0.9 and float(one["named"].min()) == 1
    scene_of = {name: range(8 * at, 8 * at + 8) for at, name in enumerate(NAMES)}
    first = one.sel(learner="semi-nmf")
    for word, items in zip(first["word"].values[:, 0], first["item"].values, strict=True):
        assert {*items[:2].tolist()} <= {*scene_of[word]}


@pytest.mark.checks("concept_dictionary", "baseline")
def test_words_of_other_concepts_name_nothing_there(found):
    assert float(found["named_random"].sel(learner="semi-nmf")) < 0.1
    table = found.table().set_index("learner")
    assert table.loc["semi-nmf", "explained"] >= table.loc["states", "explained"]


@pytest.mark.skipif(not trained("emoji-llava").here, reason="zoo:emoji-llava is not in this checkout")
@pytest.mark.checks("concept_dictionary", "floor")
def test_a_model_that_was_not_trained_names_nothing():
    scenes, told = list(data.scenes("test", 96, 0, data.World(things=(1, 1), names=SHOWN))), []
    for name in ("zoo:emoji-llava", "zoo:emoji-llava@untrained"):
        model = cutaway.load(name)
        rows = model.inputs(image=[[data.render(one)] for one in scenes], text=["what is this?"] * len(scenes))
        made = concept_dictionary(model, rows, scenes=scenes, concepts=8, progress=False)
        told.append(float(made["named"].sel(learner="semi-nmf") - made["named_random"].sel(learner="semi-nmf")))
    assert told[0] > 0.1 > told[1]


def test_what_cannot_be_read_or_learned_is_refused():
    rows = [opened("llama").inputs(text="a dog")] * 20
    with pytest.raises(MethodError, match="no residual stream"):
        concept_dictionary(opened("llama"), rows, site="text.0.mlp.post", progress=False)
    with pytest.raises(MethodError, match="rows at least"):
        concept_dictionary(opened("llama"), rows[:6], progress=False)
    with pytest.raises(MethodError, match="in words"):
        concept_dictionary(opened("clip"), ["no bank"] * 20, progress=False)
    with pytest.raises(SiteError):
        concept_dictionary(opened("llama"), rows, site="text.99.resid_post", progress=False)
