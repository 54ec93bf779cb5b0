"""Rules of relevance: other slopes than the true ones for norms, non-linearities and products, while a block runs.

A function mode of torch, so that it needs no place in a model: whatever a library calls inside a run goes through it.
The values of the run stay as they are; only what `model.gradients` gives is another number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cutaway.model.engine import Opened
from cutaway.model.shift import weights

BENT = (F.gelu, F.silu, F.mish, F.elu, F.softplus)  # f(x) as x times what it is there
GATES = (torch.tanh, Tensor.tanh)  # the same by themselves, as a cap on logits; a constant factor beside an x
SUMS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
STEADY = (torch.sigmoid, Tensor.sigmoid, torch.rsqrt, Tensor.rsqrt)  # factors beside an x
PRODUCTS = (
    torch.mul, torch.matmul, torch.bmm, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.matmul, Tensor.__matmul__,
    Tensor.bmm,
)  # fmt: skip
QUOTIENTS = (torch.div, Tensor.div, Tensor.__truediv__)
SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


@contextmanager
def relevance_rules(model: Opened, *, patterns: bool = True) -> Iterator[None]:
    """The rules of AttnLRP for all that runs in the block; activation times gradient is then a relevance.

    Denominators of norms and lengths are constants, f(x) is x times the constant f(x) / x, each side of a product has
    half of it, and linear maps and the softmax are as they are. Without `patterns` attention patterns are constants:
    then relevance adds up to the target wherever no bias takes a part. Weights get no gradient in the block. Source:
    Achtibat et al. 2024, arXiv 2402.05602, in its form as a gradient; without `patterns` Ali et al. 2022, 2202.07304.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> inputs, aim = model.inputs(text="a red dog"), cutaway.targets.logit("cat")
    >>> with relevance_rules(model, patterns=False):
    ...     found = model.gradients(inputs, aim, "text.embed")
    >>> bool((found.attribution("text.embed").sum() - found.values).abs() < 1e-6)
    True
    """
    flags = {one: one.requires_grad for one in weights(model.engine).values()}
    for one in flags:
        one.requires_grad_(False)
    try:
        with _Rules(patterns):
            yield
    finally:
        for one, flag in flags.items():
            one.requires_grad_(flag)


class _Rules(TorchFunctionMode):
    """Sends what has a rule through it, everything else on its way."""

    def __init__(self, patterns: bool) -> None:
        super().__init__()
        self.patterns = patterns

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled() or not any(_on_graph(one) for one in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        if func in BENT:
            return _bent(func, args, kwargs)
        if func in GATES or (func in SUMS and any(map(_gate, args))):
            made: Any = _bent(func, args, kwargs) if func in GATES else func(*args, **kwargs)
            made.gate = func in GATES or sum(map(_on_graph, args)) == 1
            return made
        if func in STEADY or (func in SOFTMAX and not self.patterns):
            return func(*args, **kwargs).detach()
        if func in PRODUCTS and _on_graph(args[0]) and _on_graph(args[1]):
            if _gate(args[0]) != _gate(args[1]):
                return func(*(one.detach() if _gate(one) else one for one in args[:2]), *args[2:], **kwargs)
            return func(half(args[0]), half(args[1]), *args[2:], **kwargs)
        if func in QUOTIENTS and _on_graph(args[1]):
            return func(args[0], args[1].detach(), *args[2:], **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attended(func, args, kwargs)
        rule = NORMS.get(func)
        return func(*args, **kwargs) if rule is None else rule(func, args, kwargs)

    def _attended(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Tensor:
        """Half of an output to the values, a quarter each to queries and keys; all to the values of held patterns."""
        given = {
            **dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)),
            **kwargs,
        }
        for name in ("query", "key"):
            given[name] = half(half(given[name])) if self.patterns else given[name].detach()
        given["value"] = half(given["value"]) if self.patterns else given["value"]
        made: Tensor = func(**given)
        return made


def half(x: Tensor) -> Tensor:
    """The same number with half of its slope."""
    return x / 2 + x.detach() / 2


def _on_graph(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _gate(x: Any) -> bool:
    """Whether a tensor is a tanh, or that with a number added: x times it is a non-linearity (GELU by tanh)."""
    return getattr(x, "gate", False)


def _bent(func: Callable[..., Tensor], args: Any, kwargs: Mapping[str, Any]) -> Tensor:
    """X times the constant f(x) / x; at zero the slope that f has there."""
    x = args[0].detach()
    tiny = x.abs() < torch.finfo(x.dtype).tiny ** 0.5
    with torch.no_grad():
        made = func(x, *args[1:], **{**kwargs, **({"inplace": False} if "inplace" in kwargs else {})})
        step = torch.full_like(x, 1e-3)
        ratio = torch.where(tiny, (func(step) - func(-step)) / 2e-3, made / torch.where(tiny, 1.0, x))
    return made + ratio * (args[0] - x)


def _layer_norm(func: Callable[..., Tensor], args: Any, kwargs: Mapping[str, Any]) -> Tensor:
    """Made by the library, with the slope of (x - mean x) times a constant."""
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    given = {"eps": 1e-5, "weight": None, **dict(zip(names, args, strict=False)), **kwargs}
    x, axes = given["input"], tuple(range(-len(given["normalized_shape"]), 0))
    scale = (x.detach().var(axes, unbiased=False, keepdim=True) + given["eps"]).rsqrt()
    moved = (x - x.mean(axes, keepdim=True)) * scale
    return _as_made(func, args, kwargs, moved if given["weight"] is None else moved * given["weight"])


def _rms_norm(func: Callable[..., Tensor], args: Any, kwargs: Mapping[str, Any]) -> Tensor:
    """The same without a mean."""
    names = ("input", "normalized_shape", "weight", "eps")
    given = {"eps": None, "weight": None, **dict(zip(names, args, strict=False)), **kwargs}
    x, axes = given["input"], tuple(range(-len(given["normalized_shape"]), 0))
    eps = torch.finfo(x.dtype).eps if given["eps"] is None else given["eps"]
    moved = x * (x.detach().pow(2).mean(axes, keepdim=True) + eps).rsqrt()
    return _as_made(func, args, kwargs, moved if given["weight"] is None else moved * given["weight"])


def _group_norm(func: Callable[..., Tensor], args: Any, kwargs: Mapping[str, Any]) -> Tensor:
    """The same over the channels of a group and all places."""
    names = ("input", "num_groups", "weight", "bias", "eps")
    given = {"eps": 1e-5, "weight": None, **dict(zip(names, args, strict=False)), **kwargs}
    x = given["input"]
    groups = x.reshape(len(x), given["num_groups"], -1)
    scale = (groups.detach().var(-1, unbiased=False, keepdim=True) + given["eps"]).rsqrt()
    moved = ((groups - groups.mean(-1, keepdim=True)) * scale).reshape(x.shape)
    gain = given["weight"]
    return _as_made(func, args, kwargs, moved if gain is None else moved * gain.view(1, -1, *[1] * (x.dim() - 2)))


def _normalized(func: Callable[..., Tensor], args: Any, kwargs: Mapping[str, Any]) -> Tensor:
    """A direction, with the slope of x over a constant length."""
    x = args[0]
    made = func(x.detach(), *args[1:], **kwargs)
    length = x.detach().norm(dim=kwargs.get("dim", args[2] if len(args) > 2 else 1), keepdim=True)
    return _of_slope(made, x / length.clamp(min=torch.finfo(x.dtype).tiny))


def _as_made(func: Callable[..., Tensor], args: Any, kwargs: Mapping[str, Any], slope: Tensor) -> Tensor:
    with torch.no_grad():
        made = func(*args, **kwargs)
    return _of_slope(made, slope)


def _of_slope(made: Tensor, slope: Tensor) -> Tensor:
    """One tensor's numbers with another's slope."""
    return made.detach() + (slope - slope.detach()).to(made.dtype)


NORMS: Mapping[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm, F.rms_norm: _rms_norm, F.group_norm: _group_norm, F.normalize: _normalized,
}  # fmt: skip
