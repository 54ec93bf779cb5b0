"""Relevance from removal: patches and words put back to what nothing is, one by one or in every company (Shapley)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.relevance.aims import prompted
from cutaway.methods.relevance.leaves import Leaf, Seen, Side, repeated
from cutaway.model.edits import Edit, Patch
from cutaway.model.run import Run
from cutaway.model.targets import Target, numbers

Aim = Callable[[Run], Tensor]
MOST = 12  # parts up to which every company is tried
CELLS = 64  # evaluations of a denoiser in one batch


@dataclass(frozen=True, eq=False)
class Player:
    """A part of every row at once: some patches of a picture, or a word; `mask` (row of the leaf, position)."""

    side: Side
    mask: Bool[Tensor, "row position"]


def players(seen: Seen, rows: int, parts: int = 0) -> list[Player]:
    """The patches and words of all rows; with `parts` squares of patches, so many a side of a picture."""
    return [*_of_pictures(seen, rows, parts), *_of_words(seen, rows)]


def _of_pictures(seen: Seen, rows: int, parts: int) -> Iterator[Player]:
    leaf = seen.leaf("picture")
    if leaf is None:
        return
    most = max(len(seen.pictures(row)) for row in range(rows))
    for which in range(most):
        here = {seen.pictures(row)[which] for row in range(rows) if which < len(seen.pictures(row))}
        down, across = np.full(leaf.own.shape, -1), np.full(leaf.own.shape, -1)
        for image in here:  # pictures may differ in size
            of = (leaf.tokens.image == image) & (leaf.tokens.row >= 0)
            for block, at in ((down, leaf.tokens.row[of]), (across, leaf.tokens.col[of])):
                size = int(at.max()) + 1
                block[of] = at * min(parts or size, size) // size
        for row in range(int(down.max()) + 1):
            for col in range(int(across.max()) + 1):
                yield Player("picture", torch.from_numpy((down == row) & (across == col)))


def _of_words(seen: Seen, rows: int) -> Iterator[Player]:
    leaf = seen.leaf("words")
    if leaf is None:
        return
    each = [seen.words(row) for row in range(1 if seen.coupled else rows)]
    for place in range(max(map(len, each), default=0)):
        mask = torch.zeros(leaf.own.shape, dtype=torch.bool)
        for said in each:
            if place < len(said):
                row, word = said[place]
                mask[row, list(word.positions)] = True
        yield Player("words", mask)


def removed(seen: Seen, target: Aim, gone: Sequence[Sequence[Player]]) -> Float[ndarray, "cell row"]:
    """The target of each row without some parts, for each of many companies of parts: one sweep, or batches of rows."""
    masks = [_joined(seen, some) for some in gone]
    if all(leaf.given for leaf in seen.leaves):
        return _by_rows(seen, target, masks)
    cells: list[list[Edit]] = []
    for mask in masks:
        made: list[Edit] = []
        for side, positions in mask.items():
            leaf = _leaf(seen, side)
            made.append(Patch(leaf.name, leaf.start, token=positions))
        cells.append(made or [Patch(seen.leaves[0].name, seen.leaves[0].there)])
    found = seen.model.sweep(seen.inputs, cells, target, progress=False)
    return np.asarray(found.values.values, float)


def _leaf(seen: Seen, side: Side) -> Leaf:
    leaf = seen.leaf(side)
    assert leaf is not None
    return leaf


def _joined(seen: Seen, some: Sequence[Player]) -> dict[Side, Tensor]:
    made: dict[Side, Tensor] = {}
    for one in some:
        made[one.side] = made[one.side] | one.mask if one.side in made else one.mask
    return {side: mask for side, mask in made.items() if mask.any()}


def _by_rows(seen: Seen, target: Aim, masks: Sequence[Mapping[Side, Tensor]]) -> Float[ndarray, "cell row"]:
    """What a denoiser gives for many companies: each a copy of the batch."""
    rows = next(len(leaf.there) for leaf in seen.leaves)
    step = max(1, CELLS // rows)
    return np.concatenate([
        numbers(_copied(target, len(some)), _run(seen, some)).detach().double().cpu().numpy().reshape(len(some), rows)
        for some in (masks[start : start + step] for start in range(0, len(masks), step))
    ])  # fmt: skip


def _run(seen: Seen, masks: Sequence[Mapping[Side, Tensor]]) -> Run:
    many = repeated(seen.inputs, len(masks))
    tensors = dict(many.tensors)
    for leaf in seen.leaves:
        own = [mask.get(leaf.side, torch.zeros_like(leaf.own)) for mask in masks]
        away = torch.cat([leaf.spread(one, leaf.there) for one in own])
        copies = [one.repeat(len(masks), *[1] * (one.dim() - 1)) for one in (leaf.start, leaf.there)]
        tensors[leaf.name] = torch.where(away, *copies)
    from dataclasses import replace

    return seen.model.run(replace(many, tensors=tensors))


def _copied(target: Aim, copies: int) -> Aim:
    if isinstance(target, prompted):
        return target.times(copies)
    if isinstance(target, Target) and target.rows(0, 1) is not target:
        raise MethodError(
            f"{target!r} has an entry for each row and cannot be copied", expected="a number that is the same for all",
            do="leave `target` out: what the prompt adds",
        )  # fmt: skip
    return target


def drawn_without(seen: Seen, target: prompted, some: Sequence[Player]) -> Float[Tensor, "player row height width"]:
    """What each place loses of the effect of its prompt without each of some parts."""
    rows = next(len(leaf.there) for leaf in seen.leaves)
    made, step = [], max(1, CELLS // rows)
    whole = target.each(seen.model.run(seen.inputs)).detach().double().cpu()
    for start in range(0, len(some), step):
        masks = [_joined(seen, [one]) for one in some[start : start + step]]
        each = target.times(len(masks)).each(_run(seen, masks)).detach().double().cpu()
        made.append(whole[None] - each.unflatten(0, (len(masks), rows)))
    return torch.cat(made)


def occlusion(seen: Seen, target: Aim, some: Sequence[Player], clean: ndarray) -> Float[ndarray, "player row"]:
    """M(x) - m(x without the part), for each part by itself."""
    return clean[None] - removed(seen, target, [[one] for one in some])


@dataclass(frozen=True, eq=False)
class Shares:
    """What each part is worth (player, row), the error of the mean over orders, and the number without any part."""

    worth: Float[ndarray, "player row"]
    error: Float[ndarray, "player row"]
    start: Float[ndarray, "row"]


def shapley(
    seen: Seen, target: Aim, some: Sequence[Player], clean: ndarray, *, orders: int = 16, seed: int = 0
) -> Shares:  # fmt: skip
    """The mean over orders of what a part adds when it comes; all companies where `orders` is 0, else by chance.

    An order and the same backwards count as one draw; a row has the orders of its own parts that it would have alone.
    The shares of every order add up to m(x) - m(nothing).
    """
    every = frozenset(range(len(some)))
    if orders == 0:
        return _exact(seen, target, some, clean)
    drawn = [np.argsort(np.random.default_rng([seed, draw]).random(len(some))) for draw in range(orders)]
    ways = [order for one in drawn for order in (one, one[::-1])]
    needed = {frozenset(order[:at].tolist()) for order in ways for at in range(len(some))} - {every}
    known = _known(seen, target, some, clean, sorted(needed, key=sorted))
    worth = np.zeros((len(ways), len(some), len(clean)))
    for way, order in zip(worth, ways, strict=True):
        before = known[frozenset()]
        for at, player in enumerate(order):
            after = known[frozenset(order[: at + 1].tolist())]
            way[player] = after - before
            before = after
    pairs = worth.reshape(orders, 2, len(some), len(clean)).mean(1)
    error = pairs.std(0, ddof=1) / np.sqrt(orders) if orders > 1 else np.full(pairs.shape[1:], np.nan)
    return Shares(worth.mean(0), error, known[frozenset()])


def _known(
    seen: Seen, target: Aim, some: Sequence[Player], clean: ndarray, kept: Sequence[frozenset[int]]
) -> dict[frozenset[int], ndarray]:
    """The number with these parts and no other."""
    gone = [[one for at, one in enumerate(some) if at not in company] for company in kept]
    found = removed(seen, target, gone)
    return {frozenset(range(len(some))): clean, **dict(zip(kept, found, strict=True))}


def _exact(seen: Seen, target: Aim, some: Sequence[Player], clean: ndarray) -> Shares:
    if len(some) > MOST:
        raise MethodError(
            f"{len(some)} parts have {2 ** len(some)} companies", expected=f"{MOST} parts at most, or orders by chance",
            do="give `orders=16`, or fewer `parts`",
        )  # fmt: skip
    size = len(some)
    kept = [frozenset(one) for count in range(size) for one in combinations(range(size), count)]
    known = _known(seen, target, some, clean, kept)
    worth = np.zeros((size, len(clean)))
    for company, value in known.items():
        for player in range(size):
            if player in company:
                weight = 1 / (size * comb(size - 1, len(company) - 1))
                worth[player] += weight * (value - known[company - {player}])
    return Shares(worth, np.zeros_like(worth), known[frozenset()])
