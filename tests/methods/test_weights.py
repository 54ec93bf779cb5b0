"""Weights by site: what heads write and how towers are read equals what the module does."""

import pytest
import torch

import cutaway
from cutaway.errors import SiteError
from cutaway.model.weights import head_weights, readout
from world import clean, fresh, gap, given, noise, opened

HEADS = [("clip", "vision"), ("clip", "text"), ("siglip", "vision"), ("dinov2", "vision"), ("vit", "vision"),
         ("llama", "text"), ("gpt2", "text"), ("bert", "text")]  # fmt: skip


@pytest.mark.parametrize(("name", "tower"), HEADS)
def test_heads_add_up_to_what_attention_writes(name, tower):
    weight, bias = head_weights(opened(name), tower, 1)
    z, out = (clean(name)[f"{tower}.1.attn.{part}"] for part in ("z", "out"))
    assert weight.shape == (*z.shape[2:], out.shape[-1])
    assert gap(torch.einsum("bthe,hed->btd", z, weight) + bias, out) < 1e-12


@pytest.mark.parametrize(("name", "tower"), [("clip", "vision"), ("clip", "text"), ("siglip", "text")])
def test_the_last_state_is_read_as_the_model_reads_it(name, tower):
    end, run = readout(opened(name), tower), clean(name)
    state = run[f"{tower}.2.resid_post"]
    mine = end(state)[torch.arange(len(state)), end.positions(given(name))]
    assert end.space == f"{tower}.joint"
    assert gap(mine, run[f"{tower}.joint"]) < 1e-12


def test_a_classifier_is_read_in_its_classes_and_a_bare_tower_behind_its_norm():
    assert readout(opened("vit"), "vision").space == "vision.logits"
    end = readout(opened("dinov2"), "vision")
    assert end.space == "vision.final" and torch.equal(end.weight[0], torch.eye(32, dtype=torch.float64))


def test_the_weights_are_the_models_own_and_not_copies():
    model = fresh("clip")
    end, x = readout(model, "vision"), noise(3, 32)
    before = end(x)
    assert gap(end.scale(x), end.scale(x + 5)) < 1e-12  # LayerNorm takes the mean out
    with torch.no_grad():
        model.module.visual_projection.weight.mul_(2)
    assert gap(end(x), 2 * before) < 1e-12 and not end.weight.requires_grad


def test_towers_that_are_read_otherwise_are_refused():
    with pytest.raises(SiteError, match="read at all positions"):
        readout(opened("siglip"), "vision").positions(given("siglip"))
    with pytest.raises(SiteError, match="not known at which position"):
        readout(opened("llama"), "text")
    with pytest.raises(SiteError, match="No tower 'audio'"):
        readout(opened("clip"), "audio")
    with pytest.raises(SiteError, match="not linear"):
        head_weights(opened("gemma2"), "text", 0)


def test_a_clip_text_is_read_where_the_library_reads_it():
    """At the end token; at the highest id where the config gives the end the id 2."""
    from cutaway.zoo import tiny

    for eos in (None, 2):
        module, processor = tiny.build("clip", dtype=torch.float64)
        if eos is not None:
            module.config.text_config.eos_token_id = module.text_model.config.eos_token_id = eos
            module.text_model.eos_token_id = eos
        model = cutaway.load(module, processor=processor)
        inputs = model.inputs(text=["a red dog", "the yellow cat on the left"])
        run = model.run(inputs, record=["text.2.resid_post", "text.joint"])
        end = readout(model, "text")
        state = run["text.2.resid_post"][torch.arange(2), end.positions(inputs)]
        assert torch.allclose(end(state), run["text.joint"], atol=1e-10)
