"""The worlds hold on the weights that are shipped, and what would not hold is told from what does."""

import pytest
import torch

import cutaway
from cutaway.bench.worlds import WORLDS, Planting, World, planted, world
from cutaway.errors import InputError
from cutaway.methods import activation_patching
from cutaway.model.targets import numbers
from cutaway.zoo.planted import Plant, renamed

FEW = {"n": 128, "each": 1}
NAMES = list(WORLDS)


def measured(one: World, *, floor: bool = False, plant: Plant | None = None) -> Planting:
    return planted(one, cutaway.load(one.floor if floor else one.model), plant=plant, **FEW)


@pytest.mark.parametrize("name", NAMES)
def test_the_circuit_is_there(name):
    """Every variable, every true edge, and nothing outside: as the causal model has it, in 99 % of rows at least."""
    found = measured(world(name))
    assert found.holds, found.table().to_string()
    assert found.behaviour.share >= 0.99 and found.all_outside.share >= 0.99
    assert max(one.moved for one in (*found.nodes_outside, found.all_outside)) < 0.15
    assert min(one.moved for one in found.variables.values()) > 0.3
    assert found.table()["of"].tolist()[:2] == [1, len(world(name).alignment)]


@pytest.mark.parametrize("name", NAMES)
def test_before_training_there_is_none(name):
    found = measured(world(name), floor=True)
    assert not found.holds and found.behaviour.share < 0.5
    assert all(one.share < 0.6 for one in found.variables.values())


def test_a_wrong_circuit_fails():
    """The colour in another head of the layer: that one carries nothing, and the true one matters outside."""
    one = world("planted-text")
    found = measured(one, plant=renamed(one.plant, {"text.2.attn[2]": "text.2.attn[1]"}))
    assert not found.holds and found.variables["asked"].share >= 0.99
    assert found.variables["colour"].share < 0.5 and found.all_outside.share < 0.5
    worst = min(found.nodes_outside, key=lambda held: held.share)
    assert worst.what == "text.2.attn[2]" and worst.share < 0.99


def test_a_circuit_without_an_edge_fails():
    """One that forgets that the way is read: an edge that is called outside moves the answer."""
    one = world("planted-text")
    found = measured(one, plant=renamed(one.plant, {"text.0.attn[1].v": "text.0.attn[1].k"}))
    broken = {held.what for held in found.edges_outside if held.share < 0.99}
    assert broken == {"text.embed → text.0.attn[1].v"} and not found.holds


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_answered_differently(name):
    """For every side and value: clean inputs are answered by their own word, counterfactuals by the other."""
    one = world(name)
    model = one.open()
    for tower, side in one.sides.items():
        for differ in ((), *((each,) for each in side.differ)):
            pairs = one.pairs(6, 1, differ=differ, tower=tower, model=model)
            here, there = (numbers(pairs.target, model.run(given)) for given in (pairs.clean, pairs.other))
            assert bool((here > 0).all()) and bool((there < 0).all()), (tower, differ)
    again = [one.pairs(4, 2, model=model).clean.tensors for _ in range(2)]
    assert all(value is again[1][key] or torch.equal(value, again[1][key]) for key, value in again[0].items())


def test_methods_take_pairs():
    """Patching heads over pairs that differ in the way finds the head that fetches, and the one that brings not."""
    one = world("planted-text")
    model = one.open()
    pairs = one.pairs(8, differ=["way"], model=model)
    found = activation_patching(
        model, pairs.clean, pairs.other, pairs.target, sites="text.*.attn.z", over=("head",), progress=False
    )["mean"]
    assert found.sel(layer=2, head=2) > 0.9 and abs(found.sel(layer=0, head=1)) < 0.05


def test_a_patch_in_a_denoiser():
    """The head that brings the place, in pairs that differ in it, and the one that brings the thing, in both."""
    one = world("planted-mmdit")
    model = one.open()
    for value, moves in (("place", [(0, 1), (2, 2)]), ("thing", [(2, 2)])):
        found = activation_patching(
            model, *one.pairs(8, differ=[value], model=model), sites="denoiser.*.image.attn.z", over=("head",),
            progress=False,
        )  # fmt: skip
        expected = torch.zeros(3, 4)
        for layer, head in moves:
            expected[layer, head] = 1.0
        heads = torch.tensor(found["mean"].transpose("layer", "head").values).to(expected)
        assert torch.allclose(heads, expected, atol=0.1)


def test_what_pairs_can_show_of_a_circuit():
    """All of it, but of a CLIP one tower's edges, and of a drawing not those that only the noise goes along."""
    counts = {name: {side: len(one.shown(side).edges) for side in one.sides} for name, one in WORLDS.items()}
    assert counts["planted-clip"] == {"vision": 4, "text": 4} and counts["planted-mmdit"] == {"denoiser": 5}
    assert all(sum(counts[name].values()) == len(world(name).circuit.edges) for name in NAMES[:3])
    assert [len(one.alike()) for one in WORLDS.values()] == [0, 0, 1, 1]


def test_a_question_of_a_drawing():
    asked = world("planted-mmdit").question(differ=["thing"])
    assert asked.value > 0.9 and asked.counterpart.value < -0.9 and asked.text != asked.counterpart.text


def test_a_question():
    one = world("planted-text")
    asked = one.question(differ=["place"])
    assert asked.value > 0 > asked.counterpart.value and asked.words == asked.counterpart.words
    assert asked.text.split()[:4] == asked.counterpart.text.split()[:4]


def test_what_is_not_there_is_said():
    with pytest.raises(InputError, match="planted-text"):
        world("planted-txt")
    with pytest.raises(InputError, match="way"):
        world("planted-text").pairs(2, differ=["shape"])
    with pytest.raises(InputError, match="text"):
        world("planted-text").pairs(2, tower="vision")
