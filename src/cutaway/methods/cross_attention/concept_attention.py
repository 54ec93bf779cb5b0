"""Where words that need not be in the prompt are in a drawing: their own stream beside the text's, read by patches."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.spoken import words
from cutaway.methods.result import Provenance, Result, drawn
from cutaway.model.asides import Aside, aside, beside
from cutaway.model.edits import Set
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.session import Reading
from cutaway.model.steps import chosen_steps
from cutaway.questions.rows import tracked

METHOD = "concept_attention"
SOURCE = "Helbling et al. 2025, arXiv 2502.04320 (ConceptAttention)"
TOWER = "denoiser"


@dataclass(frozen=True, eq=False, repr=False)
class ConceptMaps(Result):
    """How much of each patch speaks of each concept rather than of the others; in [0, 1].

    `share` (picture, concept, step, layer, row, col) sums to 1 over concepts. `score`, of the same axes, is the product
    it is made of. `drawn` (picture, y, x, channel) is what was drawn.
    """

    main: ClassVar[str] = "share"

    def heat(self, concept: str, picture: int = 0) -> xarray.DataArray:
        """The map of a concept (row, col), the mean over steps and layers."""
        names = [str(one) for one in self["concept"].values]
        if concept not in names:
            raise MethodError(
                f"'{concept}' is no concept of this result", expected="one that was asked for",
                exists=", ".join(names), do="name it in `concepts`",
            )  # fmt: skip
        return self["share"].isel(picture=picture, concept=names.index(concept)).mean(("step", "layer"))

    def summary(self) -> Any:
        """Each concept on the first picture: its mean share, the largest of a patch, and where that is."""
        import pandas

        rows = []
        for name in map(str, self["concept"].values):
            here = self.heat(name).values
            row, col = np.unravel_index(here.argmax(), here.shape)
            rows.append((name, here.mean(), here.max(), int(row), int(col)))
        return pandas.DataFrame(rows, columns=["concept", "share", "largest", "row", "col"])

    def _draw(self, ax: Axes) -> None:
        """The maps of all concepts of the first picture side by side, from 0 to 1."""
        names = [str(one) for one in self["concept"].values]
        maps = np.stack([self.heat(name).values for name in names])
        gap = np.full((*maps.shape[:2], 1), np.nan)
        ax.imshow(np.concatenate([part for one in zip(maps, gap, strict=True) for part in one], 1), cmap="magma",
                  vmin=0, vmax=1)  # fmt: skip
        wide = maps.shape[2] + 1
        ax.set_xticks([wide * at + (wide - 2) / 2 for at in range(len(maps))], names, rotation=45, ha="right")
        ax.set_yticks([])
        ax.set_title("share of each concept, from 0 to 1")


def concept_attention(
    model: Model, inputs: Inputs, concepts: str | Sequence[str] = "", *, layers: Collection[int] = (),
    steps: int | Collection[int] = 0, guidance: str = "cond", progress: bool = True,
) -> ConceptMaps:  # fmt: skip
    """Where concepts are in a drawing, words of the prompt or others, without a trace of them in the picture.

    share_jc = mean over steps t and layers l of softmax_c <o_j, o_c>: o_j is what the attention of layer l gives patch
    j, all heads behind one another and before the output projection, o_c the same of a concept. Concepts are a text of
    their own: encoded one by one, they go through the text's side of every block, with the timestep and pooled prompt
    of the drawing, and attend to the patches of this very run and to one another; nothing attends to them. It is
    computed as an evaluation of its own with that text, each block's patches set to those of the drawing: so given the
    prompt for concepts it is the text's stream itself, and the picture is bit for bit what it is without. Of a concept
    of several tokens o_c is the mean over them, and of all encoders that say it.

    `concepts`: a list, or names with commas between; the different words of the prompts unless given. `layers`: of two
    streams, all unless named (not the last of SD3, whose text is dropped). `steps`: which, or so many at even
    distances, all for 0; the patches of every block are held for those.

    Units: shares among the concepts, so that they change with which others are asked. Source: Helbling et al. 2025,
    2502.04320, section 4; they take one token a concept, of T5, the later layers of Flux, and another pooled text.
    MethodError for a denoiser without two streams (UNets), concepts that are not there, fewer than two.
    What it can NOT tell: whether a concept is in the picture at all: shares sum to 1 wherever it is not. Nor that the
    model draws by it.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd3")
    >>> inputs = model.inputs(prompt="a red dog", steps=2, size=(32, 32))
    >>> found = concept_attention(model, inputs, ["dog", "cat", "grass"], progress=False)
    >>> found["share"].dims, found.heat("cat").shape
    (('picture', 'concept', 'step', 'layer', 'row', 'col'), (8, 8))
    """
    started = time.perf_counter()
    chosen = two_streams(model, layers)
    names = _named(concepts, inputs)
    told = aside(model, inputs, names)
    kept = Kept(chosen, chosen_steps(model.module, steps, inputs))
    outputs = model.run(inputs, record=kept.sites, into=kept.add, guidance=guidance).outputs
    scores = [
        scores_at(model, inputs, told, step, found, chosen)
        for step, found in tracked(sorted(kept.found.items()), "concepts", show=progress)
    ]
    data = _labelled(torch.stack(scores, 2), inputs, names, sorted(kept.found), chosen)
    data = data.assign(drawn(outputs))
    return ConceptMaps(
        data,
        Provenance.of(
            METHOD, SOURCE, started=started, model=model, sites=tuple(kept.sites), concepts=list(names),
            layers=list(chosen), guidance=guidance, prompt=list(inputs.drawn),
        ),
    )  # fmt: skip


def two_streams(model: Model, layers: Collection[int] = ()) -> list[int]:
    """The layers whose attention has a text's side that goes on; MethodError where there is none, or not those."""
    every = [
        layer
        for layer in range(model.sites.towers().get(TOWER, 0))
        if all(f"{TOWER}.{layer}.{stream}.attn.z" in model.sites for stream in ("text", "image"))
    ]
    if not every:
        raise MethodError(
            f"'{model.name}' has no stream of words beside that of the picture",
            expected="a denoiser of joint attention with two streams, as in SD3 and Flux",
            exists=", ".join(model.towers) or "no named tower",
            do="`cross_attention` maps the words of a prompt where patches attend to them",
        )  # fmt: skip
    odd = sorted(set(layers) - set(every))
    if odd:
        raise MethodError(
            f"layer {odd[0]} has not both streams", expected=f"some of {', '.join(map(str, every))}",
            do="leave `layers` out for all of them",
        )  # fmt: skip
    return [layer for layer in every if not layers or layer in layers]


def _named(concepts: str | Sequence[str], inputs: Inputs) -> tuple[str, ...]:
    """The concepts: as given, or the different words of the prompts in order."""
    given = concepts.split(",") if isinstance(concepts, str) else concepts
    names = tuple(dict.fromkeys(one.strip() for one in given if one.strip()))
    if not names and "text" in inputs.tokens:
        said = inputs.tokens["text"]
        names = tuple(dict.fromkeys(word.text for row in range(said.batch) for word in words(said, row)))
    if len(names) < 2:
        raise MethodError(
            f"{len(names)} concept{'' if len(names) == 1 else 's'} to tell apart", expected="two at least",
            exists=", ".join(names), do="name others beside it, what else the picture shows and does not show",
        )  # fmt: skip
    return names


@dataclass
class Kept:
    """What is held of the drawing, by step: the patches before each block, what attention gives them, the latents."""

    layers: list[int]
    steps: Collection[int] | None
    found: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def sites(self) -> list[str]:
        """Every block up to the last that is looked at is set to the patches of the drawing."""
        before = [f"{TOWER}.{layer}.image.resid_pre" for layer in range(max(self.layers) + 1)]
        return [f"{TOWER}.latent", *before, *(f"{TOWER}.{layer}.image.attn.z" for layer in self.layers)]

    def add(self, reading: Reading) -> None:
        """One reading."""
        if self.steps is None or reading.step in self.steps:
            self.found.setdefault(reading.step, {})[str(reading.site)] = reading.value[0].clone()


def scores_at(
    model: Model, inputs: Inputs, told: Aside, step: int, found: dict[str, Tensor], layers: list[int]
) -> Float[Tensor, "picture concept layer patch"]:
    """<o_j, o_c> of every patch and concept at a step."""
    given = beside(model, inputs, step, found[f"{TOWER}.latent"], told.states)
    edits = [Set(name, value) for name, value in found.items() if name.endswith("resid_pre")]
    run = model.run(given, record=[f"{TOWER}.{layer}.text.attn.z" for layer in layers], edits=edits, stop=True)
    made = []
    for layer in layers:
        own = found[f"{TOWER}.{layer}.image.attn.z"].flatten(-2)
        concept = told.mean(run[f"{TOWER}.{layer}.text.attn.z"][0, 0].flatten(-2))
        exact = torch.promote_types(own.dtype, torch.float32)
        made.append(torch.einsum("bpd,bcd->bcp", own.to(exact), concept.to(exact)).cpu())
    return torch.stack(made, 2)


def _labelled(
    scores: Float[Tensor, "picture concept step layer patch"], inputs: Inputs, names: tuple[str, ...],
    steps: list[int], layers: list[int],
) -> xarray.Dataset:  # fmt: skip
    tokens = inputs.tokens[f"{TOWER}.joint"]
    grid = int(tokens.row.max()) + 1, int(tokens.col.max()) + 1
    dims, shares = ("picture", "concept", "step", "layer", "row", "col"), scores.softmax(1)
    return xarray.Dataset(
        {"share": (dims, shares.unflatten(-1, grid).numpy()), "score": (dims, scores.unflatten(-1, grid).numpy())},
        {"concept": list(names), "step": steps, "layer": layers},
    )
