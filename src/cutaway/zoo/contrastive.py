"""Train a CLIP from scratch: seeded, stopped at any step, resumed to the same weights bit for bit.

Everything a step needs follows from (seed, step): the batch, the patches it drops, the learning rate. So a checkpoint
is the weights, the optimiser's moments and the number of steps done, and nothing else.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cutaway.errors import LoadError
from cutaway.zoo.muon import Muon

STATE, PROGRESS = "state.safetensors", "progress.json"


@dataclass(frozen=True)
class Recipe:
    """How to train: `steps` batches of `batch` pairs, Muon and AdamW, linear warm-up, cosine decay of the rate.

    All but the last `whole` share of the steps see only a share `keep` of the patches (Li et al. 2022, 2212.00794).
    A share `contrast` of each batch are counterfactual pairs: pictures and captions that differ in one factor.
    """

    steps: int = 4_000
    batch: int = 256
    rate: float = 3e-3
    warmup: int = 150
    decay: float = 0.1
    clip: float = 1.0
    keep: float = 0.5
    whole: float = 0.15
    contrast: float = 0.4
    jitter: float = 0.15
    seed: int = 0
    save_every: int = 100

    def rate_at(self, step: int) -> float:
        """Linear up to `rate`, then a cosine down to a hundredth of it."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1.0))) / 2)

    def keep_at(self, step: int) -> float:
        """The share of patches that this step sees."""
        return self.keep if step < self.steps * (1 - self.whole) else 1.0


class Pairs(NamedTuple):
    """Pictures and, row for row, the words that belong to them."""

    pictures: UInt8[Tensor, "batch 3 height width"]
    input_ids: Int[Tensor, "batch token"]
    attention_mask: Int[Tensor, "batch token"]


class Step(NamedTuple):
    """What one step came to; `hits` is the share of pictures whose own text scores highest in the batch."""

    step: int
    loss: float
    hits: float


def train(
    model: Any, draw: Callable[[int], Pairs], recipe: Recipe, folder: Path, device: str = "cpu"
) -> Iterator[Step]:
    """Train in place, from where `folder` left off; a checkpoint of another recipe is refused.

    The caller owns the pace: stop iterating, and the next call goes on from the last checkpoint.
    """
    model.to(device).train()
    optimisers = _optimisers(model, recipe)
    start = _resume(model, optimisers, recipe, folder)
    clock = time.monotonic() - seconds_spent(folder)
    with ThreadPoolExecutor(1) as drawing:
        ahead = drawing.submit(draw, start)
        for step in range(start, recipe.steps):
            pairs = ahead.result()
            ahead = drawing.submit(draw, step + 1)
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = recipe.rate_at(step)
            logits = _logits(model, Pairs(*(part.to(device) for part in pairs)), recipe, step)
            loss = contrastive_loss(logits)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            for optimiser in optimisers:
                optimiser.step()
            model.zero_grad(set_to_none=True)
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                _save(model, optimisers, recipe, folder, step + 1, time.monotonic() - clock)
            own = torch.arange(len(logits), device=logits.device)
            yield Step(step + 1, loss.item(), (logits.argmax(1) == own).float().mean().item())
    model.eval()


def contrastive_loss(logits: Float[Tensor, "pair pair"]) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of the pairs on the diagonal, (CE(rows) + CE(columns)) / 2. Radford et al. 2021."""
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def _logits(model: Any, pairs: Pairs, recipe: Recipe, step: int) -> Float[Tensor, "image text"]:
    """Scaled cosines of jittered pictures, with some patches left out, and their texts."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    pixels = jittered(pairs.pictures.float() / 127.5 - 1, recipe.jitter, generator)
    vision = model.vision_model
    hidden = dropped(vision.embeddings(pixels), recipe.keep_at(step), generator)
    hidden = vision.encoder(inputs_embeds=vision.pre_layrnorm(hidden)).last_hidden_state
    images = model.visual_projection(vision.post_layernorm(hidden[:, 0]))
    texts = model.get_text_features(input_ids=pairs.input_ids, attention_mask=pairs.attention_mask).pooler_output
    return model.logit_scale.exp() * normalize(images, dim=-1) @ normalize(texts, dim=-1).T


def jittered(
    pixels: Float[Tensor, "batch 3 height width"], strength: float, generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Each picture with its own contrast, brightness and grain."""
    gain, shift = (2 * torch.rand(2, len(pixels), 1, 1, 1, generator=generator) - 1).to(pixels.device) * strength
    grain = torch.randn(pixels.shape, generator=generator).to(pixels.device)
    return (1 + gain) * pixels + shift + 0.2 * strength * grain


def dropped(
    hidden: Float[Tensor, "batch token width"], keep: float, generator: torch.Generator
) -> Float[Tensor, "batch kept width"]:
    """The class token and, for each picture, a random share `keep` of the patches."""
    if keep >= 1:
        return hidden
    batch, tokens, width = hidden.shape
    order = torch.rand(batch, tokens - 1, generator=generator).argsort(1)[:, : round(keep * (tokens - 1))] + 1
    kept = torch.cat([torch.zeros(batch, 1, dtype=order.dtype), order], 1).to(hidden.device)
    return hidden.gather(1, kept[..., None].expand(-1, -1, width))


def _optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest; gains, biases and the logit scale do not decay."""
    named = list(model.named_parameters())
    inner = [p for name, p in named if p.ndim > 1 and ".layers." in name]
    tables = [p for name, p in named if p.ndim > 1 and ".layers." not in name]
    vectors = [p for _, p in named if p.ndim < 2]
    groups = [{"params": tables, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    muon = Muon(inner, lr=recipe.rate, weight_decay=recipe.decay)
    return [muon, torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), eps=1e-6, fused=True)]


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


def _save(
    model: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    recipe: Recipe,
    folder: Path,
    step: int,
    seconds: float,
) -> None:
    """Write weights and moments, then the step count: a kill in between leaves the checkpoint before it in force."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
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


def _resume(model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], recipe: Recipe, folder: Path) -> int:
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
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    moments: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimisers]
    for name, value in tensors.items():
        if name.startswith("moment."):
            _, which, index, part = name.split(".")
            moments[int(which)].setdefault(int(index), {})[part] = value
    for optimiser, held in zip(optimisers, moments, strict=True):
        optimiser.load_state_dict({"state": held, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(progress["step"])
