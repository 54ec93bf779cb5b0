"""Training-data attribution of odd inputs: weights that no item moves, damaged folders, and what is refused."""

import numpy as np
import pytest
import torch

from cutaway import targets
from cutaway.errors import InputError, MethodError, StoreError
from cutaway.methods.data_attribution import Features, data_attribution
from cutaway.methods.data_attribution.scores import METHODS, Curved
from cutaway.questions.training import Answers
from world import noise, opened

TEXTS = ["a dog is", "the cat here is", "a"]
MORE = {"method": "dot", "weights": "text.1.mlp.out", "size": 2, "batch": 2, "progress": False}


def two(first, second):
    return Features(torch.cat([first, second], 1).double(), torch.ones(len(first)), ((0, 2), (2, 4)))


@pytest.mark.parametrize("method", ["logra", "ekfac", "datainf"])
def test_a_piece_that_no_item_moves_adds_nothing_and_one_without_curvature_is_refused(method):
    query, train = two(noise(1, 2), 9 * noise(1, 2)), two(noise(3, 2), torch.zeros(3, 2))
    alone = [Features(one.values[:, :2], one.losses, ((0, 2),)) for one in (query, train)]
    made = METHODS[method](query, train, Curved(train, 0.1))
    assert torch.equal(made, METHODS[method](*alone, Curved(alone[1], 0.1)))
    moved = two(noise(3, 2), noise(3, 2))
    with pytest.raises(MethodError, match="no inverse"):
        METHODS[method](query, moved, Curved(train, 0.1))


@pytest.mark.parametrize("method", ["dot", "ekfac"])
def test_items_that_are_padded_beside_longer_ones_count_as_alone(method):
    model, answers = opened("llama"), ["red", "blue", "dog"]
    items = Answers([], None, [None] * 3, TEXTS, answers)
    how = {"method": method, "weights": "text.*.mlp.out", "size": 4, "progress": False}
    alone, beside = (data_attribution(model, items, items, batch=n, **how)["scores"].values for n in (1, 3))
    assert np.allclose(alone, beside, rtol=1e-3, atol=1e-3 * np.abs(alone).max())


def test_what_is_damaged_or_odd_says_so(tmp_path):
    model = opened("llama")
    items, asked = Answers([], None, [None] * 3, TEXTS, ["red", "blue", "dog"]), model.inputs(text="a dog is")
    target = targets.log_prob("red")
    found = data_attribution(model, items, asked, target, folder=tmp_path / "kept", **MORE)
    part = sorted((tmp_path / "kept").glob("*.safetensors"))[-1]
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(StoreError, match="cannot be read"):
        data_attribution(model, items, asked, target, folder=tmp_path / "kept", **MORE)
    part.unlink()
    again = data_attribution(model, items, asked, target, folder=tmp_path / "kept", **MORE)
    assert np.array_equal(again["scores"], found["scores"])
    with pytest.raises(StoreError, match="is a file"):
        data_attribution(model, items, asked, target, folder=found.save(tmp_path / "found.nc"), **MORE)
    for odd in ({"damping": -1.0}, {"seeds": 0}):
        with pytest.raises(MethodError, match="an item and a seed"):
            data_attribution(model, items, asked, target, **MORE, **odd)
    with pytest.raises(MethodError, match="an item and a seed"):
        data_attribution(model, items.take([]), asked, method="representation")
    with pytest.raises(MethodError, match="No query 3"):
        found.proponents(3)
    with pytest.raises(InputError, match="3 texts, 2 answers"):
        Answers([], None, [None] * 3, TEXTS, ["red", "blue"])
