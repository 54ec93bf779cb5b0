"""Minimal pairs as methods take them: two lists or two inputs, side by side, and what tells the two apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.targets import Target, closer, outcome
from cutaway.questions.rows import Rows, again, embedded, feed, prepared


def closer_to(model: Model, to: Rows, than: Rows, *, progress: bool = False) -> closer:
    """The target `closer` from texts (for runs on pictures), or from pictures or scenes (for runs on texts).

    A model of pictures alone (DINOv2) has no texts: there both are pictures, and what is compared is what it gives out.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> closer_to(cutaway.load("tiny:dinov2"), [tiny.picture(1)], [tiny.picture(2)])
    closer(1 rows)
    """
    both = [again(model, given, "text" if "text" in model.towers else "vision") for given in (to, than)]
    towers = ["text" if all(isinstance(one, str) for one in given) else "vision" for given in both]
    alone = model.family.kind != "contrastive"
    given_out = _given_out if alone else embedded
    return closer(*(given_out(model, *one, progress=progress) for one in zip(both, towers, strict=True)))


def _given_out(model: Model, rows: Rows, tower: str, *, progress: bool) -> Float[Tensor, "row joint"]:
    """The last output of a model of one modality, as its runs have it."""
    stream = feed(model, rows, tower, what=f"embedding ({tower})", progress=progress)
    return torch.cat([outcome(model.run(inputs)).detach().cpu() for inputs in stream])


def sides(model: Model, one: Any, other: Any, target: Target | None, tower: str) -> tuple[Any, Any, Target]:
    """Two Inputs as they are, or two lists of as many rows, and the target; MethodError for anything else."""
    if other is None or target is None:
        raise MethodError(
            f"no {'counterpart' if other is None else 'target'}, so nothing says what tells the two apart",
            expected="two lists of one length, or two Inputs, and a target", exists=f"a {type(one).__name__}",
            do="`questions.apart(model, pairs)` makes all three of pairs of EmojiWorld; of your own, give `target=`: "
            "closer_to(model, texts, other_texts) for a model that matches, targets.logit_diff for one that writes",
        )  # fmt: skip
    ready = [isinstance(given, Inputs) for given in (one, other)]
    if all(ready):
        return one, other, target
    if any(ready):
        raise MethodError(
            "only one of the two is Inputs", expected="two Inputs, or two lists",
            exists=f"{type(one).__name__} and {type(other).__name__}", do="make both: `model.inputs`",
        )  # fmt: skip
    here, there = (again(model, given, tower) for given in (one, other))
    if len(here) != len(there):
        raise MethodError(
            f"{len(here)} clean and {len(there)} counterfactual rows do not pair up",
            expected="two lists of one length", exists=f"{len(here)} and {len(there)}",
            do="give each input the counterpart that differs from it in one thing",
        )  # fmt: skip
    return here, there, target


def batches(model: Model, one: Any, other: Any, tower: str, batch: int) -> Iterator[tuple[int, int, Inputs, Inputs]]:
    """Both sides, some rows at a time; no batch of one row where there are several, so that each has a stranger."""
    if isinstance(one, Inputs):
        yield 0, 0, one, other
        return
    count = max(1, min(-(-len(one) // batch), len(one) // 2))
    edges = [round(i * len(one) / count) for i in range(count + 1)]
    for start, stop in itertools.pairwise(edges):
        yield start, stop, prepared(model, one[start:stop], tower), prepared(model, other[start:stop], tower)


def same_positions(one: Inputs, other: Inputs, tower: str, start: int) -> None:
    """Refuse pairs whose positions do not mean the same: a patched token would land on another word."""
    here, there = (inputs.tokens.get(tower) for inputs in (one, other))
    if here is None or there is None:
        return
    counts = [[int((row != "pad").sum()) for row in known.kind] for known in (here, there)]
    uneven = [i for i, (a, b) in enumerate(zip(*counts, strict=False)) if a != b]
    if uneven or here.kind.shape != there.kind.shape:
        i = uneven[0] if uneven else 0
        raise MethodError(
            f"pair {start + i} has {counts[0][i]} and {counts[1][i]} positions",
            expected="as many tokens in the counterpart, so that each position has its own",
            exists=f"{len(counts[0]) - len(uneven)} of {len(counts[0])} pairs of this batch that do",
            do="reword one of the two, or keep the pairs of equal length",
        )  # fmt: skip


def same_drawing(one: Inputs, other: Inputs) -> None:
    """Refuse drawings that differ in more than their prompts: other noise, other steps, another number of rows."""
    here, there = (
        {name: value for name, value in given.tensors.items() if isinstance(value, int | float)}
        | {"call": str(given.call), "rows": next(iter(given.tokens.values())).batch}
        for given in (one, other)
    )
    odd = [name for name in here if here[name] != there.get(name)]
    if odd:
        raise MethodError(
            f"the two drawings differ in more than their prompts: {odd[0]} is {here[odd[0]]} and {there.get(odd[0])}",
            expected="the same noise, steps, guidance and number of prompts", do="make both with the same options",
        )  # fmt: skip


def one_length(inputs: Inputs, site: Site) -> None:
    """Refuse to go over the positions of rows that have more or fewer of them than others."""
    own = inputs.own(site, "token")
    lengths = [] if own is None else sorted({int(count) for count in own.sum(1)})
    if len(lengths) > 1:
        raise MethodError(
            f"rows of {lengths[0]} and {lengths[-1]} positions in one batch, of which each position is patched in turn",
            expected="pairs of one length in a call", exists=", ".join(map(str, lengths[:5])) + " positions",
            do="one call for each length, or `over=()` with `at=`, which counts along each row",
        )  # fmt: skip
