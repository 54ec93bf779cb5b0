"""Sweeps by one and by two workers of a local Ray, side by side; what that foretells for more; offloaded models.

python benchmarks/jobs.py [--json FILE] [--rounds N] [--threads N] [--quick] [--offload]

One worker and two are timed in turn, in every round once each, on the clock of the wall, since their work is in other
processes; each worker has one thread. What is run is a decoder of 12 layers of width 512 with random weights, the
residual stream patched at every layer and position. Their numbers must be those of `model.sweep`, bit for bit.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from timing import begun, timed
from transformers import LlamaConfig, LlamaForCausalLM

import cutaway
from cutaway import Patch, jobs, targets
from cutaway.jobs.spread import Sweeping
from cutaway.model.cells import Cells
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model

WORDS = 128
MANY = (2, 4, 8, 16, 64)
SHARES = (1.0, 0.5, 0.1)  # of the weights in memory


def decoder(folder: Path, quick: bool) -> None:
    """A decoder with random weights, as a folder that workers open."""
    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 3} if quick else {"hidden_size": 512, "num_hidden_layers": 12}
    config = LlamaConfig(
        vocab_size=1000, intermediate_size=4 * size["hidden_size"], num_attention_heads=8, num_key_value_heads=8, **size
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def asked(model: Model, quick: bool) -> tuple[Inputs, Cells, Any]:
    """Inputs, cells, target: the residual stream of another run at every layer and many positions."""
    words = WORDS // 4 if quick else WORDS
    ids = torch.randint(0, 1000, (2, words), generator=torch.Generator().manual_seed(1))
    inputs, other = (model.inputs(input_ids=row[None], attention_mask=torch.ones(1, words).long()) for row in ids)
    source = model.run(other, record="text.*.resid_post", copy=True)
    cells = model.grid(Patch("text.*.resid_post", source), token=range(1, words, 2 if quick else 12))
    return inputs, cells, targets.logit(7)


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes on the wall, and what it gives."""
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def scaling(folder: Path, quick: bool, rounds: int) -> dict[str, Any]:
    """One worker and two in turn; the chunks, the start and the turn one by one."""
    model = cutaway.load(str(folder))
    inputs, cells, target = asked(model, quick)
    alone_seconds, alone = seconds(lambda: model.sweep(inputs, cells, target, progress=False, memory=2**26))
    many = {"memory": 2**26, "progress": False}
    taken: dict[int, list[float]] = {1: [], 2: []}
    starts = {}
    with jobs.crew(model, 2) as both:
        starts[2] = seconds(lambda: list(both.run(_Nothing(), range(2), progress=False)))[0]
        one = jobs.Crew(model, both.actors[:1])
        for crew in (one, both):
            made = jobs.sweep(model, inputs, cells, target, workers=crew, **many)
            assert (made.values.values == alone.values.values).all()
        for at in range(rounds):
            for crew in (one, both)[:: 1 if at % 2 else -1]:
                took, _ = seconds(lambda crew=crew: jobs.sweep(model, inputs, cells, target, workers=crew, **many))
                taken[len(crew.actors)].append(took)
        turn = min(seconds(lambda: list(one.run(_Nothing(), range(200), progress=False)))[0] / 200 for _ in range(3))
    work = Sweeping(inputs, Cells.of(cells), target, 2**26)
    clean = seconds(lambda: work.do(model, 0))[0]
    numbers = range(len(alone.plan.chunks))
    chunks = [median(seconds(lambda at=at: work.do(model, at))[0] for _ in range(3)) for at in numbers]
    ratios = [b / a for a, b in zip(taken[1], taken[2], strict=True)]
    return {
        "cells": len(cells), "chunks": chunks, "alone": alone_seconds, "one": median(taken[1]), "two": median(taken[2]),
        "ratio": median(ratios), "ratios": sorted(ratios), "clean": clean - chunks[0], "open": starts[2], "turn": turn,
    }  # fmt: skip


class _Nothing:
    """Work that is none."""

    def do(self, model: Model, chunk: int) -> int:
        return chunk


def offloaded(folder: Path, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """A run and a sweep with all weights in memory, with some of them, with few: in turn, and what they need."""
    whole = cutaway.load(str(folder))
    bytes_ = sum(one.numel() * one.element_size() for one in whole.module.parameters())
    models = {1.0: whole}
    for share in SHARES[1:]:
        models[share] = cutaway.load(str(folder), device_map="auto", max_memory={"cpu": int(share * bytes_)})
    inputs, cells, target = asked(whole, quick)
    run = {share: [] for share in models}
    swept: dict[float, list[float]] = {share: [] for share in models}
    values = {}
    for _ in range(rounds):
        for share, model in models.items():
            run[share].append(seconds(lambda model=model: model.run(inputs))[0])
            took, made = seconds(lambda model=model: model.sweep(inputs, cells, target, progress=False, memory=2**26))
            swept[share].append(took)
            values[share] = made.values.values
    rows = []
    for share, model in models.items():
        kept = sum(one.numel() * one.element_size() for one in model.module.parameters() if not one.is_meta)
        rows.append({
            "share": share, "kept": kept / bytes_, "run": median(run[share]), "sweep": median(swept[share]),
            "run ratio": median(a / b for a, b in zip(run[share], run[1.0], strict=True)),
            "sweep ratio": median(a / b for a, b in zip(swept[share], swept[1.0], strict=True)),
            "difference": float(np.abs(values[share] - values[1.0]).max() / np.abs(values[1.0]).max()),
        })  # fmt: skip
    return rows


def main() -> None:
    """Measure, print, write."""
    more = {"offload": (False, "measure offloaded models as well")}
    options = timed(__doc__ or "", 7, "a model of three small layers", **more).parse_args()
    machine = begun(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        decoder(folder, options.quick)
        found: dict[str, Any] = {"scaling": scaling(folder, options.quick, options.rounds)}
        tell(found["scaling"])
        if options.offload:
            found["offloaded"] = offloaded(folder, options.quick, options.rounds)
            for row in found["offloaded"]:
                print(", ".join(f"{key} {value:.3g}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps({"about": machine} | found, indent=2) + "\n", encoding="utf-8")


def tell(found: dict[str, Any]) -> None:
    """The scaling as lines, and the forecast beside what was measured."""
    chunks, ratios = found["chunks"], found["ratios"]
    start = found["clean"]
    spent = f"{min(chunks):.2f} to {max(chunks):.2f} s, {sum(chunks):.1f} s in all"
    print(f"{found['cells']} cells in {len(chunks)} chunks of {spent}")
    print(f"in this process {found['alone']:.2f} s; one worker {found['one']:.2f} s; two {found['two']:.2f} s")
    quarter = len(ratios) // 4
    print(f"two / one {found['ratio']:.3f} ({ratios[quarter]:.3f}-{ratios[-1 - quarter]:.3f}), {len(ratios)} rounds")
    print(f"until two workers have the model {found['open']:.1f} s; clean run and plan {start:.2f} s; "
          f"a turn {1000 * found['turn']:.1f} ms")  # fmt: skip
    for workers in (1, *MANY):
        warm = jobs.forecast(chunks, workers, start=start, turn=found["turn"])
        cold = jobs.forecast(chunks, workers, start=start + found["open"], turn=found["turn"])
        large = jobs.forecast(chunks * 64, workers, start=start + found["open"], turn=found["turn"])
        print(f"{workers:3d} workers: {warm.seconds:.2f} s; with their start {cold.seconds:.2f} s; "
              f"64 times the work {large.seconds:.1f} s, {large.speedup:.1f} times as fast")  # fmt: skip


if __name__ == "__main__":
    main()
