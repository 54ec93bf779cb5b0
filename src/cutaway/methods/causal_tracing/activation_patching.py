"""Where what tells two inputs apart is carried: activations moved from one run of a minimal pair into the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import xarray
from matplotlib.axes import Axes

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.patched import DRAWS, Places, Runs, axis_of, table
from cutaway.methods.grid import folded
from cutaway.methods.result import Provenance, Result, heat, labels
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.targets import Target
from cutaway.model.tokens import Positions
from cutaway.questions.pairs import sides
from cutaway.questions.rows import Rows

METHOD = "activation_patching"
SOURCE = "Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262; Zhang, Nanda 2023, arXiv 2309.16042"
Mode = Literal["denoise", "noise"]
How = Literal["patch", "mean", "zero", "resample"]
OVER = ("token", "head")


@dataclass(frozen=True, eq=False, repr=False)
class Patching(Result):
    """What patching or ablating each place does to the target.

    `recovery` (pair, layer, token or head): 0 as in the corrupted run, 1 as in the clean one; NaN for pairs that are
    left out (`used` (pair) is False). `mean`, `low`, `high`: over pairs, with a 95 % bootstrap interval. `random`: the
    mean when the same place is filled from an unrelated row; `random_low`, `random_high` its interval. `effect`: the
    change of the target itself, in its own unit, mean over all pairs. `clean`, `corrupted` (pair): the target
    unedited. Where the sites are of several kinds, the dimension `site` stands in the place of `layer`.
    """

    main: ClassVar[str] = "mean"

    def on_grid(self, name: str = "mean") -> xarray.DataArray:
        """A variable with its token axis folded onto the patch grid: (…, row, col) for `token`."""
        values = self[name]
        if "token" not in values.dims or "row" not in values.coords or (values["row"] < 0).all():
            raise MethodError(
                "there is no patch grid here", expected='over=("token",) on pictures of one size',
                exists=", ".join(map(str, values.dims)), do="patch a vision tower over its tokens",
            )  # fmt: skip
        return folded(values, values["row"].values, values["col"].values)

    def summary(self) -> Any:
        """The twelve places that recover most; columns that one pair alone does not have are left out."""
        names = [name for name in ("mean", "low", "high", "random", "effect") if self[name].notnull().any()]
        table = self.data[names].to_dataframe().reset_index().sort_values("mean", ascending=False)
        return table[[*self["mean"].dims, *names]].head(12)

    def note(self) -> str:
        """Says what one pair does not have, and how many pairs were left out."""
        pairs, used = self.data.sizes["pair"], int(self["used"].sum())
        said = [] if used == pairs else [f"{pairs - used} of {pairs} pairs were left out: they hardly move the target."]
        if used == 1:
            said.append("One pair has no interval (low, high): that takes several.")
        if not self["random"].notnull().any():
            said.append("One pair has no unrelated row to fill a place from either (random): half may mean nothing.")
        return " ".join(said)

    def _draw(self, ax: Axes) -> None:
        shown = self["mean"]
        if shown.ndim == 1:
            self._curve(ax, shown)
        elif self._of_patches():
            self._mosaic(ax)
        elif shown.ndim == 2:
            heat(ax, shown, "mean recovery", diverging=True)
        else:
            super()._draw(ax)

    def _of_patches(self) -> bool:
        """Whether positions are the patches of a picture and no more than one kind beside, so not words as well."""
        shown = self["mean"]
        if "row" not in shown.coords or not (shown["row"] >= 0).any():
            return False
        return len(set(self["token_kind"].values[self["row"].values < 0])) <= 1

    def _curve(self, ax: Axes, shown: xarray.DataArray) -> None:
        places, dim = range(shown.size), str(shown.dims[0])
        ax.fill_between(places, self["low"], self["high"], alpha=0.2)
        ax.plot(places, shown, marker="o", label=f"{self.provenance.options['how']}, {self.provenance.options['mode']}")
        ax.plot(places, self["random"], linestyle=":", color="gray", label="from an unrelated row")
        ax.set_xticks(places, [str(one) for one in labels(shown, dim)])
        ax.set(xlabel=dim, ylabel="recovery")
        ax.legend(fontsize=8)

    def _mosaic(self, ax: Axes) -> None:
        """The grids of all layers side by side, what the other positions recover under each."""
        grid, dim = self.on_grid(), str(self["mean"].dims[0])
        wide = grid.sizes["col"] + 1
        joined = np.pad(grid.values, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
        most = float(np.nanmax(abs(self["mean"].values))) or 1.0
        picture = np.concatenate(list(joined), 1)[:, :-1]
        image = ax.imshow(picture, cmap="RdBu_r", vmin=-most, vmax=most)
        rest = self["mean"].isel(token=self["row"].values < 0)
        kind = str(rest["token_kind"].values[0]) if rest.sizes["token"] else ""
        said = [f"{one}\n{kind} {sums:.2f}" if kind else f"{one}" for one, sums in zip(
            labels(grid, dim), rest.sum("token").values, strict=True)]  # fmt: skip
        ax.set_xticks([i * wide + (wide - 2) / 2 for i in range(len(said))], said, fontsize=7)
        ax.set_yticks([])
        ax.set(xlabel=dim, title="mean recovery of each patch")
        ax.figure.colorbar(image, ax=ax, shrink=0.6)


def activation_patching(
    model: Model, clean: Rows, counterfactual: Rows | None = None, target: Target | None = None, *,
    sites: str | Sequence[str] | None = None, wide: int = 1, over: str | Sequence[str] = "token",
    at: Positions | None = None, mode: Mode = "denoise", how: How = "patch", least: float = 0.25,
    seed: int = 0, batch: int = 16, progress: bool = True,
) -> Patching:  # fmt: skip
    """Move one activation at a time between the two runs of a minimal pair, and see how much of the answer follows.

    recovery = (m_patched - m_corrupted) / (m_clean - m_corrupted) for every pair, m the target. `denoise` runs the
    counterfactual with a_c <- a_c(clean): is this place enough? `noise` runs the clean input with
    a_c <- a_c(counterfactual): is it needed? A place c is a site, and one value of each axis in `over` (`token`,
    `head`; () for whole sites); `sites` are by default the residual stream, or the heads' results, of the tower that
    the model ends in (of pictures, for a model that matches), `wide` layers in a row at once; `at` limits c to
    positions, such as Where("cls"). Other `how` ablate a_c in the clean run: `zero`; `mean` over all rows given;
    `resample`, another row's value. `clean` is a list of pictures, scenes or texts, or prepared Inputs, and
    `counterfactual` its equal in number; of pairs of EmojiWorld `questions.apart` makes both and the target.

    Units: shares of the gap (`recovery`) and the target's own (`effect`). Pairs with |m_clean - m_corrupted| below
    `least` times its median are left out of shares and counted in `left_out`. Source: Vig et al. 2020, arXiv
    2004.12265; Meng et al. 2022, arXiv 2202.05262, whose Gaussian noise we replace by minimal pairs, after Zhang and
    Nanda 2023, arXiv 2309.16042; intervals, the list of left-out pairs and the `random` baseline are ours.

    What it can NOT tell: a share of recovery is no share of responsibility: places in a row each recover all, places
    side by side may each recover nothing, and shares do not add up to 1. Filling a place from an unrelated row also
    wipes out the wrong evidence, often halfway to the answer: read `mean` against `random`, not against 0. Whole
    residual layers recover 1 wherever they are, by construction.

    >>> import cutaway
    >>> from cutaway import data, questions
    >>> model = cutaway.load("tiny:clip", dtype="float64")
    >>> some = questions.apart(model, data.pairs("background", 3))
    >>> found = activation_patching(model, *some, progress=False)
    >>> found["recovery"].dims, found["recovery"].shape
    (('pair', 'layer', 'token'), (3, 3, 17))
    >>> round(float(found["mean"].isel(layer=-1).sum()), 6)  # the last layer is read at the class token alone
    1.0
    """
    started = time.perf_counter()
    over = (over,) if isinstance(over, str) else tuple(over)
    sites = usual_sites(model, over) if sites is None else sites
    chosen = model.sites[sites] if isinstance(sites, str) else model.sites.select(sites)
    check_options(chosen, over, at, mode, how, least)
    places = Places.of(chosen, wide)
    removes = how != "patch"
    one, other, aim = sides(model, clean, counterfactual, target, chosen[0].tower)
    whole, maps = Runs(model, places, over, at, mode, how, seed, batch)(one, other, aim)
    data = table(whole, places, over, maps, least, mode == "noise" or removes, seed)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(str(site) for site in chosen), seed=seed,
        over=list(over), wide=wide, at=repr(at), mode="ablate the clean run" if removes else mode, how=how, least=least,
        target=repr(aim), unit=aim.unit,
        pairs=data.sizes["pair"], left_out=int((~data["used"]).sum()), bootstrap=DRAWS,
    )  # fmt: skip
    return Patching(data, told)


def usual_sites(model: Model, over: Sequence[str] = ("token",)) -> str:
    """What is patched unless sites are named: of the tower that the answer comes out of."""
    towers = [name for name, layers in model.sites.towers().items() if layers]
    end = model.family.answers
    tower = end if end in towers else towers[-1]
    return f"{tower}.*.{'attn.z' if 'head' in over else 'resid_post'}"


def check_options(
    sites: Sequence[Site], over: Sequence[str], at: Any, mode: str, how: str, least: float
) -> None:  # fmt: skip
    """Refuse what cannot be gone over, before anything runs."""
    bad = [axis for axis in over if axis not in OVER or any(axis_of(site, axis) not in site.axes for site in sites)]
    if bad or len({site.tower for site in sites}) > 1:
        raise MethodError(
            f"cannot go over {', '.join(bad) or 'several towers at once'}", exists=f"{sites[0]} has {sites[0].axes}",
            expected="sites of one tower, and axes of `token` and `head` that each site has",
            do='`vision.*.attn.z` has heads, `vision.*.resid_post` has tokens; `over=()` takes sites whole',
        )  # fmt: skip
    if at is not None and "token" in over:
        raise MethodError(
            '`at=` and `over=("token",)` both choose positions', expected="one of the two", do="leave the other out"
        )
    if mode not in ("denoise", "noise") or how not in ("patch", "mean", "zero", "resample") or not 0 <= least < 1:
        raise MethodError(
            f"mode '{mode}', how '{how}', least {least}",
            expected="denoise or noise; patch, mean, zero or resample; a share of the median gap below 1",
            do="the defaults are denoise, patch and the least gap of the docstring",
        )
