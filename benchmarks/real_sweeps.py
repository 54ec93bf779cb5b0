"""What a sweep over the heads of a real model costs, beside loops of plain hooks."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from real_words import table
from timing import tensor_peak

from cutaway import Ablate
from cutaway.model.model import Model


def loop(model: Model, inputs: Any, outs: list[Any], heads: int, token: int | None, batched: bool, chosen: Any) -> dict:
    """One forward a head with one hook; `batched`: one forward a layer, a row a head. Gives what the model gives."""
    found, width = {}, outs[0].in_features // heads
    keep = {"logits_to_keep": 1} if "input_ids" in inputs.tensors else {}
    for layer, each in chosen:
        rows = [each] if not batched else [range(heads)]
        for some in rows:
            cells = list(some) if batched else [some]

            def cut(module: Any, args: Any, cells: Any = cells) -> Any:
                z = args[0].clone()
                for row, head in enumerate(cells):
                    z[row, slice(None) if token is None else token, head * width : (head + 1) * width] = 0
                return (z,)

            tensors = {
                name: value.repeat(len(cells), *[1] * (value.dim() - 1)) for name, value in inputs.tensors.items()
            }
            handle = outs[layer].register_forward_pre_hook(cut)
            try:
                out = model.module(**tensors, **keep)
            finally:
                handle.remove()
            final = out.logits[:, -1] if "logits" in out else out.pooler_output
            found |= {(layer, head): final[row] for row, head in enumerate(cells)}
    return found


def race(
    model: Model, inputs: Any, outs: list[Any], heads: int, site: str, target: Any, read: Callable, token: int | None,
    rounds: int,
) -> list[str]:  # fmt: skip
    """Median seconds of processor time for all heads: a loop and a batched loop, both on a sample, and a sweep."""
    layers, where = len(outs), {} if token is None else {"token": [token]}
    cells = model.grid(Ablate(site), head=range(heads), **where)
    sample = [(at, at % heads) for at in range(0, layers, max(1, layers // 6))]
    taken: dict[str, list[float]] = {"loop": [], "batched": [], "sweep": []}
    for number in range(rounds + 1):
        timed = {"loop": lambda: loop(model, inputs, outs, heads, token, False, sample),
                 "batched": lambda: loop(model, inputs, outs, heads, token, True, sample),
                 "sweep": lambda: model.sweep(inputs, cells, target, progress=False)}  # fmt: skip
        for name, call in timed.items():
            started = time.process_time()
            made = call()
            spent = time.process_time() - started
            if number:  # the first is for caches and lazy imports
                whole = {"loop": layers * heads / len(sample), "batched": layers / len(sample), "sweep": 1.0}
                taken[name].append(spent * whole[name])
            elif name == "sweep":
                _agree(made, loop(model, inputs, outs, heads, token, False, sample), read)
    plan, middle = made.plan, {name: median(times) for name, times in taken.items()}
    rate = plan.flops / middle["sweep"] / 1e9
    peak = tensor_peak(lambda: model.sweep(inputs, cells, target, progress=False))
    return [f"{layers} × {heads}", f"{middle['loop']:.1f} s", f"{middle['batched']:.1f} s", f"{middle['sweep']:.2f} s",
            f"**{middle['loop'] / middle['sweep']:.1f}**", f"{middle['batched'] / middle['sweep']:.1f}",
            str(len(plan.chunks)), f"{plan.plain / plan.flops:.1f}", f"{rate:.0f}", f"{peak:.0f} MB"]  # fmt: skip


def _agree(made: Any, found: dict, read: Callable) -> None:
    """The sweep must give what the loop gives."""
    values = made.values.values
    for (layer, head), final in found.items():
        gap = abs(float(read(final)) - float(values[layer, head].ravel()[0]))
        if gap > 1e-3 * max(1.0, float(abs(values).max())):
            raise SystemExit(f"head {layer}.{head}: sweep and loop differ by {gap:.2g}")


COLUMNS = ["", "heads", "plain loop", "a layer's heads as rows", "sweep", "× loop", "× rows", "forwards",
           "FLOPs left out, ×", "GFLOP/s", "peak"]  # fmt: skip


def speeds(rows: list[list[str]]) -> str:
    """The table."""
    ways = [f"{_rate(rows, 576, 1536):.0f} for {rows}" for rows in (1, 14, 126, 1134)]
    note = f"Multiplying rows by 40 matrices of 576 × 1536 that no cache holds, GFLOP/s: {', '.join(ways)} rows."
    return table(COLUMNS, rows) + f"\n\n{note}"


def _rate(rows: int, wide: int, out: int) -> float:
    weights, given, best = [torch.randn(out, wide) for _ in range(40)], torch.randn(rows, wide), 0.0
    for _ in range(3):
        started = time.process_time()
        for weight in weights:
            torch.nn.functional.linear(given, weight)
        best = max(best, 2 * rows * wide * out * len(weights) / (time.process_time() - started) / 1e9)
    return best
