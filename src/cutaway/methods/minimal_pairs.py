"""Minimal pairs as methods take them: two lists, two inputs or `cutaway.data.Pair`s, and what tells the two apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cutaway.data import Pair
from cutaway.errors import TargetError
from cutaway.methods.feed import Rows, again, embedded, prepared, unit
from cutaway.methods.result import MethodError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import Target


@dataclass(frozen=True, eq=False)
class closer(Target):  # noqa: N801
    """How much nearer row i lies to one thing than to another: cos(y_i, to_i) - cos(y_i, than_i).

    y is the embedding of the picture or text that is run; `to` and `than` are embeddings of the other modality.
    """

    to: Float[Tensor, "row joint"]
    than: Float[Tensor, "row joint"]

    @classmethod
    def of(cls, model: Model, to: Rows, than: Rows, *, progress: bool = False) -> closer:
        """From texts (for runs on pictures), or from pictures or scenes (for runs on texts)."""
        both = [again(model, given, "text") for given in (to, than)]
        towers = ["text" if all(isinstance(one, str) for one in given) else "vision" for given in both]
        return cls(*(embedded(model, *one, progress=progress) for one in zip(both, towers, strict=True)))

    def rows(self, start: int, stop: int) -> closer:
        """The target of these rows only."""
        return closer(self.to[start:stop], self.than[start:stop])

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The difference of the two cosines."""
        own = getattr(run.outputs, "pooler_output", None)
        if own is None or not run.inputs.call.startswith("get_"):
            raise TargetError(
                "this run has no embedding in a joint space", exists=f"output {type(run.outputs).__name__}",
                expected="a contrastive model on pictures alone or on texts alone", do="give another target",
            )  # fmt: skip
        if own.shape != self.to.shape or own.shape != self.than.shape:
            raise TargetError(
                f"embeddings of shape {tuple(own.shape)} and {tuple(self.to.shape)} do not pair up",
                expected="one `to` and one `than` for each row",
                do="make the target from as many texts as there are rows",
            )
        difference = unit(self.to) - unit(self.than)
        return (unit(own) * difference.to(own.device, own.dtype)).sum(-1)

    @property
    def unit(self) -> str:
        """A difference of cosines."""
        return "cosine"


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
        mine, theirs = (words, scenes) if tower.startswith("text") else (scenes, words)
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
                do="give Pairs to a contrastive model, or target=closer.of(model, texts, other_texts)",
            )  # fmt: skip
        target = closer.of(model, *told, progress=progress)
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
