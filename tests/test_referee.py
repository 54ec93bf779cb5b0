"""Others as referees: the same intervention made by hand with torch hooks, and with nnsight, has the same effect."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway import Patch
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.zoo import tiny
from world import fresh

HEAD, TOLERANCE = 2, 1e-12
TEXT = "a red dog on the left"


@dataclass(frozen=True)
class Swap:
    """One head at one position: the site, and the module whose input holds the heads side by side."""

    site: str
    path: str
    token: int


SWAPS = [
    pytest.param(Swap("text.1.attn.z", "model.language_model.layers.1.self_attn.o_proj", -1), id="text, last word"),
    pytest.param(Swap("text.0.attn.z", "model.language_model.layers.0.self_attn.o_proj", 6), id="text, a patch"),
    pytest.param(Swap("vision.1.attn.z", "model.vision_tower.encoder.layers.1.self_attn.out_proj", 5), id="vision"),
]


@cache
def model() -> Model:
    return fresh("llava")


@cache
def pair() -> tuple[Inputs, Inputs]:
    """The run to change, and the run the head comes from."""
    clean, other = (model().inputs(image=tiny.picture(seed), text=TEXT) for seed in (0, 1))
    return clean, other


def span(swap: Swap) -> slice:
    """Where the head lies in the input of the output projection."""
    size = model().sites.one(swap.site).sizes["d_head"]
    return slice(HEAD * size, (HEAD + 1) * size)


def by_cutaway(swap: Swap) -> Tensor:
    """The change of the logits when one head at one position takes its value from the other run."""
    clean, other = pair()
    donor = model().run(other, record=swap.site)
    edited = model().run(clean, edits=Patch(swap.site, donor, head=HEAD, token=swap.token))
    return edited.logits - model().run(clean).logits


@contextmanager
def hooked(module: nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def by_hand(swap: Swap) -> Tensor:
    plain, part = model().module, model().module.get_submodule(swap.path)
    clean, other = pair()
    seen: list[Tensor] = []

    def read(module: nn.Module, args: tuple[Tensor]) -> None:
        seen.append(args[0][:, swap.token, span(swap)].clone())

    def write(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        new = args[0].clone()
        new[:, swap.token, span(swap)] = seen[0]
        return (new,)

    with hooked(part, read):
        plain(**other.tensors)
    before = plain(**clean.tensors).logits
    with hooked(part, write):
        return plain(**clean.tensors).logits - before


@torch.no_grad()
def by_nnsight(swap: Swap) -> Tensor:
    nnsight = pytest.importorskip("nnsight")
    wrapped = nnsight.NNsight(fresh("llava").module)  # one of its own: nnsight leaves marks on a module
    part, token, heads = wrapped.get(swap.path), swap.token, span(swap)
    clean, other = pair()
    with wrapped.trace(**other.tensors):
        value = part.input[:, token, heads].clone().save()
    with wrapped.trace(**clean.tensors):
        before = wrapped.output.logits.save()
    with wrapped.trace(**clean.tensors):
        part.input[:, token, heads] = value
        after = wrapped.output.logits.save()
    return after - before


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("referee", [by_hand, by_nnsight])
def test_a_head_patch_does_what_the_referee_does(swap, referee):
    theirs, ours = referee(swap), by_cutaway(swap)
    assert ours.abs().max() > 1e-6, "the patch did nothing, so agreeing on it says nothing"
    assert (ours - theirs).abs().max() < TOLERANCE
