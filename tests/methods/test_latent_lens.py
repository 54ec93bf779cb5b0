"""A state of the bank finds itself; what is planted is found at its place and layer; chance and other words are not."""

import numpy as np
import pytest
import torch

from cutaway.errors import MethodError, SiteError, StoreError
from cutaway.methods.logit_lens import (
    LatentBank,
    LatentLens,
    embedding_bank,
    embedding_lens,
    latent_bank,
    latent_lens,
)
from cutaway.methods.result import load
from cutaway.model.edits import Set
from cutaway.model.tokens import Where
from world import fresh, given, opened

TEXTS = ["a red dog on the left", "a cat"]


@pytest.fixture(scope="module")
def bank() -> LatentBank:
    return latent_bank(opened("llama"), TEXTS, progress=False)


def lens(name, inputs, bank=None, words=(), **options) -> LatentLens:
    model = opened(name) if isinstance(name, str) else name
    return latent_lens(model, inputs, bank, words, progress=False, **options)


def test_a_state_of_the_bank_finds_itself(bank):
    """At every layer, with a cosine of 1, in its own text at its own place; whatever stands in front of the row."""
    for side in ("left", "right"):
        model = fresh("llama")
        model.tokenizer.padding_side = side
        found = lens(model, model.inputs(text=TEXTS), bank, top=1)
        special = model.tokenizer.all_special_ids
        for text, length in enumerate(found.lengths):
            here = found.data.isel(prompt=text, token=slice(length), rank=0)
            ids = model.tokenizer(TEXTS[text])["input_ids"]
            words = [at for at in range(length) if ids[at] not in special]
            assert len(words) == (6, 2)[text]
            assert np.allclose(here["near_cosine"].values[:, words], 1, atol=1e-12)
            alone = words[1:]  # both texts begin with `a`, in one and the same state
            assert (here["near_text"].values[1:, alone] == text).all()
            assert (here["near_place"].values[1:, alone] == alone).all()
            assert (here["near_id"].values[:, words] == np.array(ids)[words]).all()
    assert bank.texts[0].endswith("left") and set(bank.tensors["text"].tolist()) == {0, 1}
    table = found.by_layer(token=3)
    assert [*table] == ["layer", "word", "cosine", "random", "of layer", "in the text"] and len(table) == 4


@pytest.mark.checks("embedding_lens", "truth")
def test_a_word_enters_as_its_own_row_of_the_table():
    found = lens("llama", given("llama"), top=1)
    ids = given("llama").tensors["input_ids"].numpy()
    first = found.data.isel(layer=0, rank=0)
    assert (first["near_id"].values == ids).all() and np.allclose(first["near_cosine"], 1)
    assert (found["near_text"] == -1).all() and found.provenance.options["through"] == "embedding"


@pytest.mark.checks("latent_lens", "truth")
def test_a_planted_state_is_found_at_its_patch_and_with_across_its_layer():
    model, inputs = opened("llava"), given("llava")
    bank = latent_bank(model, TEXTS, progress=False)
    dog = int(bank.entries(model.tokenizer.convert_tokens_to_ids("dog")).nonzero())
    planted = 3 * bank.tensors["states"][1, dog]  # what leaves layer 0, put behind layer 1
    with model.edited(Set("text.1.resid_post", planted, token=Where("image", row=2, col=3)), inputs):
        own, across = (lens(model, inputs, bank, ["dog"], across=one) for one in (False, True))
    cosine = across.on_grid("word_cosine").sel(word="dog", layer=1).values
    assert np.argwhere(np.isclose(cosine, 1)).tolist() == [[2, 3]]
    for name, value in (("near", "dog"), ("near_layer", 0), ("near_text", 0)):
        assert across.on_grid(name).sel(layer=1, rank=1).values[2, 3] == value
    assert (own["near_layer"] == own["layer"]).where(own["near_id"] >= 0, True).all()
    assert own.on_grid("word_cosine").sel(word="dog", layer=1).values[2, 3] < 1 - 1e-6


def test_centring_takes_the_mean_of_pictures_from_pictures_and_of_the_bank_from_the_bank():
    model, inputs = opened("llava"), given("llava")
    bank = latent_bank(model, TEXTS, progress=False)
    found = lens(model, inputs, bank, ["dog", "cat"], centre=True)
    states = model.run(inputs, record="text.1.resid_post")["text.1.resid_post"][0]
    image = torch.from_numpy(inputs.tokens["text"].kind[0] == "image")
    entries = bank.layer(1) - bank.layer(1).mean(0)
    dog = entries[bank.entries(model.tokenizer.convert_tokens_to_ids("dog"))]
    cosine = torch.nn.functional.cosine_similarity(states[image] - states[image].mean(0), dog)
    assert np.allclose(found.on_grid("word_cosine").sel(layer=1, word="dog").values.ravel(), cosine, atol=1e-12)
    with pytest.raises(MethodError, match="mean of one position"):
        lens("llama", opened("llama").inputs(input_ids=torch.tensor([[9]])), centre=True)


@pytest.mark.checks("latent_lens", "baseline", "floor")
def test_chance_is_that_of_random_directions_and_an_untrained_model_is_no_better(bank):
    """Of 8 entries in 32 dimensions; with the means taken out, no word is nearer to pictures of an untrained model."""
    found = lens("llama", given("llama"), bank, ["dog", "two"], draws=512)
    entries = torch.nn.functional.normalize(bank.layer(0), dim=1)
    noise = torch.nn.functional.normalize(torch.randn(4096, 32, dtype=torch.float64), dim=1)
    assert abs(float(found["random_cosine"].sel(layer=0)) - float((noise @ entries.T).amax(1).mean())) < 0.02
    assert abs(found["random_word"].sel(word="dog")).max() < 0.05
    assert found["word_cosine"].sel(word="two").isnull().all() and found.note().endswith("The bank has no two.")
    again = lens("llama", given("llama"), bank, ["dog"], draws=512)
    assert again["random_cosine"].equals(found["random_cosine"])
    words = ["dog", "cat", "red", "left", "two", "big"]
    texts = latent_bank(opened("llava"), [" ".join(words), *TEXTS], progress=False)
    blind = lens("llava", given("llava"), texts, words, centre=True).on_grid("word_cosine")
    assert abs(blind.mean(("layer", "row", "col"))).max() < 0.2


@pytest.mark.checks("embedding_lens", "baseline", "floor")
def test_no_word_vector_is_nearer_to_pictures_of_an_untrained_model():
    """And a random direction is as near to the nearest of the table as one is by hand."""
    words = ["dog", "cat", "red", "left", "two", "big"]
    blind = embedding_lens(opened("llava"), given("llava"), words, centre=True, draws=512, progress=False)
    assert abs(blind.on_grid("word_cosine").mean(("layer", "row", "col"))).max() < 0.1
    table = embedding_bank(opened("llava")).layer(-1)
    entries = torch.nn.functional.normalize(table - table.mean(0), dim=1)
    noise = torch.nn.functional.normalize(torch.randn(4096, 32, dtype=torch.float64), dim=1)
    assert abs(blind["random_cosine"] - float((noise @ entries.T).amax(1).mean())).max() < 0.02


def test_it_keeps_at_most_so_many_states_of_a_word():
    whole, one = (latent_bank(opened("llama"), ["a dog", "a cat", "a dog"], each=n, progress=False) for n in (9, 1))
    assert len(whole.tensors["token"]) == 6 and len(one.tensors["token"]) == 3
    assert one.tensors["text"].tolist() == [0, 0, 1] and len(one.texts) == 3


def test_it_is_kept_and_belongs_to_its_model(bank, tmp_path):
    back = LatentBank.load(bank.save(tmp_path / "bank"))
    found = lens("llama", given("llama"), back, ["dog"])
    assert np.array_equal(found["near_cosine"], lens("llama", given("llama"), bank)["near_cosine"], equal_nan=True)
    again = load(found.save(tmp_path / "lens.nc"))
    assert isinstance(again, LatentLens) and (again["near"] == found["near"]).all()
    assert "nearest entry" in found.plot().get_title() and "in the text" in found.to_html()
    with pytest.raises(StoreError, match="latent_bank was fitted on 'tiny:llama'"):
        lens("mistral", given("mistral"), bank)


def test_what_cannot_be_compared_is_refused(bank):
    for name in ("clip", "bert"):
        with pytest.raises(SiteError, match="writes no words"):
            lens(name, opened(name).inputs(text=TEXTS[0]))
    with pytest.raises(MethodError, match="No 99 first words"):
        lens("llama", given("llama"), bank, top=99)
    with pytest.raises(MethodError, match="0 states of a word"):
        latent_bank(opened("llama"), TEXTS, each=0)
    with pytest.raises(SiteError, match="do not begin as rows of a table"):
        embedding_bank(opened("clip"), tower="vision")
