"""Features of many rows as entries, all of them or those that are on, and the sums over them that training takes.

Both kinds answer the same five questions, so that a loss is written once. Entries of `Sparse` lie in the order of the
rows; a product over them costs as many row additions as there are entries, which below about a tenth of all is less
than the dense product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

DENSE = 0.1  # the share of entries from which on dense products are quicker
Values = Float[Tensor, "..."]
Back = Callable[[Tensor], Tensor]


@runtime_checkable
class Code(Protocol):
    """Entries of a rows × features matrix, and products with it; `b` blocks of features are kept apart."""

    def take(self, x: Float[Tensor, "n m"]) -> Values:
        """The entries of a matrix of this size."""

    def spread(self, x: Float[Tensor, "m"]) -> Values:
        """A number a feature, at the entries (or as it broadcasts over them)."""

    def decode(self, values: Values, rows: Float[Tensor, "m d"]) -> tuple[Float[Tensor, "n b d"], Back]:
        """Σ_j v_nj W_j over each block of features; and from d loss / d that to d loss / d values."""

    def push(self, values: Values, g: Float[Tensor, "n b d"]) -> Float[Tensor, "m d"]:
        """Σ_n v_nj g_n, of the block of j."""

    def push_rows(self, values: Values, x: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """Σ_n v_nj x_n."""

    def total(self, values: Values) -> Float[Tensor, "m"]:
        """Σ_n v_nj."""

    def count(self, on: Bool[Tensor, "..."]) -> Int[Tensor, "m"]:
        """In how many rows each feature is on."""

    def by_step(self, values: Values, step: Int[Tensor, "n"], steps: int) -> Float[Tensor, "step m"]:
        """Σ v_nj over the rows of each step."""


class Dense:
    """Every entry; those that are off hold zero."""

    def __init__(self, edges: tuple[int, ...]) -> None:
        self.spans = [slice(low, high) for low, high in zip((0, *edges), edges, strict=False)]

    def take(self, x: Float[Tensor, "n m"]) -> Values:
        """The matrix itself."""
        return x

    def spread(self, x: Float[Tensor, "m"]) -> Values:
        """As it is: it broadcasts."""
        return x

    def decode(self, values: Values, rows: Float[Tensor, "m d"]) -> tuple[Float[Tensor, "n b d"], Back]:
        """A product a block."""
        made = torch.stack([values[:, span] @ rows[span] for span in self.spans], 1)
        return made, lambda g: _joined([g[:, b] @ rows[span].T for b, span in enumerate(self.spans)], 1)

    def push(self, values: Values, g: Float[Tensor, "n b d"]) -> Float[Tensor, "m d"]:
        """A product a block."""
        return _joined([values[:, span].T @ g[:, b] for b, span in enumerate(self.spans)], 0)

    def push_rows(self, values: Values, x: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """One product."""
        return values.T @ x

    def total(self, values: Values) -> Float[Tensor, "m"]:
        """Down the rows."""
        return values.sum(0)

    def count(self, on: Bool[Tensor, "n m"]) -> Int[Tensor, "m"]:
        """Down the rows."""
        return on.sum(0, dtype=torch.int32).long()

    def by_step(self, values: Values, step: Int[Tensor, "n"], steps: int) -> Float[Tensor, "step m"]:
        """Down the rows of each step."""
        return values.new_zeros(steps, values.shape[1]).index_add_(0, step, values)


class Sparse:
    """Some entries: `row` and `column` of each, rows in order and, where there are blocks, columns within them."""

    def __init__(
        self, row: Int[Tensor, "e"], column: Int[Tensor, "e"], size: tuple[int, int], edges: tuple[int, ...]
    ) -> None:
        self.row, self.column, (self.rows, self.width), self.blocks = row, column, size, len(edges)
        self.bag = row
        if self.blocks > 1:
            ends = torch.tensor(edges, device=row.device)
            self.bag = row * self.blocks + torch.bucketize(column, ends, right=True)
        self.first = _starts(self.bag, self.rows * self.blocks)

    @cached_property
    def _turned(self) -> tuple[Tensor, Tensor]:
        """The entries in the order of their features, and where each feature begins."""
        return self.column.argsort(stable=True), _starts(self.column, self.width)

    def take(self, x: Float[Tensor, "n m"]) -> Values:
        """The entries of a matrix."""
        return x[self.row, self.column]

    def spread(self, x: Float[Tensor, "m"]) -> Values:
        """That of each entry's feature."""
        return x[self.column]

    def decode(self, values: Values, rows: Float[Tensor, "m d"]) -> tuple[Float[Tensor, "n b d"], Back]:
        """Rows of the decoder, weighed and added up."""
        with torch.enable_grad():
            leaf = values.detach().requires_grad_()
            made = embedding_bag(self.column, rows.detach(), self.first, per_sample_weights=leaf, mode="sum")
        size = (self.rows, self.blocks, rows.shape[1])
        return made.detach().view(size), lambda g: torch.autograd.grad(made, leaf, g.reshape(made.shape))[0]

    def push(self, values: Values, g: Float[Tensor, "n b d"]) -> Float[Tensor, "m d"]:
        """Gradients of rows, weighed and added up by feature."""
        return self._pushed(values, g.reshape(-1, g.shape[-1]), self.bag)

    def push_rows(self, values: Values, x: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """Rows, weighed and added up by feature."""
        return self._pushed(values, x, self.row)

    def _pushed(self, values: Values, rows: Float[Tensor, "r d"], owner: Int[Tensor, "e"]) -> Float[Tensor, "m d"]:
        order, first = self._turned
        return embedding_bag(owner[order], rows, first, per_sample_weights=values[order], mode="sum")

    def total(self, values: Values) -> Float[Tensor, "m"]:
        """By feature."""
        return values.new_zeros(self.width).index_add_(0, self.column, values)

    def count(self, on: Bool[Tensor, "e"]) -> Int[Tensor, "m"]:
        """By feature."""
        return torch.bincount(self.column[on], minlength=self.width)

    def by_step(self, values: Values, step: Int[Tensor, "n"], steps: int) -> Float[Tensor, "step m"]:
        """By step and feature."""
        place = step[self.row] * self.width + self.column
        return values.new_zeros(steps * self.width).index_add_(0, place, values).view(steps, self.width)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """One behind the other, without a copy of a single one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _starts(owner: Int[Tensor, "e"], count: int) -> Int[Tensor, "count"]:
    """Where the entries of each owner begin, in entries that are in the order of their owners."""
    sizes = torch.bincount(owner, minlength=count)
    return sizes.cumsum(0) - sizes


def of_mask(met: Bool[Tensor, "n m"], edges: tuple[int, ...]) -> Code:
    """The entries where a mask holds; all of them where that is quicker."""
    if int(met.count_nonzero()) > DENSE * met.numel():
        return Dense(edges)
    row, column = met.nonzero(as_tuple=True)
    return Sparse(row, column, (met.shape[0], met.shape[1]), edges)


def of_top(u: Float[Tensor, "n m"], k: int, edges: tuple[int, ...]) -> Code:
    """The k largest entries of each row."""
    column = u.topk(k, sorted=False).indices
    column = column.sort(1).values if len(edges) > 1 else column
    row = torch.arange(len(u), device=u.device).repeat_interleave(k)
    return Sparse(row, column.flatten(), (u.shape[0], u.shape[1]), edges)


def of_best(u: Float[Tensor, "n m"], count: int, edges: tuple[int, ...]) -> Code:
    """The `count` largest positive entries of all, fewer where fewer are positive.

    A sample says above which number they will be found, so that the search goes over few.
    """
    flat, seen = u.view(-1), min(u.numel(), 2**16)
    sample = flat[:: max(1, u.numel() // seen) | 1]
    rank = min(len(sample), int(1.3 * count * len(sample) / u.numel()) + 32)
    low = max(0.0, float(sample.topk(rank, sorted=False).values.min()))
    found = flat > low
    if low and int(found.count_nonzero()) < count:
        found = flat > 0
    place = found.nonzero().squeeze(1)
    if len(place) > count:
        place = place[flat[place].topk(count, sorted=False).indices.sort().values]
    return Sparse(place // u.shape[1], place % u.shape[1], (u.shape[0], u.shape[1]), edges)
