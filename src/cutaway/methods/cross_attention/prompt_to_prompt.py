"""Prompt-to-prompt: another prompt drawn with the attention to words of the first, so that what is not asked stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.maps import looking
from cutaway.methods.cross_attention.spoken import Word, positions_of, words
from cutaway.model.edits import Edit, Patch, Scale
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.session import Reading
from cutaway.model.tokens import TokenMap
from cutaway.questions.pairs import same_drawing

Kind = Literal["replace", "refine"]
OWN = "denoiser.*.attn.pattern"  # where patches look at one another


def prompt_to_prompt(
    model: Model, inputs: Inputs, other: Inputs, *, share: float = 0.8, own: float = 0.0, kind: Kind | None = None,
    weights: Mapping[str, float] | None = None, guidance: str = "cond",
) -> list[Edit]:  # fmt: skip
    """Edits with which another prompt is drawn from the attention of a first drawing (Prompt-to-Prompt).

    M*_t[:, j] <- Σ_i W[i, j] M_t[:, i] at the steps t < share · T, in each layer and head of the cross-attention: M is
    the pattern of the first drawing, M* that of the `other`, whose values stay. In joint attention (SD3, Flux) it is
    the part of the pattern from patches to text; what patches give to patches, and all that words look at, stays. W
    goes from words to words: 1 from a token to its own; from a word of n tokens to one of m, 1/m from each to each, so
    that the word keeps its sum. `replace` takes the words in their order, one for one; `refine` takes those that both
    prompts say, and leaves new words as they are; unless told it is `replace` where both have as many words. Begin, end
    and padding go to their own kind, counted from their first. `weights` (reweight) multiply the columns of words of
    `other` at every step, M*[:, j] <- c M*[:, j]; with `other` the inputs themselves the drawing is the same but for
    that. `own` is the share of steps at which the self-attention, from patches to patches, is put in too. The first
    drawing is run here, once for each kind of pattern, and these are kept in memory; `model.run(other, edits=…)` draws
    the other.

    Units: shares of attention; a row of the pattern need not add up to 1 after `refine` and `weights`, as in the paper.
    A written pattern is multiplied out here and not in the library's kernel: the same prompt is drawn as it was but for
    rounding. Source: Hertz et al. 2022, arXiv 2208.01626, section 3; it maps padding by place, puts self-attention in
    (its code does) up to 16 × 16, and blends with a mask, which we leave out; joint attention came later, and patches
    share one softmax between words and patches there, whose other part we do not rescale. MethodError for two drawings
    that differ in more than prompts, words that do not pair up, and a model whose patches see no words.

    What it can NOT tell: that layout lies in these patterns alone; the keys that are looked at hold other words now,
    and the first steps lay out the picture from the noise as well.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> first, other = (model.inputs(prompt=one, seed=0, steps=2) for one in ("a red dog", "a blue dog"))
    >>> prompt_to_prompt(model, first, other, share=0.5, weights={"blue": 2.0})[-1]
    Scale('denoiser.*.cross.pattern', 2.0, key=<1x16 bool>, guidance='cond')
    >>> drawn = model.run(other, edits=prompt_to_prompt(model, first, other, share=0.5))
    """
    _check(inputs, other, share, own, kind)
    sites = looking(model)
    crossed = sites[0].part == "cross.pattern"
    said, seen = ("denoiser.*.cross.pattern" if crossed else OWN), "text" if crossed else "denoiser.joint"
    first, second = (one.map_for(sites[0], "key", len(one.tokens[seen])) for one in (inputs, other))
    patches = None if crossed else torch.from_numpy(second.row >= 0)
    made: list[Edit] = []
    if share > 0:
        matrix, known = columns(first, second, kind)
        known = known if patches is None else known & ~patches
        for site, pattern in _drawn(model, inputs, said, share, guidance):
            each = matrix.repeat_interleave(inputs.copies, 0).to(pattern)
            moved = torch.einsum("tgbhqi,bij->tgbhqj", pattern, each)
            key = None if known.all() else known
            made.append(
                Patch(site, {site: moved}, query=patches, key=key, step=range(len(moved)), guidance=guidance)
            )  # fmt: skip
    if own > 0:
        for site, pattern in _drawn(model, inputs, OWN, own, guidance):
            made.append(
                Patch(site, {site: pattern}, query=patches, key=patches, step=range(len(pattern)), guidance=guidance)
            )  # fmt: skip
    for text, factor in (weights or {}).items():
        made.append(Scale(said, float(factor), query=patches, key=positions_of(second, text), guidance=guidance))
    return made


def _check(inputs: Inputs, other: Inputs, share: float, own: float, kind: str | None) -> None:
    same_drawing(inputs, other)
    whole = all(one.call.loops and "text" in one.tokens for one in (inputs, other))
    if not whole or not (0 <= share <= 1 and 0 <= own <= 1) or kind not in (None, *get_args(Kind)):
        raise MethodError(
            f"no edits of kind {kind!r} at {share} of the steps ({own} of the self-attention)",
            expected="two whole drawings of prompts; shares of 0 to 1; replace, refine or None",
            do="`model.inputs(prompt=…)` without `step=`; the defaults are 0.8, 0 and None",
        )  # fmt: skip


def _drawn(model: Model, inputs: Inputs, sites: str, share: float, guidance: str) -> Iterator[tuple[str, Tensor]]:
    """What the first drawing has at these sites, at its first steps, in one row of the guidance."""
    kept: dict[str, dict[int, Tensor]] = {}

    def add(reading: Reading) -> None:
        kept.setdefault(str(reading.site), {})[reading.step] = reading.value.clone()

    model.run(inputs, record=sites, into=add, guidance=guidance)
    for site, steps in kept.items():
        count = round(share * len(steps))
        if count:
            yield site, torch.stack([steps[step] for step in range(count)])


def columns(
    first: TokenMap, other: TokenMap, kind: Kind | None
) -> tuple[Float[Tensor, "row position column"], Bool[Tensor, "row column"]]:
    """From positions of the first prompts to those of the others, and which of these are told by the first.

    What `prompt_to_prompt` multiplies patterns by; MethodError for words that do not pair up.
    """
    matrix = torch.zeros(first.batch, len(first), len(other), dtype=torch.float64)
    for row in range(first.batch):
        for name in sorted({*map(str, other.kind[row])} - {"text"}):
            here, there = ((one.kind[row] == name).nonzero()[0] for one in (first, other))
            for before, after in zip(here.tolist(), there.tolist(), strict=False):
                matrix[row, before, after] = 1
        for one, two in _pairs(words(first, row), words(other, row), kind):
            if len(one.positions) == len(two.positions):
                matrix[row, list(one.positions), list(two.positions)] = 1
            else:
                matrix[row][torch.tensor(one.positions)[:, None], torch.tensor(two.positions)] = 1 / len(two.positions)
    return matrix, (matrix > 0).any(1)


def _pairs(one: list[Word], two: list[Word], kind: Kind | None) -> Iterator[tuple[Word, Word]]:
    """Which word stands for which."""
    if kind == "replace" or (kind is None and len(one) == len(two)):
        if len(one) != len(two):
            raise MethodError(
                f"{len(one)} words cannot be exchanged one for one with {len(two)}", expected="as many in both",
                exists=" / ".join(" ".join(word.text for word in some) for some in (one, two)), do="`kind='refine'`",
            )  # fmt: skip
        yield from zip(one, two, strict=True)
        return
    here, there = ([word.text.lower() for word in some] for some in (one, two))
    for block in SequenceMatcher(None, here, there, autojunk=False).get_matching_blocks():
        yield from zip(one[block.a : block.a + block.size], two[block.b : block.b + block.size], strict=True)
