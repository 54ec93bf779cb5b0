"""Attention rollout: where the words that reach a patch through all layers of joint attention come from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.cross_attention import WordMaps
from cutaway.methods.cross_attention.maps import Sides, folded, looking, read_by, rows_of, sides
from cutaway.methods.cross_attention.spoken import Word, sums
from cutaway.methods.result import Provenance, drawn
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.session import Reading
from cutaway.model.sites import Site
from cutaway.model.steps import drawn_steps
from cutaway.questions.rows import tracked

METHOD = "attention_rollout"
SOURCE = "Abnar and Zuidema 2020, arXiv 2005.00928 (attention rollout)"
AXES = ("step", "layer")


def attention_rollout(
    model: Model, inputs: Inputs, *, apart: Sequence[str] = ("step", "layer"), guidance: str = "cond",
    progress: bool = True,
) -> WordMaps:  # fmt: skip
    """How much of each patch comes from each word of its prompt through all layers of joint attention, if added up.

    R_l = (mean over heads A_l + I) / 2 · R_{l-1}, R_{-1} = I, over patches and words together; the map of a word is
    the mean over steps of its columns of R, added up, at the rows of patches. `layer` l, where it is kept apart, is the
    rollout up to that layer; without it the last one. In plain maps a patch looks at what stands where a word stood;
    here it counts that this has looked at other words, and at patches, in the layers before.

    Units: shares, 0 to 1, that add up to 1 over words, other positions and patches. Source: Abnar and Zuidema 2020,
    2005.00928, section 3. MethodError for a UNet: the words that its cross-attention reads are the same in all layers,
    none is changed by what it looks at, so that a product would add nothing to `cross_attention`.

    What it can NOT tell: what flows. Values, the norms of what is added, gates and MLPs do not count, half of every
    state is taken to stay, and the product makes maps of many layers alike. It is no edit: `hide_words` makes these.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd3")
    >>> found = attention_rollout(model, model.inputs(prompt="a red dog", seed=0, steps=2), progress=False)
    >>> found.words()[:3], found["attention"].sizes["layer"], found.heat("red dog").shape
    (['a', 'red', 'dog'], 2, (8, 8))
    """
    started = time.perf_counter()
    odd = [one for one in apart if one not in AXES]
    if odd:
        raise MethodError(f"'{odd[0]}' cannot be kept apart", expected="some of " + ", ".join(AXES))
    sites = looking(model)
    if any(site.part == "cross.pattern" for site in sites):
        raise MethodError(
            f"the attention of '{model.name}' cannot be rolled out: words are the same in all layers, so a product "
            "of layers adds nothing to their maps",
            expected="joint attention (SD3, Flux)", do="`cross_attention` has its maps",
        )  # fmt: skip
    rolled = _Rolled(read_by(model, inputs, guidance), "step" in apart, "layer" in apart, sites)
    bar = tracked(range(drawn_steps(model.module, inputs) * len(sites)), "drawing", show=progress)

    def add(reading: Reading) -> None:
        next(bar, None)
        rolled.add(reading)

    outputs = model.run(inputs, record=sites, into=add, guidance=guidance).outputs
    data = rolled.data()
    data = data.assign(drawn(outputs))
    return WordMaps(
        data,
        Provenance.of(
            METHOD, SOURCE, started=started, model=model, sites=tuple(map(str, sites)), apart=list(apart),
            guidance=guidance, prompt=inputs.tensors.get("prompt"),
        ),
    )  # fmt: skip


@dataclass
class _Rolled:
    """The product so far within a step, and the sums of what it gave."""

    inputs: Inputs
    by_step: bool
    by_layer: bool
    sites: list[Site]
    product: Tensor | None = None
    total: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    calls: dict[tuple[int, int], int] = field(default_factory=dict)
    spoken: list[list[Word]] = field(default_factory=list)
    positions: int = 1

    def add(self, reading: Reading) -> None:
        """One call of one layer; layers come in their order."""
        at = self.sites.index(reading.site)
        pattern = reading.value[0]
        seen = sides(self.inputs, reading.site, pattern)
        self.positions = pattern.shape[-1]
        self.spoken = self.spoken or rows_of(seen.said, len(pattern))
        self.product = rolled(pattern, None if at == 0 else self.product)
        if at < len(self.sites) - 1 and not self.by_layer:
            return
        key = (reading.step if self.by_step else 0, at if self.by_layer else 0)
        made = self._maps(self.product, seen)
        before = self.total.get(key, (torch.zeros(()), torch.zeros(())))
        self.total[key] = (before[0] + made[0], before[1] + made[1])
        self.calls[key] = self.calls.get(key, 0) + 1

    def _maps(self, product: Float[Tensor, "picture query key"], seen: Sides) -> tuple[Tensor, Tensor]:
        maps = folded(product[:, None], seen, sums(self.spoken, self.positions).to(product))[:, :, 0].cpu()
        return maps, 1 - maps.flatten(2).sum(1).mean(-1)

    def _mean(self, step: int, layer: int) -> tuple[Tensor, Tensor]:
        maps, elsewhere = self.total[step, layer]
        return maps / self.calls[step, layer], elsewhere / self.calls[step, layer]

    def data(self) -> xarray.Dataset:
        """The means over calls, with the axes that are kept apart."""
        steps, layers = (sorted({key[axis] for key in self.total}) for axis in (0, 1))
        grids = [
            torch.stack([torch.stack([self._mean(step, layer)[which] for layer in layers]) for step in steps])
            for which in (0, 1)
        ]
        attention = xarray.DataArray(grids[0].numpy(), dims=["step", "layer", "picture", "place", "row", "col"])
        elsewhere = xarray.DataArray(grids[1].numpy(), dims=["step", "layer", "picture"])
        kept = {"step": (self.by_step, steps), "layer": (self.by_layer, [int(one.layer or 0) for one in self.sites])}
        for axis, (apart, _) in kept.items():
            if not apart:
                attention, elsewhere = attention.isel({axis: 0}), elsewhere.isel({axis: 0})
        order = ["picture", "place", *(axis for axis, (apart, _) in kept.items() if apart), "row", "col"]
        places = max(map(len, self.spoken))
        named = [[word.text for word in row] + [""] * (places - len(row)) for row in self.spoken]
        return xarray.Dataset(
            {
                "attention": attention.transpose(*order), "elsewhere": elsewhere.transpose("picture", ...),
                "even": 1 / self.positions,
            },
            {
                **{axis: values for axis, (apart, values) in kept.items() if apart},
                "word": (("picture", "place"), np.array(named)),
            },
        )  # fmt: skip


def rolled(
    pattern: Float[Tensor, "picture head query key"], before: Float[Tensor, "picture query key"] | None
) -> Float[Tensor, "picture query key"]:
    """One layer more: (mean over heads A + I) / 2 times the product of the layers before it."""
    mean = pattern.mean(1, dtype=torch.promote_types(pattern.dtype, torch.float32))
    one = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
    return one if before is None else one @ before
