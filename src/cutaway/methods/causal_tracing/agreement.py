"""How far several orders of the same edges agree: other pairs, other seeds, other ways to score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pandas
import xarray
from matplotlib.axes import Axes

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.edges import EdgeAttribution
from cutaway.methods.result import Provenance, Result

METHOD = "agreement"
SOURCE = "Spearman 1904, The American Journal of Psychology 15; Jaccard 1912, New Phytologist 11"
TOPS = (20, 50, 100, 200)


@dataclass(frozen=True, eq=False, repr=False)
class Agreement(Result):
    """How alike orders are, each with each: `rank` (one, other) over all edges, `shared` (top, one, other) of the best.

    `rank` is Spearman's correlation of the sizes of scores, `shared` the Jaccard index of the `top` edges, and `chance`
    (top) what that is for two orders by chance, in expectation to first order: k / (2 n - k). `edges`: n, those that
    all orders have.
    """

    main: ClassVar[str] = "rank"

    def summary(self) -> Any:
        """Every two orders, with how many of their best edges they share."""
        names = [str(name) for name in self["one"].values]
        rows = []
        for at, one in enumerate(names):
            for to in range(at + 1, len(names)):
                shared = self["shared"].values[:, at, to]
                told = {f"shared of {k}": value for k, value in zip(self["top"].values, shared, strict=True)}
                rows.append({"one": one, "other": names[to], "rank": float(self["rank"][at, to]), **told})
        return pandas.DataFrame(rows)

    def note(self) -> str:
        """The least that two orders agree."""
        apart = self["rank"].values[~np.eye(self.data.sizes["one"], dtype=bool)]
        first = int(self["top"][0])
        return (
            f"Over {int(self['edges'])} edges the ranks of two orders correlate by {apart.min():.2f} at least; two by "
            f"chance would share {float(self['chance'][0]):.3f} of their best {first}."
        )

    def _draw(self, ax: Axes) -> None:
        names = [str(name) for name in self["one"].values]
        for at, to in product(range(len(names)), repeat=2):
            if at < to:
                ax.plot(self["top"], self["shared"][:, at, to], marker="o", label=f"{names[at]}, {names[to]}")
        ax.plot(self["top"], self["chance"], linestyle=":", color="gray", label="by chance")
        ax.set(xlabel="best edges", ylabel="shared (Jaccard)", ylim=(0, 1))
        ax.legend(fontsize=8)


def agreement(orders: Sequence[EdgeAttribution], names: Sequence[str] = (), top: Sequence[int] = TOPS) -> Agreement:
    """How far several orders of edges agree: of other pairs or seeds (is it stable), or exact (is an estimate right).

    rank(a, b) = the Pearson correlation of the ranks of |score|; shared_k(a, b) = |A_k and B_k| / |A_k or B_k| of the k
    edges of largest |score|. Edges that not all orders have are left out, so orders of a question asked by picture and
    in words are compared in the decoder. `names`: what orders are called; their number unless given. `top`: k, as many
    as there are edges at most.

    Units: none. Source: Spearman 1904; Jaccard 1912.
    Raises MethodError for fewer than two orders, no edge in common, and for as many names as there are not.

    What it can NOT tell: whether two circuits do the same: copies may stand in for one another, and a rank over all
    edges is mostly that of edges that carry nothing.

    >>> import cutaway
    >>> from cutaway.methods import edge_attribution
    >>> from cutaway.model.targets import logit_diff
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> pair = ["a red dog"], ["a cat dog"], logit_diff("dog", "cat")
    >>> orders = [edge_attribution(model, *pair, how=how, progress=False) for how in ("eap-ig", "exact")]
    >>> agreement(orders, ["eap-ig", "exact"], top=(10,)).summary().columns.tolist()
    ['one', 'other', 'rank', 'shared of 10']
    """
    started = time.perf_counter()
    called = [str(name) for name in names] or [str(at) for at in range(len(orders))]
    if len(orders) < 2 or len(called) != len(orders) or not top or min(top) < 1:
        raise MethodError(
            f"{len(orders)} orders, {len(called)} names, best {tuple(top)}",
            expected="two orders at least, a name each, numbers of edges from 1 on", do="leave out `names` and `top`",
        )  # fmt: skip
    tables = [one["score"].to_series().dropna().abs() for one in orders]
    common = tables[0].index
    for table in tables[1:]:
        common = common.intersection(table.index, sort=False)
    if not len(common):
        raise MethodError(
            "these orders have no edge in common", expected="orders of one model, over the same towers",
            exists=", ".join(f"{int(one['score'].count())} edges of {one.provenance.model}" for one in orders),
            do="score the edges of the same model",
        )  # fmt: skip
    sizes = pandas.DataFrame({at: table[common] for at, table in enumerate(tables)})
    best = [sizes[at].sort_values(ascending=False, kind="stable").index for at in sizes]
    counts = sorted({min(k, len(common)) for k in top})
    shared = np.array([[[_jaccard(one[:k], other[:k]) for other in best] for one in best] for k in counts])
    data = xarray.Dataset(
        {
            "rank": (("one", "other"), sizes.rank().corr().to_numpy()),
            "shared": (("top", "one", "other"), shared),
            "chance": ("top", [k / (2 * len(common) - k) for k in counts]), "edges": len(common),
        },
        coords={"one": called, "other": called, "top": counts},
    )  # fmt: skip
    told = Provenance.of(METHOD, SOURCE, started=started, orders=[repr(one) for one in orders])
    return Agreement(data, told)


def _jaccard(one: pandas.Index, other: pandas.Index) -> float:
    return len(one.intersection(other)) / len(one.union(other))
