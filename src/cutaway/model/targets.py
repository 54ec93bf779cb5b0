"""Targets: one number a row read off a run. They make every method blind to the family of the model.

A target is a small picklable value; `target(run)` gives one number for each row, differentiable when the run is.
`logit("dog")`, `logit_diff("dog", "cat")`, `log_prob("dog")`, `answer()`, `similarity()`, `margin(0, 1)`, `closer(…)`,
`label(3)`, `distance(run)`, `denoising_error()`. Words and classes may be one for all rows or a list, one a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from cutaway.errors import TargetError, near
from cutaway.model.engine import Opened
from cutaway.model.run import Run
from cutaway.model.weights import readout
from cutaway.model.words import Word, next_scores, number, of_word, tokens_of

Reads = Literal["last logits", "all"]


@dataclass(frozen=True)
class Target:
    """Base of all targets: call it on a run for one number a row."""

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The number, in the unit the target names."""
        raise NotImplementedError

    @property
    def unit(self) -> str:
        """What one of it is."""
        return "logits"

    @property
    def reads(self) -> Reads:
        """What of a run it needs: a sweep does not compute the rest."""
        return "all"

    @property
    def words(self) -> tuple[Word, ...]:
        """The words that it is about, or their token ids: each one for all rows, or a list, one a row."""
        return ()

    @property
    def signs(self) -> tuple[int, ...]:
        """Of a number that is a sum of the logits of its words at its `position`, the sign of each; () of any other."""
        return ()

    def directions(self, model: Opened) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, "row"]] | None:
        """U and c of a number that is <U, y> + c, y the state behind a decoder's last norm; None of any other.

        One row where it is the same for all. What a class does to its logits behind the unembedding is left out.
        """
        if not self.signs:
            return None
        engine = model.engine
        return readout(engine, "text").directions(tokens_of(engine.tokenizer, self.words), self.signs)

    def rows(self, start: int, stop: int) -> Target:
        """The same target for some of the rows: lists that have one entry a row are cut."""
        held = {item.name: getattr(self, item.name) for item in fields(self)}
        lists = {name: value for name, value in held.items() if isinstance(value, list | tuple)}
        return replace(self, **{name: value[start:stop] for name, value in lists.items()}) if lists else self


def numbers(target: Callable[[Run], Tensor], run: Run, *, finite: bool = True) -> Float[Tensor, "row"]:
    """What any target gives of a run; TargetError unless that is one number a row, a `finite` one."""
    found: Any = target(run)
    if not isinstance(found, Tensor) or found.dim() != 1:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise TargetError("this target gives no number a row", expected="a tensor of one axis, (row,)", exists=what)
    bad = (~found.isfinite()).nonzero().flatten().tolist() if finite else []
    if bad:
        raise TargetError(
            f"the target is {found[bad[0]]:.3g} in row {bad[0]} of the {len(found)} that were run together",
            expected="a finite number a row", exists=f"{len(found) - len(bad)} rows that have one",
            do="look at the logits of that row, and load the model in another dtype (half precision overflows), or run "
            "rows without padding (in float64 eager attention gives nan where a query sees nothing else)",
        )  # fmt: skip
    return found


def of_rows(target: Any, start: int, stop: int) -> Any:
    """A target for some of the rows; a plain function is for any."""
    return target.rows(start, stop) if isinstance(target, Target) else target


@dataclass(frozen=True)
class logit(Target):  # noqa: N801
    """The logit of one word as the next token, l(word); `position` is the token that predicts it (-1: the last)."""

    word: Word
    position: int = -1

    @property
    def reads(self) -> Reads:
        """The logits of one position."""
        return "last logits" if self.position == -1 else "all"

    @property
    def words(self) -> tuple[Word, ...]:
        """The word."""
        return (self.word,)

    @property
    def signs(self) -> tuple[int, ...]:
        """The logit itself."""
        return (1,)

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The logit at the position."""
        return of_word(next_scores(run, self.position), run, self.word)


@dataclass(frozen=True)
class logit_diff(Target):  # noqa: N801
    """How much the model prefers one word to another as the next token: l(word) - l(other), in logits."""

    word: Word
    other: Word
    position: int = -1

    @property
    def reads(self) -> Reads:
        """The logits of one position."""
        return "last logits" if self.position == -1 else "all"

    @property
    def words(self) -> tuple[Word, ...]:
        """The word and the other."""
        return self.word, self.other

    @property
    def signs(self) -> tuple[int, ...]:
        """The one less the other."""
        return 1, -1

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The difference at the position."""
        scores = next_scores(run, self.position)
        return of_word(scores, run, self.word) - of_word(scores, run, self.other)


@dataclass(frozen=True)
class log_prob(Target):  # noqa: N801
    """The log-probability of one word as the next token: l(word) - log sum exp l."""

    word: Word
    position: int = -1

    @property
    def reads(self) -> Reads:
        """The logits of one position."""
        return "last logits" if self.position == -1 else "all"

    @property
    def words(self) -> tuple[Word, ...]:
        """The word."""
        return (self.word,)

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The log-probability at the position."""
        scores = next_scores(run, self.position)
        exact = torch.promote_types(scores.dtype, torch.float32)  # half precision is computed in single
        return of_word(scores.to(exact).log_softmax(-1), run, self.word)

    @property
    def unit(self) -> str:
        """Natural units of information."""
        return "nats"


@dataclass(frozen=True)
class answer(Target):  # noqa: N801
    """The log-probability of a whole answer, every token given those before it: sum_t log p(a_t | prompt, a_<t).

    Of inputs that end in their answers: `model.inputs(text=…, answer="a red dog")`; `mean` divides by their lengths.
    """

    mean: bool = False

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The sum, or the mean, over the tokens of each row's answer."""
        lengths, logits = run.inputs.answers, run.logits
        if not lengths or logits.dim() != 3:
            raise TargetError("these inputs end in no answer", do='`model.inputs(text=…, answer="a red dog")`')
        if max(lengths) >= logits.shape[1]:
            raise TargetError(f"logits of {logits.shape[1]} positions for answers of up to {max(lengths)} tokens")
        exact = torch.promote_types(logits.dtype, torch.float32)
        found = []
        for row, length in enumerate(lengths):  # padding is in front
            scores = logits[row, -length - 1 : -1].to(exact).log_softmax(-1)
            each = scores.gather(1, run.inputs.tensors["input_ids"][row, -length:, None].to(scores.device))
            found.append(each.mean() if self.mean else each.sum())
        return torch.stack(found)

    @property
    def unit(self) -> str:
        """Natural units of information."""
        return "nats"


@dataclass(frozen=True)
class label(Target):  # noqa: N801
    """The logit of one class of an image classifier, by index or by name in the config."""

    name: int | str

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The logit of the class."""
        index = self.name
        if isinstance(index, str):
            names: dict[int, str] = getattr(run.context.module.config, "id2label", None) or {}
            known = {name: number for number, name in names.items()}
            if index not in known:
                raise TargetError(f"no class '{index}'", exists=near(index, known))
            index = known[index]
        if run.logits.dim() != 2:
            raise TargetError(f"no class {index}", exists=f"logits of shape {tuple(run.logits.shape)}")
        return run.logits[:, number(index, run.logits.shape[1], "class")]


@dataclass(frozen=True)
class similarity(Target):  # noqa: N801
    """The cosine of picture and text in the joint space of a contrastive model: row i is picture i with text `text`.

    cos(v_i, t_j) = <v_i, t_j> / (|v_i| |t_j|). `text=None` pairs picture i with text i; without the logit scale.
    """

    text: int | None = None

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The cosine of each picture."""
        pictures, texts = (getattr(run.outputs, name, None) for name in ("image_embeds", "text_embeds"))
        if pictures is None or texts is None:
            raise TargetError(
                "this run has no joint embeddings of picture and text", exists=f"output {type(run.outputs).__name__}",
                do="give a contrastive model a picture and a text together",
            )  # fmt: skip
        pictures, texts = (x / x.norm(dim=-1, keepdim=True) for x in (pictures, texts))
        if self.text is None and len(pictures) != len(texts):
            raise TargetError(
                f"{len(pictures)} pictures and {len(texts)} texts do not pair up",
                do="name one text: similarity(text=0)",
            )
        if self.text is None:
            return (pictures * texts).sum(-1)
        return pictures @ texts[number(self.text, len(texts), "text")]

    @property
    def unit(self) -> str:
        """A cosine."""
        return "cosine"


@dataclass(frozen=True)
class margin(Target):  # noqa: N801
    """How much better a picture fits one text than another: cos(v_i, t_a) - cos(v_i, t_b); alone, cos(v_i, t_a)."""

    text: int = 0
    rival: int | None = None

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The cosine, or the difference of two."""
        if self.rival == self.text:
            raise TargetError(f"text {self.text} is its own rival", expected="two texts", do="name another one")
        fit = similarity(self.text)(run)
        return fit if self.rival is None else fit - similarity(self.rival)(run)

    @property
    def unit(self) -> str:
        """A cosine, or a difference of two."""
        return "cosine"


@dataclass(frozen=True, eq=False, repr=False)
class closer(Target):  # noqa: N801
    """How much nearer row i lies to one thing than to another: cos(y_i, to_i) - cos(y_i, than_i).

    y is the embedding of the picture or text that is run alone; `to` and `than` are embeddings of the other modality,
    or of the same for a model that has one alone (DINOv2).
    """

    to: Float[Tensor, "row joint"]
    than: Float[Tensor, "row joint"]

    def __repr__(self) -> str:
        return f"closer({len(self.to)} rows)"

    def rows(self, start: int, stop: int) -> closer:
        """The target of these rows only."""
        return closer(self.to[start:stop], self.than[start:stop])

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The difference of the two cosines."""
        own = getattr(run.outputs, "pooler_output", None)
        if own is None:  # of picture and text at once the libraries give none
            raise TargetError(
                "this run has no embedding in a joint space", exists=f"output {type(run.outputs).__name__}",
                expected="a contrastive model on pictures or texts alone, or DINOv2", do="give another target",
            )  # fmt: skip
        if own.shape != self.to.shape or own.shape != self.than.shape:
            raise TargetError(
                f"embeddings of shape {tuple(own.shape)} and {tuple(self.to.shape)} do not pair up",
                expected="one `to` and one `than` for each row", do="give as many texts as there are rows",
            )  # fmt: skip
        difference = normalize(self.to, dim=-1) - normalize(self.than, dim=-1)
        return (normalize(own, dim=-1) * difference.to(own.device, own.dtype)).sum(-1)

    @property
    def unit(self) -> str:
        """A difference of cosines."""
        return "cosine"


@dataclass(frozen=True)
class denoising_error(Target):  # noqa: N801
    """How far a denoiser is from what it was trained to say: the mean of (e(x_t, t, prompt) - truth)^2 of each row.

    Of one evaluation on a picture with noise: `model.inputs(prompt=…, step=3, image=…)`.
    """

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The mean squared error of each row."""
        truth, made = run.inputs.call.truth, getattr(run.outputs, "sample", None)
        if truth is None or made is None:
            raise TargetError(
                "nothing is known of what the denoiser should say here", exists=f"a {run.inputs.call}",
                do="`model.inputs(prompt=…, step=3, image=…)`: one evaluation on a picture with noise",
            )  # fmt: skip
        exact = torch.promote_types(made.dtype, torch.float32)
        return (made.to(exact) - truth.to(made.device, exact)).flatten(1).pow(2).mean(1)

    @property
    def unit(self) -> str:
        """In latents, squared."""
        return "squared error"


@dataclass(frozen=True, eq=False)
class distance(Target):  # noqa: N801
    """How far the outcome of a run is from another's: the mean squared difference of latents, pictures or logits."""

    reference: Any

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The mean squared difference of each row."""
        here, there = outcome(run), self.reference if isinstance(self.reference, Tensor) else outcome(self.reference)
        if here.shape != there.shape:
            raise TargetError(f"outcomes of shape {tuple(here.shape)} and {tuple(there.shape)} have no distance")
        exact = torch.promote_types(here.dtype, torch.float32)
        return (here.to(exact) - there.to(here.device, exact)).flatten(1).pow(2).mean(1)

    @property
    def unit(self) -> str:
        """Whatever the outcome is in, squared."""
        return "squared difference"


def outcome(run: Run) -> Float[Tensor, "batch *axes"]:
    """The final tensor of a run: latents or pictures of a pipeline, what a denoiser gives, logits or last state."""
    pictures = getattr(run.outputs, "images", None)
    if isinstance(pictures, Tensor):
        return pictures
    if pictures is not None:
        import numpy as np

        return torch.stack([torch.from_numpy(np.asarray(picture)).float() / 255 for picture in pictures])
    for name in ("logits", "logits_per_image", "pooler_output", "last_hidden_state", "sample"):
        if isinstance(getattr(run.outputs, name, None), Tensor):
            return getattr(run.outputs, name)
    raise TargetError(f"output {type(run.outputs).__name__} has no final tensor", do="write a target of your own")
