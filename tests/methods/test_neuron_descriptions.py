"""Descriptions of units: a planted unit is described as it was planted, and noise no better than noise."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway import data, questions
from cutaway.errors import MethodError, SiteError
from cutaway.methods.network_dissection.unit_maps import Posed, unit_maps
from cutaway.methods.neuron_descriptions import Neurons, neuron_descriptions
from cutaway.methods.neuron_descriptions.declared import METHODS
from cutaway.methods.neuron_descriptions.exemplars import entropy, profile
from cutaway.methods.neuron_descriptions.unit_effects import attribution, effects, matched
from cutaway.methods.neuron_descriptions.write_vectors import write_vectors, written
from cutaway.methods.result import load
from cutaway.methods.shown import applied
from cutaway.model.edits import Ablate, Scale, Set
from cutaway.model.targets import numbers
from cutaway.model.voice import voice
from cutaway.model.weights import readout
from cutaway.questions.bank import text_bank
from cutaway.questions.rows import unit
from cutaway.zoo import tiny
from world import fresh, noise, opened

SCENES = list(data.scenes("test", 24))
TEXTS = [f"a {colour} {noun}" for colour in ("red", "blue", "green") for noun in ("dog", "cat", "car", "tree")]
UNIT = 7


def matching(model):
    return questions.match(model, data.render(SCENES[0]), ["a red dog", "a blue cat"])


def bank(model):
    return text_bank(model, TEXTS, progress=False)


def described(model, **more) -> Neurons:
    return neuron_descriptions(model, SCENES, **{"many": 4, "top": 3, "progress": False, **more})


@pytest.mark.checks("neuron_descriptions", "truth")
def test_a_planted_unit_writes_what_it_was_made_to_write_and_moves_the_number_by_that():
    model = fresh("clip")
    texts = bank(model)
    aim = texts.directions(centre=True)[TEXTS.index("a green car")]
    with torch.no_grad():
        layer = model.module.vision_model.encoder.layers[2].mlp.fc2
        layer.weight[:, UNIT] = torch.linalg.pinv(readout(model, "vision").matrix) @ aim
        layer.weight[:, UNIT + 1] = 0
    question = matching(model)
    found = described(
        model, site="vision.2.mlp.post", units=[UNIT, UNIT + 1], bank=texts, inputs=question.inputs,
        target=question.target, factors=(0.0, 1.0, 2.0),
    )  # fmt: skip
    assert found["word"].values[0, 0] == "a green car" and float(found["write"][0, 0]) > 0.95
    assert float(found["write_random"].max()) < 0.99
    assert float(np.abs(found["change"].sel(unit=UNIT + 1)).max()) < 1e-12 and float(found["attribution"][1]) == 0
    assert float(np.abs(found["change"].sel(factor=1.0)).max()) < 1e-12
    plain, gone = (numbers(question.target, model.run(question.inputs, edits=edits))
                   for edits in ([], Ablate("vision.2.mlp.post", unit=UNIT)))  # fmt: skip
    assert abs(float(found["change"].sel(unit=UNIT, factor=0.0)) - float((gone - plain).mean())) < 1e-10


@pytest.mark.checks("neuron_descriptions", "baseline")
def test_units_that_are_as_active_and_sorts_by_chance_stand_beside():
    question = matching(opened("clip"))
    _, size = attribution(
        question.model, question.inputs, question.target, site := opened("clip").sites.one("vision.1.mlp.post")
    )
    units = size.argsort(descending=True)[8:16:2].tolist()  # none is as active as the first few
    made = effects(question.model, question.inputs, question.target, site, units, size, controls=5)
    assert not {*units} & {*made.controls.ravel()}
    assert np.abs(made.change[:, 0]).mean() < 5 * np.abs(made.matched[:, :, 0]).mean()  # units of no account
    near = np.abs(size.numpy()[made.controls] - size.numpy()[units][:, None]).mean()
    assert near < np.abs(size.numpy()[:, None] - size.numpy()[None]).mean()
    found = described(opened("clip"))
    gap = (found["domain_entropy"] - found["domain_null"]).mean()
    assert abs(float(gap)) < 0.1


@pytest.mark.checks("neuron_descriptions", "floor")
def test_an_untrained_unit_writes_no_word_better_than_a_random_vector():
    found = described(opened("clip"), many=32, bank=bank(opened("clip")), site="vision.1.mlp.post")
    assert abs(float(found["write"].isel(word_rank=0).mean() - found["write_random"].mean())) < 0.1


def test_a_unit_of_a_decoder_says_a_planted_word():
    model = fresh("llama")
    word = model.tokenizer.convert_tokens_to_ids(model.tokenizer.tokenize("dog"))[0]
    with torch.no_grad():
        rows = model.module.lm_head.weight
        model.module.model.layers[1].mlp.down_proj.weight[:, UNIT] = 50 * rows[word]
    site = model.sites.one("text.1.mlp.post")
    found = written(model, site, [UNIT], words=1)
    logits = voice(model.engine, "text")(write_vectors(model, site)[[UNIT]]).detach()[0]
    assert int(logits.argmax()) == word and found.words[0][0] == model.tokenizer.decode([word]).strip()
    score = (logits.float() - logits.float().mean()) / logits.float().std()
    assert abs(float(found.scores[0, 0]) - float(score.max())) < 1e-4


def test_gradient_times_activation_is_the_effect_of_a_small_change():
    question = matching(opened("clip"))
    model, site = question.model, question.model.sites.one("vision.1.mlp.post")
    given, _ = attribution(model, question.inputs, question.target, site)
    for one in (0, 5):
        step = 3e-3  # the target is in single precision
        edits = [Scale(site, 1 + sign * step, unit=one) for sign in (1, -1)]
        up, down = (numbers(question.target, model.run(question.inputs, edits=edit)).sum() for edit in edits)
        assert abs(float((up - down) / (2 * step)) - float(given[one])) < 2e-5


def test_exemplars_are_the_pictures_with_the_strongest_patches():
    model = opened("clip")
    found = described(model, site="vision.1.mlp.post", units=[3, 9])
    (maps,) = unit_maps(model, SCENES, model.sites.one("vision.1.mlp.post"), Posed(), batch=24, progress=False)
    peaks = maps.values.float().flatten(1, 2).amax(1)
    for at, one in enumerate((3, 9)):
        order = peaks[:, one].sort(descending=True, stable=True).indices[:3]
        assert found["picture"].values[at].tolist() == order.tolist()
        np.testing.assert_allclose(found["map"].values[at], maps.values[order, :, :, one], rtol=1e-5, atol=1e-7)
    assert float(found["mean"][0]) == pytest.approx(float(maps.values[..., 3].float().mean()), rel=1e-5)


def test_the_strongest_texts_are_those_with_the_strongest_words():
    model, texts = opened("llava"), ["a red dog", "a cat", "a blue car on a tree"]
    found = described(model, site="text.1.mlp.post", units=[2, 8], texts=texts)
    for at, one in enumerate((2, 8)):
        runs = [model.run(model.inputs(text=text), record="text.1.mlp.post") for text in texts]
        peaks = [run["text.1.mlp.post"][0, run.inputs.tokens["text"].kind[0] != "bos", one].max() for run in runs]
        order = np.argsort([-float(peak) for peak in peaks])
        assert found["text"].values[at, :, 0].tolist() == [texts[place] for place in order]
        np.testing.assert_allclose(found["text_activation"].values[at], sorted(map(float, peaks))[::-1], rtol=1e-5)
        assert all(word.strip() in text for text, word in found["text"].values[at])


def test_a_unit_for_one_sort_of_pictures_has_no_entropy():
    model = fresh("clip")
    scenes = [data.Scene(background=data.Background("plain", (one,))) for one in ("red", "blue") * 6]
    values = torch.tensor([1.0, 0.0] * 6)[:, None].double().expand(12, 17)
    with model.edited(Set("vision.1.mlp.post", values, unit=UNIT)):
        made = profile(model, scenes, model.sites.one("vision.1.mlp.post"), Posed(), top=2, batch=12, progress=False)
    assert entropy(made.domains["ground colour"])[UNIT] == 0 < entropy(made.null["ground colour"])[UNIT]
    assert entropy(np.ones((4, 1)))[0] == pytest.approx(1) and np.isnan(entropy(np.zeros((2, 1)))[0])


@pytest.mark.parametrize(("name", "site"), [("llava", ""), ("sd", ""), ("sd3", ""), ("clip", "vision.1.resid_post")])
def test_every_family(name, site):
    found = described(cutaway.load(f"tiny:{name}"), site=site, many=2)
    assert found["map"].shape[:2] == (2, 3) and found["map"].notnull().all()
    assert ("modality_entropy" in found.data) == (name == "llava") == ("word" in found.data)


def test_a_page_shows_units_and_files_keep_them(tmp_path):
    model, scenes = cutaway.load("tiny:clip"), SCENES[:16] * 32
    question = questions.match(model, tiny.picture(), ["a dog", "a cat"], crowd=scenes, bank=bank(model))
    page = applied(question, METHODS)
    views = list(METHODS[0].show(page))
    assert [type(one).__name__ for one in views] == ["Gallery"] * 4 + ["Table", "Curve"]
    assert "1 in 200" in views[0].seen and "a random vector" in views[4].seen and "as active" in views[5].seen
    assert "target=question.target" in views[5].code
    found = page.made("neurons")
    assert isinstance(load(found.save(tmp_path / "neurons.nc")), Neurons)


def test_what_can_not_be_described_is_refused():
    with pytest.raises(MethodError, match="numbers from 0 to 63"):
        described(opened("clip"), units=[64])
    with pytest.raises(SiteError, match="writes="):
        write_vectors(opened("clip"), opened("clip").sites.one("vision.1.attn.z"))
    question, site = matching(opened("clip")), opened("clip").sites.one("vision.1.mlp.post")
    with pytest.raises(MethodError, match="as many others"):
        effects(question.model, question.inputs, question.target, site, range(62), torch.ones(64), controls=4)
    assert matched(torch.arange(9.0), [4], 2, seed=1).shape == (1, 2) and unit(noise(2, 3)).shape == (2, 3)
