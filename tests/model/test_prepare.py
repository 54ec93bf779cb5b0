"""A kind of thing is one value: what it says is true of the package, and a new one needs no other line of `prepare`."""

import inspect
from dataclasses import fields, replace

import pytest
import torch

from cutaway.errors import InputError
from cutaway.model import prepare
from cutaway.model.model import Model
from cutaway.model.pictures import PICTURES
from cutaway.model.table import Family
from cutaway.model.tools import PARTS, Tools
from cutaway.model.towers import TOWERS
from world import opened


@pytest.mark.parametrize("one", prepare.MODALITIES, ids=lambda one: one.argument)
def test_what_a_kind_says_is_there(one):
    assert one.argument in inspect.signature(Model.inputs).parameters
    assert one.tool in PARTS and one.tool in {field.name for field in fields(Tools)}
    assert set(one.tokens) <= {row.tokens for row in TOWERS.values()}
    assert not one.places or one.places in {field.name for field in fields(Family)}


def given(model, things):
    engine = model.engine
    return prepare.prepare(model.module, engine.towers, engine.family, engine.tools, things, {}).tensors


def test_a_new_kind_is_one_value_in_the_list(monkeypatch):
    """Grey levels as a kind of their own, read by towers of patches, refused by models without one."""
    model = opened("clip")
    side = model.module.config.vision_config.image_size
    grey = replace(
        PICTURES, argument="grey", called="grey level", places="", read=lambda levels: list(levels or ()),
        make=lambda asked: {"pixel_values": torch.stack([torch.full((3, side, side), x) for x in asked.given["grey"]])},
    )  # fmt: skip
    monkeypatch.setattr(prepare, "MODALITIES", (*prepare.MODALITIES, grey))
    made = given(model, {"grey": [0.1, 0.2], "text": "a dog"})
    assert made["pixel_values"].shape[0] == 2 and "input_ids" in made
    with pytest.raises(InputError, match="his model takes no grey level"):
        given(opened("llama"), {"grey": [0.1]})
    with pytest.raises(InputError, match="othing to run on"):
        given(model, {})


def test_a_processor_is_taken_apart_by_the_list_of_parts():
    class Ears:
        sampling_rate = 16_000

    assert Tools.of(Ears()).sounds.sampling_rate == 16_000 and Tools.of(Ears()).tokenizer is None
    with pytest.raises(InputError, match="came without a tokenizer"):
        Tools.of(Ears()).need("tokenizer", torch.nn.Linear(1, 1))


@pytest.mark.parametrize(("name", "tokenizer"), [("sd3", "tokenizer_3"), ("flux", "tokenizer_2")])
def test_a_prompt_of_t5_is_as_long_as_the_pipeline_makes_it(name, tokenizer, monkeypatch):
    """Its own default, or what T5's tokenizer allows; the length of CLIP is no matter."""
    model = opened(name)
    pipeline = model.engine.pipeline
    default = inspect.signature(type(pipeline).__call__).parameters["max_sequence_length"].default
    for allowed in (64, 4096):
        monkeypatch.setattr(getattr(pipeline, tokenizer), "model_max_length", allowed)
        made = model.inputs(prompt="a dog", steps=1)
        assert made.tensors["max_sequence_length"] == min(default, allowed)
        assert len(made.tokens[tokenizer.replace("tokenizer", "text")]) == min(default, allowed)
