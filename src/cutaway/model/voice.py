"""How a tower that writes says its next word: what its last state goes through to become logits, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import SiteError
from cutaway.model.engine import Engine
from cutaway.model.paths import child, has
from cutaway.model.towers import FAMILIES
from cutaway.model.wrapped import at_rest

ENDS = ("final", "out", "logits")  # what stands behind the last block, in this order, where it is there


@dataclass(frozen=True, eq=False)
class Voice:
    """What a decoder makes of a state x: z = U N(x) + b, and c tanh(z / c) where its class squashes logits.

    N is the last norm (and the projection behind it) and U the unembedding: the model's own modules, called. So
    adapters, packed and offloaded weights need no rule, and the last state gives the model's own logits. Hooks on the
    modules are no part of it.
    """

    tower: str
    modules: tuple[nn.Module, ...]
    dtype: torch.dtype
    shift: Float[Tensor, "..."] | None = None
    cap: float | None = None

    def __call__(self, hidden: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows vocab"]:
        """The logits of any state of the residual stream, read as if it were the last one; on the graph if it is."""
        with at_rest(self.modules):
            for module in self.modules[:-1]:
                hidden = module.forward(hidden)
            logits: Tensor = self.modules[-1].forward(hidden.to(self.dtype))
        if self.shift is not None:
            logits = logits + self.shift.to(logits.device)[0]
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def speaking(engine: Engine) -> tuple[str, ...]:
    """The towers that write: decoders whose model has an unembedding."""
    return tuple(name for name, tower in engine.towers.items() if tower.causal and f"{name}.logits" in engine.sites)


def voice(engine: Engine, tower: str) -> Voice:
    """How a tower writes; SiteError for one that does not."""
    if tower not in speaking(engine):
        raise SiteError(
            f"the tower '{tower}' writes no words",
            expected="a decoder with an unembedding (`TOWER.logits`), of a class that model/towers.py knows",
            exists=", ".join(speaking(engine)) or "no such tower in this model",
            do=f'name the one that does: `tower="{speaking(engine)[0]}"`'
            if speaking(engine)
            else "open a model that writes, or read a CLIP's pictures with `logit_lens`",
        )
    names = [f"{tower}.{part}" for part in ENDS if f"{tower}.{part}" in engine.sites]
    modules = tuple(engine.seat(name).module for name in names)
    shift, cap = _behind(engine, modules[-1])
    return Voice(tower, modules, engine.dtype, shift, cap)


def _behind(engine: Engine, head: nn.Module) -> tuple[Tensor | None, float | None]:
    """What the model that owns an unembedding does to its logits: a bias of its own, a bound."""
    for module in chain.from_iterable(root.modules() for root in engine.roots.values()):
        kind = type(module).__name__
        row = FAMILIES.get(kind)
        paths = [] if row is None else [port.path for name, port in row.once.items() if name.endswith(".logits")]
        if row is not None and any(has(module, path) and child(module, path, kind) is head for path in paths):
            config: Any = module.config
            shift = getattr(module, row.shift) if row.shift else None
            return shift, getattr(config.get_text_config(), row.cap, None) if row.cap else None
    return None, None
