"""The training loop: seeded, stopped at any step, resumed to the same weights bit for bit.

Everything a step needs follows from (seed, step): the batch, what chance decides about it, the learning rate. So a
checkpoint is the weights, the optimiser's moments and the number of steps done, and nothing else.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import LoadError
from cutaway.zoo.muon import Muon

STATE, PROGRESS = "state.safetensors", "progress.json"
B = TypeVar("B")


@dataclass(frozen=True)
class Plan:
    """What every recipe says: `steps` batches, Muon and AdamW, linear warm-up, cosine decay of the rate."""

    steps: int = 4_000
    batch: int = 256
    rate: float = 3e-3
    warmup: int = 150
    decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    save_every: int = 100

    def rate_at(self, step: int) -> float:
        """Linear up to `rate`, then a cosine down to a hundredth of it."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1.0))) / 2)

    def share_at(self, part: str, step: int) -> float:
        """The share of that rate at which a part of the model learns: `tower`, `words` or `rest`."""
        return 1.0


class Step(NamedTuple):
    """What one step came to; `hits` is the share of its predictions that were right."""

    step: int
    loss: float
    hits: float


class Judged(NamedTuple):
    """What a batch cost, and the share of its predictions that were right."""

    loss: Float[Tensor, ""]
    hits: float


def train(
    model: Any,
    draw: Callable[[int], B],
    judge: Callable[[B, int], Judged],
    recipe: Plan,
    folder: Path,
    settle: Callable[[], None] = lambda: None,
) -> Iterator[Step]:
    """Train in place, from where `folder` left off; a checkpoint of another recipe is refused.

    `draw` makes the batch of a step, `judge` its loss, `settle` puts weights back in bounds after each step. The caller
    owns the pace: stop iterating, and the next call goes on from the last checkpoint.
    """
    model.train()
    optimisers = _optimisers(model, recipe)
    start = _resume(model, optimisers, recipe, folder)
    clock = time.monotonic() - seconds_spent(folder)
    with ThreadPoolExecutor(1) as drawing:
        ahead = drawing.submit(draw, start)
        for step in range(start, recipe.steps):
            batch = ahead.result()
            ahead = drawing.submit(draw, step + 1)
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = recipe.rate_at(step) * recipe.share_at(group["part"], step)
            with torch.random.fork_rng(devices=[]):  # what is dropped out follows from the step too
                torch.manual_seed(recipe.seed * 1_000_003 + step)
                judged = judge(batch, step)
            judged.loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            for optimiser in optimisers:
                optimiser.step()
            model.zero_grad(set_to_none=True)
            with torch.no_grad():
                settle()
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                _save(model, optimisers, recipe, folder, step + 1, time.monotonic() - clock)
            yield Step(step + 1, judged.loss.item(), judged.hits)
    model.eval()


def _optimisers(model: nn.Module, recipe: Plan) -> list[torch.optim.Optimizer]:
    """Muon for matrices and filters of blocks and connectors, AdamW for the rest; only what has rows decays."""
    inner: list[dict[str, Any]] = []
    outer: list[dict[str, Any]] = []
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for part in dict.fromkeys(_part(name) for name, _ in named):
        mine = [(name, p) for name, p in named if _part(name) == part]
        inner += [{"params": [p for name, p in mine if p.ndim > 1 and _inside(name)], "part": part}]
        tables = [p for name, p in mine if p.ndim > 1 and not _inside(name)]
        vectors = [p for _, p in mine if p.ndim < 2]
        outer += [{"params": tables, "weight_decay": recipe.decay, "part": part}]
        outer += [{"params": vectors, "weight_decay": 0.0, "part": part}]
    muon = Muon(inner, lr=recipe.rate, weight_decay=recipe.decay)
    return [muon, torch.optim.AdamW(outer, lr=recipe.rate, betas=(0.9, 0.98), eps=1e-6, fused=True)]


def _part(name: str) -> str:
    """A tower that was trained before, the table of words that goes with it, and the rest."""
    if "vision_tower" in name:
        return "tower"
    return "words" if "embed_tokens" in name else "rest"


def _inside(name: str) -> bool:
    return any(part in name for part in (".layers.", "projector", "block", "decode_head"))


# --- checkpoints ------------------------------------------------------------------------------------------------------


def seconds_spent(folder: Path) -> float:
    """How long the training in this folder took so far, all its sessions together."""
    return float(_progress(folder).get("seconds", 0))


def steps_done(folder: Path) -> int:
    """How many steps the checkpoint in this folder has behind it."""
    return int(_progress(folder).get("step", 0))


def _progress(folder: Path) -> dict[str, Any]:
    path = folder / PROGRESS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a training changes: the parameters, and what norms keep of the batches that went by."""
    kept = model.state_dict()
    yield from model.named_parameters()
    yield from ((name, value) for name, value in model.named_buffers() if name in kept)


def _save(
    model: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    recipe: Plan,
    folder: Path,
    step: int,
    seconds: float,
) -> None:
    """Write weights and moments, then the step count: a kill in between leaves the checkpoint before it in force."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value.detach().contiguous() for name, value in _held(model)}
    for which, optimiser in enumerate(optimisers):
        for index, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"moment.{which}.{index}.{name}": value.contiguous() for name, value in moments.items()}
    name = f"{step:08d}.{STATE}"
    save_file(tensors, folder / name)
    new = folder / f"{PROGRESS}.new"
    new.write_text(
        json.dumps({"step": step, "state": name, "seconds": seconds, "recipe": asdict(recipe)}), encoding="utf-8"
    )
    new.replace(folder / PROGRESS)
    for old in folder.glob(f"*.{STATE}"):
        if old.name != name:
            old.unlink()


def _resume(model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], recipe: Plan, folder: Path) -> int:
    """Load the last checkpoint of this recipe, if there is one; the number of steps done."""
    from safetensors.torch import load_file

    progress = _progress(folder)
    if not progress:
        return 0
    if progress["recipe"] != asdict(recipe):
        changed = {key: value for key, value in progress["recipe"].items() if value != getattr(recipe, key, None)}
        raise LoadError(
            f"'{folder}' holds a training by another recipe",
            expected=", ".join(f"{key}={getattr(recipe, key, None)}" for key in changed),
            exists=", ".join(f"{key}={value}" for key, value in changed.items()),
            do="give the same options, or another folder",
        )
    tensors = load_file(folder / progress["state"])
    with torch.no_grad():
        for name, value in _held(model):
            value.copy_(tensors[f"model.{name}"])
    moments: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimisers]
    for name, value in tensors.items():
        if name.startswith("moment."):
            _, which, index, part = name.split(".")
            moments[int(which)].setdefault(int(index), {})[part] = value
    for optimiser, held in zip(optimisers, moments, strict=True):
        optimiser.load_state_dict({"state": held, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(progress["step"])
