"""Which features of a dictionary an answer depends on: to first order for all of them, exactly for the largest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas
import torch
import xarray
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.result import Provenance, Result
from cutaway.model.dictionary import decoder_rows
from cutaway.model.edits import Ablate, Edit, Scale
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.targets import Target

METHOD = "feature_effects"
SOURCE = "Marks, Rager, Michaud, Belinkov, Bau, Mueller 2024, arXiv 2403.19647 (sparse feature circuits), section 3.1"


@dataclass(frozen=True, eq=False, repr=False)
class FeatureEffects(Result):
    """What a target owes to features: the units of the target throughout.

    `attribution` (feature): first order, activation times gradient over all places; `activation` (feature): the
    largest; `on` (feature): at how many places, padding left out. `effect` (top): what the target loses without a
    feature, of those with the largest |attribution| (`number` (top)); `place` (top, token): their activations, of the
    first row. `random` (draw): the effects of other features that are on. `together`, `error`, `reconstruction`: what
    is lost without all of `top`, without what the features leave over, and to first order for that rest;
    `random_together` (set): without as many other features. `value`: the target as it is.
    """

    main: ClassVar[str] = "effect"

    def summary(self) -> pandas.DataFrame:
        """The features that matter most, whichever way, beside as many others."""
        data = self.data
        own = data[["number", "effect"]].to_dataframe().reset_index(drop=True).rename(columns={"number": "feature"})
        for name in ("attribution", "activation", "on"):
            own[name] = data[name].values[own["feature"].values]
        return own

    def note(self) -> str:
        """What all of them do, beside chance."""
        data = self.data
        others, sets = np.abs(data["random"].values), data["random_together"].values
        together = f"{sets.mean():.3f} on average" if sets.size else "is not known, since there are not as many"
        alone = f"one of the others alone moves it by at most {others.max():.3f}" if others.size else "no other is on"
        flat = "" if data["attribution"].values.any() else (
            " It is flat here (a distance from this very run, say), so that no first order tells features apart: these "
            "are the ones that write most."
        )  # fmt: skip
        return (
            f"The target is {float(data['value']):.3f}.{flat} Without these features together it loses "
            f"{float(data['together']):.3f}, without as many others that are on {together}; {alone}. Without what the "
            f"features leave over it loses {float(data['error']):.3f}."
        )

    def _draw(self, ax: Axes) -> None:
        shown = self.data["effect"].values[::-1]
        labels = [str(int(one)) for one in self.data["number"].values[::-1]]
        ax.barh(range(len(shown)), shown)
        ax.set_yticks(range(len(shown)), labels)
        edge = np.quantile(np.abs(self.data["random"].values), 0.95) if self.data.sizes["draw"] else 0.0
        ax.axvspan(-edge, edge, color="0.85", zorder=0, label="95 % of other features")
        ax.axvline(0, color="0.3", lw=0.8)
        ax.set_xlabel("what the target loses without the feature")
        ax.set_ylabel("feature")
        ax.legend(frameon=False, fontsize=8)


def feature_effects(
    model: Model, inputs: Inputs, target: Target, *, site: str = "", top: int = 12, draws: int = 24, seed: int = 0,
    progress: bool = True,
) -> FeatureEffects:  # fmt: skip
    """Which features of a dictionary a target depends on, at one site of the model.

    With y = decode(f) + e at the site, attribution_k = sum over places of f_k dm / df_k, the first order of m(x) - m(x
    | f_k = 0), for all features in one pass; and effect_k = m(x) - m(x | f_k = 0 everywhere), exactly, for the `top` of
    them by |attribution| and, as a baseline, for up to `draws` other features that are on. e stays as it is. `site`:
    the features of one dictionary of the model (`model.with_dictionaries`); the first one unless named.
    Where the target is flat (a drawing's distance from itself) the `top` are those that write most: sum f_k |d_k|.

    Takes any model that has a dictionary; of a drawing one step (`model.inputs(prompt=…, step=3)`). Units: those of the
    target. Source: Marks et al. 2024 (2403.19647), section 3.1, without their integrated gradients
    (`model.gradients(path=…)` has them) and towards zero, not towards another input.

    Raises MethodError for a model without a dictionary, and where no feature is on.

    What it can NOT tell: what a feature stands for; whether the dictionary cuts the model where the model does. What
    the features leave over may carry the answer: its share stands beside them.

    >>> import cutaway, torch
    >>> from cutaway.methods.sparse_autoencoders.beginning import untrained
    >>> from cutaway.store.fitted import Origin
    >>> model, site = cutaway.load("tiny:llama"), "text.1.resid_post"
    >>> made = untrained("topk", site, 32, width=64, k=8, on=Origin.of(model, site))
    >>> found = feature_effects(model.with_dictionaries(made), model.inputs(text="a red dog"),
    ...                         cutaway.targets.logit("cat"), top=3, draws=4, progress=False)
    >>> found["effect"].shape, found["random"].shape
    ((3,), (4,))
    """
    started = time.perf_counter()
    site = _checked(model, site, top, draws)
    error = site.removesuffix("features") + "error"
    slopes = model.gradients(inputs, target, [site, error])
    there, scores = _flat(slopes.activations[site]), _flat(slopes.attribution(site)).sum(0)
    there = there * _inside(model, inputs, site, slopes.activations[site])
    on = (there != 0).sum(0)
    chosen, drawn, sets = _drawn(scores if bool(scores.any()) else _size(model, site, there), on, top, draws, seed)
    without = [[one] for one in (*chosen, *drawn)] + [chosen, *sets]
    cells: list[Edit] = [*(Scale(site, 0.0, unit=some) for some in without), Ablate(error)]
    swept = model.sweep(inputs, cells, target, progress=progress).values.values.reshape(len(cells), -1)
    value = float(slopes.values.sum())
    lost, alone = value - swept.sum(1), len(chosen) + len(drawn)
    data = xarray.Dataset(
        {
            "attribution": ("feature", _numpy(scores)), "activation": ("feature", _numpy(there.amax(0))),
            "on": ("feature", on.cpu().numpy()), "number": ("top", np.array(chosen)),
            "effect": ("top", lost[: len(chosen)]), "random": ("draw", lost[len(chosen) : alone]),
            "together": lost[alone], "random_together": ("set", lost[alone + 1 : -1]), "error": lost[-1],
            "reconstruction": float(_flat(slopes.attribution(error)).sum()), "value": value,
            "place": (("top", "token"), _places(slopes.activations[site], chosen)),
        },
        {"feature": np.arange(len(scores))},
    )  # fmt: skip
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=(site,), seed=seed, top=top, draws=draws,
        target=repr(target), unit=target.unit,
    )  # fmt: skip
    return FeatureEffects(data, told)


def _checked(model: Model, site: str, top: int, draws: int) -> str:
    """The features that are meant; MethodError where there are none."""
    site = site or next(iter(model.dictionaries), "")
    if top < 1 or draws < 0:
        raise MethodError(
            f"the {top} features that matter most, beside {draws} others", do="give top=12",
            expected="one at least, beside none or more",
        )  # fmt: skip
    if site not in model.dictionaries:
        raise MethodError(
            f"'{model.name}' has no features at '{site}'" if site else f"'{model.name}' has no features",
            expected="features of a dictionary", exists=", ".join(model.dictionaries) or "no dictionary",
            do="name one of these (`site=`)" if model.dictionaries
            else "`model.with_dictionaries(…)`, or `--dictionary DIR` on the command line",
        )  # fmt: skip
    return site


def _drawn(
    scores: Float[Tensor, "feature"], on: Int[Tensor, "feature"], top: int, draws: int, seed: int
) -> tuple[list[int], list[int], list[list[int]]]:
    """The features with the largest scores; others that are on, by chance; sets of these as large as the first."""
    if not bool(on.any()):
        raise MethodError("no feature is on", expected="one at least", do="give an input that has some")
    order = torch.where(on > 0, scores.abs(), -torch.ones_like(scores)).argsort(descending=True, stable=True).tolist()
    alive = int((on > 0).sum())
    chosen, rest = order[: min(top, alive)], order[min(top, alive) : alive]
    dice = np.random.default_rng(seed)
    alone = dice.permutation(rest)[:draws].astype(int).tolist()
    sets = [dice.permutation(rest)[: len(chosen)].astype(int).tolist() for _ in range(draws)]
    return chosen, alone, sets if len(rest) >= len(chosen) else []


def _inside(
    model: Model, inputs: Inputs, site: str, values: Float[Tensor, "*rows feature"]
) -> Float[Tensor, "#place 1"]:
    """1 for the places of a batch that the inputs have, 0 for those that fill shorter rows up."""
    here = model.sites.one(site)
    own = inputs.own(here, "token") if "token" in here.axes else None
    if own is None or tuple(own.shape) != tuple(values.shape[:-1]):
        return values.new_ones(1, 1, dtype=torch.float64)
    return own.to(values.device, torch.float64).reshape(-1, 1)


def _size(model: Model, site: str, there: Float[Tensor, "place feature"]) -> Float[Tensor, "feature"]:
    """How much each feature writes over all places."""
    return there.sum(0) * decoder_rows(model.dictionaries[site]).norm(dim=1).to(there)


def _flat(values: Float[Tensor, "*rows feature"]) -> Float[Tensor, "place feature"]:
    return values.detach().reshape(-1, values.shape[-1]).double()


def _places(values: Float[Tensor, "*rows feature"], chosen: list[int]) -> Float[ndarray, "top token"]:
    """The activations of features at the places of the first row, of the last guidance row of a drawing."""
    while values.dim() > 3:
        values = values[-1]
    first = values[0] if values.dim() == 3 else values
    return _numpy(first[:, chosen].T)


def _numpy(values: Tensor) -> ndarray:
    return np.asarray(values.detach().float().cpu().numpy())
