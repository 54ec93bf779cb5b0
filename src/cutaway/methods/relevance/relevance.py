"""Relevance: which parts of the picture, and which words, a number depends on, by eleven methods, for every family."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.relevance import attention, removal, slopes
from cutaway.methods.relevance.aims import drawn_by_prompt, prompted
from cutaway.methods.relevance.laid import Found, laid
from cutaway.methods.relevance.leaves import Seen, seen
from cutaway.methods.relevance.removal import Player
from cutaway.methods.result import Provenance, Result, heat
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import Target, numbers

METHOD = "relevance"
Way = Literal[
    "gradient", "gradient_input", "integrated_gradients", "smooth_gradient", "attn_lrp", "grad_cam", "rollout",
    "chefer", "occlusion", "shapley",
]  # fmt: skip
WAYS: tuple[Way, ...] = get_args(Way)
SOURCES: Mapping[str, str] = {
    "gradient": "Simonyan et al. 2014, arXiv 1312.6034",
    "gradient_input": "Shrikumar et al. 2017, arXiv 1704.02685",
    "integrated_gradients": "Sundararajan et al. 2017, arXiv 1703.01365",
    "smooth_gradient": "Smilkov et al. 2017, arXiv 1706.03825",
    "attn_lrp": "Achtibat et al. 2024, arXiv 2402.05602",
    "grad_cam": "Selvaraju et al. 2017, arXiv 1610.02391",
    "rollout": "Abnar and Zuidema 2020, arXiv 2005.00928",
    "chefer": "Chefer et al. 2021, arXiv 2103.15679",
    "occlusion": "Zeiler and Fergus 2014, arXiv 1311.2901",
    "shapley": "Castro et al. 2009 (sampling); Goldshmidt 2025, arXiv 2503.06670 (PixelSHAP)",
}
SIGNED = ("gradient_input", "integrated_gradients", "attn_lrp", "occlusion", "shapley")


@dataclass(frozen=True, eq=False, repr=False)
class Relevance(Result):
    """What a number depends on: `picture` (target, image, row, col), `word` (target, place), `value` (target).

    Coordinates `said` and `of` (target, place): the words, and which text says them. `maps` (target, place, row, col),
    of a drawing: where each word counts. `start` is the number for nothing, and `gap` what the relevance of all parts
    misses of `value` - `start`, where a method promises that sum; `rest` what lies at no patch and no word.
    """

    main: ClassVar[str] = "word"

    def words(self, target: int = 0) -> list[str]:
        """The words of a target, in their order."""
        return [str(word) for word in self["said"].values[target] if str(word)] if "said" in self.data.coords else []

    def map(self, target: int = 0, image: int = 0) -> xarray.DataArray:
        """The picture's relevance: (row, col)."""
        return self["picture"].isel(target=target, image=image)

    def heat(self, word: str | int, target: int = 0) -> xarray.DataArray:
        """Where a word counts in a drawing, by its text or place: (row, col)."""
        if "maps" not in self.data:
            raise MethodError("there are no maps of words here", expected="a drawing", do="take `method='chefer'`")
        said = self.words(target)
        if isinstance(word, str) and word not in said:
            raise MethodError(f"'{word}' is not a word of the prompt", expected="a word", exists=", ".join(said))
        places = [word] if isinstance(word, int) else [at for at, one in enumerate(said) if one == word]
        return self["maps"].isel(target=target, place=places).sum("place")

    def summary(self) -> Any:
        """The words of the first target by their relevance, and the patch with most; of tokens what each has most."""
        import pandas

        if "token" in self.data.coords:
            return pandas.DataFrame([self._told(at) for at in range(self.data.sizes["target"])])
        rows: list[dict[str, Any]] = []
        if "word" in self.data:
            values = self["word"].values[0]
            rows += [{"part": word, "relevance": float(values[at])} for at, word in enumerate(self.words())]
        if "picture" in self.data:
            shown = self["picture"].isel(target=0)
            if bool(shown.notnull().any()):
                best = shown.argmax(("image", "row", "col"))
                where = ", ".join(f"{name} {int(best[name])}" for name in ("row", "col"))
                rows.append({"part": f"the patch at {where}", "relevance": float(shown.max())})
        return pandas.DataFrame(rows, columns=["part", "relevance"]).head(24)

    def _told(self, target: int) -> dict[str, Any]:
        """Of one token: the word before it, and the patch, with most relevance."""
        said, made = self.words(target), {"token": str(self["token"].values[target])}
        if "word" in self.data and said:
            values = self["word"].values[target][: len(said)]
            made["word"] = said[int(np.nanargmax(values))] if np.any(values > 0) else ""
        if "picture" in self.data:
            best = self["picture"].isel(target=target, image=0).argmax(("row", "col"))
            made["patch"] = f"row {int(best['row'])}, col {int(best['col'])}"
        return made

    def note(self) -> str:
        """The number, and what its parts miss of it."""
        value, said = float(self["value"][0]), f"The number is {float(self['value'][0]):.4f}"
        if "gap" in self.data:
            said += (
                f", {float(self['start'][0]):.4f} for nothing; the parts miss {float(self['gap'][0]):.2g} of the rest"
            )
        return f"{said}." if np.isfinite(value) else ""

    def _draw(self, ax: Axes) -> None:
        """The map of the number; of tokens, or the words of a prompt, theirs side by side, each in its own scale."""
        if "maps" in self.data:
            _strip(ax, self["maps"].values[0], self.words())
        elif "token" in self.data.coords and "picture" in self.data:
            _strip(ax, self["picture"].values[:, 0], [str(one) for one in self["token"].values])
        elif "picture" in self.data:
            heat(ax, self.map(), self.provenance.options.get("how", ""), diverging=bool(self["picture"].min() < 0))
        else:
            super()._draw(ax)


def _strip(ax: Axes, maps: Float[ndarray, "word row col"], words: Sequence[str]) -> None:
    maps = np.nan_to_num(maps[: len(words)])
    size = np.abs(maps).max((1, 2), keepdims=True)
    ax.imshow(np.concatenate([*(maps / np.where(size > 0, size, 1))], 1), cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_xticks([maps.shape[2] * (at + 0.5) for at in range(len(words))], words, rotation=90)
    ax.set_yticks([])


def relevance(
    model: Model, inputs: Inputs, target: Target | Callable[[Run], Tensor] | None = None, *,
    method: Way = "attn_lrp", site: str = "", points: int = 32, draws: int = 16, parts: int = 4, orders: int = 16,
    seed: int = 0, progress: bool = False,
) -> Relevance:  # fmt: skip
    """Which patches of the picture and which words a number depends on, for each row of the inputs.

    `method`: `gradient` |dm/dx|; `gradient_input` <x - b, dm/dx>; `integrated_gradients` the same with the mean slope
    at so many `points` of the way from b; `smooth_gradient` |mean slope over `draws` with noise|; `attn_lrp` the slopes
    by the rules of AttnLRP; `grad_cam` at a `site`, of the picture alone; `rollout`, `chefer` along attention, through
    decoder and tower; `occlusion` m(x) - m(x without it), of latents squares (`parts` a side); `shapley` over words and
    such squares, `orders` of them by chance, 0: all. b is a picture of the mean colour, unknown words, at a denoiser
    zero latents and the empty prompt. Without a target it is, at a denoiser, what the prompt adds (`drawn_by_prompt`).

    Takes any model that looks, reads or draws. Units: those of the target, but for `gradient`, `smooth_gradient`,
    `grad_cam`, `rollout` and `chefer`, whose scale says nothing. MethodError where a method has nothing to work on.

    What it can NOT tell: that the model would answer otherwise without a part, but for `occlusion` and `shapley`, which
    take away in a way that no picture does. Methods contradict one another; `measures` scores them against a truth.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> model = cutaway.load("tiny:clip")
    >>> inputs = model.inputs(image=tiny.picture(), text="a red dog")
    >>> found = relevance(model, inputs, cutaway.targets.similarity(), method="chefer")
    >>> found.words(), found.map().shape
    (['a', 'red', 'dog'], (4, 4))
    """
    started = time.perf_counter()
    if method not in WAYS:
        raise MethodError(f"no method is called '{method}'", expected="one of these", exists=", ".join(WAYS))
    aim = (drawn_by_prompt(model, inputs) if inputs.call.drawing else _number(model)) if target is None else target
    at = seen(model, inputs, aim)
    how = Options(site, points, draws, parts, orders, seed)
    found = measured(at, aim, method, how)
    told = Provenance.of(
        METHOD, SOURCES[method], started=started, model=model, sites=tuple(leaf.name for leaf in at.leaves), seed=seed,
        how=method, target=repr(aim), unit=getattr(aim, "unit", ""), points=points, parts=parts, orders=orders,
    )  # fmt: skip
    return Relevance(laid(at, found), told)


def _number(model: Model) -> Target:
    raise MethodError(
        f"nothing says which number of '{model.name}' is meant", expected="a target",
        do='`targets.similarity()`, `targets.logit("dog")`, `question.target`',
    )  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What methods take besides inputs and target."""

    site: str = ""
    points: int = 32
    draws: int = 16
    parts: int = 4
    orders: int = 16
    seed: int = 0


def measured(at: Seen, aim: Any, method: str, how: Options) -> Found:
    """One method on leaves that are known."""
    clean = numbers(aim, at.model.run(at.inputs)).detach().double().cpu().numpy()
    if method in ("occlusion", "shapley"):
        return _by_removal(at, aim, method, how, clean)
    found = Found(clean)
    for number, one in enumerate(slopes.aims(at, aim, len(clean))):
        row = number if at.coupled and len(clean) > 1 else None
        if method in ("chefer", "rollout"):
            found.add(row, along=getattr(attention, method)(at, one))
        elif method == "grad_cam":
            found.add(row, cam=slopes.grad_cam(at, one, site=how.site))
        else:
            found.add(row, scores=_slopes(at, one, method, how))
    if method == "integrated_gradients":
        found.start = numbers(aim, _nothing(at)).detach().double().cpu().numpy()
        found.complete = True
    return found


def _slopes(at: Seen, aim: Any, method: str, how: Options) -> slopes.Scores:
    more: dict[str, Any] = {
        "integrated_gradients": {"points": how.points},
        "smooth_gradient": {"draws": how.draws, "seed": how.seed},
    }.get(method, {})
    made: slopes.Scores = getattr(slopes, method)(at, aim, **more)
    return made


def _nothing(at: Seen) -> Run:
    inputs, edits = at.moved(slopes.between(at, 0.0))
    return at.model.run(inputs, edits=edits)


def _by_removal(at: Seen, aim: Any, method: str, how: Options, clean: ndarray) -> Found:
    whole = method == "shapley" or bool(at.inputs.call.drawing)
    some = removal.players(at, len(clean), how.parts if whole else 0)
    found = Found(clean)
    if method == "occlusion":
        found.worth(some, removal.occlusion(at, aim, some, clean))
    else:
        made = removal.shapley(at, aim, some, clean, orders=how.orders, seed=how.seed)
        found.worth(some, made.worth, made.error)
        found.start, found.complete = made.start, True
    if isinstance(aim, prompted):
        found.maps = _maps(at, aim, [one for one in some if one.side == "words"])
    return found


def _maps(at: Seen, aim: prompted, some: Sequence[Player]) -> Tensor:
    """Where each word counts: (row, word, height, width)."""
    each = removal.drawn_without(at, aim, some)
    if each.dim() == 3:  # packed latents
        leaf = at.leaf("picture")
        assert leaf is not None
        each = each.unflatten(-1, (int(leaf.tokens.row.max()) + 1, int(leaf.tokens.col.max()) + 1))
    return torch.movedim(each, 1, 0)
