"""How much each patch of a drawing attends to each word of its prompt: by step, layer and head."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.maps import Sides, as_maps, looking, read_by, rows_of, sides, to_words, up
from cutaway.methods.cross_attention.spoken import Word, phrase, sums
from cutaway.methods.result import Provenance, Result, drawn
from cutaway.model.forming import Forming
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.session import Reading
from cutaway.model.sites import Site
from cutaway.model.steps import drawn_steps
from cutaway.questions.rows import tracked

SOURCE = "Tang et al. 2022, arXiv 2210.04885 (DAAM); Hertz et al. 2022, arXiv 2208.01626 (maps by word)"
AXES = ("step", "layer", "head")
LARGEST = 2**27  # numbers that a result may have


@dataclass(frozen=True, eq=False, repr=False)
class WordMaps(Result):
    """The share of its attention that each patch gives to each word of its prompt; in [0, 1].

    `attention` (picture, place, … , row, col), over as many of `step`, `layer`, `head` as were kept apart; `elsewhere`
    (picture, …) the mean share that goes to no word (begin, end, padding; with joint attention also the picture);
    `even` what a word of one token would get if all positions got the same.
    `word` (picture, place) names the words of each prompt, "" behind its last; `drawn` (picture, y, x, channel) is what
    was drawn, in 0 … 255; `forming` (step, y, x, channel) what the first drawing would have become had it ended at a
    step, where steps are kept apart and the scheduler says how.
    """

    main: ClassVar[str] = "attention"

    def words(self, picture: int = 0) -> list[str]:
        """The words of a prompt in order."""
        return [str(word) for word in self["word"].values[picture] if word]

    def heat(self, word: str, picture: int = 0) -> xarray.DataArray:
        """The map of a word (row, col), the mean over what was kept apart; of a word said twice, both added."""
        places = phrase(self.words(picture), word)
        maps = self["attention"].isel(picture=picture, place=places).sum("place")
        return maps.mean([axis for axis in AXES if axis in maps.dims])

    def summary(self) -> Any:
        """Each word of the first prompt: its mean share, the largest share of a patch, and where that lies."""
        import pandas

        rows = []
        for at, word in enumerate(self.words()):
            here = self["attention"].isel(picture=0, place=at)
            here = here.mean([axis for axis in AXES if axis in here.dims]).values
            row, col = np.unravel_index(here.argmax(), here.shape)
            rows.append((word, here.mean(), here.max(), int(row), int(col)))
        rows.append(("(no word)", float(self["elsewhere"].isel(picture=0).mean()), np.nan, -1, -1))
        return pandas.DataFrame(rows, columns=["word", "share", "largest", "row", "col"])

    def _draw(self, ax: Axes) -> None:
        """The maps of the words of the first prompt side by side, each from 0 to its own largest."""
        maps = self["attention"].isel(picture=0)
        maps = maps.mean([axis for axis in AXES if axis in maps.dims]).values[: len(self.words())]
        maps = maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-12)
        gap = np.full((*maps.shape[:2], 1), np.nan)
        ax.imshow(np.concatenate([part for one in zip(maps, gap, strict=True) for part in one], 1), cmap="magma")
        wide = maps.shape[2] + 1
        ax.set_xticks([wide * at + (wide - 2) / 2 for at in range(len(maps))], self.words(), rotation=45, ha="right")
        ax.set_yticks([])
        ax.set_title("attention to each word, from 0 to its largest")


def cross_attention(
    model: Model, inputs: Inputs, *, apart: Sequence[str] = ("step", "layer"), guidance: str = "cond",
    progress: bool = True,
) -> WordMaps:  # fmt: skip
    """How much each patch of a drawing attends to each word of its prompt.

    D_w(x) = mean over steps t, layers l and heads h of up(A^{t,l,h}(x, w)), A = softmax(q kᵀ / √d) over all that a
    patch may attend to, a word of several tokens being their sum; `up` brings the grids of all layers to the finest by
    bilinear interpolation. What is named in `apart` is not averaged over. Each call is added up as it comes, so that
    memory does not grow with the number of steps unless these are kept apart. With joint attention (SD3, Flux) it is
    the part of the pattern from patches to text. Two calls of a step (Heun) count as two.

    Units: shares of attention, 0 to 1. Source: Tang et al. 2022, 2210.04885, section 3: DAAM adds up where this takes
    means, takes the mean of the tokens of a word where this adds them, and interpolates by cubic splines.
    Raises MethodError where no patch attends to words, or where there is too much to keep apart.
    What it can NOT tell: whether the word is what makes the thing appear there. `hide_words` makes the edits that show
    that. Nor which word a patch looks for: a text model that reads from left to right writes what it read into the
    words behind, and in `zoo:emoji-sd` the map of the word behind a name fits the thing as well as that of the name.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> found = cross_attention(model, model.inputs(prompt="a red dog", seed=0, steps=2), progress=False)
    >>> found.words(), found.heat("red dog").shape
    (['a', 'red', 'dog'], (16, 16))
    """
    started = time.perf_counter()
    odd = [one for one in apart if one not in AXES]
    if odd:
        raise MethodError(f"'{odd[0]}' cannot be kept apart", expected="some of " + ", ".join(AXES))
    sites = looking(model)
    kept = Adding(read_by(model, inputs, guidance), tuple(apart), guidance)
    formed = Forming(inputs)
    calls = drawn_steps(model.module, inputs) * len(sites)
    bar = tracked(range(calls), "drawing", show=progress)

    ends = Forming.sites(model) if "step" in apart else []

    def add(reading: Reading) -> None:
        if reading.site in ends:
            formed.add(reading)
        else:
            kept.add(reading)
            next(bar, None)

    one = "" if ends else guidance  # what a picture would become is made of all guidance rows
    outputs = model.run(inputs, record=[*sites, *ends], into=add, guidance=one).outputs
    data = kept.data(sites)
    pictures = drawn(outputs)
    data = data.assign(pictures)
    frames = formed.pictures(model) if pictures else None
    if frames is not None and len(frames) == data.sizes["step"]:  # fewer maps where guidance ends midway
        data["forming"] = ("step", "y", "x", "channel"), frames
    return WordMaps(
        data,
        Provenance.of(
            "cross_attention", SOURCE, started=started, model=model, sites=tuple(map(str, sites)),
            apart=list(apart), guidance=guidance, prompt=inputs.tensors.get("prompt"),
        ),
    )  # fmt: skip


class Laid(NamedTuple):
    """How a pattern lies: which queries and keys are what, and what adds up the keys of each word."""

    seen: Sides
    weights: Float[Tensor, "picture key word"]


@dataclass
class Adding:
    """The sums of what comes in, by layer, patch by patch: laid on the grid of the layer once all is there."""

    inputs: Inputs
    apart: tuple[str, ...]
    guidance: str
    total: dict[Site, dict[int, Float[Tensor, "picture head patch word"]]] = field(default_factory=dict)
    calls: dict[tuple[Site, int], int] = field(default_factory=dict)
    laid: dict[tuple[str, torch.Size], Laid] = field(default_factory=dict)
    seen: dict[Site, Sides] = field(default_factory=dict)
    spoken: list[list[Word]] = field(default_factory=list)
    positions: int = 1

    def add(self, reading: Reading) -> None:
        """One call of one attention."""
        if self.guidance not in reading.guidance:
            return
        site, pattern = reading.site, reading.value[reading.guidance.index(self.guidance)].float()
        laid = self._laid(site, pattern)
        self.positions = pattern.shape[-1]
        self.seen[site] = laid.seen
        shares = to_words(pattern if "head" in self.apart else pattern.mean(1, keepdim=True), *laid)
        step = reading.step if "step" in self.apart else 0
        _added(self.total.setdefault(site, {}), step, shares.cpu())
        self.calls[site, step] = self.calls.get((site, step), 0) + 1

    def _laid(self, site: Site, pattern: Float[Tensor, "picture head query key"]) -> Laid:
        """How the patterns of a part lie, found once for layers of one grid."""
        key = site.part, pattern.shape
        if key not in self.laid:
            seen = sides(self.inputs, site, pattern)
            self.spoken = self.spoken or rows_of(seen.said, len(pattern))
            self.laid[key] = Laid(seen, sums(self.spoken, pattern.shape[-1]).mT.contiguous().to(pattern))
        return self.laid[key]

    def data(self, sites: Sequence[Site]) -> xarray.Dataset:
        """Everything on the finest grid, with the axes that are kept apart."""
        if not self.total:
            raise MethodError(
                f"no call of the denoiser had a guidance row '{self.guidance}'",
                expected="cond, or uncond with guidance", do="name a row that runs",
            )  # fmt: skip
        ran = [site for site in sites if site in self.total]
        steps = sorted({step for there in self.total.values() for step in there})
        grid = max((seen.shape for seen in self.seen.values()), key=np.prod)
        heads = max(next(iter(there.values())).shape[1] for there in self.total.values())
        size = len(self.spoken) * max(map(len, self.spoken)) * int(np.prod(grid)) * len(steps) * heads
        if size * (len(ran) if "layer" in self.apart else 1) > LARGEST:
            raise MethodError(
                f"{size * len(ran):,} numbers are too many to keep", expected=f"at most {LARGEST:,}",
                exists=f"{len(ran)} layers, {len(steps)} steps, {heads} heads", do="name fewer axes in `apart`",
            )  # fmt: skip
        maps, aside = [], []
        for site in ran:
            means = [self._mean(site, step, heads) for step in steps]
            fine = [up(one, (grid[0], grid[1])) for one in means]
            maps.append(torch.stack(fine, 2))
            aside.append(torch.stack([1 - one.sum(1).mean((-1, -2)) for one in means], 1))
        if "layer" not in self.apart:
            maps, aside = [torch.stack(maps).nanmean(0)], [torch.stack(aside).nanmean(0)]
        return self._labelled(torch.stack(maps, 3), torch.stack(aside, 2), steps, ran)

    def _mean(self, site: Site, step: int, heads: int) -> Float[Tensor, "picture word head row col"]:
        """What a layer gave at a step, for as many heads as the layer with the most has; NaN for none."""
        there = self.total[site]
        found = there.get(step, torch.full_like(next(iter(there.values())), torch.nan))
        found = as_maps(found / self.calls.get((site, step), 1), self.seen[site])
        lacking = found.new_full((*found.shape[:2], heads - found.shape[2], *found.shape[3:]), torch.nan)
        return torch.cat([found, lacking], 2)

    def _labelled(self, maps: Tensor, aside: Tensor, steps: list[int], ran: list[Site]) -> xarray.Dataset:
        dims = ["picture", "place", "step", "layer", "head", "row", "col"]
        coords = {"step": steps, "layer": [int(site.layer or 0) for site in ran], "head": range(maps.shape[4])}
        attention = xarray.DataArray(maps.numpy(), dims=dims)
        elsewhere = xarray.DataArray(aside.numpy(), dims=["picture", "step", "layer", "head"])
        for axis in AXES:
            if axis not in self.apart:
                attention, elsewhere = (one.isel({axis: 0}) for one in (attention, elsewhere))
        places = max(map(len, self.spoken))
        named = [[word.text for word in row] + [""] * (places - len(row)) for row in self.spoken]
        told = {name: list(values) for name, values in coords.items() if name in self.apart}
        return xarray.Dataset(
            {"attention": attention, "elsewhere": elsewhere, "even": 1 / self.positions},
            {**told, "word": (("picture", "place"), np.array(named))},
        )


def _added(total: dict[int, Tensor], step: int, value: Tensor) -> None:
    total[step] = total[step].add_(value) if step in total else value
