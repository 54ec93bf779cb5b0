"""From scores of positions to labelled arrays: patches on the grid of their picture, pieces of words together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.methods.relevance.attention import Along
from cutaway.methods.relevance.leaves import Seen, Side
from cutaway.methods.relevance.removal import Player
from cutaway.methods.relevance.slopes import Scores
from cutaway.model.sites import Site
from cutaway.model.tokens import TokenMap


@dataclass(eq=False)
class Found:
    """What a method found: `scores` of positions for one row of the target, or (None) for all at once."""

    clean: Float[ndarray, "row"]
    scores: dict[int | None, dict[Side, Tensor]] = field(default_factory=dict)
    tokens: dict[Side, TokenMap] = field(default_factory=dict)
    grids: dict[int | None, Tensor] = field(default_factory=dict)
    maps: Tensor | None = None  # (row, word, height, width), or of keys
    keyed: bool = False
    cam: Site | None = None
    players: Sequence[Player] = ()
    each: Float[ndarray, "player row"] | None = None
    error: Float[ndarray, "player row"] | None = None
    start: Float[ndarray, "row"] | None = None
    complete: bool = False

    def add(
        self, row: int | None, *, scores: Scores | None = None, along: Along | None = None,
        cam: tuple[Site, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """What was found for a row of the target."""
        if scores is not None:
            self.scores[row] = dict(scores)
        if along is not None:
            self.scores[row] = dict(along.scores)
            self.tokens |= dict(along.tokens)
            self.maps, self.keyed = (along.maps, True) if along.maps is not None else (None, False)
            if along.grids is not None:
                self.grids[row] = along.grids
        if cam is not None:
            self.cam, made = cam
            if made.dim() == 3:
                self.grids[row] = made
                self.scores[row] = {}
            else:
                self.scores[row] = {"picture": made}

    def worth(self, some: Sequence[Player], each: ndarray, error: ndarray | None = None) -> None:
        """What parts are worth, of all rows at once."""
        self.players, self.each, self.error = some, each, error


def laid(seen: Seen, found: Found) -> xarray.Dataset:
    """The arrays of a `Relevance`."""
    rows = len(found.clean)
    made: dict[str, Any] = {"value": ("target", found.clean)}
    coords: dict[str, Any] = {}
    pictures = [_pictures(seen, found, row) for row in range(rows)]
    if any(one is not None and len(one) for one in pictures):
        made["picture"] = (("target", "image", "row", "col"), _stacked(pictures))
    words = [_words(seen, found, row) for row in range(rows)]
    if any(one is not None for one in words):
        said = [seen.words(row) for row in range(rows)]
        most = max(map(len, said))
        made["word"] = (("target", "place"), np.stack([_padded(one, most) for one in words]))
        texts = [[word.text for _, word in row] + [""] * (most - len(row)) for row in said]
        coords["said"] = (("target", "place"), np.array(texts, dtype=str).reshape(rows, most))
        of = [[at for at, _ in row] + [-1] * (most - len(row)) for row in said]
        coords["of"] = (("target", "place"), np.array(of, dtype=int).reshape(rows, most))
        if found.maps is not None:
            made["maps"] = (("target", "place", "row", "col"), _maps(seen, found, rows, most))
    total = [_total(pictures[row], words[row]) for row in range(rows)]
    if found.complete and found.start is not None:
        made["start"] = ("target", found.start)
        made["gap"] = ("target", found.clean - found.start - np.array(total))
    if found.scores and not found.tokens and found.cam is None and not found.complete:
        made["rest"] = ("target", np.array([_rest(seen, found, row) for row in range(rows)]) - np.array(total))
    if found.error is not None:
        made["error"] = ("target", found.error.max(0))
    return xarray.Dataset(made, coords)


def _scores(found: Found, row: int) -> dict[Side, Tensor]:
    return found.scores.get(row, found.scores.get(None, {}))


def _pictures(seen: Seen, found: Found, row: int) -> ndarray | None:
    """(image, row, col) of one row of the target."""
    if found.each is not None:
        return _pictures_of_players(seen, found, row)
    grids = found.grids.get(row, found.grids.get(None))
    if grids is not None:
        return grids[row][None].numpy()
    scores = _scores(found, row).get("picture")
    if scores is None:
        return None
    tokens = found.tokens.get("picture")
    if tokens is None and found.cam is not None:
        tokens = seen.inputs.map_for(found.cam, "token", scores.shape[1])
    leaf = seen.leaf("picture")
    if tokens is None:
        assert leaf is not None
        tokens = leaf.tokens
    return _gridded(seen, tokens, scores, row)


def _gridded(seen: Seen, tokens: TokenMap, scores: Tensor, row: int) -> ndarray | None:
    found = [tokens.grid(scores, image) for image in seen.pictures(row)]
    return _padded_grids([one.numpy() for one in found]) if found else None


def _pictures_of_players(seen: Seen, found: Found, row: int) -> ndarray | None:
    """Parts back on their patches, each patch its share of its part."""
    leaf = seen.leaf("picture")
    if leaf is None or found.each is None:
        return None
    values = torch.zeros(leaf.own.shape, dtype=torch.float64)
    own = torch.from_numpy(np.isin(leaf.tokens.image, seen.pictures(row)))  # other rows may lie beside them
    for player, one in zip(found.players, found.each, strict=True):
        if player.side == "picture":
            mask = player.mask & own
            values += mask * (float(one[row]) / mask.sum(1, keepdim=True).clamp(min=1))
    return _gridded(seen, leaf.tokens, values, row)


def _words(seen: Seen, found: Found, row: int) -> ndarray | None:
    if found.each is not None:
        said = [one[row] for player, one in zip(found.players, found.each, strict=True) if player.side == "words"]
        return np.array(said[: len(seen.words(row))]) if said else None
    scores = _scores(found, row).get("words")
    if scores is None:
        return None
    own = [float(scores[at, list(word.positions)].sum()) for at, word in seen.words(row)]
    return np.array(own)


def _maps(seen: Seen, found: Found, rows: int, most: int) -> ndarray:
    assert found.maps is not None
    made = np.full((rows, most, *found.maps.shape[2:]), np.nan)
    for row in range(rows):
        for place, (_, word) in enumerate(seen.words(row)):
            maps = found.maps[row, list(word.positions)].sum(0) if found.keyed else found.maps[row, place]
            made[row, place] = maps.cpu().numpy()
    return made


def _rest(seen: Seen, found: Found, row: int) -> float:
    """All that the leaves have for a row of the target."""
    total = 0.0
    for leaf in seen.leaves:
        scores = _scores(found, row).get(leaf.side)
        if scores is None:
            continue
        rows = range(len(scores)) if seen.coupled and row in found.scores else _owned(seen, leaf.side, row)
        keep = torch.ones(scores.shape, dtype=torch.bool)
        if leaf.side == "words" and not leaf.given:  # positions of pictures are counted at the other leaf
            keep = torch.from_numpy(leaf.tokens.image < 0)
        total += float(sum(scores[at][keep[at]].sum() for at in rows))
    return total


def _owned(seen: Seen, side: Side, row: int) -> list[int]:
    if seen.coupled and side == "words":
        leaf = seen.leaf("words")
        return list(range(leaf.tokens.batch)) if leaf is not None else []
    if side == "picture":
        leaf = seen.leaf("picture")
        assert leaf is not None
        return [at for at in range(leaf.tokens.batch) if set(leaf.tokens.image[at]) & set(seen.pictures(row))]
    return [row]


def _total(pictures: ndarray | None, words: ndarray | None) -> float:
    return float(sum(np.nansum(one) for one in (pictures, words) if one is not None))


def _padded(values: ndarray | None, most: int) -> ndarray:
    made = np.full(most, np.nan)
    if values is not None:
        made[: len(values)] = values
    return made


def _padded_grids(grids: list[ndarray]) -> ndarray:
    shape = np.max([one.shape for one in grids], 0)
    made = np.full((len(grids), *shape), np.nan)
    for at, one in enumerate(grids):
        made[at, : one.shape[0], : one.shape[1]] = one
    return made


def _stacked(pictures: Sequence[ndarray | None]) -> ndarray:
    there = [one for one in pictures if one is not None]
    shape = np.max([one.shape for one in there], 0)
    made = np.full((len(pictures), *shape), np.nan)
    for at, one in enumerate(pictures):
        if one is not None:
            made[at, : one.shape[0], : one.shape[1], : one.shape[2]] = one
    return made
