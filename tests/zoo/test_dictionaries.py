"""The dictionaries that come with the package belong to their models, and explain what their card says."""

import pytest
import torch

import cutaway
from cutaway.data import render, scene_at
from cutaway.errors import StoreError
from cutaway.methods.sparse_autoencoders.quality import quality
from cutaway.methods.sparse_autoencoders.seen import Seen
from cutaway.model.dictionary import At, opened
from cutaway.zoo.dictionaries import SHIPPED, folder_of, names_of

CARD = (folder_of("x").parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("model", sorted({one.model for one in SHIPPED.values()}))
def test_they_open_with_their_model(model):
    names = names_of(model)
    assert len(names) == 2 and all(f"| {name} |" in CARD for name in names)
    found = cutaway.load(model, dictionary=[f"zoo:{name}" for name in names])
    assert {*found.dictionaries} == {f"{SHIPPED[name].stands_for}.features" for name in names}
    kept = [x for one in found.dictionaries.values() for x in one.tensors.values() if x.is_floating_point()]
    assert all(x.dtype == torch.float32 for x in kept)


def test_what_they_explain_of_scenes_is_what_the_card_says():
    model = cutaway.load("zoo:emoji-clip")
    own = opened("zoo:emoji-clip-sae")
    inputs = model.inputs(image=[render(scene_at("test", at)) for at in range(48)])
    rows = model.run(inputs, record=own.site)[own.site][:, 1:].flatten(0, 1)  # behind the class token
    assert quality(own, [Seen(rows, rows, At.all("image", (len(rows),)))]).value.explained > 0.85


def test_another_model_is_refused():
    with pytest.raises(StoreError, match="emoji-clip"):
        cutaway.load("zoo:emoji-llava", dictionary="zoo:emoji-clip-sae")
