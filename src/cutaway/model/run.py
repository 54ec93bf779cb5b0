"""A run: what came out, and every activation that was asked for, by site and with named axes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import SiteError, near
from cutaway.model.inputs import Inputs
from cutaway.model.own import Kept
from cutaway.model.sites import Site

if TYPE_CHECKING:
    import xarray


SHOWN = 12  # sites that a printed run lists


@dataclass(frozen=True, repr=False)
class Run:
    """The outcome of `model.run`: `outputs` as the library returns them (None after a stop), activations by site.

    `part`: by site and axis, what was kept of it, where `tokens=` or `heads=` asked for less than all. `guidance`: by
    site, the names of its guidance rows in order.
    It pickles without the model it came from: targets that name a word then need its number.
    """

    outputs: Any
    inputs: Inputs
    sites: Mapping[str, Site] = field(default_factory=dict)
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    edits: tuple[str, ...] = ()
    context: Any = None
    part: Mapping[str, Mapping[str, Kept]] = field(default_factory=dict)
    guidance: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __getitem__(self, site: str | Site) -> Float[Tensor, "..."]:
        """The activation at one site, its dimensions in the order of `run.sites[site].axes`."""
        if str(site) not in self.activations:
            raise SiteError(
                f"'{site}' was not recorded in this run", exists=near(str(site), self.activations),
                do="add it to `record=`",
            )  # fmt: skip
        return self.activations[str(site)]

    def __contains__(self, site: object) -> bool:
        return str(site) in self.activations

    def __iter__(self) -> Iterator[str]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "context": None}

    def __repr__(self) -> str:
        shown = [
            f"  {name}: {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for name, x in self.activations.items()
        ]
        more = [f"  … and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
        edits = f"; edits {', '.join(self.edits)}" if self.edits else ""
        return "\n".join([f"Run({type(self.outputs).__name__}; {len(self)} sites{edits})", *shown[:SHOWN], *more])

    def matching(self, pattern: str) -> dict[str, Tensor]:
        """The recorded activations of every site that matches a name or shell-style pattern."""
        found = {n: t for n, t in self.activations.items() if n == pattern or fnmatch.fnmatchcase(n, pattern)}
        return found or {pattern: self[pattern]}

    def stack(self, pattern: str) -> Float[Tensor, "layer *axes"]:
        """The recorded activations of a pattern such as `vision.*.resid_post` along a first axis, layers in order."""
        found = self.matching(pattern)
        shapes = {tuple(tensor.shape) for tensor in found.values()}
        if len(shapes) > 1:
            raise SiteError(
                f"'{pattern}' has several shapes", exists=", ".join(map(str, shapes)), do="name fewer sites"
            )
        device = next(iter(found.values())).device
        return torch.stack([tensor.to(device) for tensor in found.values()])

    def labelled(self, site: str | Site) -> xarray.DataArray:
        """The activation with its axes named and its positions labelled, as an `xarray.DataArray`.

        Rows with other words have labels of their own: `token_text` is then over (batch, token). Rows of a drawing have
        the `prompt` of each, and which `picture` of it this is.
        """
        import xarray

        tensor, name = self[site].detach().cpu(), str(site)
        axes = self.sites[name].axes
        if len(axes) != tensor.dim():
            axes = tuple(f"dim{i}" for i in range(tensor.dim()))
        data = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        labels: dict[str, Any] = {}
        for axis in ("token", "query", "key"):
            if axis in axes and self.inputs.tokens:
                kept = self.part.get(name, {}).get(axis)
                size = tensor.shape[axes.index(axis)] if kept is None else kept.of
                try:
                    known = self.inputs.map_for(self.sites[name], axis, size)
                except LookupError:
                    continue
                if len(known) == size:
                    for word in ("kind", "text"):
                        rows = getattr(known, word).astype(str)
                        if "batch" in axes and 1 < len(rows) < tensor.shape[axes.index("batch")]:
                            rows = rows.repeat(tensor.shape[axes.index("batch")] // len(rows), 0)  # copies
                        if kept is not None:
                            rows = np.take_along_axis(rows, np.atleast_2d(kept.places.numpy()), 1)
                        alike = (rows == rows[:1]).all() or "batch" not in axes
                        labels[f"{axis}_{word}"] = (axis, rows[0]) if alike else (("batch", axis), rows)
        if "guidance" in axes:
            names = self.guidance.get(name, ())
            if len(names) == tensor.shape[axes.index("guidance")] and all(names):
                labels["guidance"] = list(names)
        if "batch" in axes:
            named = self.inputs.named(tensor.shape[axes.index("batch")])
            labels |= {word: ("batch", rows) for word, rows in named.items()}
        return xarray.DataArray(data.numpy(), dims=axes, coords=labels, name=name)

    @property
    def logits(self) -> Float[Tensor, "batch *axes"]:
        """The logits of the output, whatever the library calls them."""
        for name in ("logits", "logits_per_image"):
            if getattr(self.outputs, name, None) is not None:
                return getattr(self.outputs, name)
        raise SiteError(
            f"this run has no logits; its output is {type(self.outputs).__name__}", do="choose another target"
        )


@dataclass(frozen=True)
class Generation:
    """What `model.generate` wrote: token ids (prompt included where the library includes it) and the new text.

    `inputs` is what was written on from: padding moved in front, so that every row ends where its new text begins.
    `mask` is 0 where `ids` are padding. `outputs` is what the library returned, with all that its options ask for.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> made = model.generate(model.inputs(text=["a red dog", "a dog"]), max_new_tokens=3)
    >>> again = model.inputs(input_ids=made.ids, attention_mask=made.mask)
    """

    ids: Int[Tensor, "row token"]
    texts: tuple[str, ...]
    inputs: Inputs
    mask: Int[Tensor, "row token"] = field(repr=False)
    outputs: Any = field(default=None, repr=False)
