"""Cells of a sweep: many single interventions, laid out on named axes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import EditError
from cutaway.model.edits import SELECTORS, Edit
from cutaway.model.sites import SiteTable


@dataclass(frozen=True)
class Cells:
    """Interventions on a grid: `edits` in the order of `dims`, the last one fastest; `coords` label each dim.

    An entry of `edits` is one edit, or several that act together. A plain list of edits is a sweep over `cell`.
    """

    edits: tuple[tuple[Edit, ...], ...]
    dims: tuple[str, ...] = ("cell",)
    coords: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()

    @classmethod
    def of(cls, cells: Cells | Iterable[Edit | Sequence[Edit]]) -> Cells:
        """Cells as they are; or one cell for each entry of a list."""
        if isinstance(cells, Cells):
            return cells
        edits = tuple((entry,) if isinstance(entry, Edit) else tuple(entry) for entry in cells)
        names = [" + ".join(map(repr, entry)) for entry in edits]
        return cls(edits, ("cell",), {"cell": names}, (len(edits),))

    def __len__(self) -> int:
        return len(self.edits)

    def __repr__(self) -> str:
        axes = " × ".join(f"{size} {dim}" for dim, size in zip(self.dims, self.sizes, strict=True))
        return f"Cells({len(self)} = {axes})"


def grid(sites: SiteTable, edits: Edit | Sequence[Edit], **axes: Any) -> Cells:
    """One cell for each site of a pattern and each value of each axis (`token=`, `head=`, `query=`, `step=`, …).

    A mask over positions (`inputs.where("text")`, its rows alike) gives one cell for each chosen position. Several
    edits add an axis `edit`.
    """
    unknown = set(axes) - set(SELECTORS)
    if unknown:
        raise EditError(f"no axis of a grid is called '{min(unknown)}'", exists=", ".join(SELECTORS))
    prototypes = [edits] if isinstance(edits, Edit) else list(edits)
    found = [sites[edit.pattern] for edit in prototypes]
    if len({len(some) for some in found}) > 1:
        raise EditError(
            "these edits have patterns of different length", expected="as many sites for each edit",
            exists=", ".join(f"{len(some)} for {edit!r}" for some, edit in zip(found, prototypes, strict=True)),
        )  # fmt: skip
    values = {name: _values(name, given) for name, given in axes.items()}
    cells = [
        (placed(edit, str(site), dict(zip(values, chosen, strict=True))),)
        for edit, some in zip(prototypes, found, strict=True)
        for site, *chosen in product(some, *values.values())
    ]
    first = found[0]
    coords: dict[str, Any] = {"site": [str(site) for site in first]}
    if all(site.layer is not None for site in first):
        coords["layer"] = ("site", [site.layer for site in first])
    coords |= {name: [_label(value) for value in given] for name, given in values.items()}
    dims, sizes = ("site", *values), (len(first), *map(len, values.values()))
    if len(prototypes) > 1:
        coords["edit"] = [repr(edit) for edit in prototypes]
        dims, sizes = ("edit", *dims), (len(prototypes), *sizes)
    return Cells(tuple(cells), dims, coords, sizes)


def placed(edit: Edit, site: str, selectors: Mapping[str, Any]) -> Edit:
    """The same edit at one site, with these selectors."""
    made = copy.copy(edit)
    attention = edit.pattern != str(edit.site)  # a knockout is given by its attention and sits on the scores
    object.__setattr__(made, "site", site.removesuffix(".scores") if attention else site)
    for name, value in selectors.items():
        if getattr(edit, name) is not None:
            raise EditError(f"{edit!r} has its `{name}=` already", do="leave it out of the edit or out of the grid")
        object.__setattr__(made, name, value)
    return made


def aligned(source: Any, positions: Sequence[int]) -> dict[str, Tensor]:
    """The activations of a run moved to other positions: place i takes what the run has at `positions[i]`.

    For patching between prompts of different length: `Patch(site, aligned(run, positions))`.
    """
    found = {}
    for name, tensor in source.activations.items():
        axes = source.sites[name].axes
        if "token" not in axes:
            raise EditError(f"'{name}' has no token axis to align", exists=f"the axes {axes}")
        index = torch.tensor(list(positions), device=tensor.device)
        found[name] = tensor.index_select(axes.index("token"), index)
    return found


def _values(name: str, given: Any) -> list[Any]:
    if isinstance(given, Tensor) and given.dtype == torch.bool:
        rows = given if given.dim() > 1 else given[None]
        if not (rows == rows[:1]).all():
            raise EditError(
                f"the rows choose different positions for `{name}=`", expected="the same positions in every row",
                do="sweep rows of one layout together, or give positions by number",
            )  # fmt: skip
        return list(rows[0].nonzero().flatten().tolist())
    if isinstance(given, Tensor | np.ndarray):
        return list(given.tolist())
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [given]
    return list(given)


def _label(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else repr(value)
