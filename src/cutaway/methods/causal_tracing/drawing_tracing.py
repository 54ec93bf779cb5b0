"""Where what tells two prompts apart is carried while a model draws: places of one drawing put into the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.places import Places, places
from cutaway.methods.result import Provenance, Result, heat
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import Target, numbers
from cutaway.questions.judged import number_of
from cutaway.questions.pairs import same_drawing
from cutaway.questions.rows import tracked

METHOD = "drawing_tracing"
SOURCE = (
    "Basu et al. 2023, arXiv 2310.13730 (text encoder and UNet); Basu et al. 2024, arXiv 2405.01008 (LocoGen); Meng et "
    "al. 2022, arXiv 2202.05262"
)
Mode = Literal["denoise", "noise"]
DRAWS = 2000


@dataclass(frozen=True, eq=False, repr=False)
class Tracing(Result):
    """What putting each place of one drawing into the other does to the number.

    `mean` (layer, and step, head or position): 0 as in the counterfactual drawing, 1 as in the clean one; `low`, `high`
    a 95 % interval over prompts. `random`, `random_low`, `random_high`: the same when the place is filled from the
    drawing of another pair; NaN where there is one pair. `value` (pair, …): the number of each patched drawing in its
    own unit, `clean` and `corrupted` (pair) unpatched, `prompt` (pair) which rows share their two prompts. `drawn`
    (side, y, x, channel): the clean and the counterfactual picture of the first pair, where these are pictures.
    """

    main: ClassVar[str] = "mean"

    @property
    def axis(self) -> str:
        """What is gone over beside layers."""
        return str(self["mean"].dims[1])

    @property
    def gap(self) -> float:
        """The mean difference that is to be brought back, in the unit of the number."""
        return float((self["clean"] - self["corrupted"]).mean())

    def summary(self) -> Any:
        """Every place, those that bring back most in front; columns that one pair does not have are left out."""
        names = [name for name in ("mean", "low", "high", "random") if self[name].notnull().any()]
        table = self.data[names].to_dataframe().reset_index().sort_values("mean", ascending=False, kind="stable")
        return table[["layer", self.axis, *names]].head(24)

    def note(self) -> str:
        """What the number is without any patch, and what one pair does not have."""
        unit = self.provenance.options["unit"]
        said = f"Mean {unit}: {float(self['clean'].mean()):.3g} clean, {float(self['corrupted'].mean()):.3g} corrupted."
        if self.data.sizes["pair"] > 1:
            return said
        return f"{said} One pair has no interval (low, high) and no unrelated drawing to fill a place from (random)."

    def _draw(self, ax: Axes) -> None:
        heat(ax, self["mean"], "share that comes back", diverging=True)


def drawing_tracing(
    model: Model, clean: Inputs, counterfactual: Inputs, target: Target | None = None, *, what: str = "prompt",
    windows: int | Mapping[str, Sequence[int]] = 3, wide: int = 1, groups: Mapping[str, Sequence[int]] | None = None,
    mode: Mode = "denoise", random: bool = True, seed: int = 0, progress: bool = True,
) -> Tracing:  # fmt: skip
    """Put one place at a time of the drawing of a prompt into that of another, and see whether what was asked follows.

    share = Σ_i (m_i,patched - m_i,corrupted) / Σ_i (m_i,clean - m_i,corrupted) over pairs i, m the target. Both
    drawings begin with the same noise. `denoise` draws the counterfactual prompt with a_c <- a_c(clean): is this place
    enough? `noise` draws the clean prompt with a_c <- a_c(counterfactual): is it needed? Only rows of the guidance that
    see the prompt are patched. `what` says which places c there are:
    `prompt`: what the patches of a layer read of the prompt (the keys and values of its cross-attention), by layer and
    window of steps; these depend on the prompt alone. `attention`: what that layer's cross-attention adds, which
    depends on the picture so far as well. `head`: the result of each of its heads. `word`: the states behind each layer
    of the text encoders, of all at the same share of their depth together, at the words that differ, those behind, the
    end, the padding. Steps are cut into so many `windows`, or into those given by name; layers are taken `wide` in a
    row or in `groups` by name; "all" is every one.
    The target is by default the judge's probability of what the clean prompt alone asks for, else the distance to the
    clean drawing (`questions.judged`). Inputs are whole drawings, or one step each (`model.inputs(…, step=, image=)`):
    their target is the denoising error, which is cheap.

    Units: shares of the gap. Intervals: 2.5 and 97.5 % points of the share over resampled pairs of prompts, with all
    their rows. Source: Basu et al. 2023, arXiv 2310.13730, who put noise on the text's embeddings where this takes
    another prompt; LocoGen of Basu et al. 2024, arXiv 2405.01008, is `what="prompt"`, `mode="noise"` with `wide=`.
    MethodError where no target moves, or there is no such place; EditError for prompts that do not fit.

    What it can NOT tell: shares do not add up, and a place that brings nothing back alone may be one of several that do
    together. `attention` and `head` also carry the layout of the clean picture. The judge knows 64 things.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> both = [model.inputs(prompt=one, seed=0, steps=2) for one in ("a red dog", "a blue dog")]
    >>> found = drawing_tracing(model, *both, what="word", progress=False)
    >>> found.axis, [str(one) for one in found["position"].values]
    ('position', ['the word', 'words behind', 'end', 'padding', 'all'])
    >>> round(float(found["mean"].sel(layer="embed", position="the word")), 6)  # all that the two differ in
    1.0
    """
    started = time.perf_counter()
    _check(clean, counterfactual, mode)
    chosen = places(model, what, clean, counterfactual, windows=windows, wide=wide, groups=groups)
    aim = number_of(model, clean, counterfactual) if target is None else target
    runs = _Runs(model, chosen, aim, mode, random, seed, progress)
    data = _table(runs(clean, counterfactual), chosen, _same(clean, counterfactual), mode, seed)
    return Tracing(
        data,
        Provenance.of(
            METHOD, SOURCE, started=started, model=model, sites=chosen.sites, seed=seed, what=what, mode=mode,
            windows=windows if isinstance(windows, int) else {name: [*some] for name, some in windows.items()},
            wide=wide, groups={name: [*some] for name, some in (groups or {}).items()},
            target=repr(aim) if len(repr(aim)) < 200 else type(aim).__name__, unit=aim.unit, bootstrap=DRAWS,
            drawing=str(clean.call), steps=clean.tensors.get("num_inference_steps"),
            guidance=clean.tensors.get("guidance_scale"), noise=clean.tensors.get("seed"),
        ),
    )  # fmt: skip


def _check(clean: Any, counterfactual: Any, mode: str) -> None:
    """Refuse what does not pair up: other noise, other steps, another number of rows."""
    if not (isinstance(clean, Inputs) and isinstance(counterfactual, Inputs)) or mode not in ("denoise", "noise"):
        raise MethodError(
            f"cannot trace {type(clean).__name__} and {type(counterfactual).__name__} in mode '{mode}'",
            expected="Inputs of two drawings; denoise or noise", do="make both: `model.inputs(prompt=…, seed=…)`",
        )  # fmt: skip
    same_drawing(clean, counterfactual)


def _rows(inputs: Inputs) -> int:
    """How many pictures of all prompts."""
    return next(iter(inputs.tokens.values())).batch * inputs.copies


def _same(clean: Inputs, other: Inputs) -> Int[ndarray, " pair"]:
    """Which rows have the same two prompts: a number each."""
    prompts = [given.tensors.get("prompt", range(_rows(given) // given.copies)) for given in (clean, other)]
    texts = [[text for text in some for _ in range(clean.copies)] for some in prompts]
    known: dict[Any, int] = {}
    return np.array([known.setdefault(both, len(known)) for both in zip(*texts, strict=True)])


@dataclass(frozen=True)
class _Runs:
    """The drawings of one call."""

    model: Model
    places: Places
    target: Target
    mode: str
    random: bool
    seed: int
    progress: bool

    def __call__(self, one: Inputs, other: Inputs) -> dict[str, Any]:
        """The number of every drawing, rows last, and the first pair as pictures."""
        clean, corrupted = (self._run(given, record=list(self.places.sites)) for given in (one, other))
        base, source = (other, clean) if self.mode == "denoise" else (one, corrupted)
        sources = {"value": dict(source.activations)}
        moved = _strangers(source, _same(one, other)[:: one.copies], one.copies, self.seed) if self.random else None
        if moved is not None:
            sources["random"] = moved
        cells = [(row, column) for row in self.places.rows for column in self.places.columns]
        found: dict[str, Any] = {name: np.empty((len(cells), _rows(one))) for name in sources}
        bar = tracked(range(len(cells) * len(sources)), "tracing", show=self.progress)
        for name, taken in sources.items():
            for at, (row, column) in enumerate(cells):
                next(bar, None)
                run = self._run(base, edits=self.places.edits(row, column, taken))
                found[name][at] = self._number(run)
        pictures = [getattr(run.outputs, "images", None) for run in (clean, corrupted)]
        return {
            **found, "clean": self._number(clean), "corrupted": self._number(corrupted),
            "drawn": [one[0] for one in pictures if isinstance(one, Tensor)],
        }  # fmt: skip

    def _run(self, inputs: Inputs, **how: Any) -> Run:
        return self.model.run(inputs, **how, output="pt" if inputs.call.loops else "pil")

    def _number(self, run: Run) -> Float[ndarray, " pair"]:
        return np.asarray(numbers(self.target, run).detach().double().cpu().numpy())


def _strangers(run: Run, same: Int[ndarray, " pair"], copies: int, seed: int) -> dict[str, Tensor] | None:
    """What a run recorded with rows exchanged, each from another pair of prompts; None where there is no other.

    A pair has a row in an encoder, and as many as it has pictures in the denoiser.
    """
    draw, rows = np.random.default_rng(seed), np.arange(len(same))
    others = [rows[same != own] for own in same]
    if any(not len(some) for some in others):
        return None
    order = torch.tensor([int(draw.choice(some)) for some in others])
    drawn = (copies * order[:, None] + torch.arange(copies)).flatten()
    made = {}
    for name, value in run.activations.items():
        axis = run.sites[name].axes.index("batch")
        made[name] = value.index_select(axis, (order if value.shape[axis] == len(same) else drawn).to(value.device))
    return made


def _table(
    found: Mapping[str, Any], chosen: Places, same: Int[ndarray, " pair"], mode: str, seed: int
) -> xarray.Dataset:  # fmt: skip
    clean, corrupted = found["clean"], found["corrupted"]
    if abs(clean - corrupted).max() <= 1e-6 * max(abs(clean).max(), abs(corrupted).max()):
        raise MethodError(
            f"the target does not move: {clean.mean():.3g} clean, {corrupted.mean():.3g} corrupted",
            expected="a target on which the two drawings of a pair differ",
            do="check that it reads what the prompts change, and that the model takes note of it",
        )
    dims, shape = ("layer", chosen.axis), (len(chosen.rows), len(chosen.columns))
    data = xarray.Dataset(
        {"clean": ("pair", clean), "corrupted": ("pair", corrupted), "prompt": ("pair", same)},
        {"layer": list(chosen.rows), chosen.axis: list(chosen.columns)},
    )
    data["value"] = (("pair", *dims), found["value"].T.reshape(-1, *shape))
    for three, values in (
        (("mean", "low", "high"), found["value"]), (("random", "random_low", "random_high"), found.get("random")),
    ):  # fmt: skip
        made = [np.full(shape, np.nan)] * 3 if values is None else shares(values.T, clean, corrupted, same, seed)
        for name, share in zip(three, made, strict=True):
            data[name] = (dims, share.reshape(shape))
    if len(found["drawn"]) == 2:
        pixels = torch.stack(found["drawn"]).movedim(1, -1).clamp(0, 1) * 255
        data["drawn"] = (("side", "y", "x", "channel"), pixels.round().to(torch.uint8).cpu().numpy())
    return data


def shares(
    values: Float[ndarray, "pair cell"], clean: Float[ndarray, " pair"], corrupted: Float[ndarray, " pair"],
    same: Int[ndarray, " pair"], seed: int = 0,
) -> tuple[Float[ndarray, " cell"], Float[ndarray, " cell"], Float[ndarray, " cell"]]:  # fmt: skip
    """The share of the gap that comes back, all pairs together, and its interval over pairs of prompts.

    Rows of the same two prompts are drawn together; one pair of prompts has no interval.

    >>> one = np.ones(4)
    >>> shares(0.5 * one[:, None], one, 0 * one, np.array([0, 0, 1, 1]))
    (array([0.5]), array([0.5]), array([0.5]))
    """
    groups = np.unique(same)
    member = (same[:, None] == groups).astype(float)
    up, gap = member.T @ (values - corrupted[:, None]), member.T @ (clean - corrupted)
    mean = up.sum(0) / gap.sum()
    if len(groups) < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    drawn = np.random.default_rng(seed).multinomial(len(groups), np.full(len(groups), 1 / len(groups)), DRAWS)
    with np.errstate(divide="ignore", invalid="ignore"):
        again = (drawn @ up) / (drawn @ gap)[:, None]
    low, high = np.nanquantile(again, (0.025, 0.975), axis=0)
    return mean, low, high
