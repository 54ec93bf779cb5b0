"""Attend-and-Excite: latents moved while a picture is drawn, so that every word is looked for somewhere."""

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
from torch import Tensor
from torch.nn.functional import conv2d, pad

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.maps import folded, looking, sides, up
from cutaway.methods.cross_attention.spoken import Word, phrase, sums
from cutaway.methods.cross_attention.spoken import words as words_of
from cutaway.methods.result import Provenance, Result
from cutaway.model.inputs import Inputs
from cutaway.model.midway import Midway, draw_midway
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.steps import drawn_steps
from cutaway.model.targets import Target, numbers
from cutaway.questions.rows import tracked

METHOD = "attend_and_excite"
SOURCE = "Chefer et al. 2023, arXiv 2301.13826 (Attend-and-Excite)"
SIDES = ("plain", "excited", "random")
LATENT = "denoiser.latent"
Said = str | Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False, repr=False)
class Excited(Result):
    """Three drawings from one noise: as it is, with the latents moved, and moved as far in directions by chance.

    `loss` (side, step, picture) before the latents are moved at a step, in [0, 1]; `attention` (side, picture, word,
    row, col) the smoothed maps of the words, the mean over these steps; `moved` (step, picture) how far the latents
    were moved, as a share of their length; `said` (picture, word) the words; `drawn` (side, picture, y, x, channel).
    """

    main: ClassVar[str] = "loss"

    def summary(self) -> Any:
        """The mean loss at each step of the three drawings, and how far the latents were moved there."""
        table = self["loss"].mean("picture").transpose("step", "side").to_pandas()
        return table.assign(moved=self["moved"].mean("picture").values).reset_index()

    def _draw(self, ax: Axes) -> None:
        """The loss of each drawing by step, the mean over pictures."""
        for side in SIDES:
            ax.plot(self["step"].values, self["loss"].sel(side=side).mean("picture").values, marker="o", label=side)
        ax.set(xlabel="step", ylabel="loss of the word that is looked for least")
        ax.legend()


@dataclass(frozen=True)
class neglected(Target):  # noqa: N801
    """How little the word is looked for that is looked for least: L = max over words w (1 - max over patches x of M_w).

    M_w is the share of attention to w, the mean over heads and over the patterns that a run has recorded, smoothed by a
    Gaussian of `smooth` patches (3 × 3). `said` are the words of each row, a phrase being the sum of its words.

    >>> neglected((("dog", "cat"),)).unit
    'share of attention'
    """

    said: tuple[tuple[str, ...], ...]
    smooth: float = 0.5

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """L of each row, differentiable where the run is."""
        return (1 - self.maps(run).flatten(2).amax(-1)).amax(1)

    def maps(self, run: Run) -> Float[Tensor, "picture word row col"]:
        """The smoothed maps; of a row with fewer words than others the first one stands in their place."""
        found = []
        for name, site in run.sites.items():
            if not site.part.endswith(".pattern"):
                continue
            pattern = run[name][0, run.guidance[name].index("cond")]
            seen = sides(run.inputs, site, pattern)
            spoken = [
                _phrases(words_of(seen.said, row), said) for row, said in self._rows(seen.said.batch, len(pattern))
            ]
            found.append(folded(pattern, seen, sums(spoken, pattern.shape[-1]).to(pattern)).mean(2, keepdim=True))
        rows, cols = max((maps.shape[-2:] for maps in found), key=np.prod)
        return _smoothed(
            torch.stack([up(maps, (int(rows), int(cols)))[:, :, 0] for maps in found]).mean(0), self.smooth
        )

    def _rows(self, prompts: int, pictures: int) -> list[tuple[int, tuple[str, ...]]]:
        most, copies = max(map(len, self.said)), pictures // prompts
        filled = [(*one, *one[:1] * (most - len(one))) for one in self.said]
        return [(row, filled[row]) for row in range(prompts) for _ in range(copies)]

    @property
    def unit(self) -> str:
        """A share of attention."""
        return "share of attention"


def attend_and_excite(
    model: Model, inputs: Inputs, words: Said, *, eta: float = 100.0, steps: Sequence[int] | None = None,
    layers: Sequence[int] | None = None, smooth: float = 0.5, seed: int = 0, progress: bool = True,
) -> Excited:  # fmt: skip
    """Draw a prompt with its latents moved at some steps, so that each of some words is looked for somewhere.

    x_t <- x_t - eta ∇ L(x_t) before the denoiser is called at a step t, with L = max over words w (1 - max over patches
    of M_w): `neglected`, of one evaluation of the denoiser on x_t and the prompt alone. `words` are those of all
    prompts, a list for each prompt, or one text with commas between. `steps` are the first half of all unless given,
    `layers` those whose patterns count, by default all that attend to words. `random` moves x_t as far in a direction
    that `seed` draws. The scheduler goes on from the moved latents, which a write at `denoiser.latent`, seen by the
    denoiser alone, would not do. With `eta` 0 the drawing is bit for bit the plain one.

    Units: L in shares of attention, `eta` in latents² a share. Source: Chefer et al. 2023, 2301.13826, section 3, who
    take the 16 × 16 layers, a second softmax over the words alone (times 100), an eta that falls, and at three steps
    repeat the move until L is low enough: here are one move a step, plain shares, one eta. MethodError for words that a
    prompt does not have; InputError for a pipeline that cannot be stopped between its steps.

    What it can NOT tell: that a word which is looked for is drawn, or why it was missing. A picture that changes may
    have changed as it does for any move of that length: compare `random`.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> inputs = model.inputs(prompt="a red dog", seed=0, steps=2)
    >>> found = attend_and_excite(model, inputs, "dog", eta=5.0, progress=False)
    >>> found["loss"].sizes["step"], bool((found["moved"] > 0).all())
    (1, True)
    """
    started = time.perf_counter()
    every = drawn_steps(model.module, inputs)
    at = sorted(set(range(max(1, every // 2)) if steps is None else steps))
    aim, sites = neglected(listed(words, len(inputs.drawn)), smooth), _sites(model, layers)
    if not at or not all(0 <= step < every for step in at):
        raise MethodError(
            f"no drawing of {every} steps is moved at {at}", expected=f"some of 0 to {every - 1}", do="name `steps`"
        )
    bar = iter(tracked(range(len(SIDES) * len(at)), "attending", show=progress))
    loop, dice = _Loop(model, inputs, aim, sites, at, bar), torch.Generator().manual_seed(seed)
    pulls: dict[int, Tensor] = {}

    def pulled(midway: Midway, slope: Tensor) -> Tensor:
        pulls[midway.step] = eta * slope
        return pulls[midway.step]

    def strayed(midway: Midway, _: Tensor | None) -> Tensor:
        noise = torch.randn(midway.latent.shape, generator=dice, dtype=torch.float64).to(midway.latent)
        return noise * (_length(pulls[midway.step]) / _length(noise))

    drawn = {"plain": loop(None), "excited": loop(pulled, slopes=True), "random": loop(strayed)}
    return Excited(
        _table(drawn, aim, pulls, at),
        Provenance.of(
            METHOD, SOURCE, started=started, model=model, sites=(LATENT, *map(str, sites)), seed=seed, eta=eta,
            steps=at, layers=None if layers is None else list(layers), smooth=smooth, words=aim.said,
            prompt=inputs.tensors.get("prompt"), noise=inputs.tensors.get("seed"),
        ),
    )  # fmt: skip


def listed(said: Said, rows: int) -> tuple[tuple[str, ...], ...]:
    """The words of each prompt, from those of all, a list for each, or one text with commas between."""
    given = [one.strip() for one in said.split(",")] if isinstance(said, str) else list(said)
    alike = [one for one in given if isinstance(one, str)]
    each = [tuple(alike)] * rows if alike else [tuple(one) for one in given]
    if len(each) != rows or not all(each):
        raise MethodError(
            f"{len(each)} lists of words for {rows} prompts", expected="words of all, or some for each prompt"
        )
    return tuple(each)


def _sites(model: Model, layers: Sequence[int] | None) -> list[Site]:
    every = looking(model)
    chosen = [site for site in every if layers is None or site.layer in layers]
    if not chosen or (layers is not None and len(chosen) < len(set(layers))):
        raise MethodError(
            f"not all of the layers {list(layers or ())} attend to words", expected="layers that do",
            exists=", ".join(str(site.layer) for site in every), do="leave out `layers` for all of them",
        )  # fmt: skip
    return chosen


def _phrases(spoken: list[Word], said: Sequence[str]) -> list[Word]:
    """Each text as one word of all its positions."""
    texts = [word.text for word in spoken]
    return [Word(one, tuple(at for place in phrase(texts, one) for at in spoken[place].positions)) for one in said]


def _smoothed(
    maps: Float[Tensor, "picture word row col"], width: float
) -> Float[Tensor, "picture word row col"]:  # fmt: skip
    if width <= 0:
        return maps
    line = torch.exp(-(torch.arange(-1, 2, dtype=maps.dtype, device=maps.device) ** 2) / (2 * width**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    edged = pad(maps.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    return conv2d(edged, kernel[None, None]).reshape(maps.shape)


def _length(move: Float[Tensor, "picture *latent"]) -> Float[Tensor, "picture *one"]:
    """The length of each row, to be divided by."""
    return move.flatten(1).norm(dim=1).reshape(-1, *[1] * (move.dim() - 1))


@dataclass(frozen=True)
class _Loop:
    """One drawing, looked at before each of its steps, and moved if wished."""

    model: Model
    inputs: Inputs
    aim: neglected
    sites: list[Site]
    steps: list[int]
    bar: Any

    def __call__(self, move: Any, *, slopes: bool = False) -> dict[str, Any]:
        """The pictures, and at each step the loss, the maps and how long the latents are."""
        seen: dict[str, list[Tensor]] = {"loss": [], "maps": [], "length": []}

        def aim(run: Run) -> Tensor:
            seen["maps"].append(self.aim.maps(run).detach().double().cpu())
            return self.aim(run)

        def change(midway: Midway) -> Tensor | None:
            next(self.bar, None)
            seen["length"].append(_length(midway.latent).flatten().double().cpu())
            loss, slope = self._looked(midway, aim, slopes=slopes)
            seen["loss"].append(loss.detach().double().cpu())
            step = None if move is None else move(midway, slope)
            return midway.latent - step if step is not None and step.any() else None

        made = draw_midway(self.model, self.inputs, self.steps, change)
        return {**{name: torch.stack(values) for name, values in seen.items()}, "drawn": made.images}

    def _looked(self, midway: Midway, aim: Any, *, slopes: bool) -> tuple[Tensor, Tensor | None]:
        """L, and d L / d x_t if it is asked for: the denoiser is given `scale` times x_t."""
        if not slopes:
            return numbers(aim, self.model.run(midway.inputs, record=self.sites)), None
        made = self.model.gradients(midway.inputs, aim, [LATENT, *map(str, self.sites)])
        return made.values, midway.scale * made[LATENT][0, 0]


def _table(drawn: dict[str, Any], aim: neglected, pulls: dict[int, Tensor], at: list[int]) -> xarray.Dataset:
    pixels = torch.stack([drawn[side]["drawn"] for side in SIDES]).clamp(0, 1).movedim(2, -1) * 255
    lengths = torch.stack([_length(pulls[step]).flatten().double().cpu() for step in at])
    copies = lengths.shape[1] // len(aim.said)
    most = max(map(len, aim.said))
    said = [[*one, *[""] * (most - len(one))] for one in aim.said for _ in range(copies)]
    return xarray.Dataset(
        {
            "loss": (("side", "step", "picture"), torch.stack([drawn[side]["loss"] for side in SIDES]).numpy()),
            "attention": (
                ("side", "picture", "word", "row", "col"),
                torch.stack([drawn[side]["maps"].mean(0) for side in SIDES]).numpy(),
            ),
            "moved": (("step", "picture"), (lengths / drawn["excited"]["length"]).numpy()),
            "drawn": (("side", "picture", "y", "x", "channel"), pixels.round().to(torch.uint8).cpu().numpy()),
        },
        {"side": list(SIDES), "step": at, "said": (("picture", "word"), np.array(said))},
    )
