"""Heads and bias add up to the sublayer; a planted head says its word, at its place alone; chance is by hand."""

import numpy as np
import pytest
import torch

from cutaway.errors import MethodError, SiteError
from cutaway.methods.logit_lens import AttentionLens, attention_lens
from cutaway.methods.logit_lens.attention_lens import check_heads
from cutaway.methods.representation_decomposition import logit_decomposition
from cutaway.methods.result import load
from cutaway.model.edits import Set
from cutaway.model.targets import logit
from cutaway.model.weights import head_weights, readout
from world import given, opened

NAMES = ["llama", "mistral", "gpt2", "llava", "qwen2", "opt"]


def lens(name, words=(30, 31), **options) -> AttentionLens:
    return attention_lens(opened(name), given(name), words, progress=False, **options)


@pytest.mark.parametrize("name", NAMES)
def test_heads_and_bias_add_up_to_the_reading_of_the_sublayer(name):
    model, found = opened(name), lens(name)
    run = model.run(given(name), record=("text.*.attn.out", "text.norm.scale"))
    matrix, scale = readout(model, "text").matrix, run["text.norm.scale"]
    total = found["word_logit"].sum("head") + found["bias_logit"]
    for layer in found["layer"].values.tolist():
        whole = run[f"text.{layer}.attn.out"] / scale[..., None] @ matrix[[30, 31]].T
        assert np.allclose(total.sel(layer=layer).values, whole.numpy(), atol=1e-10)


def test_at_the_last_position_it_is_what_the_decomposition_has():
    model, inputs = opened("llava"), given("llava")
    parts = logit_decomposition(model, inputs, target=logit(30))
    found = lens("llava")["word_logit"].isel(prompt=0, token=-1, word=0)
    assert np.allclose(found.values, parts["heads"].isel(row=0).values, atol=1e-10)


@pytest.mark.checks("attention_lens", "truth")
def test_a_planted_head_says_its_word_where_it_was_planted():
    model, inputs = opened("llama"), given("llama")
    direction, (weight, _) = readout(model, "text").matrix[30], head_weights(model, "text", 1)
    z = torch.linalg.lstsq(weight[2].T, direction[:, None]).solution[:, 0]
    said = int((readout(model, "text").matrix @ (z @ weight[2])).argmax())
    with model.edited(Set("text.1.attn.z", 500 * z, head=2, token=3), inputs):
        found = attention_lens(model, inputs, [said], progress=False)
    first = found["top_id"].isel(prompt=0).sel(rank=1)
    assert first.sel(layer=1, head=2).values[3] == said
    size = found["word_logit"].isel(prompt=0, word=0).sel(layer=1)
    assert np.unravel_index(size.values.argmax(), size.shape) == (2, 3)
    assert found.by_head(token=3)[["layer", "head"]].values[0].tolist() == [1, 2]


@pytest.mark.checks("attention_lens", "baseline", "floor")
def test_chance_is_that_of_random_directions_and_an_untrained_model_is_no_better():
    """Heads of random weights say a word as loudly as random directions of their length do."""
    found = lens("llama", draws=2048)
    own = np.sqrt((found["word_logit"] ** 2).mean(("prompt", "head", "token")))
    assert (abs(np.log(own / found["random_logit"])) < 1).all()
    largest = found["top_logit"].isel(rank=0).mean(("prompt", "head", "token"))
    assert (abs(np.log(largest / found["random_top"])) < 0.5).all()
    assert lens("llama", draws=64)["random_top"].equals(lens("llama", draws=64)["random_top"])


def test_it_keeps_and_draws_itself(tmp_path):
    found = lens("llava", ["dog"])
    back = load(found.save(tmp_path / "lens.nc"))
    assert isinstance(back, AttentionLens) and back.words == ["dog"] and (back["top"] == found["top"]).all()
    assert found.on_grid("word_logit").dims == ("layer", "head", "word", "row", "col")
    assert "logits to dog" in found.plot().get_title() and "to dog" in found.summary().columns
    assert "any word" in lens("llava", ()).plot().get_title()


def test_models_whose_heads_are_no_sum_are_refused():
    for name in ("mamba", "clip"):
        with pytest.raises((MethodError, SiteError)):
            check_heads(opened(name), "text")
    with pytest.raises(MethodError, match="No token 9999"):
        lens("llama", [9999])
