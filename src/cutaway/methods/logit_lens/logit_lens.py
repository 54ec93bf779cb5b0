"""Every layer and patch of a vision tower, read in the space of the model's own output."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import MethodError, near
from cutaway.methods.result import Provenance, Result, heat
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.weights import Readout
from cutaway.questions.bank import TextBank, same_space
from cutaway.questions.rows import Rows, again, ended, feed, unit
from cutaway.store.reducers import Mean

METHOD = "logit_lens"
SOURCE = "nostalgebraist 2020 (logit lens); Gandelsman et al. 2023, arXiv 2310.05916 (reading in CLIP's joint space)"


@dataclass(frozen=True, eq=False, repr=False)
class Lens(Result):
    """What each state would say if it were the last one; layer -1 is what enters the first block.

    `patch` (picture, layer, row, col, text) and `pooled` (picture, layer, text), cosines in [-1, 1]; `random` (layer):
    the root mean square cosine of the patches with random directions, the size of chance.
    """

    main: ClassVar[str] = "pooled"

    def heat_map(self, text: str, picture: int = 0, layer: int | None = None) -> xarray.DataArray:
        """(row, col): the cosine of each patch with one text, at the last layer unless named."""
        self._known(text)
        chosen = self["patch"].isel(picture=picture).sel(text=text)
        return chosen.isel(layer=-1) if layer is None else chosen.sel(layer=layer)

    def best(self, count: int = 3) -> Any:
        """The texts nearest to the pooled state: one row for each picture, layer and rank, as a table."""
        pooled = self["pooled"].transpose("picture", "layer", "text")
        order = np.argsort(-pooled.values, -1)[..., :count]
        ranked = xarray.Dataset(
            {
                "text": (("picture", "layer", "rank"), pooled["text"].values[order]),
                "cosine": (("picture", "layer", "rank"), np.take_along_axis(pooled.values, order, -1)),
            },
            coords={"layer": pooled["layer"], "picture": range(len(order)), "rank": range(1, order.shape[-1] + 1)},
        )
        return ranked.to_dataframe().reset_index()

    def summary(self) -> Any:
        """For the first picture, the nearest text of each layer."""
        table = self.best(1)
        return table[table["picture"] == 0].drop(columns=["picture", "rank"])

    def _known(self, text: str) -> None:
        if text not in self["text"].values:
            raise MethodError(
                f"'{text}' is not in the bank of this lens", expected="a text that the lens was read against",
                exists=near(text, map(str, self["text"].values)), do="make the lens anew with a bank that has it",
            )  # fmt: skip

    def _draw(self, ax: Axes) -> None:
        """The pooled state of the first picture: the texts that are nearest at the end, at every layer."""
        pooled = self["pooled"].isel(picture=0)
        top = np.argsort(-pooled.isel(layer=-1).values)[:8]
        heat(ax, pooled.isel(text=top).transpose("text", "layer"), "cosine of the pooled state", diverging=True)


def logit_lens(
    model: Model, pictures: Rows, bank: TextBank, *, tower: str = "vision", centre: bool = False, batch: int = 32,
    seed: int = 0, progress: bool = True,
) -> Lens:  # fmt: skip
    """Read the residual stream after every layer, at every patch and at the pooled position, against texts.

    r = P N(x) + c with the model's own final norm N and projection P; cosine = <r - u, t - v> / (|r - u| |t - v|).
    Where an attention head pools all patches (SigLIP), a patch is read as if the picture had no other, and the pooled
    state is what the head makes of all states of that layer.
    u and v are zero, or with `centre` the mean of r over the pictures (and patches) of that layer and the mean of the
    texts t / |t|: pictures and texts lie in two far-apart cones, and without centring that gap drowns the rest. A state
    that is the same for all pictures but for rounding (a class token at layer -1) then has no direction, and reads 0.
    At the last layer and the pooled position, uncentred, this is the model's own similarity.

    Units: cosine. Source: the logit lens (nostalgebraist 2020) with the joint space of a contrastive model in place of
    the vocabulary. We fold patches onto their grid by the token map and give the class token a curve of its own.

    What it can NOT tell: what the model uses. Only the pooled position (SigLIP: all patches together) is ever read at
    the end: N and P were never trained on other positions or layers, and a patch's state may describe another place.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> from cutaway.questions.bank import text_bank
    >>> model = cutaway.load("tiny:clip")
    >>> lens = logit_lens(model, [scene_at("test", 0)], text_bank(model, ["a dog", "a cat"]), progress=False)
    >>> lens["patch"].dims, lens["patch"].shape
    (('picture', 'layer', 'row', 'col', 'text'), (1, 4, 4, 4, 2))
    """
    started = time.perf_counter()
    end, layers = ended(model, tower), model.sites.towers()[tower]
    words = unit(same_space(bank, len(end.offset), model.name))
    rows = again(model, pictures, tower) if centre and not isinstance(pictures, Inputs) else pictures
    reading = _Reading(model, rows, tower, end, batch, progress)
    middle: _States | None = None
    if centre:
        middle = reading.middle(len(words))
        words = unit(words - words.mean(0))
    noise = unit(torch.randn(256, words.shape[1], generator=torch.Generator().manual_seed(seed)).to(words.dtype))
    patch, pooled, chance = [], [], Mean()
    for states in reading.states(words.dtype, middle):
        patch.append(unit(states.patch) @ words.T)
        pooled.append(unit(states.pooled) @ words.T)
        chance.add((unit(states.patch) @ noise.T).pow(2).mean((2, 3, 4)))
    data = xarray.Dataset(
        {
            "patch": (("picture", "layer", "row", "col", "text"), torch.cat(patch).numpy()),
            "pooled": (("picture", "layer", "text"), torch.cat(pooled).numpy()),
            "random": ("layer", chance.value.sqrt().to(words.dtype).numpy()),
        },
        coords={"layer": range(-1, layers), "text": list(bank.texts), "topic": ("text", list(bank.topics))},
    )
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(reading.sites), seed=seed, tower=tower,
        centre=centre, texts=len(bank),
    )  # fmt: skip
    return Lens(data, told)


class _States(NamedTuple):
    """What is read of pictures at every layer, in the space of the texts."""

    patch: Float[Tensor, "picture layer row col joint"]
    pooled: Float[Tensor, "picture layer joint"]


@dataclass(frozen=True)
class _Reading:
    """Pictures, read at the end of a tower after every layer, some at a time: none of it is kept."""

    model: Model
    rows: Rows
    tower: str
    end: Readout
    batch: int
    progress: bool

    @property
    def sites(self) -> list[str]:
        """What is read: what enters the first block, and what leaves each."""
        layers = range(self.model.sites.towers()[self.tower])
        return [f"{self.tower}.0.resid_pre", *(f"{self.tower}.{layer}.resid_post" for layer in layers)]

    def states(self, dtype: torch.dtype, middle: _States | None = None) -> Iterator[_States]:
        """A batch of pictures after another, less what lies in their middle."""
        for inputs in feed(self.model, self.rows, self.tower, batch=self.batch, what="reading", progress=self.progress):
            run = self.model.run(inputs, record=self.sites)
            read = torch.stack([self.end(run[site]) for site in self.sites], 1).cpu()  # picture, layer, token, joint
            patch = _folded(inputs, self.tower, read)
            pooled = torch.stack([self.end.pooled(run[site], inputs) for site in self.sites], 1).cpu()
            if middle is not None:
                patch, pooled = _beyond(patch, middle.patch), _beyond(pooled, middle.pooled)
            yield _States(patch.to(dtype), pooled.to(dtype))

    def middle(self, texts: int) -> _States:
        """The mean over pictures, and of patches over these too, at each layer."""
        patch, pooled, pictures = Mean(), Mean(), 0
        for states in self.states(torch.float64):
            patch.add(states.patch.mean((2, 3)))
            pooled.add(states.pooled)
            pictures += len(states.pooled)
        for count, what in ((pictures, "picture"), (texts, "text")):
            if count < 2:
                raise MethodError(
                    f"the mean of one {what} is the {what}",
                    expected="at least two pictures and two texts, to centre them",
                    do="give a few dozen, or leave it uncentred",
                )  # fmt: skip
        return _States(patch.value[None, :, None, None], pooled.value[None])


def _beyond(
    states: Float[Tensor, "*places joint"], middle: Float[Tensor, "*_ joint"]
) -> Float[Tensor, "*places joint"]:
    """States less their middle; zero where that is no more than what batches of another size round differently."""
    apart = states - middle
    coarse = torch.promote_types(states.dtype, torch.float32)
    rounding = torch.finfo(states.dtype).eps + 16 * torch.finfo(coarse).eps
    return apart * (apart.norm(dim=-1, keepdim=True) > rounding * middle.norm(dim=-1, keepdim=True))


def _folded(
    inputs: Inputs, tower: str, states: Float[Tensor, "picture layer token joint"]
) -> Float[Tensor, "picture layer row col joint"]:
    """The patches of each picture on their grid."""
    known = inputs.tokens[tower]
    here = known.row[0] >= 0
    if not here.any() or (known.row != known.row[0]).any():
        raise MethodError(
            f"the tower '{tower}' has no one patch grid", expected="pictures of one size, cut in patches",
            do="take a vision tower, and pictures that the processor brings to one size",
        )  # fmt: skip
    order = np.lexsort((known.col[0], known.row[0]))[(~here).sum() :]
    return states[:, :, torch.from_numpy(order)].unflatten(2, (known.row[0].max() + 1, -1))
