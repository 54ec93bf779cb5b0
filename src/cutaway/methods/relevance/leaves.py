"""Where the picture and the words of some inputs enter a model, what is there, and what stands for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.spoken import Word, words
from cutaway.model.edits import Patch
from cutaway.model.given import given_gradients
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import similarity
from cutaway.model.tokens import TokenMap

Side = Literal["picture", "words"]
LATENTS, PROMPTED = ("sample", "hidden_states"), "encoder_hidden_states"
SITES: Mapping[str, Side] = {"vision.embed": "picture", "text.embed": "words"}
Values = Mapping[Side, Tensor]


@dataclass(frozen=True, eq=False)
class Leaf:
    """A site or a prepared tensor (`given`) of patches or words: `there` what it holds, `start` what nothing is.

    `own` (row, position): which of its positions are patches, or words.
    """

    name: str
    side: Side
    given: bool
    tokens: TokenMap
    own: Bool[Tensor, "row position"]
    there: Float[Tensor, "..."]
    start: Float[Tensor, "..."]

    def summed(self, values: Float[Tensor, "..."]) -> Float[Tensor, "row position"]:
        """What has the shape of the leaf, added up at each position."""
        exact = values.detach().double().cpu()
        return exact.flatten(2).sum(1) if exact.dim() == 4 else exact.sum(-1)

    def spread(self, mask: Bool[Tensor, "row position"], like: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
        """A mask over positions in the shape of the leaf."""
        mask = mask.to(like.device)
        return mask.unflatten(1, like.shape[2:])[:, None] if like.dim() == 4 else mask[..., None]


@dataclass(frozen=True, eq=False)
class Seen:
    """Inputs with their leaves, and how rows of leaves belong to rows of the target; `paired`: text i to picture i."""

    model: Model
    inputs: Inputs
    leaves: tuple[Leaf, ...]
    paired: bool = False

    @property
    def coupled(self) -> bool:
        """Whether every row of the target may read every text: a model that matches."""
        both = "input_ids" in self.inputs.tensors and self.model.family.kind == "contrastive"
        return both and not self.paired

    def leaf(self, side: Side) -> Leaf | None:
        """The leaf of a side; None where there is none."""
        return next((leaf for leaf in self.leaves if leaf.side == side), None)

    def pictures(self, row: int) -> list[int]:
        """The numbers of the pictures of a row of the target."""
        leaf, text = self.leaf("picture"), self.inputs.tokens.get("text")
        if leaf is None:
            return []
        if text is not None and not self.inputs.call.drawing and (text.image >= 0).any():
            return [int(one) for one in np.unique(text.image[row]) if one >= 0]
        return [int(one) for one in np.unique(leaf.tokens.image[row]) if one >= 0] if row < leaf.tokens.batch else []

    def words(self, row: int) -> list[tuple[int, Word]]:
        """The words of a row of the target, each with the row of the leaf that says it."""
        leaf = self.leaf("words")
        if leaf is None:
            return []
        rows = range(leaf.tokens.batch) if self.coupled else [row]
        return [
            (at, word) for at in rows for word in words(leaf.tokens, at) if leaf.own[at, list(word.positions)].all()
        ]

    def moved(self, values: Values) -> tuple[Inputs, list[Patch]]:
        """Inputs and edits by which the leaves hold other numbers."""
        given = {leaf.name: values[leaf.side] for leaf in self.leaves if leaf.given and leaf.side in values}
        inputs = replace(self.inputs, tensors={**self.inputs.tensors, **given}) if given else self.inputs
        return inputs, [
            Patch(leaf.name, values[leaf.side], token=leaf.own)
            for leaf in self.leaves if not leaf.given and leaf.side in values
        ]  # fmt: skip

    def slopes(
        self, target: Callable[[Run], Tensor], values: Values | None = None
    ) -> tuple[Tensor, dict[Side, Tensor]]:
        """The target of each row and d target / d leaf, where the leaves hold these numbers, else their own."""
        inputs, edits = self.moved(values or {})
        if all(leaf.given for leaf in self.leaves):
            made, slopes = given_gradients(self.model, inputs, target, [leaf.name for leaf in self.leaves])
            return made, {leaf.side: slopes[leaf.name] for leaf in self.leaves}
        found = self.model.gradients(inputs, target, [leaf.name for leaf in self.leaves], edits=edits)
        return found.values, {leaf.side: found[leaf.name] for leaf in self.leaves}


def seen(model: Model, inputs: Inputs, target: Any = None, *, starts: bool = True) -> Seen:
    """The leaves of some inputs; MethodError where nothing is known of a picture or of words in them.

    What nothing is: a picture of the mean colour, the words `<unk>`; at a denoiser latents of zero and the states of
    the empty prompt.
    """
    drawn = bool(inputs.call.drawing)
    leaves = _of_denoiser(model, inputs) if drawn else _of_towers(model, inputs, starts)
    if not leaves:
        raise MethodError(
            f"it is not known where a picture or words enter '{model.name}'",
            expected="a tower that looks or reads, or one evaluation of a denoiser", exists=", ".join(inputs.tokens),
            do="`model.inputs(prompt=…, step=…)` makes such an evaluation" if model.family.kind == "diffusion" else "",
        )  # fmt: skip
    return Seen(model, inputs, tuple(leaves), isinstance(target, similarity) and target.text is None)


def _of_towers(model: Model, inputs: Inputs, starts: bool) -> list[Leaf]:
    names = [
        name for name in SITES
        if name in model.sites and not model.sites.one(name).dead and name.split(".")[0] in inputs.tokens
    ]  # fmt: skip
    if not names or inputs.call.loops:
        return []
    there = model.run(inputs, record=names, stop=True, copy=True)
    start = model.run(_neutral(model, inputs), record=names, stop=True, copy=True) if starts else there
    leaves = []
    for name in names:
        tokens = inputs.map_for(there.sites[name], "token", there[name].shape[1])
        own = tokens.row >= 0 if SITES[name] == "picture" else _said(model, tokens)
        leaves.append(
            Leaf(name, SITES[name], False, tokens, torch.from_numpy(own), there[name].detach(), start[name].detach())
        )
    return [leaf for leaf in leaves if leaf.own.any()]


def _said(model: Model, tokens: TokenMap) -> Any:
    """Which positions are words, and no marks of a template."""
    marks = {str(one) for one in getattr(model.tokenizer, "all_special_tokens", ())} - {_unknown(model)[1]}
    marks |= {str(one) for one in getattr(model.tokenizer, "get_added_vocab", dict)()} if marks else set()
    return (tokens.kind == "text") & ~np.isin(tokens.text.astype(str), [*(marks - {_unknown(model)[1]})])


def _unknown(model: Model) -> tuple[int, str]:
    """The token that says nothing: the unknown one, else padding, else the first."""
    for name in ("unk_token", "pad_token"):
        number = getattr(model.tokenizer, f"{name}_id", None)
        if number is not None:
            return int(number), str(getattr(model.tokenizer, name))
    return 0, ""


def _neutral(model: Model, inputs: Inputs) -> Inputs:
    """The inputs with a picture of the mean colour and with unknown words."""
    tensors = dict(inputs.tensors)
    if isinstance(tensors.get("pixel_values"), Tensor):
        tensors["pixel_values"] = torch.zeros_like(tensors["pixel_values"])
    ids, known = tensors.get("input_ids"), inputs.tokens.get("text")
    if isinstance(ids, Tensor) and known is not None and tuple(ids.shape) == known.kind.shape:
        own = torch.from_numpy(_said(model, known)).to(ids.device)
        tensors["input_ids"] = ids.masked_fill(own, _unknown(model)[0])
    return replace(inputs, tensors=tensors)


def _of_denoiser(model: Model, inputs: Inputs) -> list[Leaf]:
    latent = next((name for name in LATENTS if name in inputs.tensors), "")
    found: list[Leaf] = []
    if latent:
        tokens, there = inputs.tokens["denoiser"], inputs.tensors[latent].detach()
        if there.dim() == 4 and tuple(there.shape[2:]) != (int(tokens.row.max()) + 1, int(tokens.col.max()) + 1):
            tokens = TokenMap.patches(len(there), *there.shape[2:])
        found.append(
            Leaf(latent, "picture", True, tokens, torch.from_numpy(tokens.row >= 0), there, torch.zeros_like(there))
        )
    states = inputs.tensors.get(PROMPTED)
    said = inputs.tokens.get("denoiser.text") or inputs.tokens.get("text")
    if isinstance(states, Tensor) and said is not None and len(said) == states.shape[1]:
        own = torch.from_numpy(said.kind == "text")
        empty = unprompted(model, inputs).tensors[PROMPTED]
        found.append(Leaf(PROMPTED, "words", True, said, own, states.detach(), empty.detach()))
    return found


def unprompted(model: Model, inputs: Inputs) -> Inputs:
    """The same evaluation of a denoiser for the empty prompt; MethodError where that has another length."""
    latent = next(name for name in LATENTS if name in inputs.tensors)
    there, rows = inputs.tensors[latent], len(inputs.drawn) * inputs.copies
    size, states = None if inputs.latent is None else _size(model, inputs), inputs.tensors[PROMPTED]
    for length in (None, 0):
        made = model.inputs(
            prompt=[""] * rows,
            steps=inputs.call.drawing or 1,
            step=_step(inputs),
            latent=there,
            size=size,
            length=length,
        )
        if made.tensors[PROMPTED].shape == states.shape:
            return replace(inputs, tensors={**inputs.tensors, **{
                name: value for name, value in made.tensors.items() if name in (PROMPTED, "pooled_projections")
            }})  # fmt: skip
    raise MethodError(
        f"the empty prompt has other states than this one ({tuple(made.tensors[PROMPTED].shape)})",
        expected=f"states of shape {tuple(states.shape)}", do="make the inputs without `length=`",
    )  # fmt: skip


def _step(inputs: Inputs) -> int:
    return int(getattr(inputs.call, "step", 0))


def _size(model: Model, inputs: Inputs) -> tuple[int, int]:
    from cutaway.model.drawing import units

    assert inputs.latent is not None
    factor, patch, _ = units(model.engine.pipeline, model.engine.towers["denoiser"])
    return inputs.latent[0] * factor * patch, inputs.latent[1] * factor * patch


def repeated(inputs: Inputs, times: int) -> Inputs:
    """The same rows many times over, the whole batch behind itself."""
    return Inputs.stack([inputs] * times)


def by_row(rows: int, scores: Sequence[Mapping[Side, Tensor]]) -> list[Mapping[Side, Tensor]]:
    """Scores of each row of the target; one for all where rows do not see each other."""
    return [scores[row if len(scores) > 1 else 0] for row in range(rows)]
