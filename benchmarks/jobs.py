"""Sweeps by one and by two workers of a local Ray, side by side; what that foretells for more; offloaded models.

python benchmarks/jobs.py [--json FILE] [--rounds N] [--threads N] [--quick] [--offload]

One worker and two are timed in turn, in every round once each; each has one thread. What counts is processor time: that
of the worker, or of the busier of two, its own clean run included, which is the time on the wall where processors are
free. The wall is printed beside it. What is run is a decoder of 8 layers of width 256 with random weights, the residual
stream patched at every layer and many positions. The numbers must be those of `model.sweep`, bit for bit.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
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

WORDS = 96
MEMORY = 2**26
MANY = (2, 4, 8, 16, 64)
SHARES = (1.0, 0.5, 0.1)  # of the weights in memory


def decoder(folder: Path, quick: bool) -> None:
    """A decoder with random weights, as a folder that workers open."""
    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 3} if quick else {"hidden_size": 256, "num_hidden_layers": 8}
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
    cells = model.grid(Patch("text.*.resid_post", source), token=range(1, words, 5))
    return inputs, cells, targets.logit(7)


def seconds(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """How long a call takes on the wall and in processor time of this process, and what it gives."""
    started = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - started[0], time.process_time() - started[1], found


@dataclass(frozen=True)
class Clocked:
    """Work of another kind, with who did it and the processor time that it took."""

    work: Any

    def do(self, model: Model, chunk: int) -> tuple[int, float, Any]:
        _, taken, found = seconds(lambda: self.work.do(model, chunk))
        return os.getpid(), taken, found


class Nothing:
    """Work that is none."""

    def do(self, model: Model, chunk: int) -> int:
        return chunk


def busiest(told: dict[int, tuple[int, float, Any]]) -> float:
    """The processor time of the worker that had most of it."""
    spent: dict[int, float] = defaultdict(float)
    for who, taken, _ in told.values():
        spent[who] += taken
    return max(spent.values())


def scaling(folder: Path, quick: bool, rounds: int) -> dict[str, Any]:
    """One worker and two in turn; the chunks, the start and the turn one by one."""
    model = cutaway.load(str(folder))
    inputs, cells, target = asked(model, quick)
    alone = model.sweep(inputs, cells, target, progress=False, memory=MEMORY)
    plan, values = alone.plan, alone.values.values.reshape(len(cells), -1)
    order = sorted(range(len(plan.chunks)), key=lambda at: -plan.chunks[at].flops)
    taken: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with jobs.crew(model, 2) as both:
        opening, *_ = seconds(lambda: list(both.run(Nothing(), range(2), progress=False)))
        one = jobs.Crew(model, both.actors[:1])
        for at in range(rounds + 1):  # the first for nothing
            for crew in (one, both)[:: 1 if at % 2 else -1]:
                work = Clocked(Sweeping(inputs, cells, target, MEMORY))
                wall, _, told = seconds(lambda crew=crew, work=work: dict(crew.run(work, order, progress=False)))
                assert all((found == values[list(plan.chunks[n].cells)]).all() for n, (*_, found) in told.items())
                taken[len(crew.actors)].append((busiest(told), wall))
        turn = min(seconds(lambda: list(one.run(Nothing(), range(200), progress=False)))[0] / 200 for _ in range(3))
    work = Sweeping(inputs, cells, target, MEMORY)
    _, clean, _ = seconds(lambda: work.do(model, 0))
    chunks = [median(seconds(lambda at=at: work.do(model, at))[1] for _ in range(3)) for at in range(len(order))]
    found = {
        "cells": len(cells), "chunks": chunks, "clean": clean - chunks[0], "open": opening, "turn": turn,
    }  # fmt: skip
    for at, name in enumerate(("cpu", "wall")):
        ratios = sorted(b[at] / a[at] for a, b in zip(taken[1][1:], taken[2][1:], strict=True))
        one_, two = (median(times[at] for times in taken[many][1:]) for many in (1, 2))
        found[name] = {"one": one_, "two": two, "ratio": median(ratios), "ratios": ratios}
    return found


def offloaded(folder: Path, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """Processor time of a run and a sweep with all weights in memory, with some of them, with few: in turn."""
    whole = cutaway.load(str(folder))
    bytes_ = sum(one.numel() * one.element_size() for one in whole.module.parameters())
    models = {1.0: whole}
    for share in SHARES[1:]:
        models[share] = cutaway.load(str(folder), device_map="auto", max_memory={"cpu": int(share * bytes_)})
    inputs, cells, target = asked(whole, quick)
    run: dict[float, list[float]] = {share: [] for share in models}
    swept: dict[float, list[float]] = {share: [] for share in models}
    values = {}
    for _ in range(rounds):
        for share, model in models.items():
            run[share].append(seconds(lambda model=model: model.run(inputs))[1])
            _, took, made = seconds(
                lambda model=model: model.sweep(inputs, cells, target, progress=False, memory=MEMORY)
            )
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
    chunks = found["chunks"]
    spent = f"{min(chunks):.2f} to {max(chunks):.2f} s, {sum(chunks):.1f} s in all"
    print(f"{found['cells']} cells in {len(chunks)} chunks of {spent}")
    for name in ("cpu", "wall"):
        one, two, ratio, ratios = found[name].values()
        spread = f"{ratios[len(ratios) // 4]:.2f}-{ratios[-1 - len(ratios) // 4]:.2f}, {len(ratios)} rounds"
        print(f"{name}: one worker {one:.2f} s, the busier of two {two:.2f} s; ratio {ratio:.2f} ({spread})")
    start = found["clean"]
    print(f"two workers have the model after {found['open']:.1f} s on the wall; clean run and plan {start:.2f} s; "
          f"a turn {1000 * found['turn']:.1f} ms")  # fmt: skip
    for workers in (1, *MANY):
        warm = jobs.forecast(chunks, workers, start=start, turn=found["turn"])
        cold = jobs.forecast(chunks, workers, start=start + found["open"], turn=found["turn"])
        large = jobs.forecast(chunks * 64, workers, start=start + found["open"], turn=found["turn"])
        print(f"{workers:3d} workers: {warm.seconds:.2f} s; with their start {cold.seconds:.2f} s; "
              f"64 times the work {large.seconds:.1f} s, {large.speedup:.1f} times as fast")  # fmt: skip


if __name__ == "__main__":
    main()
