"""The lens at the last layer is the model's own reading; patches lie where they belong; a planted text is found."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway.data import World, scenes
from cutaway.errors import MethodError
from cutaway.methods.logit_lens import Lens, logit_lens
from cutaway.methods.result import load
from cutaway.model.targets import similarity
from cutaway.model.weights import readout
from cutaway.questions.bank import TextBank, text_bank
from cutaway.questions.rows import unit
from cutaway.zoo import tiny
from cutaway.zoo.trained import TRAINED
from world import gap, opened

PICTURES = [tiny.picture(i) for i in range(3)]
TEXTS = ["a red dog", "a cat on the left", "two birds"]


def bank() -> TextBank:
    return text_bank(opened("clip"), TEXTS, progress=False)


def made(texts: TextBank | None = None, **options) -> Lens:
    return logit_lens(opened("clip"), PICTURES, texts or bank(), progress=False, **options)


def test_the_last_layer_is_the_models_own_similarity():
    model, lens = opened("clip"), made(batch=2)
    run = model.run(model.inputs(image=PICTURES, text=TEXTS))
    for j, text in enumerate(TEXTS):
        mine = torch.from_numpy(lens["pooled"].sel(layer=2, text=text).values)
        assert gap(mine, similarity(text=j)(run)) < 1e-10


def test_every_layer_and_patch_is_read_with_the_models_own_modules():
    model, lens = opened("clip"), made()
    inputs = model.inputs(image=PICTURES)
    with torch.no_grad():
        hidden = model.module.vision_model(**inputs.tensors, output_hidden_states=True).hidden_states
        words = unit(bank().embeddings)
        for depth, state in enumerate(hidden):
            read = unit(model.module.visual_projection(model.module.vision_model.post_layernorm(state))) @ words.T
            patches = torch.from_numpy(lens["patch"].isel(layer=depth).values)
            assert gap(patches[:, 2, 1], read[:, 1 + 2 * 4 + 1]) < 1e-10
            assert gap(torch.from_numpy(lens["pooled"].isel(layer=depth).values), read[:, 0]) < 1e-10
    assert lens["layer"].values.tolist() == [-1, 0, 1, 2]


def test_a_pooled_tower_is_read_with_its_own_head():
    """The pooled state is the head over all states of a layer; a patch is the head over that patch alone."""
    model = opened("siglip")
    texts = text_bank(model, TEXTS, progress=False)
    lens = logit_lens(model, PICTURES, texts, progress=False)
    inputs = model.inputs(image=PICTURES)
    tower = model.module.vision_model
    with torch.no_grad():
        hidden = tower(**inputs.tensors, output_hidden_states=True).hidden_states
        words = unit(texts.embeddings)
        for depth, state in enumerate(hidden[:4]):
            normed = tower.post_layernorm(state)
            whole, one = unit(tower.head(normed)) @ words.T, unit(tower.head(normed[:, 9:10])) @ words.T
            assert gap(torch.from_numpy(lens["pooled"].isel(layer=depth).values), whole) < 1e-10
            assert gap(torch.from_numpy(lens["patch"].isel(layer=depth).values)[:, 2, 1], one) < 1e-10


@pytest.mark.checks("logit_lens", "truth")
def test_a_planted_text_is_found_at_its_place_and_nowhere_else():
    model = opened("clip")
    state = model.run(model.inputs(image=PICTURES), record="vision.1.resid_post")["vision.1.resid_post"]
    planted = readout(model, "vision")(state[1, 1 + 3 * 4 + 2])
    texts = TextBank(("planted", "other"), ("text", "text"), torch.stack([planted, -planted]))
    shown = made(texts)["patch"].sel(text="planted")
    at = {dim: int(i) for dim, i in shown.argmax(...).items()}
    assert at == {"picture": 1, "layer": 2, "row": 3, "col": 2} and float(shown.max()) == pytest.approx(1)


def test_centring_takes_the_mean_of_pictures_and_texts_out():
    shift = torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = unit(bank().embeddings)
    one, other = (TextBank(tuple(TEXTS), ("text",) * 3, e) for e in (plain, unit(plain + 3 * shift)))
    assert abs(made(one)["pooled"] - made(other)["pooled"]).max() > 0.1
    lens = made(one, centre=True)
    assert abs(lens["pooled"].mean(("picture", "text"))).max() < 0.2
    # The gap between modalities moves every uncentred cosine one way; centred, no text wins everywhere.
    assert len(set(lens["pooled"].isel(layer=-1).argmax("text").values.tolist())) > 1
    with pytest.raises(MethodError, match="mean of one picture"):
        logit_lens(opened("clip"), PICTURES[:1], one, centre=True, progress=False)
    with pytest.raises(MethodError, match="mean of one text"):
        made(TextBank(("a",), ("text",), plain[:1]), centre=True)


def test_what_is_the_same_for_all_pictures_reads_zero_and_not_as_rounding():
    """What enters at the class token knows no picture; batches of unequal size round it differently."""
    model = cutaway.load("tiny:clip")
    shown = [tiny.picture(i) for i in range(9)]
    lens = logit_lens(model, shown, text_bank(model, TEXTS, progress=False), centre=True, batch=8, progress=False)
    assert not lens["pooled"].sel(layer=-1).any() and abs(lens["pooled"].sel(layer=0)).max() > 0.1
    assert abs(lens["patch"].sel(layer=-1)).max() > 0.1


@pytest.mark.checks("logit_lens", "baseline")
def test_chance_is_that_of_random_directions():
    assert made()["random"].values == pytest.approx(32**-0.5, rel=0.2)


def named(model, shown, names):
    """The share of pictures whose nearest text is that of what was drawn, by layer."""
    texts = text_bank(model, [f"a {name}" for name in names], progress=False)
    lens = logit_lens(model, shown, texts, centre=True, progress=False)
    truth = np.array([names.index(scene.things[0].concept) for scene in shown])
    nearest = lens["pooled"].argmax("text").values
    assert all(len(set(column)) > 1 for column in nearest.T[1:]), "one text for all pictures is no reading"
    return (nearest == truth[:, None]).mean(0)


@pytest.mark.checks("logit_lens", "floor")
def test_an_untrained_model_names_nothing_and_a_trained_one_does():
    """On random weights the text of what was drawn is the nearest no more often than chance has it."""
    names = ["dog", "cat", "fish", "horse"]
    shown = list(scenes("test", 40, 3, World(names=tuple(names), things=(1, 1))))
    assert abs(named(opened("clip"), shown, names) - 0.25).max() < 0.2
    if not TRAINED["emoji-clip"].here:
        pytest.skip("zoo:emoji-clip is not in this checkout")
    assert named(cutaway.load("zoo:emoji-clip"), shown, names)[-1] > 0.6
    assert abs(named(cutaway.load("zoo:emoji-clip@untrained"), shown, names) - 0.25).max() < 0.2


def test_it_keeps_and_draws_itself(tmp_path):
    lens = made()
    back = load(lens.save(tmp_path / "lens.nc"))
    assert isinstance(back, Lens) and back["topic"].values.tolist() == ["text"] * 3
    assert (back["patch"].values == lens["patch"].values).all()
    assert back.heat_map("two birds", picture=2).dims == ("row", "col")
    assert lens.best(2).query("picture == 0")["rank"].tolist() == [1, 2] * 4
    assert "layer" in lens.to_html() and lens.plot().get_title().startswith("cosine")
    with pytest.raises(MethodError, match="'a dog' is not in the bank"):
        lens.heat_map("a dog")


def test_texts_of_another_model_are_refused():
    with pytest.raises(MethodError, match=r"7 dimensions.*32"):
        made(TextBank(("a", "b"), ("text",) * 2, torch.ones(2, 7)))
    with pytest.raises(MethodError, match="come from 'tiny:siglip'"):
        made(text_bank(opened("siglip"), TEXTS, progress=False))
    with pytest.raises(MethodError, match="no one patch grid"):
        logit_lens(opened("clip"), TEXTS, bank(), tower="text", progress=False)
