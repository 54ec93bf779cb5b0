"""What it costs to keep where words are looked for while a picture is drawn: beside the pipeline and plain hooks.

python benchmarks/drawing.py [--json FILE] [--rounds N] [--threads N] [--quick]

`zoo:emoji-sd` with guidance, everything timed in one process with the contestants in turn. The first row of each table
is the pipeline alone. *Plain hooks* is DAAM as one would write it: a processor in the place of each cross-attention
that takes the softmax by hand, keeps the half with the prompt, brings every map to the finest grid and adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from timing import QUICK, Contestant, Race, compete, timed
from torch import Tensor
from torch.nn.functional import interpolate

import cutaway
from cutaway.methods import cross_attention

GOAL = 1.15
PROMPT, GUIDANCE, SIDE = "a fox and a rose on a green background", 3.0, 16


def main() -> None:
    """Run every case."""
    given = timed(__doc__, 9, "fewer rounds").parse_args()
    compete(given, _races(QUICK if given.quick else given.rounds))


def _races(rounds: int) -> Iterator[Race]:
    model = cutaway.load("zoo:emoji-sd")
    for steps in (10, 40):
        inputs = model.inputs(prompt=PROMPT, seed=0, steps=steps, guidance=GUIDANCE)
        contestants = [
            Contestant("the pipeline", _alone(model, inputs)),
            Contestant("cutaway: one map a word", _maps(model, inputs, ()), GOAL),
            Contestant("cutaway: by step and layer", _maps(model, inputs, ("step", "layer")), note="film and all"),
            Contestant("plain hooks: one map a word", lambda steps=steps: _daam(model.module, steps)),
        ]
        yield f"emoji-sd, {steps} steps", contestants, rounds


def _alone(model: cutaway.Model, inputs: Any) -> Callable[[], Any]:
    return lambda: inputs.call(model.module, inputs.tensors, quiet=True)


def _maps(model: cutaway.Model, inputs: Any, apart: tuple[str, ...]) -> Callable[[], Any]:
    return lambda: cross_attention(model, inputs, apart=apart, progress=False)


class _Hand:
    """Cross-attention with its softmax by hand, which adds up the maps of the prompt's half."""

    def __init__(self, sums: list[Tensor]) -> None:
        self.sums = sums

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        residual, given = hidden_states, hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(given), attn.to_v(given)
        query, key, value = (attn.head_to_batch_dim(one) for one in (query, key, value))
        shares = attn.get_attention_scores(query, key)
        if encoder_hidden_states is not None:
            kept = shares.unflatten(0, (2, -1))[1]
            side = round(kept.shape[1] ** 0.5)
            maps = kept.transpose(1, 2).unflatten(-1, (side, side))
            self.sums.append(interpolate(maps, (SIDE, SIDE), mode="bilinear").mean(0))
        out = attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(shares @ value)))
        return out + residual if attn.residual_connection else out


def _daam(pipeline: Any, steps: int) -> Tensor:
    sums: list[Tensor] = []
    before = pipeline.unet.attn_processors
    pipeline.unet.set_attn_processor({
        name: _Hand(sums) if ".attn2." in name else old for name, old in before.items()
    })  # fmt: skip
    try:
        pipeline(PROMPT, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=torch.Generator().manual_seed(0))
    finally:
        pipeline.unet.set_attn_processor(before)
    return torch.stack(sums).mean(0)


if __name__ == "__main__":
    main()
