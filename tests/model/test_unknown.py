"""An architecture without a row still opens, says what is missing, and can be read and written by module path."""

import pytest
import torch

import cutaway
from cutaway import Scale
from cutaway.errors import EditError, SiteError
from world import UNKNOWN, given, identical, opened

PATHS = {"siglip2": "raw.vision_model.encoder.layers.1", "t5": "raw.encoder.block.1.layer.0.SelfAttention.o"}


@pytest.mark.parametrize("name", UNKNOWN)
def test_it_opens_and_says_what_is_missing(name):
    model = opened(name)
    assert len(model.sites) == 0 and "no row" in model.missing[0]
    assert "missing:" in repr(model)


@pytest.mark.parametrize("name", UNKNOWN)
def test_modules_are_read_and_written_by_their_own_path(name):
    model, site = opened(name), PATHS[name]
    inputs = given(name)
    base = model.run(inputs, record=site)
    assert base[site].dim() >= 2
    assert identical(model.run(inputs, edits=Scale(site, 1.0)).outputs, base.outputs)
    edited = model.run(inputs, edits=Scale(site, 2.0), record=site)
    assert torch.allclose(edited[site], base[site] * 2)
    assert not identical(edited.outputs, base.outputs)


def test_raw_sites_take_patterns_and_refuse_what_they_cannot_do():
    model = opened("t5")
    assert len(model.sites["raw.encoder.block.*.layer.0.SelfAttention.o"]) == len(model.module.encoder.block)
    with pytest.raises(SiteError):
        _ = model.sites["raw.encoder.blocks"]
    with pytest.raises(EditError, match="no named axes"):
        model.run(given("t5"), edits=Scale(PATHS["t5"], 0.0, head=1))


def test_known_models_have_raw_sites_too():
    model = opened("llama")
    path = "raw.model.layers.1.mlp"
    run = model.run(given("llama"), record=[path, "text.1.mlp.out"])
    assert torch.equal(run[path], run["text.1.mlp.out"])


def test_a_block_class_without_a_row_is_named():
    module = torch.nn.Module()
    model = cutaway.load(torch.nn.Sequential(torch.nn.Linear(2, 2), module))
    assert "Sequential" in model.missing[0]
