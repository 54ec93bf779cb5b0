"""Attention internals, read and written through the libraries' own seams.

`transformers` looks its attention function up by a name in the config: a tapped module gets a copy of its config that
names ours. `diffusers` modules hold a processor: a tapped one is wrapped for the run, and the one call of
`scaled_dot_product_attention` inside is caught. Both end in `AttentionTap.attend`. Reading never changes the output:
the library's own kernel still computes it, unless scores or pattern are written.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cutaway.errors import SiteError

NAME = "cutaway"
Original = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
Change = Callable[[str, Tensor, int], Tensor]


class AttentionTap:
    """The reads and writes asked of one attention module; one `attend` per call, `finish` once the module is done.

    `write(kind, tensor, offset)` returns the changed tensor, `read(kind, tensor)` takes it. A packed tower attends one
    picture at a time: its calls are put together again (tokens behind one another, patterns block-diagonal).
    """

    def __init__(self, writes: set[str], reads: set[str], write: Change, read: Callable[[str, Tensor], None]) -> None:
        self.writes, self.reads = writes, reads
        self._write, self._read = write, read
        self._parts: dict[str, list[Tensor]] = {}
        self._offset = 0

    def attend(
        self,
        q: Float[Tensor, "batch head query d"],
        k: Float[Tensor, "batch kv_head key d"],
        v: Float[Tensor, "batch kv_head key e"],
        *,
        mask: Tensor | None,
        scale: float | None,
        causal: bool,
        original: Original,
        softcap: float | None = None,
        bias: Tensor | None = None,
    ) -> Float[Tensor, "batch _ _ e"]:
        """Attention with the asked reads and writes: softmax(cap(scale * q k') + mask) v.

        `original` gives the library's output, used in its own layout whenever scores and pattern are not written, and
        its pattern where it makes one: that is read instead of computed again.
        """
        q, k, v = self._change("q", q), self._change("k", k), self._change("v", v)

        def scores() -> Tensor:
            made = attention_scores(q, k, mask=mask, scale=scale, causal=causal, softcap=softcap, bias=bias)
            return self._change("scores", made)

        if {"scores", "pattern"} & self.writes:
            pattern = self._change("pattern", _softmax(scores()))
            out = pattern @ repeat_heads(v, q.shape[1])
        else:
            out, known = original(q, k, v)
            if known is None and "pattern" in self.reads:
                known = _softmax(scores())
            elif "scores" in self.reads:
                scores()
            if known is not None:
                self._change("pattern", known)
        self._offset += q.shape[2]
        return out

    def finish(self) -> None:
        """Hand over what was read, once the module has returned."""
        for kind, parts in self._parts.items():
            whole = (
                parts[0] if len(parts) == 1 else torch.cat(parts, 2) if kind in ("q", "k", "v") else _diagonal(parts)
            )
            self._read(kind, whole)
        self._parts, self._offset = {}, 0

    def _change(self, kind: str, tensor: Tensor) -> Tensor:
        if kind in self.writes:
            tensor = self._write(kind, tensor, self._offset)
        if kind in self.reads:
            self._parts.setdefault(kind, []).append(tensor)
        return tensor


def attention_scores(
    q: Float[Tensor, "batch head query d"],
    k: Float[Tensor, "batch kv_head key d"],
    *,
    mask: Tensor | None,
    scale: float | None,
    causal: bool,
    softcap: float | None = None,
    bias: Tensor | None = None,
) -> Float[Tensor, "batch head query key"]:
    """Scaled, capped and masked scores; masked entries hold the most negative number of the dtype."""
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = q @ repeat_heads(k, q.shape[1]).transpose(-1, -2)  # fresh and large: changed in place from here on
    if softcap is not None:
        scores = torch.tanh(scores / softcap).mul(softcap)
    if bias is not None:
        scores += bias
    if mask is None and causal and scores.shape[-2] > 1:
        mask = scores.new_full(scores.shape[-2:], -torch.inf).triu(1)
    elif mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
    if mask is not None:  # adding a small mask is twice as fast as filling through it
        scores.add_(mask[..., : scores.shape[-1]]).clamp_min_(torch.finfo(scores.dtype).min)
    return scores


def _softmax(scores: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
    """The pattern of some scores: half precision is summed in float32."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)


def repeat_heads(x: Float[Tensor, "batch kv_head key d"], heads: int) -> Float[Tensor, "batch head key d"]:
    """Repeat each key/value head for the query heads that share it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _diagonal(parts: list[Tensor]) -> Tensor:
    """Put square pieces on the diagonal of one matrix, zero elsewhere."""
    size = sum(part.shape[-1] for part in parts)
    whole = parts[0].new_zeros(*parts[0].shape[:-2], size, size)
    at = 0
    for part in parts:
        n = part.shape[-1]
        whole[..., at : at + n, at : at + n] = part
        at += n
    return whole


# --- the seams --------------------------------------------------------------------------------------------------------


@contextmanager
def tapped(module: Any, tap: AttentionTap) -> Iterator[None]:
    """Route one attention module through a tap for the length of the block, and restore it whatever happens."""
    if isinstance(module, nn.MultiheadAttention):
        handle = module.register_forward_hook(_multihead(tap), with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
    elif hasattr(module, "processor"):
        yield from _swapped(module, "processor", _Processor(module.processor, tap), tap)
    elif hasattr(getattr(module, "config", None), "_attn_implementation"):
        config = copy.copy(module.config)
        config.cutaway = (tap, module.config._attn_implementation)
        config._attn_implementation_internal = NAME
        _register()
        yield from _swapped(module, "config", config, tap)
    else:
        raise SiteError(
            f"{type(module).__name__} does its attention by itself",
            expected="a module that asks the library for its attention function",
            do="its input and output can still be read as raw sites",
        )


def _swapped(module: nn.Module, name: str, value: Any, tap: AttentionTap) -> Iterator[None]:
    plain = getattr(module, name)
    handle = module.register_forward_hook(lambda *_: tap.finish())
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, plain)
        handle.remove()


def _register() -> None:
    from transformers import AttentionInterface

    if NAME not in AttentionInterface._global_mapping:
        AttentionInterface.register(NAME, _transformers_attention)


def _transformers_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """What the library calls: hand its tensors to the tap, its own kernel computes the output where it can."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    tap, name = module.config.cutaway
    if "flash" in name or "paged" in name or kwargs.get("s_aux") is not None:
        raise SiteError(
            f"the tensors inside {type(module).__name__} cannot be reached with '{name}' attention",
            expected="'sdpa' or 'eager', without attention sinks",
            do="load the model with attn='sdpa'",
        )
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    function = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)
    weights: list[Tensor | None] = [None]

    def original(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        out, weights[0] = function(module, q, k, v, attention_mask, **kwargs)
        dropped = module.training and kwargs.get("dropout")  # then its weights are no longer the pattern
        return out, weights[0] if function is eager and not dropped else None

    causal = kwargs.get("is_causal")
    out = tap.attend(
        query, key, value, mask=attention_mask, scale=kwargs.get("scaling"), original=original,
        causal=bool(getattr(module, "is_causal", True) if causal is None else causal),
        softcap=kwargs.get("softcap"), bias=kwargs.get("position_bias"),
    )  # fmt: skip
    changed = {"scores", "pattern"} & tap.writes
    return (out.transpose(1, 2).contiguous() if changed else out), weights[0]


class _Processor:
    """A diffusers processor that catches the attention call inside the one it wraps."""

    def __init__(self, plain: Callable[..., Any], tap: AttentionTap) -> None:
        @wraps(type(plain).__call__)  # the module reads this signature to choose its arguments
        def run(*args: Any, **kwargs: Any) -> Any:
            with _Catch(tap):
                return plain(*args, **kwargs)

        self._plain = plain
        self.__call__ = run  # type: ignore[method-assign]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)["__call__"](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


class _Catch(TorchFunctionMode):
    """Sends `scaled_dot_product_attention` through a tap, everything else on its way."""

    def __init__(self, tap: AttentionTap) -> None:
        super().__init__()
        self._tap = tap

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        q, k, v = (given.pop(name) for name in names[:3])
        return self._tap.attend(
            q, k, v, mask=given.get("attn_mask"), scale=given.get("scale"), causal=bool(given.get("is_causal")),
            original=lambda q, k, v: (func(q, k, v, **given), None),
        )  # fmt: skip


def _multihead(tap: AttentionTap) -> Callable[..., Any]:
    """A forward hook for `nn.MultiheadAttention` (batch first), which has no seam of its own."""

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        weights, biases = (
            module.in_proj_weight.chunk(3),
            (module.in_proj_bias.chunk(3) if module.in_proj_bias is not None else (None,) * 3),
        )
        q, k, v = (
            F.linear(given[name], w, b).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
            for name, w, b in zip(("query", "key", "value"), weights, biases, strict=True)
        )
        z = tap.attend(
            q,
            k,
            v,
            mask=None,
            scale=None,
            causal=False,
            original=lambda q, k, v: (F.scaled_dot_product_attention(q, k, v), None),
        )
        tap.finish()
        return (module.out_proj(z.transpose(1, 2).flatten(2)), output[1]) if tap.writes else output

    return hook
