"""The logit difference of a model that writes as an exact sum: embedding, heads, MLPs, source tokens, picture parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.grid import folded
from cutaway.methods.representation_decomposition.logit_routes import Routes, check_connector
from cutaway.methods.representation_decomposition.logit_terms import (
    TOWER,
    Terms,
    check_model,
    check_target,
    directions,
    exact,
    places,
)
from cutaway.methods.result import Provenance, Result
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import Target, logit, numbers
from cutaway.model.weights import readout
from cutaway.model.words import tokens_of

METHOD = "logit_decomposition"
SOURCE = (
    "Elhage et al. 2021, A mathematical framework for transformer circuits; nostalgebraist 2020, the logit lens; "
    "Wang et al. 2022, arXiv 2211.00593; Gandelsman, Efros, Steinhardt 2023, arXiv 2310.05916"
)
PAIRS = 64
SHOWN = 12
CHANCE = "_chance"
AXES = {
    "embed": (), "norm_bias": (), "offset": (), "rounding": (), "heads": ("layer", "head"), "biases": ("layer",),
    "cross_heads": ("layer", "head"), "cross_biases": ("layer",), "mlps": ("layer",),
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class LogitDecomposition(Result):
    """The terms of a logit difference of each row, in logits.

    `embed` (row): what enters the first block; `heads` (row, layer, head); `biases`, `mlps` (row, layer);
    `cross_heads`, `cross_biases` where there is cross-attention; `norm_bias`, `offset` (row): biases of the last norm
    and of the unembedding; `rounding` (row): what the last norm gives beside its formula. Each has a `…_chance`: the
    root mean square of the same term for random pairs of words. `total` (row) is the model's own number, `error` (row)
    how far the sum of the terms is from it.

    `head_tokens` (row, layer, head, token): heads by source token. `neurons` (row, layer, neuron), `mlp_biases` (row,
    layer): MLPs by hidden unit. `written` (row, layer, head, token, writer): source tokens by what wrote the value that
    is read there. `seen` (row, token, part): of picture tokens, what their embedding gives through all heads, by the
    part of the vision tower or connector that made it. Tokens have `token_kind`, `token_text`, `image`, `tile`,
    `patch_row` and `patch_col`.
    """

    main: ClassVar[str] = "heads"

    def terms(self, ending: str = "") -> xarray.DataArray:
        """Every term on one axis, (row, term): `embed`, `0.head.0`, …, `0.attn_bias`, `0.mlp`, …; they sum to `total`.

        `ending="_chance"`: the sizes for random words, in the same order.
        """
        found, names = [], []
        for name in AXES:
            if name in self.data:
                values = self[name + ending].values
                found.append(values.reshape(len(values), -1))
                names += _names(name, values.shape[1:])
        return xarray.DataArray(np.concatenate(found, 1), dims=("row", "term"), coords={"term": names}, name="logits")

    def entering(self) -> Any:
        """Where the sum enters: what heads bring from source tokens of each kind, and what they do not bring."""
        brought = self["head_tokens"].sum(("layer", "head")).transpose("row", "token").values
        kinds = self["token_kind"].values
        table = {str(kind): (brought * (kinds == kind)).sum(1) for kind in dict.fromkeys(kinds.ravel())}
        table["not by a head"] = self["total"].values - brought.sum(1)
        return xarray.Dataset({key: ("row", value) for key, value in table.items()}).to_dataframe()

    def on_grid(self, name: str = "head_tokens", image: int = 0) -> xarray.DataArray:
        """Fold the token axis of a variable onto the patches of a picture: (…, patch_row, patch_col); NaN where none.

        `image` counts the pictures of all rows; of a picture in several crops it is the first.
        """
        shown = self[name]
        if "token" not in shown.dims:
            raise MethodError(
                f"'{name}' is not over tokens", expected="a variable with the axis `token`",
                exists=", ".join(str(other) for other in self.data if "token" in self[str(other)].dims) or "none",
                do="ask for `by_token=True`",
            )  # fmt: skip
        here = (self["image"].values == image) & (self["patch_row"].values >= 0)
        if not here.any():
            raise MethodError(
                f"picture {image} has no patches here", exists=f"pictures up to {int(self['image'].max())}",
                do="choose another `image`, or read the variable by token",
            )  # fmt: skip
        here &= self["tile"].values == self["tile"].values[here].min()
        row = int(here.any(1).argmax())
        rows, cols = (np.where(here[row], self[axis].values[row], -1) for axis in ("patch_row", "patch_col"))
        return folded(shown.isel(row=row, drop=True), rows, cols, ("patch_row", "patch_col"))

    def summary(self) -> Any:
        """The terms that are largest on average over rows, and how many times their size for random words that is."""
        frame = xarray.Dataset({"logits": self.terms().mean("row"), "chance": self._chance()}).to_dataframe()
        frame["times chance"] = frame["logits"].abs() / frame["chance"].where(frame["chance"] > 0)
        order = frame["logits"].abs().sort_values(ascending=False).index
        return frame.loc[order].head(SHOWN).reset_index()

    def note(self) -> str:
        """What the total is, and what is held."""
        mean, most = float(self["total"].mean()), float(self["error"].max())
        told = f"They sum to the model's own {mean:.3f} logits (gap {most:.1g}), the last norm held at its scale."
        if "head_tokens" not in self.data:
            return told
        entering = self.entering().mean()
        return f"{told} It enters at {', '.join(f'{kind}: {value:.3f}' for kind, value in entering.items())}."

    def to_dataframe(self, name: str | None = None) -> Any:
        """A variable as a tidy table; by default every term of every row, with its size for random words."""
        if name:
            return super().to_dataframe(name)
        both = xarray.Dataset({"logits": self.terms(), "chance": self.terms(CHANCE)})
        return both.to_dataframe().reset_index()

    def _chance(self) -> xarray.DataArray:
        return (self.terms(CHANCE) ** 2).mean("row") ** 0.5

    def _draw(self, ax: Axes) -> None:
        layers, width = self["layer"].values, 0.4
        bars = {"heads": self["heads"].sum("head"), "MLP": self["mlps"]}
        for at, (name, values) in enumerate(bars.items()):
            ax.bar(layers + (at - 0.5) * width, values.mean("row").values, width, label=name)
        ax.axhline(0, color="gray", linewidth=0.8)
        ax.set_xticks(layers)
        ax.set(xlabel="layer", ylabel="logits", title=f"direct effect; all terms: {float(self['total'].mean()):.3f}")
        ax.legend()


def logit_decomposition(
    model: Model, inputs: Inputs, target: Target, *, by_token: bool = False, by_neuron: bool = False, depth: int = 1,
    pairs: int = PAIRS, seed: int = 0,
) -> LogitDecomposition:  # fmt: skip
    """Write a logit, or a difference of two, as a sum of what every component of a decoder adds to it directly.

    l = <w, N(x)> + c with w the unembedding of the word minus that of its rival, c the same of its bias, and the final
    norm linearised at its observed scale: N(x) = g (x - mean x) / s + b. At the position i of the target
    x = e + sum_l (sum_h z_lh W_lh + bias_l + m_l), so l = sum_k <u, x_k> + <w, b> + c over all components x_k, with
    u = (1 - 11'/d) diag(g) w / s (an RMSNorm has no mean). `by_token`: a head is sum_j A_lh[i, j] v_lh[j] W_lh over
    source tokens j. `by_neuron`: an MLP is a sum over hidden units n of a_n W_n, and a bias. Values, patterns and
    activations are those of the run, so rotary positions, grouped queries and norms of queries and keys change nothing.

    `depth=2` splits each source token once more: v = W_V N_l(x_j) + b_V with the norm before layer l held at its scale,
    and x_j = embedding + what earlier layers wrote at j. `depth=3` goes on through the connector of a LLaVA: the
    embedding of a picture token is W_2 (a * (W_1 y + b_1)) + b_2 with its non-linearity held at the observed gate
    a = act(z) / z, and y is a sum over the vision tower at that patch; all heads that read the token are summed.

    Units: logits. Every sum is exact and is checked; a gap beyond rounding is an error. Libraries take RMS norms in
    single precision: `rounding` is what the last norm gave beside its formula, the writer `rounding` the same of the
    norms before values. `target` is `logit` or `logit_diff`: another number is no sum. Chance: the root mean square of
    each term over `pairs` random pairs of words.

    Sources: the sum is that of Elhage et al. 2021, as direct logit attribution in Wang et al. 2022 (arXiv 2211.00593);
    read at any depth it is the logit lens of nostalgebraist 2020; by token and patch as in Gandelsman et al. 2023
    (arXiv 2310.05916), who do so for CLIP. Here biases are terms of their own.

    What it can NOT tell: effects through later layers (with `depth=1`; deeper, those through more than one head or
    through an MLP), why a head attends where it does, and how the held scales, patterns and gates would change if a
    component were gone. A term that is large for random words as well says little of these.

    >>> import cutaway
    >>> from cutaway.model.targets import logit_diff
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> inputs = model.inputs(text=["a red dog", "a cat"])
    >>> found = logit_decomposition(model, inputs, logit_diff("dog", "cat"), by_token=True)
    >>> found["head_tokens"].dims, bool(found["error"].max() < 1e-12)
    (('row', 'layer', 'head', 'token'), True)
    """
    started = time.perf_counter()
    _check_asked(model, inputs, target, depth, pairs)
    reading = Terms(model, readout(model, TOWER), by_neuron)
    run = model.run(inputs, record=reading.sites, tokens=[target.position])  # type: ignore[attr-defined]
    total = exact(numbers(target, run))
    found = reading.terms(run, *directions(model, reading.end, target, len(total), pairs, seed))
    data, u = _dataset(found, total), found["u"][:, 0]
    _check_sum(data, _said(run, target, model.tokenizer), model.dtype)
    sites = reading.sites
    if by_neuron:
        data = data.assign(reading.neurons(run, u))
    if by_token or depth > 1:
        routes = Routes(model, inputs, depth, u, places(run))
        data = data.assign(routes.found()).assign_coords(routes.tokens())
        sites += routes.sites
    _check_parts(data, model.dtype)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(sites), seed=seed, target=target, pairs=pairs,
        depth=depth, by_token=by_token, by_neuron=by_neuron,
    )  # fmt: skip
    return LogitDecomposition(data, told)


# --- the sums are checked ---------------------------------------------------------------------------------------------


def _check_asked(model: Model, inputs: Inputs, target: Target, depth: int, pairs: int) -> None:
    check_target(target)
    check_model(model)
    if depth not in (1, 2, 3) or pairs < 1:
        raise MethodError(
            f"depth {depth} with {pairs} random pairs", expected="a depth of 1 to 3 and one pair at least",
            exists="1: heads, by source token if asked; 2: and by what wrote there; 3: and through the connector",
            do="give other options",
        )  # fmt: skip
    if depth > 2:
        check_connector(model, inputs)


def _said(run: Run, target: Any, tokenizer: Any) -> Float[ndarray, "row word"]:
    """The logits of the words; refuses those that are capped, scaled or otherwise changed behind the unembedding."""
    logits = run[f"{TOWER}.logits"][:, 0]
    words = tokens_of(tokenizer, target.words).to(logits.device).expand(len(logits), -1)
    given = logits.gather(1, words)
    said = torch.stack([logit(words[:, n].tolist(), target.position)(run) for n in range(words.shape[1])], 1)
    if not torch.equal(exact(given), exact(said, given)):
        raise MethodError(
            f"the unembedding gives {float(given[0, 0]):.4g} where the model says {float(said[0, 0]):.4g}",
            expected="logits that are what the unembedding gives, not capped or scaled behind it",
            do="use `model.gradients` or `model.sweep`, or a model without it",
        )  # fmt: skip
    return exact(said).cpu().numpy()


def _check_sum(data: xarray.Dataset, said: Float[ndarray, "row word"], dtype: torch.dtype) -> None:
    """The terms must give the model's own number, and the arithmetic of the last norm no more than rounding."""
    size = abs(said).sum(1) + sum(abs(data[name]).sum(data[name].dims[1:]).values for name in AXES if name in data)
    _check(data["error"].values, size, dtype, "the model's own number")
    _check(abs(data["rounding"].values), size, _single(dtype), "what the last norm gives")


def _check_parts(data: xarray.Dataset, dtype: torch.dtype) -> None:
    """Each finer sum must give the coarser one."""
    wholes = {"head_tokens": ("token", "heads"), "written": ("writer", "head_tokens")}
    for name, (axis, whole) in wholes.items():
        if name in data:
            _check_gap(data[name], axis, data[whole], dtype)
    if "neurons" in data:
        _check_gap(data["neurons"], "neuron", data["mlps"] - data["mlp_biases"], dtype)
    if "written" in data:
        size = abs(data["written"]).sum("writer").max()
        _check(abs(data["written"].sel(writer="rounding")).max(), size, _single(dtype), "what the norms give values")
    if "seen" in data:
        embedded = data["written"].sel(writer="embed").sum(("layer", "head"))
        _check_gap(data["seen"], "part", embedded.where(data["token_kind"] == "image", 0), dtype)


def _check_gap(parts: xarray.DataArray, axis: str, whole: xarray.DataArray, dtype: torch.dtype) -> None:
    gap, size = abs(parts.sum(axis) - whole).max(), abs(parts).sum(axis).max()
    _check(gap, size, dtype, f"what '{parts.name}' is made of")


def _check(gap: Any, size: Any, dtype: torch.dtype, of: str) -> None:
    """Refuse a gap that is no rounding of numbers of that size."""
    gap, size = np.asarray(gap), np.asarray(size)
    if not (gap <= min(1e4 * torch.finfo(dtype).eps, 0.1) * np.maximum(size, 1.0)).all():
        raise MethodError(
            f"the terms miss {of} by {gap.max():.2g}", expected=f"rounding only, of numbers up to {size.max():.2g}",
            do="run it without edits around it; else report this: a component of this architecture is not in the sum",
        )  # fmt: skip


def _single(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a library takes a norm, at its coarsest."""
    return torch.float32 if dtype == torch.float64 else dtype


def _dataset(found: dict[str, Tensor], total: Tensor) -> xarray.Dataset:
    data: dict[str, Any] = {"total": ("row", total.cpu().numpy())}
    summed = torch.zeros_like(found["embed"][:, 0])
    for name, axes in AXES.items():
        if name in found:
            value = found[name]
            data[name] = (("row", *axes), value[:, 0].cpu().numpy())
            data[name + CHANCE] = (("row", *axes), value[:, 1:].pow(2).mean(1).sqrt().cpu().numpy())
            summed = summed + value[:, 0].reshape(len(total), -1).sum(1)
    data["error"] = ("row", (summed - total.to(summed.device)).abs().cpu().numpy())
    made = xarray.Dataset(data)
    return made.assign_coords({name: np.arange(made.sizes[name]) for name in ("layer", "head")})


def _names(name: str, shape: Sequence[int]) -> list[str]:
    """The names of the terms of one kind, such as `3.head.2`."""
    word = {
        "heads": "head",
        "biases": "attn_bias",
        "mlps": "mlp",
        "cross_heads": "cross_head",
        "cross_biases": "cross_bias",
    }.get(name, name)
    return [".".join(map(str, (*at[:1], word, *at[1:]))) if at else word for at in np.ndindex(*shape)]
