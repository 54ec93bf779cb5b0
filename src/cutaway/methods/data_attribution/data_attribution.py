"""Which training items raise or lower a number: gradients of weights held against those of each item's loss."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes

from cutaway.errors import MethodError, near
from cutaway.methods.causal_tracing.circuit import Circuit
from cutaway.methods.data_attribution.features import (
    Bases,
    Kind,
    Plan,
    Projection,
    eigenbases,
    item_features,
    of_target,
)
from cutaway.methods.data_attribution.measures import lds
from cutaway.methods.data_attribution.scores import METHODS, Curved, own
from cutaway.methods.result import Provenance, Result
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.pieces import Piece, pieces, share
from cutaway.model.targets import distance
from cutaway.questions.losses import Measure, lowered, output_size
from cutaway.questions.training import Items, Target

SOURCE = (
    "dot, cosine, over checkpoints: Pruthi et al. 2020, arXiv 2002.08484 (TracIn); trak: Park et al. 2023, arXiv "
    "2303.14186; measures of denoisers: Zheng et al. 2024, arXiv 2311.00500 (D-TRAK); even: Xie et al. 2024, arXiv "
    "2401.09031; ekfac: Grosse et al. 2023, arXiv 2308.03296; logra: Choe et al. 2024, arXiv 2405.13954; datainf: Kwon "
    "et al. 2024, arXiv 2310.00902"
)
Weights = str | Sequence[str] | Sequence[Piece] | Circuit
DAMPING: Mapping[str, float] = {"trak": 0.01, "logra": 0.1, "ekfac": 0.1, "datainf": 0.1}
KINDS: Mapping[str, str] = {"ekfac": "eigen", "datainf": "adapter"}  # of projection, unless said
LARGEST = 2**30  # numbers of all items that are kept in memory


@dataclass(frozen=True, eq=False, repr=False)
class DataAttribution(Result):
    """`scores` (query, item): above 0 where training on the item makes the number better, to first order.

    `random`: the same scores of items in an order by chance. `own` (item): the score of an item for itself, NaN where
    there is none. `loss` (item): what it costs now. `value` (query): the number. `caption`: the items in words. Where
    the items say what trainings on some of them gave, `lds` and `lds_random` (query): how far scores foretell these.
    """

    main: ClassVar[str] = "scores"

    def proponents(self, query: int = 0, k: int = 5) -> list[int]:
        """The items of the highest scores for a query, highest first."""
        return self._ordered(-self.data["scores"].values, query, k)

    def opponents(self, query: int = 0, k: int = 5) -> list[int]:
        """The items of the lowest scores for a query, lowest first."""
        return self._ordered(self.data["scores"].values, query, k)

    def _ordered(self, values: np.ndarray, query: int, k: int) -> list[int]:
        """The items of the lowest values of a query."""
        if not -len(values) <= query < len(values):
            raise MethodError(f"no query {query}", expected=f"a number from 0 to {len(values) - 1}", do="choose one")
        return [int(i) for i in np.argsort(values[query], kind="stable")[:k]]

    def summary(self) -> Any:
        """For the first query the five items that help most and the five that harm most."""
        import pandas

        order = [*self.proponents(), *self.opponents()[::-1]]
        rows = [(i, *(self.data[name].values[..., i].flat[0] for name in ("scores", "loss", "caption")))
                for i in dict.fromkeys(order)]  # fmt: skip
        return pandas.DataFrame(rows, columns=["item", "score", "loss", "caption"])

    def _draw(self, ax: Axes) -> None:
        """The scores of the first query as a histogram, beside those in a normal distribution of their spread."""
        values = self.data["scores"].values[0]
        ax.hist(values, bins=min(40, max(5, len(values) // 4)), color="C0")
        ax.set(xlabel="score of an item for the query", ylabel="items")


def data_attribution(
    model: Model, train: Items, queries: Inputs | Items, target: Target | None = None, *, method: str = "trak",
    weights: Weights = "", kind: str = "", size: int = 8, seeds: int = 1, damping: float | None = None,
    measure: Measure = "loss", even: bool = False, curvature: Items | None = None,
    checkpoints: Sequence[Model] = (), rates: Sequence[float] = (),
    batch: int = 16, folder: str | Path | None = None, seed: int = 0, progress: bool = True,
) -> DataAttribution:  # fmt: skip
    """How much each training item raises a number, or lowers it where it is an error or a loss, by its gradient.

    score_qi = -s <g_q, M g_i>: g_q is the gradient of the number of query q with respect to the weights (s = 1, or -1
    where lower is better), g_i that of the loss of item i, M by method: `dot` and `cosine` the identity; `trak`
    (F'F)^-1 over all items; `logra` the same piece by piece; `ekfac` the diagonal in the eigenbases of both Kronecker
    factors of each piece; `datainf` the mean of inverses; `representation` is the cosine of what the model makes of
    them, without gradients. Gradients are projected where they are made (`kind`, `size`; `seeds` of them are averaged)
    and kept in `folder`, which a later call takes up. With `checkpoints` scores are summed by `rates` (TracIn).

    `weights` are towers, sites, heads, layers, pieces or a circuit. Queries are ready inputs with a target, or items,
    whose number is their loss. `measure` "square" puts the size of what a denoiser gives in the place of its loss
    (D-TRAK), `even` divides each of its noise levels by its own length (ReTrac). `damping` is a share of the mean
    eigenvalue; `curvature` are items whose gradients make M in place of the training items'. Units: those of the
    number for a step of size 1; of `cosine` and `representation` a cosine. Where we differ: docs/data-attribution.md.

    What it can NOT tell: what a training without the item would give, far from these weights: LDS on retrained models
    says how well scores foretell that. A high score is no proof of copying. Items it was not given have none.
    Raises MethodError for an unknown method, a number without a gradient, and more numbers than fit into memory.

    >>> import cutaway
    >>> from cutaway import targets
    >>> from cutaway.questions.training import Answers
    >>> model = cutaway.load("tiny:llama")
    >>> train = Answers(pictures=[None] * 3, texts=["a dog is"] * 3, answers=["red", "blue", "red"])
    >>> asked = model.inputs(text="a dog is")
    >>> found = data_attribution(model, train, asked, targets.log_prob("blue"), method="dot", progress=False)
    >>> found.proponents(k=1)
    [1]
    """
    started = time.perf_counter()
    _check(method, target, queries, measure)
    models = tuple(checkpoints) or (model,)
    shares = tuple(rates) or (1 / len(models),) * len(models)
    if len(shares) != len(models):
        raise MethodError(f"{len(shares)} rates for {len(models)} checkpoints", expected="one for each")
    how = kind or KINDS.get(method, "factored")
    ridge = DAMPING.get(method, 0.0) if damping is None else damping
    if ridge < 0 or seeds < 1 or not len(train):
        raise MethodError(
            f"{len(train)} items with damping {ridge} and {seeds} seeds", do="change these",
            expected="an item and a seed at least, no damping below 0",
        )  # fmt: skip
    plan = Plan(batch, measure, even)
    options = _Options(method, how, size, seeds, ridge, plan, curvature, seed, folder, progress)
    chosen = chosen_pieces(model, weights) if method != "representation" else ()
    data = _summed(models, shares, train, queries, target, chosen, options)
    told = Provenance.of(
        "data_attribution", SOURCE, started=started, model=model, seed=seed, by=method, kind=how, size=size,
        seeds=seeds, damping=ridge, measure=measure, even=even, checkpoints=len(checkpoints), batch=batch,
        weights=str(weights)[:200], pieces=len(chosen), share=round(share(model, chosen), 4) if chosen else 0.0,
        target=str(target),
    )  # fmt: skip
    return DataAttribution(data, told)


def chosen_pieces(model: Model, weights: Weights) -> tuple[Piece, ...]:
    """The pieces that weights stand for; of a circuit its heads, its MLPs, and what else writes along its edges."""
    if isinstance(weights, Circuit):
        names = [f"{one}.out" if one.endswith(".mlp") else one for one in sorted(weights.senders)]
        names += [one.replace(".mlp.out", ".mlp.pre") for one in names if one.endswith(".mlp.out")]
        return pieces(model, names)
    if not isinstance(weights, str) and any(isinstance(one, Piece) for one in weights):
        return tuple(one for one in weights if isinstance(one, Piece))
    return pieces(model, weights)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Options:
    method: str
    kind: str
    size: int
    seeds: int
    damping: float
    plan: Plan
    curvature: Items | None
    seed: int
    folder: str | Path | None
    progress: bool


def _summed(
    models: Sequence[Model], rates: Sequence[float], train: Items, queries: Inputs | Items, target: Target | None,
    chosen: Sequence[Piece], options: _Options,
) -> xarray.Dataset:  # fmt: skip
    """Scores by all checkpoints, and what stands beside them; losses and numbers are those of the last."""
    parts = [None] if len(models) == 1 else list(range(len(models)))
    made = [_scored(one, train, queries, target, chosen, options, at) for at, one in zip(parts, models, strict=True)]
    raw, mine = (sum(rate * one[k] for rate, one in zip(rates, made, strict=True)) for k in (0, 1))
    raw, mine = np.asarray(raw), np.asarray(mine)
    dice = np.random.default_rng(options.seed)
    captions = [train.shown(i)[1] for i in range(len(train))]
    each = {"scores": raw, "random": dice.permuted(raw, axis=1)}
    known = {} if train.known is None else {
        name: ("query", lds(each[of], *train.known)) for name, of in (("lds", "scores"), ("lds_random", "random"))
    }  # fmt: skip
    return xarray.Dataset(
        {
            **{name: (("query", "item"), one) for name, one in each.items()}, **known,
            "own": ("item", mine), "loss": ("item", made[-1][2]), "value": ("query", made[-1][3]),
            "caption": ("item", captions),
        },
        coords={"item": np.arange(len(train)), "query": np.arange(len(raw))},
    )  # fmt: skip


def _scored(
    model: Model, train: Items, queries: Inputs | Items, target: Target | None, chosen: Sequence[Piece],
    options: _Options, part: int | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Scores (query, item), each item's for itself, losses, and the numbers of the queries, of one set of weights."""
    if options.method == "representation":
        return _alike(model, train, queries)
    hows = _projections(model, train, chosen, options)
    where = None if options.folder is None else Path(options.folder) / ("" if part is None else f"checkpoint-{part}")
    held = item_features(model, train, chosen, hows, options.plan, folder=where, progress=options.progress)
    if held[0].values.numel() * len(held) > LARGEST:
        raise MethodError(f"{held[0].values.numel()} numbers do not fit", expected=f"{LARGEST}", do="a smaller `size`")
    measure = options.plan.measure
    lower = True
    if isinstance(queries, Items):
        asked = item_features(model, queries, chosen, hows, options.plan, progress=options.progress)
    else:
        aim: Target = output_size(measure) if measure != "loss" else target  # type: ignore[assignment]
        asked, lower = of_target(model, queries, aim, chosen, hows), lowered(aim)
    by, curved = METHODS[options.method], held
    if options.curvature is not None:
        curved = item_features(model, options.curvature, chosen, hows, options.plan, progress=options.progress)
    margin = options.curvature is None and train.likelihood and measure == "loss"
    each = [Curved(one, options.damping, margin) for one in curved]
    scores = sum(by(q, t, one) for q, t, one in zip(asked, held, each, strict=True)) / len(held)
    mine = sum(own(t, by, one) for t, one in zip(held, each, strict=True)) / len(held)
    return (1 if lower else -1) * _array(scores), _array(mine), _array(held[0].losses), _array(asked[0].losses)


def _projections(model: Model, train: Items, chosen: Sequence[Piece], options: _Options) -> list[Projection | Bases]:
    """How gradients are projected, one for each seed; eigenvectors are the same for all."""
    if options.kind == "eigen":
        return [
            eigenbases(
                model, options.curvature or train, chosen, options.plan, size=options.size, progress=options.progress
            )
        ]
    kinds: dict[str, Kind] = {"factored": "factored", "dense": "dense", "adapter": "adapter", "whole": "whole"}
    if options.kind not in kinds:
        raise MethodError(f"no projection of the kind '{options.kind}'", exists=", ".join((*kinds, "eigen")))
    kind = kinds[options.kind]
    return [
        Projection(kind, options.size, options.seed + one) for one in range(1 if kind == "whole" else options.seeds)
    ]


def _alike(
    model: Model, train: Items, queries: Inputs | Items
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Cosines of what the model makes of queries and items."""
    kept = train.embeddings(model)
    asked = queries.embeddings(model) if isinstance(queries, Items) else train.seen(model, queries)
    each = [torch.nn.functional.normalize(one - kept.mean(0), dim=1) for one in (asked, kept)]
    nothing = np.full(len(kept), np.nan)
    return _array(each[0] @ each[1].T), nothing, nothing, np.full(len(asked), np.nan)


def _check(method: str, target: Target | None, queries: Inputs | Items, measure: Measure) -> None:
    """Refuse an unknown method, and a query whose number has no gradient."""
    known = (*METHODS, "representation")
    if method not in known:
        raise MethodError(f"no method '{method}'", expected="a way to score items", exists=near(method, known))
    if isinstance(queries, Inputs) and target is None and measure == "loss" and method != "representation":
        raise MethodError(
            "these inputs have no number", expected="a target", do="`data_attribution(…, inputs, target)`"
        )
    if isinstance(target, distance) and measure == "loss" and method != "representation":
        raise MethodError(
            "a drawing's distance from itself has no gradient", expected="an error on a picture, or a size of output",
            do='`measure="square"`, or ask with a picture',
        )  # fmt: skip


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().to(torch.float64).numpy()
