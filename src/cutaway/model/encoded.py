"""One evaluation of a denoiser with the prompt encoders in front of it, in the same run: from words to the picture."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.calls import Denoise, Forward
from cutaway.model.inputs import Inputs

WORDS = "encoder_hidden_states"  # what denoisers call the words
NEAR = 1e-2  # how far, of their largest, states may be off that two batches of one encoder give


@dataclass(frozen=True, eq=False)
class Encoded(Denoise):
    """One evaluation that begins at the words: the pipeline's encoders say the `prompts` again in every run.

    `asked`: what else the pipeline asks of them; `place`: which of the things that they give back the denoiser reads.
    What a pooled prompt says to the timestep stays as it was prepared, so the words go by their own states alone.
    """

    prompts: tuple[str, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)
    place: int = 0

    def __call__(self, module: Any, tensors: Mapping[str, Any], **options: Any) -> Any:
        """What the denoiser returns."""
        said = module.encode_prompt(**self.asked, prompt=list(self.prompts))[self.place]
        return super().__call__(module, {**tensors, WORDS: said.to(tensors[WORDS])}, **options)

    def in_cells(self, tensors: Mapping[str, Any], n: int, rows: int) -> tuple[Forward, Mapping[str, Any]]:
        """As many prompts, cell behind cell."""
        call, given = super().in_cells(tensors, n, rows)
        return replace(call, prompts=self.prompts * n), given  # type: ignore[call-arg]

    def joined(self, calls: Sequence[Forward]) -> Forward | None:
        """The same step of the same denoiser, with the prompts of all."""
        joined = super().joined(calls)
        if joined is None or any(not isinstance(call, Encoded) or call.place != self.place for call in calls):
            return None
        said = tuple(prompt for call in calls for prompt in call.prompts)  # type: ignore[attr-defined]
        return replace(joined, prompts=said)  # type: ignore[call-arg]

    def in_words_of(self, other: Forward) -> Forward:
        """The same with the prompts of another."""
        if not isinstance(other, Encoded):
            raise InputError(
                "one of these two evaluations begins at the words, the other behind their encoders",
                expected="both made alike", do="`model.inputs(prompt=…, step=…, encoder=True)` for both",
            )  # fmt: skip
        return replace(self, prompts=other.prompts)

    def __str__(self) -> str:
        return f"{super().__str__()}, from the words on"


class _Asked(Exception):  # noqa: N818, it carries what was looked for
    """What a pipeline asks its encoders with."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__()
        self.given = given


def encoded(pipeline: Any, drawing: Inputs, inputs: Inputs) -> Inputs:
    """One evaluation of a drawing, the prompt encoders in front of it; InputError where they can not be asked alone."""
    call = inputs.call
    if not isinstance(call, Denoise) or WORDS not in inputs.tensors or not hasattr(pipeline, "encode_prompt"):
        raise InputError(
            f"{type(pipeline).__name__} has no prompt encoders that can run before one evaluation of its denoiser",
            expected="a pipeline that draws prompts, and `step=`", exists=f"{call}", do="leave out `encoder=`",
        )  # fmt: skip
    asked = _asked(pipeline, drawing)
    prompts = asked.pop("prompt")
    with torch.no_grad():
        given = pipeline.encode_prompt(**asked, prompt=list(prompts))
    words = inputs.tensors[WORDS]
    gaps = [_gap(one, words) for one in given]
    place = min(range(len(gaps)), key=gaps.__getitem__)
    if gaps[place] > NEAR:
        raise InputError(
            f"what the encoders of {type(pipeline).__name__} say is not what its denoiser reads",
            expected=f"states of shape {tuple(words.shape)}", do="leave out `encoder=`: the words as they were encoded",
        )  # fmt: skip
    named = {name: getattr(call, name) for name in ("part", "step", "steps", "truth")}
    return replace(inputs, call=Encoded(**named, prompts=tuple(prompts), asked=asked, place=place))


def _asked(pipeline: Any, drawing: Inputs) -> dict[str, Any]:
    """What the pipeline gives its own `encode_prompt` in this drawing, guidance apart."""
    form = inspect.signature(pipeline.encode_prompt)

    def catch(*args: Any, **kwargs: Any) -> Any:
        raise _Asked(form.bind(*args, **kwargs).arguments)

    pipeline.encode_prompt = catch
    try:
        drawing.call(pipeline, drawing.tensors, output="pt", quiet=True)
    except _Asked as asked:
        named = {name: value for name, value in asked.given.items() if not name.startswith("negative")}
        named |= {"do_classifier_free_guidance": False} if "do_classifier_free_guidance" in form.parameters else {}
        prompt = named["prompt"]
        return {**named, "prompt": [prompt] if isinstance(prompt, str) else list(prompt)}
    finally:
        vars(pipeline).pop("encode_prompt", None)
    raise InputError(
        f"{type(pipeline).__name__} asks no encoder of its own", expected="a call of `encode_prompt`",
        do="leave out `encoder=`",
    )  # fmt: skip


def _gap(said: Any, words: Tensor) -> float:
    """How far what an encoder gives is from these states, of their largest."""
    if not isinstance(said, Tensor) or said.shape != words.shape:
        return float("inf")
    return float((said.to(words) - words).abs().max() / words.abs().max().clamp_min(1e-30))
