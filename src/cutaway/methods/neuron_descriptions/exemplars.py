"""What units answer to in many pictures: how strongly, in which most, in which kinds of pictures and positions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.data import Scene
from cutaway.methods.network_dissection.concept_masks import shown
from cutaway.methods.network_dissection.unit_maps import Posed, on_grid, unit_maps, unit_runs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.questions.rows import recorded
from cutaway.store.quantiles import Quantiles
from cutaway.store.reducers import Mean, Top, TopK

DOMAINS = ("group", "artist", "ground", "ground colour")  # what pictures are sorted by
WORDS = ("text", "image")  # kinds of positions between which a unit of a decoder may choose


@dataclass(frozen=True, eq=False)
class Profile:
    """What units do over many pictures: all of it from one pass, in memory that does not grow with them.

    `mean` and `size` are means of the activation and of its size over all patches; `top` the pictures with the
    strongest patches; `threshold` what 1 in 200 patches is above at most. `domains`: for each way to sort pictures, the
    mean positive activation in those of each sort; `null` the same with pictures sorted by chance. `kinds`: the mean
    size of the activation at positions of each kind.
    """

    mean: Float[Tensor, "unit"]
    size: Float[Tensor, "unit"]
    top: Top
    threshold: Float[Tensor, "unit"]
    domains: Mapping[str, Float[ndarray, "sort unit"]]
    null: Mapping[str, Float[ndarray, "sort unit"]]
    kinds: Mapping[str, Float[Tensor, "unit"]]


def profile(
    model: Model, scenes: Sequence[Scene], site: Site, posed: Posed, *, top: int = 6, batch: int = 32, seed: int = 0,
    progress: bool = True,
) -> Profile:  # fmt: skip
    """Go over many pictures once.

    >>> import cutaway
    >>> from cutaway.data import scenes
    >>> model = cutaway.load("tiny:clip")
    >>> made = profile(model, list(scenes("test", 6)), model.sites.one("vision.1.mlp.post"), Posed(), progress=False)
    >>> tuple(made.top.values.shape), sorted(made.kinds)
    ((6, 64), ['cls', 'image'])
    """
    taking = _Taking(scenes, np.random.default_rng(seed).permutation(len(scenes)), TopK(top))
    for run in unit_runs(model, scenes, site, posed, batch=batch, progress=progress):
        taking.add(run, site)
    sorts = {name: taking.sorted(name, False) for name in DOMAINS}
    null = {name: taking.sorted(name, True) for name in DOMAINS}
    kinds = {kind: mean.value.float().cpu() for kind, mean in taking.kinds.items()}
    mean, size = (one.value.float().cpu() for one in (taking.mean, taking.size))
    threshold = taking.spread.tail(0.005).threshold.cpu()
    return Profile(mean, size, taking.most.value, threshold, _several(sorts), _several(null), kinds)


def entropy(means: Float[ndarray, "sort unit"]) -> Float[ndarray, "unit"]:
    """H_k = -sum_d p_kd log p_kd / log D with p_kd the share of sort d in the means of unit k: 1 if even, 0 if one.

    NaN for a unit that is never positive. Tang et al. 2024, arXiv 2402.16438, take it over languages.

    >>> entropy(np.array([[1.0, 1.0], [1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    total = means.sum(0)
    share = means / np.where(total > 0, total, 1.0)
    each = -share * np.log(np.where(share > 0, share, 1.0))
    return np.where(total > 0, np.abs(each.sum(0)) / np.log(max(len(means), 2)), np.nan)


def exemplar_maps(
    model: Model, scenes: Sequence[Scene], site: Site, posed: Posed, items: Sequence[Sequence[int]],
    units: Sequence[int], *, batch: int = 32, progress: bool = False,
) -> Float[ndarray, "unit rank row col"]:  # fmt: skip
    """Where in their strongest pictures units are active: those pictures, each once, are run again."""
    users: dict[int, list[tuple[int, int]]] = {}
    for place, row in enumerate(items):
        for rank, item in enumerate(row):
            users.setdefault(int(item), []).append((place, rank))
    needed = sorted(users)
    found: list[list[ndarray | None]] = [[None] * len(row) for row in items]
    for made in unit_maps(model, [scenes[item] for item in needed], site, posed, batch=batch, progress=progress):
        for offset, one in enumerate(made.values.float().cpu().numpy()):
            for place, rank in users[needed[made.first + offset]]:
                found[place][rank] = one[..., int(units[place])].copy()
    return np.stack([np.stack([one for one in row if one is not None]) for row in found])


def exemplar_texts(
    model: Model, texts: Sequence[str], site: Site, units: Sequence[int], *, top: int = 6, batch: int = 32
) -> tuple[list[list[tuple[str, str]]], Float[Tensor, "unit rank"]]:  # fmt: skip
    """The texts with the strongest positions of each unit of a tower that reads, the word there, and the activation.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> named, values = exemplar_texts(model, ["a red dog", "a cat"], model.sites.one("text.1.mlp.post"), [3], top=1)
    >>> len(named), values.shape
    (1, torch.Size([1, 1]))
    """
    most, words = TopK(min(top, len(texts))), []
    for run in recorded(model, texts, site.tower, [site], batch=batch, progress=False):
        value, known = run[site].detach().flatten(2)[..., list(units)].float(), run.inputs.tokens[site.tower]
        own = torch.from_numpy(~np.isin(known.kind, ("pad", "bos"))).to(value.device)
        best = value.masked_fill(~own[..., None], -torch.inf).max(1)
        most.add(best.values)
        words += [[str(known.text[row, at]) for at in best.indices[row].tolist()] for row in range(len(value))]
    found = most.value
    named = [
        [(texts[item], words[item][unit]) for item in column] for unit, column in enumerate(found.items.T.tolist())
    ]
    return named, found.values.T.cpu()


def _several(sorts: Mapping[str, ndarray]) -> dict[str, ndarray]:
    """Those ways to sort by which there are two sorts at least."""
    return {name: one for name, one in sorts.items() if len(one) > 1}


@dataclass
class _Taking:
    """What is taken of each batch."""

    scenes: Sequence[Scene]
    order: ndarray
    most: TopK
    mean: Mean = field(default_factory=Mean)
    size: Mean = field(default_factory=Mean)
    spread: Quantiles = field(default_factory=Quantiles)
    kinds: dict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    sorts: dict[tuple[str, str, bool], Mean] = field(default_factory=lambda: defaultdict(Mean))
    seen: int = 0

    def add(self, run: Run, site: Site) -> None:
        """One batch."""
        values = on_grid(run, site).float()
        flat = values.flatten(0, 2)
        self.mean.add(flat)
        self.size.add(flat.abs())
        self.spread.add(flat)
        self.most.add(values.flatten(1, 2).amax(1), first=self.seen)
        positive = values.flatten(1, 2).relu().mean(1)
        for at, one in enumerate(positive):
            for shuffled in (False, True):
                scene = self.scenes[int(self.order[self.seen + at]) if shuffled else self.seen + at]
                for kind, word in {*shown(scene)}:
                    if kind in DOMAINS:
                        self.sorts[kind, word, shuffled].add(one[None])
        self._positions(run, site)
        self.seen += len(values)

    def _positions(self, run: Run, site: Site) -> None:
        if "token" not in site.axes:
            return
        value = run[site].detach()
        while value.dim() > len(site.axes) or site.axes[-value.dim()] in ("step", "guidance"):
            value = value[0]
        value = value.flatten(2)
        known = run.inputs.map_for(site, "token", value.shape[1])
        for kind in {*known.kind.ravel()} - {"pad"}:
            here = torch.from_numpy(known.kind == kind).to(value.device)
            self.kinds[str(kind)].add(value[here].float().abs())

    def sorted(self, kind: str, shuffled: bool) -> Float[ndarray, "sort unit"]:
        """The means of each sort."""
        found = [mean.value.cpu().numpy() for (name, _, how), mean in sorted(self.sorts.items(), key=lambda one: one[0])
                 if name == kind and how == shuffled]  # fmt: skip
        return np.stack(found) if found else np.zeros((0, 1))
