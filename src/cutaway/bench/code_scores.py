"""How much of a planted code a dictionary has found: matches, single features, modalities, absorption."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import normalize

from cutaway.bench.codes import SITE, Coded, Codes, TrueDirections
from cutaway.errors import MethodError
from cutaway.methods.result import Provenance, Result
from cutaway.methods.sparse_autoencoders.absorption import Absorbed, absorbed
from cutaway.methods.sparse_autoencoders.modality import modality_classes
from cutaway.methods.sparse_autoencoders.quality import Quality
from cutaway.methods.sparse_autoencoders.seen import read
from cutaway.methods.sparse_autoencoders.tabled import Named, bars, dataset, floors, listed, moments, summed
from cutaway.model.dictionary import At, Dictionary, decoder_rows
from cutaway.model.tokens import KINDS
from cutaway.questions.rows import tracked

HELD = 2**24  # rows of no training begin with this item
ORACLE, TRUE = "oracle", "true directions"
Reader = Callable[[Coded], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Matched:
    """Latents and features that point the same way: `best` feature of each latent, and one-to-one `pairs`."""

    cosines: Float[Tensor, "latent feature"]
    best: Int[Tensor, "latent"]
    latents: Int[Tensor, "pair"]
    features: Int[Tensor, "pair"]

    @property
    def mcc(self) -> float:
        """The mean |cos| of the pairs."""
        return float(self.cosines[self.latents, self.features].mean())

    @property
    def uniqueness(self) -> float:
        """Distinct best features / latents."""
        return len(self.best.unique()) / len(self.best)


def matched(directions: Float[Tensor, "latent d"], truth: Float[Tensor, "feature d"]) -> Matched:
    """Match what latents write with true directions by |cos|: the best of each latent, and pairs with the largest sum.

    Pairs are those of the Hungarian algorithm (min(latents, features) of them); a latent without a length has cosine 0.

    >>> found = matched(torch.eye(3)[[1, 0, 0]], torch.eye(3))
    >>> found.best.tolist(), round(found.mcc, 3), round(found.uniqueness, 3)
    ([1, 0, 0], 0.667, 0.667)
    """
    from scipy.optimize import linear_sum_assignment

    cosines = (normalize(directions.double(), dim=-1) @ normalize(truth.double(), dim=-1).T).abs()
    rows, columns = linear_sum_assignment(-cosines.numpy())
    return Matched(cosines, cosines.argmax(1), torch.from_numpy(rows), torch.from_numpy(columns))


class _Seen:
    """Sums over rows of what one dictionary says beside the truth."""

    def __init__(self, codes: Codes, match: Matched, directions: Tensor) -> None:
        self.codes, self.match, self.directions = codes, match, directions
        latents = len(match.best)
        self.both, self.said, self.true = (torch.zeros(latents, dtype=torch.float64) for _ in range(3))
        self.active = torch.zeros(2, latents, dtype=torch.float64)  # of pictures, of texts
        self.shown = torch.zeros(codes.features, dtype=torch.bool)
        self.quality, self.below, self.alone = Quality(), Absorbed(0, 0, 0), Absorbed(0, 0, 0)
        self.own = dict(zip(match.features.tolist(), match.latents.tolist(), strict=True))
        parents = codes.parents
        self.families = {int(p): (parents == p).nonzero().flatten() for p in parents.unique() if p >= 0}

    def add(self, rows: Coded, features: Tensor, made: Tensor) -> None:
        on, true = (features != 0).double(), (rows.code != 0)[:, self.match.best].double()
        self.both += (on * true).sum(0)
        self.said += on.sum(0)
        self.true += true.sum(0)
        self.shown |= (rows.code != 0).any(0)
        self.quality.add(rows.seen.y, made, features, rows.seen.kind)
        for at, kind in enumerate(("image", "text")):
            self.active[at] += features[rows.seen.kind == KINDS.index(kind)].double().sum(0)
        for parent, children in self.families.items():
            if parent in self.own:
                shown = rows.code[:, parent] != 0
                child = (rows.code[:, children] != 0).any(1)
                self.below += self._absorbed(features[shown & child], parent)
                self.alone += self._absorbed(features[shown & ~child], parent)

    def _absorbed(self, features: Tensor, parent: int) -> Absorbed:
        main = torch.tensor([self.own[parent]])
        return absorbed(features, self.directions.to(features), self.codes.directions[parent].to(features), main)

    def scores(self) -> dict[str, float]:
        seen = self.shown[self.match.best]  # of features that these rows do not show nothing is known
        precision, recall = (self.both / one.clamp_min(1) for one in (self.said, self.true))
        precision, recall, f1 = (
            one[seen] for one in (precision, recall, 2 * self.both / (self.said + self.true).clamp_min(1))
        )
        whole = self.quality.value
        found = {
            "mcc": self.match.mcc, "uniqueness": self.match.uniqueness, "f1": float(f1.mean()),
            "precision": float(precision.mean()), "recall": float(recall.mean()), "absorption": self.below.rate,
            "absorption_alone": self.alone.rate, "missing": (self.below + self.alone).missing,
            "explained": whole.explained, "l0": whole.l0, "alive": self.quality.alive,
        }  # fmt: skip
        if self.codes.modalities:
            classes = modality_classes(self.active[0] / self.active.sum(0))
            right = classes[self.match.latents.numpy()] == self.codes.modality[self.match.features.numpy()]
            found["right_modality"] = float(np.mean(right[self.shown[self.match.features].numpy()]))
        return found


@dataclass(frozen=True, eq=False, repr=False)
class CodeScores(Result):
    """Scores over (dictionary, seed) of dictionaries on planted codes; what they are: `code_scores`."""

    main: ClassVar[str] = "mcc"

    @property
    def shown(self) -> list[str]:
        """What the table shows."""
        names = ["mcc", "uniqueness", "f1", "right_modality", "absorption", "absorption_alone", "explained", "l0",
                 "alive"]  # fmt: skip
        return [name for name in names if name in self.data]

    def summary(self) -> Any:
        """One row a dictionary: the mean over seeds ± the standard deviation of a reseed."""
        return summed(self.data, self.shown)

    def _draw(self, ax: Axes) -> None:
        bars(ax, self.data, [name for name in self.shown if name in ("mcc", "f1", "right_modality", "absorption")])


def code_scores(
    codes: Codes, dictionaries: Named, *, untrained: Dictionary | Sequence[Dictionary] | None = None, items: int = 4096,
    seeds: int = 3, progress: bool = True,
) -> CodeScores:  # fmt: skip
    """What dictionaries have found of a planted code, beside an oracle, the true directions, and floors.

    `mcc`: mean |cos| of latents and features matched one to one. `uniqueness`: distinct best features / latents. `f1`,
    `precision`, `recall`: of each latent as a detector of its best feature (on or off), meaned over latents, 0 of dead
    ones, without those whose feature the rows do not show. `right_modality`: the share of matched latents whose
    activity on pictures and texts puts them into the class (shared, picture, text: `modality_classes`) of their
    feature. `absorption`: of rows with a parent and one of its children, the share on which the parent's latent is off
    and another one adds most along it; `absorption_alone`: the same of its rows without a child; `missing`: how often
    it is off at all. And `explained`, `l0`, `alive`, on `items` that no training sees (from number 2**24 on).
    `dictionaries`: by name, one or several seeds; `untrained` the same before training. Added: `oracle`, told the code;
    `true directions`, which must find it; `random` directions of as many features, as sparse as the code (`seeds` of
    them); the neurons, all or as sparse. Units: shares, L0 counts.

    Source: SynthSAEBench (arXiv 2602.14687) for MCC, uniqueness and F1; absorption: `absorption.absorbed`; the right
    modality is ours. What it can NOT tell: how they do on a model. MCC of random directions is far from 0 where there
    are few dimensions: read it beside theirs. A latent that is a mixture of two features counts for one of them.

    >>> from cutaway.bench.codes import planted_codes
    >>> found = code_scores(planted_codes("small-modalities"), {}, items=512, seeds=1, progress=False)
    >>> [round(float(found[name].sel(dictionary="oracle", seed=0)), 6) for name in ("mcc", "f1", "right_modality")]
    [1.0, 1.0, 1.0]
    """
    started = time.perf_counter()
    own = {} if not dictionaries and untrained is None else listed(dictionaries, untrained)
    width = next((one.width for found in own.values() for one in found), codes.features)
    of = moments(one.seen for one in codes.rows(min(items, 2048)))
    every = {**own, TRUE: [TrueDirections(codes)], **floors(SITE, width, max(1, round(codes.l0)), of, seeds=seeds)}
    values: dict[str, dict[str, list[float]]] = {}
    todo = [(name, one) for name, found in every.items() for one in found]
    for name, one in tracked(todo, "scoring", len(todo), show=progress):
        scored = _scored(codes, _reader(one), written(codes, one), items)
        for measure, value in scored.items():
            values.setdefault(name, {}).setdefault(measure, []).append(value)
    told = _scored(codes, lambda rows: (rows.code, _decoded(codes, rows)), codes.directions, items)
    values[ORACLE] = {measure: [value] for measure, value in told.items()}
    provenance = Provenance.of(
        "code_scores", "SynthSAEBench 2026, arXiv 2602.14687; Chanin et al. 2024, arXiv 2409.14507", started=started,
        seed=codes.seed, items=items, codes=repr(codes), superposition=round(codes.superposition, 3),
    )  # fmt: skip
    return CodeScores(dataset(values), provenance)


def written(codes: Codes, dictionary: Dictionary) -> Float[Tensor, "latent d"]:
    """What a dictionary's features write; of one that decodes pictures and texts apart, the mean of both."""
    if "step" in dictionary.asks:
        raise MethodError("planted codes have no steps", expected="a dictionary that asks for no step",
                          do="train one without")  # fmt: skip
    like = torch.zeros(0)
    if "kind" not in dictionary.asks:
        return decoder_rows(dictionary, like=like)
    sides = [At.all(kind, (dictionary.width,)) for kind in ("image", "text")]
    return torch.stack([decoder_rows(dictionary, at, like) for at in sides]).mean(0)


def _scored(codes: Codes, reader: Reader, directions: Tensor, items: int) -> dict[str, float]:
    found = _Seen(codes, matched(directions, codes.directions), directions)
    for rows in codes.rows(items, first=HELD):
        found.add(rows, *reader(rows))
    return found.scores()


def _reader(dictionary: Dictionary) -> Reader:
    def reads(rows: Coded) -> tuple[Tensor, Tensor]:
        at = rows.seen.at if dictionary.asks else replace(rows.seen.at, kind=None)
        return read(dictionary, replace(rows.seen, at=at))

    return reads


def _decoded(codes: Codes, rows: Coded) -> Tensor:
    return rows.code @ codes.directions + codes.shift[rows.seen.kind]
