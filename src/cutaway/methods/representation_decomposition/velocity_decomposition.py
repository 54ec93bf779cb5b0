"""What a denoiser of joint attention predicts at each patch as an exact sum: embedding, heads, MLPs, words, patches."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.spoken import phrase
from cutaway.methods.representation_decomposition.velocity_terms import SOURCES, Gathered, Sum
from cutaway.methods.result import Provenance, Result, drawn
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.session import Reading
from cutaway.model.steps import chosen_steps, drawn_steps
from cutaway.questions.rows import tracked

METHOD = "velocity_decomposition"
SOURCE = (
    "Elhage et al. 2021, A mathematical framework for transformer circuits; Gandelsman, Efros, Steinhardt 2023, arXiv "
    "2310.05916; Esser et al. 2024, arXiv 2403.03206 (the architecture)"
)
AXES = {
    "embed": (), "heads": ("layer", "head"), "biases": ("layer",), "mlps": ("layer",), "constant": (), "rest": (),
}  # fmt: skip
NAMES = {"heads": "head", "biases": "attn_bias", "mlps": "mlp"}
LARGEST = 2**27  # numbers that a result may have
SHOWN = 12


@dataclass(frozen=True, eq=False, repr=False)
class VelocityDecomposition(Result):
    """The terms of what is predicted along one direction at each patch, in the unit of the latents.

    All are over (step, guidance, picture, …, row, col), `guidance` being the rows by name: `embed`, what enters the
    first block; `heads` (layer, head); `biases` of the attention and `mlps` (layer); `constant`, what the end adds
    whatever the state; `rest`, what is none of these; they sum to `total`, what the denoiser gives itself.
    `sources` (layer, head, source): heads by what they read, words of the prompt, other text (begin, end, padding) or
    patches; `words` (place): what all heads bring from each word. `heads_chance` (draw, …), `mlps_chance`: the mean
    over patches for directions of other patches. `direction` (step, picture, row, col, component) is d itself. `word`
    (picture, place) names the words, `drawn` (picture, y, x, channel) is what was drawn.
    """

    main: ClassVar[str] = "heads"

    def pushed(self, name: str = "total") -> xarray.DataArray:
        """A variable of the row with the prompt, less the same of that without it where both ran."""
        if name not in self.data or "guidance" not in self[name].dims:
            raise MethodError(
                f"'{name}' is no term of the prediction", expected="a variable over the rows of the guidance",
                exists=", ".join(str(one) for one in self.data if "guidance" in self[str(one)].dims),
                do="for words and sources ask for `by_word=True`",
            )  # fmt: skip
        names, found = [str(row) for row in self["guidance"].values], self[name]
        own = found.isel(guidance=names.index("cond") if "cond" in names else 0, drop=True)
        return own - found.sel(guidance="uncond", drop=True) if {"cond", "uncond"} <= set(names) else own

    def terms(self, ending: str = "") -> xarray.DataArray:
        """What is pushed by every term, on one axis: `embed`, `0.head.0`, …, `0.attn_bias`, `0.mlp`, …, `rest`."""
        found = []
        for name, axes in AXES.items():
            if name + ending not in self.data:
                continue
            values = self.pushed(name + ending)
            places = list(np.ndindex(*(values.sizes[axis] for axis in axes)))
            labels = [".".join(map(str, (*at[:1], NAMES[name], *at[1:]))) if axes else name for at in places]
            flat = values.stack(term=axes, create_index=False) if axes else values.expand_dims("term")
            flat = flat.drop_vars([axis for axis in axes if axis in flat.coords])
            found.append(flat.assign_coords(term=labels))
        return xarray.concat(found, "term", coords="minimal", compat="override").rename("velocity")

    def heat(self, word: str, picture: int = 0) -> xarray.DataArray:
        """What a word brings to each patch directly, through all heads: (row, col), the mean over steps."""
        said = [str(one) for one in self["word"].values[picture] if one] if "word" in self.data.variables else []
        return self.pushed("words").isel(picture=picture, place=phrase(said, word)).sum("place").mean("step")

    def summary(self) -> Any:
        """The largest terms, the mean over patches, pictures and steps, and how many times their size by chance."""
        frame = xarray.Dataset({"velocity": self.terms().mean(("step", "picture", "row", "col"))}).to_dataframe()
        frame = frame[["velocity"]]
        frame["share"] = frame["velocity"] / float(self.pushed().mean())
        if "heads_chance" in self.data:
            chance = (self.terms("_chance").mean(("step", "picture")) ** 2).mean("draw") ** 0.5
            frame["times chance"] = frame["velocity"].abs() / chance.to_series()
        order = frame["velocity"].abs().sort_values(ascending=False).index
        return frame.loc[order].head(SHOWN).reset_index()

    def note(self) -> str:
        """What they sum to, and what is none of them."""
        total, rest = self.pushed(), float(abs(self["rest"]).max() / abs(self["total"]).max().clip(1e-30))
        along = self.provenance.options["along"]
        said = f"They sum to {float(total.mean()):.3g} a patch, {along} (rest {rest:.1g} of it)."
        if "sources" not in self.data:
            return said
        means = self.pushed("sources").sum(("layer", "head")).mean(("step", "picture", "row", "col"))
        return f"{said} Heads bring " + ", ".join(
            f"{float(value):.3g} from {name}" for name, value in zip(SOURCES, means.values, strict=True)
        )

    def _draw(self, ax: Axes) -> None:
        layers, width = np.arange(self.data.sizes["layer"]), 0.4
        bars = {"heads": self.pushed("heads").sum("head"), "MLP": self.pushed("mlps")}
        for at, (name, values) in enumerate(bars.items()):
            means = values.mean(("step", "picture", "row", "col")).values
            ax.bar(layers + (at - 0.5) * width, means, width, label=name)
        ax.axhline(0, color="gray", linewidth=0.8)
        ax.set_xticks(layers, [str(name) for name in self["layer"].values])
        ax.set(xlabel="layer", ylabel="latent units", title=f"direct effect; all: {float(self.pushed().mean()):.3g}")
        ax.legend()


def velocity_decomposition(
    model: Model, inputs: Inputs, towards: Float[Tensor, "..."] | None = None, *,
    steps: int | Collection[int] = 0, by_word: bool = True, draws: int = 4, seed: int = 0,
    progress: bool = True,
) -> VelocityDecomposition:  # fmt: skip
    """Write what a denoiser predicts at each patch as a sum of what its parts add to it directly.

    y_j = P ((1 + a) N(x_j) + b) + c at patch j, N the last norm at its observed scale s_j, a and b what the timestep
    makes of it: so <d_j, y_j> = <u_j, x_j> + constant with u = ((1 + a) P)ᵀ d / s, less its mean where the norm takes
    that. The stream is x = embedding + sum_l (g_l (sum_h z_lh W_lh + bias_l) + g'_l m_l), with g, g' the gates of the
    timestep, m the MLP. A head's result is z_j = sum_i A_ji v_i over all positions i, words and patches alike, so it is
    a sum over what it reads too.

    d_j is a unit vector at each patch: by default along v_cond - v_uncond, what guidance adds in this very run, whose
    length `pushed("total")` is then; where no guidance runs along what is predicted; or along `towards`, one vector for
    all or one a (picture, patch), in the channels of a patch (`denoiser_end(model).parted` brings latents into that
    form). `pushed(name)` is the term with the prompt less the same term without it, each at its own scale; words of
    the row without the prompt are what stands in their places. `steps`: which of a drawing, or so many at even
    distances, all for 0. Chance: the same for `draws` times the directions of other patches of the picture.

    Units: those of the latents (noise or velocity). Source: the sum is that of Elhage et al. 2021 and of Gandelsman et
    al. 2023 for CLIP; for denoisers of joint attention (Esser et al. 2024) we know of no publication. SiteError for a
    denoiser with no such end (a UNet, DiT), MethodError where words or directions do not fit.

    What it can NOT tell: what a part does through later layers, which read the picture and the text anew: a layer that
    prepares what a later one writes shows as nothing, and the text's own stream never does. Held are norms, gates and
    patterns; the timestep and pooled prompt, which make gates and constants, are no term of their own.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd3", dtype="float64")
    >>> inputs = model.inputs(prompt="a red dog", steps=2, size=(32, 32))
    >>> found = velocity_decomposition(model, inputs, progress=False)
    >>> found["heads"].dims, bool(abs(found["rest"]).max() < 1e-12)
    (('step', 'guidance', 'picture', 'layer', 'head', 'row', 'col'), True)
    """
    started = time.perf_counter()
    reading = Sum.of(model, inputs, by_word)
    chosen = chosen_steps(model.module, steps, inputs)
    gathered = Gathered(reading, inputs, towards, chosen, draws, seed)
    many = drawn_steps(model.module, inputs) * len(reading.sites)
    bar = tracked(range(many), "drawing", show=progress)

    def add(one: Reading) -> None:
        gathered.add(one)
        next(bar, None)

    outputs = model.run(inputs, record=reading.sites, into=add).outputs
    gathered.close()
    data = _labelled(gathered)
    data = data.assign(drawn(outputs))
    return VelocityDecomposition(
        data,
        Provenance.of(
            METHOD, SOURCE, started=started, model=model, sites=tuple(reading.sites), seed=seed,
            along="along what was given" if towards is not None else gathered.along,
            by_word=by_word, draws=draws, prompt=list(inputs.drawn),
        ),
    )  # fmt: skip


def _labelled(gathered: Gathered) -> xarray.Dataset:
    """All steps and guidance rows in one data set, patches on their grid."""
    if not gathered.made:
        raise MethodError("no step of the denoiser ran", expected="a drawing, or one step of it")
    grid, steps, rows = gathered.sum.grid, sorted(gathered.made), gathered.rows
    layers, heads = len(gathered.sum.writes), gathered.sum.writes[0].weight.shape[0]
    extra = {"sources": ("layer", "head", "source"), "words": ("place",)} if gathered.sum.by_word else {}
    data: dict[str, Any] = {}
    for name, axes in {**AXES, "total": (), **extra}.items():
        values = _stacked(gathered, name, steps, rows).unflatten(-1, grid)
        _check_size(values)
        data[name] = (("step", "guidance", "picture", *axes, "row", "col"), values.numpy())
    for name in ("heads", "mlps") if gathered.draws else ():
        values = _stacked(gathered, f"{name}_chance", steps, rows).movedim(2, 0)
        data[f"{name}_chance"] = (("draw", "step", "guidance", "picture", *AXES[name]), values.numpy())
    toward = torch.stack([gathered.toward[step].cpu() for step in steps]).unflatten(2, grid)
    data["direction"] = (("step", "picture", "row", "col", "component"), toward.numpy())
    coords = {"step": steps, "guidance": list(rows), "layer": range(layers), "head": range(heads)}
    coords |= {"source": list(SOURCES)} if extra else {}
    places = max(map(len, gathered.spoken))
    named = [[word.text for word in row] + [""] * (places - len(row)) for row in gathered.spoken]
    return xarray.Dataset(data, {**coords, "word": (("picture", "place"), np.array(named))})


def _stacked(gathered: Gathered, name: str, steps: Sequence[int], rows: Sequence[str]) -> Tensor:
    """One term: (step, guidance, …)."""
    return torch.stack([torch.stack([gathered.made[step][row][name].cpu() for row in rows]) for step in steps])


def _check_size(values: Tensor) -> None:
    if values.numel() > LARGEST:
        raise MethodError(
            f"{values.numel():,} numbers are too many to keep", expected=f"at most {LARGEST:,}",
            do="name fewer `steps`, or `by_word=False`",
        )  # fmt: skip
