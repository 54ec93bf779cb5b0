"""Where an answer is held: what is corrupted in an input, and which places of the clean run bring the answer back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.activation_patching import Mode, Patching, check_options, usual_sites
from cutaway.methods.causal_tracing.corruption import Swap, noise, pairs_of
from cutaway.methods.causal_tracing.patched import DRAWS, Corruption, Places, Runs, table
from cutaway.methods.causal_tracing.spans import Span, span
from cutaway.methods.result import Provenance, heat, labels
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.targets import Target, of_rows
from cutaway.questions.pairs import batches, sides
from cutaway.questions.rows import Rows

METHOD = "causal_tracing"
SOURCE = "Meng et al. 2022, arXiv 2202.05262, section 2; Golovanevsky et al. 2024, arXiv 2406.16320 (NOTICE)"
Kind = Literal["pair", "swap", "noise"]
KINDS = ("pair", "swap", "noise")
# What is put back: the part of a layer, and the axis that is gone over beside layers.
WHATS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "residual": ("resid_post", ("token",)), "attention": ("attn.out", ("token",)), "mlp": ("mlp.out", ("token",)),
    "head": ("attn.z", ("head",)), "neuron": ("mlp.post", ()),
}  # fmt: skip
SIDE = ("attention", "mlp")  # what is taken in windows
SHARE, LEAST = 5, 2  # a window is a fifth of the layers, as ten of 48 are, and two at least
BAD = (
    "Gaussian noise is a known-bad baseline: it takes the model to states that no input gives, and what brings back an "
    "answer from there need not be what holds it."
)


@dataclass(frozen=True, eq=False, repr=False)
class Traced(Patching):
    """What putting each place of the clean run into the corrupted one does to the target: the numbers of `Patching`.

    Where several kinds of place were traced side by side they lie on a first axis, `what`. With noise, `corrupted` and
    every number are means over its draws, row by row.
    """

    def note(self) -> str:
        """What was corrupted, and what one pair does not have."""
        how = self.provenance.options["corruption"]
        gap = f"Mean target: {float(self['clean'].mean()):.3g} clean, {float(self['corrupted'].mean()):.3g} corrupted."
        return " ".join(filter(None, (gap, BAD if how == "noise" else "", super().note())))

    def _draw(self, ax: Axes) -> None:
        shown, how = self["mean"], self.provenance.options["corruption"]
        if "what" not in shown.dims:
            super()._draw(ax)
        elif shown.ndim == 2:
            places = range(shown.sizes["layer"])
            for what in shown["what"].values:
                here = self.data.sel(what=what)
                (line,) = ax.plot(places, here["mean"], marker="o", label=str(what))
                ax.fill_between(places, here["low"], here["high"], alpha=0.15, color=line.get_color())
                ax.plot(places, here["random"], linestyle=":", color=line.get_color())
            ax.set_xticks(places, [str(one) for one in labels(shown, "layer")])
            ax.set(xlabel="layer", ylabel="recovery (dotted: from an unrelated row)")
            ax.legend(fontsize=8)
        else:
            flat = np.concatenate([shown.sel(what=what).values for what in shown["what"].values])
            rows = [f"{what} {layer}" for what in shown["what"].values for layer in shown["layer"].values]
            heat(ax, xarray.DataArray(flat, {"place": rows}, ("place", str(shown.dims[-1]))), diverging=True)
        if how == "noise":
            ax.set_title("Gaussian noise: a known-bad baseline", fontsize=9)


def causal_tracing(
    model: Model, clean: Rows, counterfactual: Rows | None = None, target: Target | None = None, *,
    corruption: Kind = "pair", swap: str | Sequence[str] = "", pool: Sequence[str] = (), where: Span = "",
    sigma: float = 3.0, draws: int = 5, what: str | Sequence[str] = "residual", wide: int | None = None,
    over: str | Sequence[str] | None = None, at: Span | None = None, neurons: int = 16, mode: Mode = "denoise",
    tower: str = "", least: float = 0.25, seed: int = 0, batch: int = 16, progress: bool = True,
) -> Traced:  # fmt: skip
    """Corrupt an input, put places of the clean run back one after another, and see which bring the answer back.

    recovery = (m_patched - m_corrupted) / (m_clean - m_corrupted), as `activation_patching`, which takes any pair; here
    the corruption is made. `pair`: the counterfactual, one thing changed in picture or text. `swap`: symmetric token
    replacement, a word becomes another of as many tokens ("dog=cat", one for all rows or one a row; what is not said is
    drawn from the words of `pool`). `noise`: Gaussian noise of `sigma` standard deviations on the embeddings `where`
    (the picture, else the question; "pixels": on these), mean over `draws`: kept as the known-bad baseline, which takes
    the model off all that it ever sees.
    `what` is put back: `residual`, `attention` or `mlp` (what they add; several stand side by side), `head`, or
    `neuron`: the `neurons` units of all layers with the largest |sum over positions of (a_clean - a_corrupted) dm/da|.
    Layers are taken `wide` in a row: a fifth of them and two at least for attention and MLPs, else one. Places go over
    positions, heads for `head`, unless `over` says else; `at` keeps to a span ("last", "class", a word of the text).
    `mode="noise"` puts corrupted places into the clean run.

    Units: shares of the gap; intervals, `random`, `least` as for `activation_patching`. Source: Meng et al. 2022, arXiv
    2202.05262 (noise, windows of ten layers, here none reaches over an end; shares of a gap in place of a probability),
    Golovanevsky et al. 2024, arXiv 2406.16320 (pairs, symmetric replacement). MethodError for pairs that do not align,
    words of other lengths, spans and windows that are not there, and a target that does not move.

    What it can NOT tell: whether a place that brings the answer back is one the model needs (`mode="noise"` asks that),
    or the best one to edit; shares do not add up. A swapped word may leave a question without an answer.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> inputs, aim = model.inputs(text="a red dog on the left"), cutaway.targets.logit("cat")
    >>> found = causal_tracing(model, inputs, target=aim, corruption="swap", swap="dog=cat", progress=False)
    >>> round(float(found["mean"].sel(layer=2).isel(token=-1)), 6)  # the last layer is read at the last position
    1.0
    """
    started = time.perf_counter()
    kinds = (what,) if isinstance(what, str) else tuple(what)
    tower = tower or _tower(model, corruption, clean, counterfactual)
    chosen = {kind: _sites(model, tower, kind) for kind in _checked(kinds, corruption, counterfactual)}
    axes = _axes(kinds, over, at)
    check_options([site for some in chosen.values() for site in some], axes, None, mode, "patch", least)
    one, other, aim = sides(model, clean, counterfactual if corruption == "pair" else clean, target, tower)
    made = _corruption(model, one, tower, corruption, swap, pool, where, sigma, draws, seed, batch)
    spanned = at if at is None or not isinstance(at, str) else partial(_span, tower, at)
    found = []
    for kind in kinds:
        width = _wide(chosen[kind], kind, wide)
        places = Places.of(chosen[kind], width) if kind != "neuron" else _neurons(
            model, chosen[kind], one, other, aim, made, neurons, batch)  # fmt: skip
        whole, maps = Runs(model, places, axes, spanned, mode, "patch", seed, batch, made)(one, other, aim)
        found.append(table(whole, places, axes, maps, least, mode == "noise", seed))
    data = found[0] if len(kinds) == 1 else _side_by_side(found, kinds)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, seed=seed, corruption=corruption, swap=swap, where=str(where),
        sites=tuple(str(site) for some in chosen.values() for site in some), sigma=sigma, draws=made.draws, how="patch",
        what=list(kinds), wide=width, over=list(axes), at=repr(at), mode=mode, least=least, target=repr(aim),
        unit=aim.unit, pairs=data.sizes["pair"], left_out=int((~data["used"]).sum()), bootstrap=DRAWS,
    )  # fmt: skip
    return Traced(data, told)


# --- what is asked ----------------------------------------------------------------------------------------------------


def _checked(kinds: Sequence[str], corruption: str, counterfactual: Any) -> Sequence[str]:
    """Refuse kinds that are not there, or cannot stand side by side, and a pair of one."""
    if corruption == "pair" and counterfactual is None:
        raise MethodError(
            "no counterpart to compare with", expected="a second input that differs in one thing", exists="one input",
            do='give it (`--counterfactual`), or swap a word: corruption="swap", swap="dog=cat"',
        )  # fmt: skip
    lost = [kind for kind in kinds if kind not in WHATS]
    if lost or not kinds or corruption not in KINDS or (len(kinds) > 1 and {*kinds} & {"head", "neuron"}):
        raise MethodError(
            f"cannot trace {', '.join(map(repr, kinds)) or 'nothing'} of a corruption by '{corruption}'",
            expected="one of the kinds, or several of residual, attention and mlp; pair, swap or noise",
            exists=", ".join(WHATS), do="the defaults are residual and pair",
        )  # fmt: skip
    return kinds


def _axes(kinds: Sequence[str], over: str | Sequence[str] | None, at: Any) -> tuple[str, ...]:
    """What is gone over beside layers: positions, or heads, unless a span is named."""
    if over is not None:
        axes = (over,) if isinstance(over, str) and over else tuple(over)
        if at is not None and "token" in axes:
            raise MethodError('`at=` and `over="token"` both choose positions', expected="one of the two",
                              do="leave the other out")  # fmt: skip
        return axes
    axes = WHATS[kinds[0]][1]
    return tuple(axis for axis in axes if at is None or axis != "token")


def _tower(model: Model, corruption: str, clean: Any, other: Any) -> str:
    """The tower that is traced: that of the text where only words differ, else the one that the answer comes out of."""
    end = usual_sites(model).partition(".")[0]
    if model.family.kind != "contrastive" or end == "text":
        return end
    seen = [given.tensors.get("pixel_values") for given in (clean, other) if isinstance(given, Inputs)]
    same = len(seen) == 2 and all(one is seen[0] or (isinstance(one, Tensor) and isinstance(seen[0], Tensor)
                                                     and torch.equal(one, seen[0])) for one in seen)  # fmt: skip
    return "text" if corruption == "swap" or (corruption == "pair" and same) else end


def _sites(model: Model, tower: str, kind: str) -> list[Site]:
    return [site for site in model.sites[f"{tower}.*.{WHATS[kind][0]}"] if not site.dead and site.layer is not None]


def _wide(sites: Sequence[Site], kind: str, wide: int | None) -> int:
    if wide is not None:
        return wide
    return max(1, min(LEAST, len(sites) - 1), round(len(sites) / SHARE)) if kind in SIDE else 1


def _span(tower: str, name: str, inputs: Inputs) -> Any:
    return span(inputs, tower, name)


def _corruption(
    model: Model, one: Any, tower: str, kind: str, swap: str | Sequence[str], pool: Sequence[str], where: Span,
    sigma: float, draws: int, seed: int, batch: int,
) -> Corruption:  # fmt: skip
    """What makes the other run, tried on the first rows before anything else runs."""
    if kind == "pair":
        return Corruption()
    _, _, first, _ = next(batches(model, one, one, tower, batch))
    if kind == "noise":
        return noise(model, first, tower, where, sigma, draws, seed)
    made = Swap(1, model, tower, pairs_of(swap), tuple(pool), seed)
    made.inputs(first, 0, 0)
    return made


def _neurons(
    model: Model, sites: Sequence[Site], one: Any, other: Any, aim: Target, made: Corruption, most: int, batch: int
) -> Places:
    """The units whose change would move the target most, by its gradient in the corrupted run."""
    names = [str(site) for site in sites]
    score: list[Float[ndarray, " unit"]] = []
    for start, stop, here, there in batches(model, one, other, sites[0].tower, batch):
        m = of_rows(aim, start, stop) if stop else aim
        other_inputs = made.inputs(there, start, 0)
        held = made.edits(model, other_inputs, start, 0)
        clean, corrupted = model.run(here, record=names), model.run(other_inputs, record=names, edits=held)
        slope = model.gradients(other_inputs, m, names, edits=held)
        each = [((clean[name] - corrupted[name]) * slope[name]).sum(1).abs().sum(0).detach() for name in names]
        moved = [np.asarray(one.double().cpu()) for one in each]
        score = [a + b for a, b in zip(score, moved, strict=True)] if score else moved
    sizes = [len(some) for some in score]
    if not 1 <= most <= sum(sizes):
        raise MethodError(f"{most} neurons", expected=f"from 1 to {sum(sizes)}", do="16 is the default")
    order = np.argsort(-np.concatenate(score), kind="stable")[:most]
    first = np.cumsum([0, *sizes])
    found = [(at := int(np.searchsorted(first, place, "right")) - 1, int(place - first[at])) for place in order]
    coords = {
        "neuron": [f"{sites[at].layer}.{unit}" for at, unit in found],
        "unit": ("neuron", [unit for _, unit in found]), "site": ("neuron", [names[at] for at, _ in found]),
    }  # fmt: skip
    return Places("neuron", tuple(((sites[at], {"unit": [unit]}),) for at, unit in found), coords)


def _side_by_side(found: Sequence[xarray.Dataset], kinds: Sequence[str]) -> xarray.Dataset:
    """Several kinds of place on an axis of their own; the runs that they are measured against are the same."""
    once = ("clean", "corrupted", "used")
    parts = [one.drop_vars([*once, "site"], errors="ignore") for one in found]
    joined = xarray.concat(parts, xarray.IndexVariable("what", list(kinds)), coords="minimal", compat="equals")
    joined["recovery"] = joined["recovery"].transpose("pair", "what", ...)
    return joined.assign({name: found[0][name] for name in once})
