"""Minimal pairs as methods take them: two lists, two inputs or `cutaway.data.Pair`s, and what tells the two apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.data import Pair
from cutaway.errors import MethodError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.targets import Target, closer, outcome
from cutaway.questions.rows import Rows, again, embedded, feed, prepared, reads_words


def closer_to(model: Model, to: Rows, than: Rows, *, progress: bool = False) -> closer:
    """The target `closer` from texts (for runs on pictures), or from pictures or scenes (for runs on texts).

    A model of pictures alone (DINOv2) has no texts: there both are pictures, and what is compared is what it gives out.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> closer_to(cutaway.load("tiny:dinov2"), [tiny.picture(1)], [tiny.picture(2)])
    closer(1 rows)
    """
    both = [again(model, given, "text" if "text" in model.towers else "vision") for given in (to, than)]
    towers = ["text" if all(isinstance(one, str) for one in given) else "vision" for given in both]
    alone = model.family.kind != "contrastive"
    given_out = _given_out if alone else embedded
    return closer(*(given_out(model, *one, progress=progress) for one in zip(both, towers, strict=True)))


def _given_out(model: Model, rows: Rows, tower: str, *, progress: bool) -> Float[Tensor, "row joint"]:
    """The last output of a model of one modality, as its runs have it."""
    stream = feed(model, rows, tower, what=f"embedding ({tower})", progress=progress)
    return torch.cat([outcome(model.run(inputs)).detach().cpu() for inputs in stream])


def minimal_pairs(
    model: Model, clean: Any, counterfactual: Any, target: Target | None, tower: str, progress: bool
) -> tuple[Any, Any, Target]:  # fmt: skip
    """The two lists (or prepared inputs) and the target, from whatever a method was given."""
    if isinstance(clean, Inputs) or isinstance(counterfactual, Inputs):
        if not (isinstance(clean, Inputs) and isinstance(counterfactual, Inputs)):
            raise MethodError(
                "only one of the two is Inputs", expected="two Inputs, or two lists, or one of Pairs",
                exists=f"{type(clean).__name__} and {type(counterfactual).__name__}", do="make both: `model.inputs`",
            )  # fmt: skip
    else:
        clean = again(model, clean, tower)
        counterfactual = None if counterfactual is None else again(model, counterfactual, tower)
    told: tuple[Any, Any] | None = None
    if not isinstance(clean, Inputs) and all(isinstance(pair, Pair) for pair in clean):
        if counterfactual is not None:
            raise MethodError("Pairs bring their counterparts", expected="Pairs alone", do="leave `counterfactual` out")
        scenes, words = zip(*(((p.a, p.b), (p.caption_a.text, p.caption_b.text)) for p in clean), strict=True)
        mine, theirs = (words, scenes) if reads_words(model, tower) else (scenes, words)
        clean, counterfactual = [one for one, _ in mine], [other for _, other in mine]
        told = ([to for to, _ in theirs], [than for _, than in theirs])
    if counterfactual is None or (not isinstance(clean, Inputs) and len(clean) != len(counterfactual)):
        raise MethodError(
            f"{len(clean) if not isinstance(clean, Inputs) else 1} clean and "
            f"{0 if counterfactual is None else len(counterfactual)} counterfactual rows do not pair up",
            expected="two lists of one length, or one list of `cutaway.data.Pair`",
            do="give each input the counterpart that differs from it in one thing",
        )  # fmt: skip
    if target is None:
        if told is None or model.family.kind != "contrastive":
            why = "" if told is None else f": '{model.name}' is {model.family.kind} and has no joint space for captions"
            raise MethodError(
                f"no target, and nothing that says what tells the two apart{why}", expected="`target=`",
                exists="for generative models targets.logit_diff, for contrastive ones closer",
                do="give Pairs to a contrastive model, or target=closer_to(model, texts, other_texts)",
            )  # fmt: skip
        target = closer_to(model, *told, progress=progress)
    return clean, counterfactual, target


def batches(model: Model, one: Any, other: Any, tower: str, batch: int) -> Iterator[tuple[int, int, Inputs, Inputs]]:
    """Both sides, some rows at a time; no batch of one row where there are several, so that each has a stranger."""
    if isinstance(one, Inputs):
        yield 0, 0, one, other
        return
    count = max(1, min(-(-len(one) // batch), len(one) // 2))
    edges = [round(i * len(one) / count) for i in range(count + 1)]
    for start, stop in itertools.pairwise(edges):
        yield start, stop, prepared(model, one[start:stop], tower), prepared(model, other[start:stop], tower)


def same_positions(one: Inputs, other: Inputs, tower: str, start: int) -> None:
    """Refuse pairs whose positions do not mean the same: a patched token would land on another word."""
    here, there = (inputs.tokens.get(tower) for inputs in (one, other))
    if here is None or there is None:
        return
    counts = [[int((row != "pad").sum()) for row in known.kind] for known in (here, there)]
    uneven = [i for i, (a, b) in enumerate(zip(*counts, strict=False)) if a != b]
    if uneven or here.kind.shape != there.kind.shape:
        i = uneven[0] if uneven else 0
        raise MethodError(
            f"pair {start + i} has {counts[0][i]} and {counts[1][i]} positions",
            expected="as many tokens in the counterpart, so that each position has its own",
            exists=f"{len(counts[0]) - len(uneven)} of {len(counts[0])} pairs of this batch that do",
            do="reword one of the two, or keep the pairs of equal length",
        )  # fmt: skip


def one_length(inputs: Inputs, site: Site) -> None:
    """Refuse to go over the positions of rows that have more or fewer of them than others."""
    own = inputs.own(site, "token")
    lengths = [] if own is None else sorted({int(count) for count in own.sum(1)})
    if len(lengths) > 1:
        raise MethodError(
            f"rows of {lengths[0]} and {lengths[-1]} positions in one batch, of which each position is patched in turn",
            expected="pairs of one length in a call", exists=", ".join(map(str, lengths[:5])) + " positions",
            do="one call for each length, or `over=()` with `at=`, which counts along each row",
        )  # fmt: skip
