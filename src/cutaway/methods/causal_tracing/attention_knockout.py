"""Which way what a model sees takes to its answer: edges of attention cut, from one span of positions to another."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError, near
from cutaway.methods.causal_tracing.places import ALL
from cutaway.methods.causal_tracing.spans import Span, as_many, names, own_of, seen_by, span, tokens_of
from cutaway.methods.causal_tracing.spans import edges as count
from cutaway.methods.causal_tracing.windows import windows
from cutaway.methods.result import Provenance, Result
from cutaway.model.cells import Cells
from cutaway.model.edits import Knockout
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.targets import Target
from cutaway.questions.rows import tracked

METHOD = "attention_knockout"
SOURCE = "Geva et al. 2023, arXiv 2304.14767, section 5; Zhang et al. 2024, arXiv 2411.18620"
DRAWS, ARROW = 2000, "->"
SHARE = 4  # a window is a quarter of the layers unless said


@dataclass(frozen=True, eq=False, repr=False)
class Flow(Result):
    """What cutting the edges from one span to another does to the target, by window of layers; "all" is every layer.

    `change` (edge, layer): mean over rows of the target with the edge cut less the target without, in its own unit;
    `low`, `high` a 95 % bootstrap interval over rows. `relative`, `relative_low`, `relative_high`: the same as a share,
    -1 where all is lost. `random`, `random_low`, `random_high`: the change when the same queries lose as many edges to
    keys drawn by chance, `random_relative` as a share. `value` (edge, layer, row), `clean` (row): the target itself.
    `cut` (edge, owner): how many edges of query and key a head loses in a layer, in each row that the tower has.
    """

    main: ClassVar[str] = "relative"

    def summary(self) -> Any:
        """Every edge: all layers at once, and its strongest window; columns that one row does not have are left out."""
        names = [name for name in ("change", "low", "high", "random", "relative") if self[name].notnull().any()]
        table = self.data[names].to_dataframe().reset_index()
        strongest = table[table["layer"] != ALL].assign(size=table["change"].abs())
        best = (
            strongest.sort_values("size", ascending=False, kind="stable").drop_duplicates("edge").drop(columns="size")
        )
        kept = table[table["layer"] == ALL]
        order = {edge: at for at, edge in enumerate(self["edge"].values)}
        both = kept.merge(best, how="outer") if len(best) else kept
        return both.sort_values("edge", key=lambda edge: edge.map(order), kind="stable")[["edge", "layer", *names]]

    def note(self) -> str:
        """What the target is without a cut, and what one row does not have."""
        said = f"Mean {self.provenance.options['unit']} without a cut: {float(self['clean'].mean()):.3g}."
        return said if self.data.sizes["row"] > 1 else f"{said} One row has no interval (low, high)."

    def _draw(self, ax: Axes) -> None:
        shown = self.data.isel(layer=self["layer"].values != ALL)
        places = range(shown.sizes["layer"])
        for edge in shown["edge"].values:
            here = shown.sel(edge=edge)
            (line,) = ax.plot(places, here["relative"], marker="o", label=str(edge))
            ax.fill_between(places, here["relative_low"], here["relative_high"], alpha=0.15, color=line.get_color())
        ax.axhline(0, color="gray", linewidth=0.8)
        ax.set_xticks(places, [str(one) for one in shown["layer"].values])
        ax.set(xlabel="layers in which the edge is cut", ylabel="relative change")
        ax.legend(fontsize=8)


def attention_knockout(
    model: Model, inputs: Inputs, target: Target, *, edges: str | Sequence[str] = "",
    spans: Mapping[str, Span] | None = None, tower: str = "", wide: int | None = None, draws: int = 2, seed: int = 0,
    progress: bool = True,
) -> Flow:  # fmt: skip
    """Cut the edges of attention from one span of positions to another, a window of layers at a time.

    change = m(scores_qk -> -inf, q in the second span, k in the first, in every layer of a window) - m, m the target.
    An edge is written "picture->last": what the last position no longer reads. Spans are `picture`, `question`,
    `words`, `last`, `first`, `class`, `end`, `all`, `row 3`, `column 2`, a word of the text (or several in a row), or
    names of your own in `spans`, which take positions by number, mask or `Where(…)`. Unless said the edges are those by
    which the picture reaches the answer: picture->question, picture->last, question->last and, as a control,
    last->last, for a decoder; picture->class for a tower with a class token; for a denoiser words->picture, through
    cross-attention or joint attention. Windows are `wide` layers in a row, a quarter of them unless said, one for each
    first layer, and all layers at once.

    Units: `change` in the target's own; `relative` the mean of p_cut / p - 1 where that is a log-probability p, else
    the sum of changes over the sum of |m| (NaN where that is 0). Intervals: 2.5 and 97.5 % points over resampled rows.
    Source: Geva et al. 2023, arXiv 2304.14767, section 5, and for pictures Zhang et al. 2024, arXiv 2411.18620; windows
    that would reach over an end are left out, where they are cut short there, and `random` (mean of `draws` sets of
    keys) is ours.
    MethodError for edges that are not there, or of which the model sees none, windows without a layer, and a target
    that no cut moves.

    What it can NOT tell: what flows, only that something does; what one edge no longer brings another may bring, so no
    change is no proof that nothing is read there. A query that loses an edge gives its share to the rest: `random` says
    what that alone does, and one that loses all edges spreads evenly. Nothing is said of what a span held before.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> inputs = model.inputs(text="a red dog")
    >>> found = attention_knockout(model, inputs, cutaway.targets.log_prob("cat"), wide=1, progress=False)
    >>> [str(edge) for edge in found["edge"].values], [str(one) for one in found["layer"].values]
    (['question->last', 'last->last'], ['0', '1', '2', 'all'])
    """
    started = time.perf_counter()
    where = _attention(model, inputs, tower)
    known = tokens_of(inputs, where.keys)
    chosen = _edges(edges) or usual_edges(model, inputs, tower)
    layers = [site.layer for site in model.sites[f"{where.tower}.*.{where.part}.scores"] if site.layer is not None]
    wide = max(1, round(len(layers) / SHARE)) if wide is None else wide
    groups = windows(layers, wide) | {ALL: layers}
    if draws < 0:
        raise MethodError(f"{draws} sets of random keys", expected="0 or more", do="2 is the default")
    cuts = {name: _cut(inputs, known, where, name, spans or {}) for name in chosen}
    data = _measured(model, inputs, target, where, cuts, groups, draws, seed, progress)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=(f"{where.tower}.*.{where.part}",), seed=seed,
        edges=list(cuts), spans={name: repr(one) for name, one in (spans or {}).items()}, wide=wide, draws=draws,
        target=repr(target) if len(repr(target)) < 200 else type(target).__name__, unit=target.unit, bootstrap=DRAWS,
    )  # fmt: skip
    return Flow(data, told)


# --- what is cut ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Where:
    """An attention: its tower and part, the token maps of its queries and keys ("" where those are all patches)."""

    tower: str
    part: str
    queries: str
    keys: str
    causal: bool = False
    guidance: str | None = None


@dataclass(frozen=True)
class _Cut:
    """An edge: masks of its queries (None: every one) and keys, and of all that queries see."""

    query: Tensor | None
    key: Tensor
    seen: Tensor

    def edges(self) -> list[int]:
        """How many edges a row loses."""
        query = torch.ones(self.seen.shape[:2], dtype=torch.bool) if self.query is None else self.query
        return [int(one) for one in (count(self.seen, query) * self.key).sum(1)]


def _attention(model: Model, inputs: Inputs, tower: str) -> _Where:
    """The attention that is cut: of the tower that is named, else the one that the answer comes out of."""
    have = [name for name in model.towers if any(site.tower == name and site.part in ("attn.scores", "cross.scores")
                                                  for site in model.sites)]  # fmt: skip
    end = model.family.answers if model.family.answers in have else have[-1] if have else ""
    chosen = tower or ("vision" if model.family.kind == "contrastive" and "vision" in have else end)
    if chosen not in have:
        raise MethodError(
            f"'{model.name}' has no attention" + (f" in a tower '{chosen}'" if chosen else ""),
            expected="a tower whose blocks attend",
            exists=near(chosen, have) if have else "none that does", do="name one of these: `tower=`",
        )  # fmt: skip
    if chosen != "denoiser":
        return _Where(chosen, "attn", chosen, chosen, model.towers[chosen].causal)
    guided = "cond" if "negative" in inputs.tensors or inputs.call.loops or inputs.call.drawing else None
    if "denoiser.joint" in inputs.tokens:
        return _Where(chosen, "attn", "denoiser.joint", "denoiser.joint", guidance=guided)
    if any(site.tower == chosen and site.part == "cross.scores" for site in model.sites):
        return _Where(chosen, "cross", "", "text", guidance=guided)
    raise MethodError(
        f"the patches of '{model.name}' see no words", expected="cross-attention or joint attention to a prompt",
        exists=f"the towers {', '.join(model.towers)}", do="name another tower: `tower=`",
    )  # fmt: skip


def usual_edges(model: Model, inputs: Inputs, tower: str = "") -> list[str]:
    """The edges that are cut unless some are named: those by which what is seen reaches the answer."""
    where = _attention(model, inputs, tower)
    known = tokens_of(inputs, where.keys)
    there = {name for name in ("picture", "question", "words", "last", "class", "end") if all(
        name in names(known, row) for row in range(known.batch))}  # fmt: skip
    if where.tower == "denoiser":
        wanted = ["words->picture", "end->picture"]
    elif "class" in there:
        wanted = ["picture->class", "class->class"]
    elif where.causal and "end" in there and model.family.kind == "contrastive":
        wanted = ["words->end", "end->end"]
    elif where.causal:
        wanted = ["picture->question", "picture->last", "question->last", "last->last"]
    else:
        wanted = ["picture->picture"]
    there |= {"picture"} if not where.queries else set()
    return [edge for edge in wanted if {*edge.split(ARROW)} <= there]


def _edges(given: str | Sequence[str]) -> list[str]:
    """Edges by name, without those that are given twice."""
    some = given.split(",") if isinstance(given, str) else given
    return list(dict.fromkeys(ARROW.join(end.strip() for end in one.split(ARROW)) for one in some if one.strip()))


def _cut(inputs: Inputs, known: Any, where: _Where, name: str, spans: Mapping[str, Span]) -> _Cut:
    """Masks of one edge; MethodError where it is none, or the model hides all of it."""
    ends = [one.strip() for one in name.split(ARROW)]
    if len(ends) != 2 or not all(ends):
        raise MethodError(
            f"'{name}' is no edge", expected="two spans, such as 'picture->last'", exists=", ".join(names(known)),
            do="write what is read, an arrow ->, and what reads it",
        )  # fmt: skip
    source, reader = (spans.get(one, one) for one in ends)
    key = span(inputs, where.keys, source)
    if where.queries:
        query = span(inputs, where.queries, reader)
        seen = seen_by(inputs, known, where.queries, where.causal)
    elif reader in ("picture", "all"):
        query, seen = None, own_of(inputs, known, where.keys)[:, None, :]
    else:
        raise MethodError(
            f"'{ends[1]}' reads no words here", expected="'picture': every patch, at every size of the map",
            do="take the edge to 'picture'; `Knockout(…, query=Where(row=…))` cuts a part of it by hand",
        )  # fmt: skip
    made = _Cut(query, key, seen)
    if not all(made.edges()):
        raise MethodError(
            f"nothing to cut in '{name}': every position of '{ends[0]}' lies behind '{ends[1]}'",
            expected="keys that the queries see, which in a decoder stand before them", exists=", ".join(names(known)),
            do=f"turn it round: '{ends[1]}{ARROW}{ends[0]}'",
        )  # fmt: skip
    return made


# --- what is run ------------------------------------------------------------------------------------------------------


def _measured(
    model: Model, inputs: Inputs, target: Target, where: _Where, cuts: Mapping[str, _Cut],
    groups: Mapping[str, Sequence[int]], draws: int, seed: int, progress: bool,
) -> xarray.Dataset:  # fmt: skip
    """The target of every edge and window, and of as many random edges."""
    found: dict[str, ndarray] = {}
    clean: ndarray = np.empty(0)
    shape = len(cuts), len(groups)
    for which in tracked(range(1 + draws), "cutting edges", show=progress):
        cells = []
        for at, cut in enumerate(cuts.values()):
            query = torch.ones(cut.seen.shape[:2], dtype=torch.bool) if cut.query is None else cut.query
            key = cut.key if not which else as_many(cut.seen, query, cut.key, (seed, which, at))
            cells += [
                [Knockout(f"{where.tower}.{layer}.{where.part}", query=cut.query, key=key, guidance=where.guidance)
                 for layer in some] for some in groups.values()
            ]  # fmt: skip
        swept = model.sweep(inputs, Cells.of(cells), target, progress=False)
        name = "value" if not which else f"random {which}"
        found[name], clean = swept.values.values.reshape(*shape, -1), swept.clean.values
    value = found.pop("value")
    if abs(value - clean).max() <= 1e-9 * max(abs(clean).max(), 1e-30):
        raise MethodError(
            f"no cut moves the target: it is {clean.mean():.3g} with and without",
            expected="a target that what comes out of these layers changes", exists=f"edges {', '.join(cuts)}",
            do="check that it reads the tower that is cut, or name other edges",
        )  # fmt: skip
    chance = np.mean([*found.values()], 0) if found else np.full_like(value, np.nan)
    return _table(value, chance, clean, cuts, list(groups), target.unit, seed)


def _table(
    value: Float[ndarray, "edge layer row"], chance: Float[ndarray, "edge layer row"], clean: Float[ndarray, " row"],
    cuts: Mapping[str, _Cut], layers: list[str], unit: str, seed: int,
) -> xarray.Dataset:  # fmt: skip
    dims = ("edge", "layer")
    counted = np.array([cut.edges() for cut in cuts.values()])
    data = xarray.Dataset(
        {"value": ((*dims, "row"), value), "clean": ("row", clean), "cut": (("edge", "owner"), counted)},
        {"edge": list(cuts), "layer": layers},
    )
    one, change, lost = np.ones_like(clean), value - clean, chance - clean
    in_nats = unit == "nats"

    def shares(moved: ndarray) -> tuple[ndarray, ndarray]:
        return (np.expm1(moved), one) if in_nats else (moved, abs(clean))

    for three, (up, down) in (
        (("change", "low", "high"), (change, one)), (("random", "random_low", "random_high"), (lost, one)),
        (("relative", "relative_low", "relative_high"), shares(change)), (("random_relative",), shares(lost)),
    ):  # fmt: skip
        for name, made in zip(three, _ratio(up, down, seed), strict=False):
            data[name] = (dims, made)
    return data


def _ratio(
    up: Float[ndarray, "edge layer row"], down: Float[ndarray, " row"], seed: int
) -> tuple[ndarray, ndarray, ndarray]:
    """The sum of one over the sum of the other, over rows, and its interval; one row has none."""
    rows, total = len(down), down.sum()
    mean = up.sum(-1) / (total if total > 0 else np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        if rows < 2:
            return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        drawn = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), DRAWS)
        again = (up @ drawn.T) / (down @ drawn.T)
    low, high = np.quantile(np.where(np.isfinite(again), again, np.nan), (0.025, 0.975), axis=-1)
    return mean, low, high
