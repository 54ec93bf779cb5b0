"""Whether a feature means one thing: how alike the items are on which it is on, and how it lies on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from cutaway.data import Scene, concept
from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.by_item import Grids, Pool, by_item
from cutaway.methods.sparse_autoencoders.seen import Rows, seen
from cutaway.model.dictionary import Dictionary

PARTS = ("concept", "group", "background")
FLAT = 1e-12  # a share of a sum below which it is rounding


class Monosemanticity:
    """A reducer of the monosemanticity score; see `monosemanticity`. Memory: one vector of the embedder a feature."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums: dict[str, Tensor] = {}
        self._least: Tensor | None = None

    def add(self, features: Float[Tensor, "item width"], embeddings: Float[Tensor, "item d"]) -> Monosemanticity:
        """Take in items: their features, and what the embedder makes of them (of any length)."""
        if not len(features):
            return self
        a, e = features.detach().double(), normalize(embeddings.to(features.device).double(), dim=-1)
        self._join(len(a), {"ae": a.T @ e, "a": a.sum(0), "aa": (a * a).sum(0), "e": e.sum(0)}, a.min(0).values)
        return self

    def merge(self, other: Monosemanticity) -> Monosemanticity:
        """Take in what another one has seen, of other items."""
        if other._least is not None:
            self._join(other._rows, other._sums, other._least)
        return self

    @property
    def value(self) -> Float[Tensor, "width"]:
        """The score of each feature; NaN where fewer than two items have it on."""
        if self._least is None:
            raise MethodError("no item was seen", expected="two at least", do="check what the rows are read from")
        low, sums = self._least, self._sums
        ae = sums["ae"] - low[:, None] * sums["e"]  # of a - min a, which is what the score weighs by
        a = sums["a"] - self._rows * low
        aa = sums["aa"] - 2 * low * sums["a"] + self._rows * low**2
        pairs = a * a - aa
        return ((ae * ae).sum(1) - aa).div(pairs).masked_fill(pairs <= FLAT * a * a, torch.nan)

    @property
    def chance(self) -> float:
        """The mean cosine of two different items: the score of a feature that is on alike in all."""
        both = self._rows * (self._rows - 1)
        return (float(self._sums["e"].square().sum()) - self._rows) / both if both else float("nan")

    def _join(self, rows: int, sums: dict[str, Tensor], least: Tensor) -> None:
        self._rows += rows
        self._sums = {name: self._sums[name] + one if name in self._sums else one for name, one in sums.items()}
        self._least = least if self._least is None else torch.minimum(self._least, least)


def monosemanticity(
    dictionary: Dictionary, rows: Rows, embeddings: Float[Tensor, "items d"], *, pool: Pool = "max", batch: int = 4096,
    steps: int = 1, **where: Any,
) -> Monosemanticity:  # fmt: skip
    """How alike two items are on which a feature is on, as another embedder sees them.

    MS_k = sum_(i<j) a_i a_j cos(e_i, e_j) / sum_(i<j) a_i a_j, a the feature on an item (pooled over its rows) less its
    least value, e_i what the embedder makes of item i (`embeddings[i]`). Over unit e in one go: with A the features of
    all items, (|A'E|^2 by row - colsum A^2) / ((colsum A)^2 - colsum A^2), so items are seen once. Between -1 and 1;
    `chance` is the mean cosine of two items, which a feature has that is on everywhere. NaN: on in fewer than two.

    Units: a cosine. Source: Pach et al. 2025, arXiv 2504.02821, whose embedder is that of another model, and whose sum
    is over pairs; the numbers are the same. Take an embedder that is not the model itself: by its own one every feature
    of its last layer looks good. What it can NOT tell: what the feature means, nor whether items of its kind without it
    are many. A feature on in two items has a score too. A scale of the feature, or a power near 1, hardly matters.

    >>> from cutaway.model.dictionary import Neurons
    >>> rows = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 1.0]])
    >>> found = monosemanticity(Neurons("vision.joint", torch.zeros(2)), rows, torch.eye(2)[[0, 0, 1]])
    >>> [round(float(one), 3) for one in found.value[:2]], round(found.chance, 3)
    ([1.0, 0.0], 0.333)
    """
    found = Monosemanticity()
    for item, features in by_item(dictionary, rows, pool=pool, batch=batch, steps=steps, **where):
        if int(item[-1]) >= len(embeddings):
            raise MethodError(
                f"item {int(item[-1])} has no embedding", expected="one for each item", exists=f"{len(embeddings)}",
                do="embed the items that the rows are of",
            )  # fmt: skip
        found.add(features, embeddings[item])
    return found


def scene_embeddings(scenes: Sequence[Scene], parts: Sequence[str] = PARTS) -> Float[Tensor, "scene what"]:
    """EmojiWorld scenes by what they show, counted: an embedder that knows the truth and nothing of any model.

    How many things of each `concept` and of each `group` (animals, food, …), and which colours the `background` has.
    With concepts alone nearly all scenes are strangers: there are hundreds.

    >>> from cutaway.data import scene_at
    >>> scene_embeddings([scene_at("test", at) for at in range(3)], ("group",)).sum(1).tolist()
    [2.0, 1.0, 2.0]
    """
    odd = [part for part in parts if part not in PARTS]
    if odd or not parts:
        raise MethodError(
            f"scenes are not known by '{odd[0] if odd else ''}'", expected="parts of a scene", exists=", ".join(PARTS),
            do="name some of these",
        )  # fmt: skip
    words = [[f"{part} {word}" for part in parts for word in _shown(scene, part)] for scene in scenes]
    places = {word: at for at, word in enumerate(sorted({word for row in words for word in row}))}
    made = torch.zeros(len(scenes), len(places))
    for row, found in zip(made, words, strict=True):
        for word in found:
            row[places[word]] += 1
    return made


def _shown(scene: Scene, part: str) -> Sequence[str]:
    if part == "background":
        return scene.background.colours
    names = [thing.concept for thing in scene.things]
    return names if part == "concept" else [concept(name).group for name in names]


# --- on the picture ---------------------------------------------------------------------------------------------------


def morans_i(maps: Float[Tensor, "*n row col"]) -> Float[Tensor, "*n"]:
    """Whether neighbouring patches are alike: Moran's I of maps, 1 smooth, near -1/(P - 1) by chance.

    I = (P / S) sum_ij w_ij z_i z_j / sum_i z_i^2, z the map less its mean, w_ij = 1 for the 8 neighbours of a patch, S
    the sum of all w, P the number of patches. NaN for a map that is the same everywhere.

    Source: Moran 1950 (Biometrika 37). What it can NOT tell: what lies there; a feature of a place is as smooth as one
    of a thing.

    >>> round(float(morans_i(torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 4))), 3), float(morans_i(torch.eye(2)))
    (0.524, -0.3333333432674408)
    """
    flat = maps.flatten(0, -3) if maps.dim() > 2 else maps[None]
    z = flat - flat.mean((-2, -1), keepdim=True)
    around, weights = _neighbours(z), float(_neighbours(torch.ones(1, *z.shape[-2:], dtype=torch.float64)).sum())
    far = (z * z).sum((-2, -1))
    least = FLAT * (flat * flat).sum((-2, -1))
    found = z.shape[-2] * z.shape[-1] / weights * (z * around).sum((-2, -1)) / far
    return found.masked_fill(far <= least, torch.nan).view(maps.shape[:-2])


def _neighbours(z: Float[Tensor, "n row col"]) -> Float[Tensor, "n row col"]:
    """The sum over the 8 neighbours of each patch, fewer at the edge."""
    return avg_pool2d(z[:, None], 3, 1, 1, divisor_override=1)[:, 0] - z


class Locality:
    """A reducer of Moran's I by feature, over pictures in which it is on somewhere; see `locality`."""

    def __init__(self) -> None:
        self._sum = self._count = self._on = self._places = torch.zeros(0, dtype=torch.float64)

    def add(self, maps: Float[Tensor, "item row col width"]) -> Locality:
        """Take in pictures."""
        laid = maps.detach().double().movedim(-1, 1)
        found, on = morans_i(laid), (laid != 0).double()
        kept = (on.amax((-2, -1)) > 0) & ~found.isnan()
        active = on.amax((-2, -1)) * laid.shape[-1] * laid.shape[-2]
        return self._join(found.where(kept, 0.0).sum(0), kept.double().sum(0), on.sum((0, -2, -1)), active.sum(0))

    def merge(self, other: Locality) -> Locality:
        """Take in what another one has seen."""
        return self._join(other._sum, other._count, other._on, other._places)

    def value(self, most: float = 0.5) -> Float[Tensor, "width"]:
        """The mean of I over pictures; NaN where a feature is on in none, or in more than `most` of their patches."""
        return (self._sum / self._count).masked_fill(self.spread > most, torch.nan)

    @property
    def spread(self) -> Float[Tensor, "width"]:
        """The share of patches in which a feature is on, of pictures in which it is on."""
        return self._on / self._places

    def _join(self, *new: Tensor) -> Locality:
        old = (self._sum, self._count, self._on, self._places)
        joined = [b if not len(a) else a if not len(b) else a + b.to(a) for a, b in zip(old, new, strict=True)]
        self._sum, self._count, self._on, self._places = joined
        return self


def locality(dictionary: Dictionary, rows: Rows, *, batch: int = 4096, steps: int = 1, **where: Any) -> Locality:
    """Whether features lie together on pictures: Moran's I of each on the patch grid, meaned over pictures.

    Rows of a store whose positions are patches (`kind="image"`), one row a place. A feature that is on in more than
    `most` of the patches of its pictures (`found.value(most)`) is left out: nearly anything that is on everywhere is
    smooth. Source: measure M1 of VISAEBench 0.1. What it can NOT tell: see `morans_i`.
    """
    laying, found = Grids(), Locality()
    for part in seen(dictionary, rows, batch=batch, steps=steps, **where):
        if part.item is None or part.places is None:
            raise MethodError("these rows lie on no patch grid", expected="rows of a store", do="harvest pictures")
        with torch.no_grad():
            features = dictionary.encode(part.x, part.at)
        maps = laying.add(part.item, part.places, features)
        if maps is not None:
            found.add(maps)
    last = laying.end()
    return found if last is None else found.add(last)


def mean_of(values: Float[Tensor, "width"], of: Bool[Tensor, "width"] | None = None) -> float:
    """The mean over the features that have a value (of some); NaN where none has."""
    kept = values[~values.isnan()] if of is None else values[of & ~values.isnan()]
    return float(kept.mean()) if len(kept) else float("nan")
