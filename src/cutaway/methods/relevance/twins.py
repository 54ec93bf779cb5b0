"""Twins: two read-outs of one model, one by a thing and one by a cue beside it, which a faithful method tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.data import Scene, label_mask, masks, render
from cutaway.data.plant import plant_cue
from cutaway.data.scene import Label
from cutaway.data.worlds import World, items
from cutaway.errors import MethodError
from cutaway.methods.relevance.measures import Map, covered, located
from cutaway.model.model import Model
from cutaway.model.targets import closer
from cutaway.questions.rows import embedded

RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class Twins:
    """Directions in the space of pictures: `by_thing` and `by_cue`, with how often each is right; scenes with both."""

    by_thing: Float[Tensor, "joint"]
    by_cue: Float[Tensor, "joint"]
    right: tuple[float, float]
    scenes: tuple[Scene, ...]

    def target(self, which: str, rows: int) -> closer:
        """The number of a twin, "thing" or "cue": the cosine with its direction, twice."""
        way = {"thing": self.by_thing, "cue": self.by_cue}[which].expand(rows, -1)
        return closer(way, -way)


def twins(
    model: Model, names: tuple[str, str] = ("fox", "tulip"), word: str = "sale", *, many: int = 96, few: int = 8,
    seed: int = 0,
) -> Twins:  # fmt: skip
    """Two linear read-outs of pictures of a thing, half of them with a written cue: one learns the thing, one the cue.

    The cue stands on half of the pictures with the first name and half of those with the other, so neither read-out can
    live on the other's. w = (X'X + r I)^-1 X'y of centred unit embeddings X, y = ±1. `right` is on pictures that
    neither has seen; `scenes` are `few` of these with both the thing and the cue. The idea of GridVQA-X (2026, arXiv
    2606.14740) without its models. MethodError where a read-out is no better than nine in ten.

    What it can NOT tell: that a read-out goes by nothing else; of few pictures it does a little.

    >>> import cutaway
    >>> found = twins(cutaway.load("zoo:emoji-clip"), many=64, few=2)
    >>> min(found.right) > 0.9, len(found.scenes)
    (True, 2)
    """
    world = World(things=(1, 1), names=names, tinted=0.0)
    made = []
    for split in ("train", "test"):
        drawn = [replace(one, scene=replace(one.scene, label=None)) for one in items(split, many, seed, world)]
        made.append(plant_cue(drawn, names[0], Label(word), 0.5, elsewhere=0.5, seed=seed))
    seen = [_vectors(model, [one.scene for one in cue.items]) for cue in made]
    middle = seen[0].mean(0)
    ways, right = [], []
    for what in ("present", "cued"):
        sides = [torch.tensor([1.0 if at in getattr(cue, what) else -1.0 for at in range(many)]) for cue in made]
        own = seen[0] - middle
        way = torch.linalg.solve(own.T @ own + RIDGE * torch.eye(own.shape[1]), own.T @ (sides[0] - sides[0].mean()))
        told = ((seen[1] - middle) @ way).sign()
        ways.append(way)
        right.append(float((told == sides[1]).float().mean()))
    if min(right) < 0.9:
        raise MethodError(
            f"the read-outs are right in {right[0]:.2f} and {right[1]:.2f} of unseen pictures", expected="0.9 at least",
            do="take other names, another word, or more pictures",
        )  # fmt: skip
    both = [made[1].items[at].scene for at in made[1].present if at in made[1].cued][:few]
    return Twins(ways[0], ways[1], (right[0], right[1]), tuple(both))


def _vectors(model: Model, scenes: Sequence[Scene]) -> Float[Tensor, "scene joint"]:
    found = embedded(model, [render(one) for one in scenes], "vision", progress=False).float().cpu()
    return found / found.norm(dim=-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Apart:
    """For each scene the share of relevance on thing and cue (twin, scene), and how often both maps are right.

    `both`: of the twin that goes by the thing more a patch on it than on the cue, and of the other the other way round.
    """

    thing: Float[ndarray, "twin scene"]
    cue: Float[ndarray, "twin scene"]
    both: float


def apart(found: Twins, by_thing: Sequence[Map], by_cue: Sequence[Map]) -> Apart:
    """Whether maps of the twins, one a scene, lie on what each of them goes by; one map for both is never right."""
    shares: list[list[list[float]]] = [[], []]
    for maps in (by_thing, by_cue):
        rows = [
            [_density(heat, mask) for mask in (masks(scene)[0], label_mask(scene))]
            for scene, heat in zip(found.scenes, maps, strict=True)
        ]
        for side in range(2):
            shares[side].append([row[side][0] for row in rows])
        shares.append([[row[0][1], row[1][1]] for row in rows])
    dense = np.array(shares[2:])
    return Apart(
        np.array(shares[0]), np.array(shares[1]),
        float(((dense[0, :, 0] > dense[0, :, 1]) & (dense[1, :, 1] > dense[1, :, 0])).mean()),
    )  # fmt: skip


def _density(heat: Map, mask: ndarray) -> tuple[float, float]:
    """The share of relevance on a part, and the same for each of its patches."""
    truth = covered(mask, heat)
    share = located(heat, truth).mass
    return share, share / int(truth.sum())
