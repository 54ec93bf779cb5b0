"""What a lens costs: every layer and position read in words, beside plain hooks and nnsight; fitting a tuned lens.

python benchmarks/lens.py [--json FILE] [--rounds N] [--threads N] [--quick]

Everyone gives the same numbers: of each layer and position the first five words with their probabilities, entropy, KL
to the end, and logit, probability and rank of two words. The first row of each table is the baseline. Of a tuned lens:
steps of training on some rows, beside the bare forward of these rows; tokens a second are in inverse proportion.
`--fits`: no race, but how well a lens of `zoo:emoji-llava` fits after some steps, by how many positions each takes.
benchmarks/peers.sh makes an environment with nnsight.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from record import MISSING, NNsight, llava
from timing import QUICK, Contestant, Race, begun, compete, timed
from torch import Tensor, nn

import cutaway
from cutaway.data import render, scene_at
from cutaway.methods import tuned_lens, word_lens

GOAL, TRAINING_GOAL = 1.1, 1.25  # the second: 0.8 of the tokens a second
WORDS, TOP = [30, 31], 5
TUNED = "fitting a tuned lens"
Kept = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A model that writes, its inputs, and where its blocks, its last norm and its unembedding lie."""

    title: str
    module: Any
    tensors: dict[str, Tensor]
    judged: bool = True

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of the decoder."""
        return list(self.module.model.language_model.layers)

    def read(self, states: Tensor) -> Tensor:
        """Logits of states of the residual stream."""
        return self.module.lm_head(self.module.model.language_model.norm(states))  # type: ignore[no-any-return]


def cases(quick: bool) -> Iterator[Case]:
    """The models; `quick` makes them short."""
    made = llava(3 if quick else 12)
    yield Case(made.title, made.sdpa, made.tensors)
    model = cutaway.load("zoo:emoji-llava")
    inputs = model.inputs(image=render(scene_at("test", 0)), text="What does the picture show?")
    yield Case("zoo:emoji-llava, 64 + 9 tokens", model.module, dict(inputs.tensors), judged=False)


# --- contestants ------------------------------------------------------------------------------------------------------


def numbers(case: Case, states: list[Tensor], final: Tensor) -> list[Kept]:
    """The numbers of every layer, one layer of logits at a time."""
    own = final.log_softmax(-1)
    sure = own.exp()
    self_ = (sure * own).sum(-1)
    kept = []
    for state in states:
        logits = case.read(state)
        said = logits.log_softmax(-1)
        best = said.topk(TOP)
        asked = logits[..., WORDS]
        kept.append({
            "top_id": best.indices, "top_probability": best.values.exp(), "entropy": -(said.exp() * said).sum(-1),
            "kl": (self_ - (sure * said).sum(-1)).clamp(min=0), "word_logit": asked,
            "word_probability": said[..., WORDS].exp(),
            "word_rank": torch.stack([(logits > one[..., None]).sum(-1) + 1 for one in asked.unbind(-1)], -1),
        })  # fmt: skip
    return kept


def hooked(case: Case) -> Callable[[], list[Kept]]:
    """Plain hooks on every block."""

    def run() -> list[Kept]:
        states: list[Tensor] = []

        def enter(block: nn.Module, args: Any, kwargs: Any) -> None:
            states.append((args[0] if args else kwargs["hidden_states"]).detach())

        def leave(block: nn.Module, args: Any, output: Any) -> None:
            states.append((output if isinstance(output, Tensor) else output[0]).detach())

        handles = [case.blocks[0].register_forward_pre_hook(enter, with_kwargs=True)]
        handles += [block.register_forward_hook(leave) for block in case.blocks]
        try:
            final = case.module(**case.tensors).logits
        finally:
            for handle in handles:
                handle.remove()
        return numbers(case, states, final)

    return run


def nnsighted(case: Case) -> Callable[[], list[Kept]] | None:
    """nnsight's tracer in the place of the hooks."""
    if NNsight is None:
        return None
    wrapped = NNsight(case.module)
    envoys = list(wrapped.model.language_model.layers)

    def run() -> list[Kept]:
        with wrapped.trace(**case.tensors):
            kept = [envoys[0].input, *[envoy.output for envoy in envoys], wrapped.output.logits].save()
        *states, final = kept
        return numbers(case, [one if isinstance(one, Tensor) else one[0] for one in states], final)

    return run


def ours(case: Case, draws: int) -> Callable[[], Any]:
    """word_lens, its table and its baseline of random directions included."""
    model = cutaway.load(case.module)
    inputs = model.inputs(**case.tensors)
    return lambda: word_lens(model, inputs, WORDS, top=TOP, draws=draws, progress=False)


def lenses(case: Case) -> list[Contestant]:
    """Everyone who reads every layer and position."""
    goal = GOAL if case.judged else None
    return [
        Contestant("plain hooks", hooked(case)),
        Contestant("plain hooks, once more", hooked(case), note="the noise"),
        Contestant("cutaway", ours(case, 32), goal, note="with 32 random directions"),
        Contestant("cutaway, one random direction", ours(case, 1), goal),
        Contestant("nnsight", nnsighted(case), note="" if NNsight else MISSING),
    ]


def check(contestants: list[Contestant]) -> None:
    """Everyone must have found the same numbers before anyone is timed."""
    made = {one.name: one.call() for one in contestants if one.call}
    first = made["plain hooks"]
    for name, found in made.items():
        for layer, wanted in enumerate(first):
            for what, values in wanted.items():
                mine = found[layer][what] if isinstance(found, list) else torch.from_numpy(found[what].values[:, layer])
                same = torch.allclose(mine.double(), values.double(), atol=2e-3, rtol=1e-3)
                if not same and what not in ("top_id", "word_rank"):  # ties may fall either way
                    raise SystemExit(f"{name}: {what} of layer {layer - 1} is not that of plain hooks: nothing to time")


def training(case: Case, rows: int, steps: int) -> list[Contestant]:
    """Steps of a tuned lens beside the bare forward of the same rows."""
    tensors = {name: value.repeat(rows, *[1] * (value.dim() - 1)) for name, value in case.tensors.items()}
    model = cutaway.load(case.module)
    batches = [model.inputs(**tensors)] * steps

    def bare() -> None:
        for _ in range(steps):
            case.module(**tensors)

    def fitted(positions: int) -> Callable[[], Any]:
        return lambda: tuned_lens(model, batches, steps=steps, positions=positions, progress=False)

    goal = TRAINING_GOAL if case.judged else None
    return [
        Contestant("bare forward", bare),
        Contestant("bare forward, once more", bare, note="the noise"),
        Contestant("tuned_lens, 128 positions a step", fitted(128), goal, note="the default"),
        Contestant("tuned_lens, 512 positions a step", fitted(512)),
    ]


def fits() -> None:
    """Nats to the end that a lens leaves at the layers before the last, on scenes that it has not seen."""
    model = cutaway.load("zoo:emoji-llava")

    def shown(split: Literal["train", "test"], first: int, many: int) -> Any:
        pictures = [render(scene_at(split, first + at)) for at in range(many)]
        return model.inputs(image=pictures, text=["What does the picture show?"] * many)

    rows, held = [shown("train", 8 * at, 8) for at in range(40)], shown("test", 0, 16)

    def left(tuned: Any) -> float:
        found = word_lens(model, held, tuned=tuned, draws=1, progress=False)["kl"]
        return float(found.isel(layer=slice(0, -1)).mean())

    print(f"no lens: {left(None):.3f} nats")
    for positions, steps in ((512, 100), (256, 100), (128, 100), (128, 168), (64, 100), (64, 200)):
        started = time.process_time()
        stream = (rows[at % len(rows)] for at in range(steps))
        tuned = tuned_lens(model, stream, steps=steps, positions=positions, progress=False)
        took = time.process_time() - started
        print(f"{positions} positions, {steps} steps: {left(tuned):.3f} nats, {took:.1f} s", flush=True)


# --- the program ------------------------------------------------------------------------------------------------------


def races(quick: bool, rounds: int) -> Iterator[Race]:
    """Each model twice: read, and trained on."""
    rounds = QUICK if quick else rounds
    for case in cases(quick):
        contestants = lenses(case)
        check(contestants)
        yield f"{case.title}: every layer and position", contestants, rounds
        yield f"{case.title}: {TUNED}", training(case, 2 if quick else 8, 4 if quick else 2), max(3, rounds // 7)


def main() -> None:
    """Parse the options, run every case, print the tables."""
    given = timed(__doc__, 21, f"three layers, {QUICK} rounds", fits=(False, "how well a tuned lens fits")).parse_args()
    if given.fits:
        begun(given)
        fits()
        return
    found = compete(given, races(given.quick, given.rounds), *([] if NNsight else [f"nnsight is {MISSING}"]))
    for title, results in found.items():
        if title.endswith(TUNED) and (ratio := results[2].ratio):
            print(f"{title}: tokens a second {1 / ratio:.2f} of the bare forward's (goal 0.80)")


if __name__ == "__main__":
    main()
