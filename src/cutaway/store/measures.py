"""What is in a store, in numbers: how long its rows are, their mean and their spread, by kind or by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.errors import StoreError
from cutaway.model.sites import Site

if TYPE_CHECKING:
    import pandas

    from cutaway.store.stored import Index, Store


@dataclass
class Spread:
    """Rows seen so far: how many, their mean, their summed squared distance from it, their lengths.

    Two are joined after Chan, Golub and LeVeque 1983 (The American Statistician 37): a large mean costs no digits.

    >>> rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    >>> one = Spread().add(rows[:1]).add(rows[1:])
    >>> one.norm, one.mean_norm, one.spread
    (2.5, 2.5, 2.5)
    """

    rows: int = 0
    length: float = 0.0
    largest: float = 0.0
    around: float = 0.0
    mean: Float[Tensor, "d"] | None = None

    def add(self, rows: Float[Tensor, "row d"]) -> Spread:
        """Take in rows."""
        if not len(rows):
            return self
        taken = rows.double()
        lengths, mean = taken.norm(dim=1), taken.mean(0)
        far = float(((taken - mean) ** 2).sum())
        return self.merge(Spread(len(taken), float(lengths.sum()), float(lengths.max()), far, mean))

    def merge(self, other: Spread) -> Spread:
        """Take in what another one has seen."""
        if other.mean is None:
            return self
        mean, total = other.mean, self.rows + other.rows
        self.length, self.largest = self.length + other.length, max(self.largest, other.largest)
        self.around += other.around
        if self.mean is not None:
            gap = mean.to(self.mean) - self.mean
            self.around += float(gap @ gap) * self.rows * other.rows / total
            mean = self.mean + gap * (other.rows / total)
        self.mean, self.rows = mean, total
        return self

    @property
    def norm(self) -> float:
        """The mean length of a row."""
        return self.length / self.rows

    @property
    def mean_norm(self) -> float:
        """The length of the mean row."""
        return float("nan") if self.mean is None else float(self.mean.norm())

    @property
    def spread(self) -> float:
        """Root mean squared distance of a row from the mean."""
        return float(np.sqrt(self.around / self.rows))


def measured(
    store: Store, sites: str | Site | Sequence[str | Site] = "*", *, by: str = "kind", batch: int = 4096
) -> pandas.DataFrame:  # fmt: skip
    """Length, mean and spread of the rows of each site, by a column of the index; the store is read once.

    `norm` is the mean of |x|, `largest` the largest |x|, `mean` the length of the mean row |m|, `spread` the root of
    the mean |x - m|^2. Units: those of the activations. A mean near the norm says that rows hold much in common.

    What it can NOT tell: which directions the rows differ in, nor what they stand for.

    >>> import cutaway, tempfile
    >>> from cutaway.store.harvesting import harvest
    >>> model, folder = cutaway.load("tiny:clip"), tempfile.mkdtemp()
    >>> store = harvest(model, ["a red dog", "a cat"], "text.1.resid_post", folder, progress=False)
    >>> list(measured(store)[["kind", "rows"]].itertuples(index=False, name=None))
    [('bos', 2), ('eos', 2), ('text', 5)]
    """
    import pandas

    found: list[dict[str, object]] = []
    for table, inside in store.tables.items():
        chosen = [site for site in store.select(sites) if site in inside]
        if not chosen:
            continue
        seen: dict[tuple[str, object], Spread] = {}
        for part in store.rows(chosen, batch=batch):
            names = part.index[by]
            values, which = np.unique(names.astype(str) if names.dtype == object else names, return_inverse=True)
            for number, value in enumerate(values.tolist()):
                at = torch.from_numpy(np.flatnonzero(which == number))
                for site in chosen:
                    seen.setdefault((site, value), Spread()).add(part[site][at].flatten(1))
        for site in chosen:
            mine = sorted((one for one in seen if one[0] == site), key=_sortable)
            found += [_row(table, by, key, seen[key]) for key in mine]
    return pandas.DataFrame(found)


def _sortable(key: tuple[str, object]) -> tuple[float, str]:
    return (float(key[1]), "") if isinstance(key[1], int | float) else (0.0, str(key[1]))


def _row(table: str, by: str, key: tuple[str, object], of: Spread) -> dict[str, object]:
    return {
        "table": table, "site": key[0], by: key[1], "rows": of.rows, "norm": of.norm, "largest": of.largest,
        "mean": of.mean_norm, "spread": of.spread,
    }  # fmt: skip


def by_patch(store: Store, site: str | Site, *, batch: int = 4096) -> Float[ndarray, "row col"]:
    """The mean length of the rows at each place of the patch grid; NaN where there is none. Units: the activations'."""
    total: dict[tuple[int, int], list[float]] = {}
    for part in store.rows(site, batch=batch):
        lengths = part.x.flatten(1).double().norm(dim=1).numpy()
        rows, cols = part.index["row"], part.index["col"]
        for row, col in {(int(r), int(c)) for r, c in zip(rows, cols, strict=True) if r >= 0 and c >= 0}:
            here = lengths[(rows == row) & (cols == col)]
            sums = total.setdefault((row, col), [0.0, 0.0])
            sums[0] += float(here.sum())
            sums[1] += len(here)
    if not total:
        raise StoreError(
            f"the rows of '{site}' lie on no patch grid", expected="a site of a tower that sees pictures",
            exists=", ".join(store.tables), do="measure them by kind: `measured`",
        )  # fmt: skip
    grid = np.full((max(row for row, _ in total) + 1, max(col for _, col in total) + 1), np.nan)
    for (row, col), (length, count) in total.items():
        grid[row, col] = length / count
    return grid


def means(store: Store, sites: Sequence[str], **where: Any) -> dict[str, Float[Tensor, "1 position *shape"]]:
    """The mean of each site over all items, position by position: what a mean ablation puts in its place.

    m_p = sum_i x_ip / n_p over the n_p items that have a position p; sums in float64, the mean in the dtype of the
    store. `where` as in `Index.where`. Constant memory: one mean a site. Units: those of the activations.
    Raises StoreError for sites whose rows are no tokens, and for a drawing unless one step and guidance row is named.

    What it can NOT tell: where items differ in length, a position is a number from the start of an item's own text, and
    the last ones are means over few.

    >>> import cutaway, tempfile
    >>> model = cutaway.load("tiny:clip")
    >>> folder = tempfile.mkdtemp()
    >>> kept = cutaway.store.harvest(model, ["a red dog", "a cat"], "text.1.mlp.out", folder, progress=False)
    >>> tuple(kept.means("text.1.mlp.out")["text.1.mlp.out"].shape)
    (1, 5, 32)
    """
    found = {}
    for site in sites:
        if "token" not in store.spec.kept[site].axes:
            raise StoreError(
                f"the rows of '{site}' are no tokens", expected="a site with one vector a token",
                exists=", ".join(store.spec.kept[site].axes), do="leave it out",
            )  # fmt: skip
        total, count = torch.zeros(0, *store.shape(site), dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        for batch in store.rows(site, **where):
            at = torch.from_numpy(np.asarray(batch.index["position"], np.int64))
            _check_single(batch.index, site)
            more = max(0, int(at.max()) + 1 - len(count))
            total, count = (torch.cat([x, x.new_zeros(more, *x.shape[1:])]) for x in (total, count))
            total.index_add_(0, at, batch.x.double())
            count.index_add_(0, at, torch.ones(len(at), dtype=torch.float64))
        if not len(count) or bool((count == 0).any()):
            raise StoreError(
                f"'{site}' has no mean at some positions", expected="rows of every position", do="harvest whole rows"
            )
        mean = total / count.view(-1, *(1,) * (total.dim() - 1))
        found[site] = mean.to(getattr(torch, store.spec.kept[site].dtype))[None]
    return found


def _check_single(index: Index, site: str) -> None:
    """Refuse rows of several steps or guidance rows: a mean over them is a mean of different things."""
    for name in ("step", "guidance"):
        values = set(index[name].tolist()) if name in index.columns else set()
        if len(values) > 1:
            raise StoreError(
                f"'{site}' has rows of several values of {name}", expected="one of them",
                exists=", ".join(map(str, sorted(values)[:5])), do=f"name it: `{name}=…`",
            )  # fmt: skip
