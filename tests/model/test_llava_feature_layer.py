"""LLaVA reads its picture from what the library captures of the vision tower: a write must get there."""

import pytest
import torch

from cutaway import Add
from world import captures, chill, fresh, given, warm


def logits(model):
    return model.run(given("llava")).logits


@pytest.mark.parametrize("start", ["cold", "warm"])
def test_a_write_at_the_feature_layer_reaches_the_logits(start):
    model = fresh("llava")
    if start == "warm":
        warm(model, given("llava"))
    else:
        chill(model)
        assert captures(model) == 0
    edited = model.run(given("llava"), edits=Add("vision.1.resid_post", 1.0)).logits
    assert (edited - logits(model)).abs().max() > 1e-3


def test_a_plain_hook_put_on_after_the_capture_fires_and_changes_nothing():
    """What other tools do: this is the trap, and the reason why our writers go in front."""
    model = fresh("llava")
    before = logits(model)
    fired = []
    block = model.towers["vision"].blocks[1]
    handle = block.register_forward_hook(lambda module, args, output: fired.append(1) or output + 1.0)
    behind = logits(model)
    handle.remove()
    assert fired and torch.equal(behind, before)
