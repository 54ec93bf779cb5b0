"""A seat is a site bound to a live module: which tensor of which call, and how to look at it.

A view of a raw tensor is always a true torch view, so writing into the view of a copy is the inverse of reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.model.dictionary import Dictionary
from cutaway.model.sites import Site
from cutaway.model.table import Kind
from cutaway.model.table import Tower as Row
from cutaway.model.wrapped import core

ATTENTION_KINDS = ("q", "k", "v", "scores", "pattern")


@dataclass(frozen=True)
class View:
    """How the named axes of a site lie in the raw tensor: a slice of the last axis, heads, a batch axis put back."""

    start: int = 0
    stop: int | None = None
    half: int = 0
    heads: int = 0
    packed: bool = False
    flat: bool = False
    swap: bool = False

    def get(self, raw: Float[Tensor, "..."], rows: int, guidance: int) -> Float[Tensor, "..."]:
        """The raw tensor seen through the axes of the site; shares memory with it."""
        seen = raw.unsqueeze(0) if self.packed else raw.unflatten(0, (rows, -1)) if self.flat else raw
        if self.half:
            middle = seen.shape[-1] // 2
            seen = seen[..., :middle] if self.half == 1 else seen[..., middle:]
        if self.start or self.stop is not None:
            seen = seen[..., self.start : self.stop]
        if self.heads:
            seen = seen.unflatten(-1, (self.heads, -1))
        if self.swap:
            seen = seen.transpose(1, 2)
        return seen.unflatten(0, (guidance, -1)) if guidance else seen


@dataclass(frozen=True, eq=False)
class Tower:
    """A tower of a live model: its root module, its blocks in order of execution, what lies on its token axis.

    `row` is what the table says of its class.
    """

    name: str
    module: nn.Module
    path: str
    blocks: tuple[nn.Module, ...] = ()
    labels: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    packed: bool = False
    causal: bool = False
    tokens: str = ""
    calls: Literal["once", "step", "prompt"] = "once"
    row: Row = field(default=Row(""), repr=False)

    @property
    def stepped(self) -> bool:
        """Whether the tower runs once a denoising step, with the guidance rows in one batch."""
        return self.calls == "step"

    @property
    def prompted(self) -> bool:
        """Whether the tower encodes the prompt of a pipeline: once with it, once more without it under guidance."""
        return self.calls == "prompt"


@dataclass(frozen=True, eq=False)
class Through:
    """A tensor seen through a dictionary: as its features, or as what these leave over.

    `source`: where the dictionary reads, if elsewhere.
    """

    dictionary: Dictionary
    side: Literal["features", "error"]
    source: Seat | None = None


@dataclass(frozen=True, eq=False)
class Seat:
    """A site bound to a module: `kind`, `index` and `keyword` say which tensor of its call, `view` how to see it."""

    site: Site
    tower: Tower
    module: nn.Module
    kind: Kind
    index: int = 0
    keyword: str = ""
    view: View = field(default_factory=View)
    through: Through | None = None

    @property
    def ends(self) -> tuple[Seat, ...]:
        """The seat, and that of what its dictionary reads elsewhere."""
        return (self, self.through.source) if self.through and self.through.source else (self,)

    def pick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The input tensor this seat stands for."""
        return kwargs[self.keyword] if self.keyword in kwargs else args[self.index]

    def put(self, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same arguments with the input of this seat replaced."""
        if self.keyword in kwargs:
            return args, {**kwargs, self.keyword: value}
        return (*args[: self.index], value, *args[self.index + 1 :]), kwargs


def first(output: Any, index: int) -> Any:
    """The tensor at `index` of a module's output, whether it returns a tensor, a tuple or a `ModelOutput`."""
    if isinstance(output, Tensor):
        return output
    return (output if isinstance(output, tuple) else output.to_tuple())[index]


def replaced(output: Any, index: int, value: Tensor) -> Any:
    """The same output with the tensor at `index` replaced."""
    if isinstance(output, Tensor):
        return value
    if isinstance(output, tuple):
        return (*output[:index], value, *output[index + 1 :])
    key = list(output.keys())[index]
    output[key] = value
    return output


def norm_scale(norm: nn.Module, entering: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
    """The denominator of a norm: standard deviation (LayerNorm) or root mean square (RMSNorm) of each row.

    s = sqrt(mean((x - m)^2) + eps), with m = mean(x) for LayerNorm and m = 0 for RMSNorm.
    """
    x = entering if entering.dtype == torch.float64 else entering.float()
    return denominator(x, not is_rms(norm), norm_eps(norm)).to(entering.dtype)


def denominator(x: Float[Tensor, "*rows d"], centred: bool, eps: float) -> Float[Tensor, "*rows"]:
    """S = sqrt(mean((x - m)^2) + eps), with m = mean(x) where it is centred and m = 0 where it is not."""
    inner = x - x.mean(-1, keepdim=True) if centred else x
    return (inner.pow(2).mean(-1) + eps).sqrt()


def is_rms(norm: nn.Module) -> bool:
    """Whether a norm leaves the mean in (RMSNorm). Each model has a class of its own; the name is all they share."""
    return "RMS" in type(core(norm)).__name__


def norm_eps(norm: nn.Module) -> float:
    """The small number under the root, by whichever name the class gives it."""
    norm = core(norm)
    found: Any = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", None) or 0.0
    return float(found)
