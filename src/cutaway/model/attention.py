"""Attention internals, read and written through the libraries' own seams.

`transformers` looks its attention function up by a name in the config: a tapped module gets a copy of its config that
names ours. `diffusers` modules hold a processor: a tapped one is wrapped for the run (`processors.py`). Both end in
`AttentionTap.attend`. Reading never changes the output: the library's own kernel still computes it, unless scores or
pattern are written.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cutaway.errors import SiteError
from cutaway.model.wrapped import core, present

NAME = "cutaway"
Original = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
Change = Callable[[str, Tensor, int], Tensor]
Take = Callable[[str, Tensor, bool], None]
Asked = Callable[[int], slice | None]


def _all(_: int) -> None:
    """All rows of a call are read."""


class AttentionTap:
    """The reads and writes asked of one attention module; one `attend` per call, `finish` once the module is done.

    `write(kind, tensor, offset)` returns the changed tensor, `read(kind, tensor, cut)` takes it: of so many rows those
    that `asked` names, and `cut` says whether these were fewer. A packed tower attends one picture at a time: its calls
    are put together again (tokens behind one another, patterns block-diagonal).
    """

    def __init__(self, writes: set[str], reads: set[str], write: Change, read: Take, asked: Asked = _all) -> None:
        self.writes, self.reads = writes, reads
        self._write, self._read, self._asked = write, read, asked
        self._rows: slice | None = None  # those of this call that are read; None: all
        self._parts: dict[str, list[Tensor]] = {}
        self._offset = 0
        self.query = torch.empty(0)  # of the last call, as it was changed

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
        dropout: float = 0.0,
        by_hand: bool = False,
    ) -> Float[Tensor, "batch _ _ e"]:
        """Attention with the asked reads and writes: softmax(cap(scale * q k') + mask) v.

        `original` gives the library's output, used in its own layout whenever scores and pattern are not written. One
        that takes the softmax `by_hand` gives its pattern too: it is used, not computed again, and scores are rounded
        as there; a kernel keeps them in float32.
        """
        self._rows = self._asked(len(q))
        q, k, v = self._change("q", q), self._change("k", k), self._change("v", v)
        self.query = q
        written = {"scores", "pattern"} & self.writes
        few = None if written else self._rows  # no more is computed than what is read

        def some(x: Any) -> Any:
            return x if few is None or x is None or x.dim() < 4 or len(x) == 1 else x[few]

        def scores() -> Tensor:
            made = attention_scores(
                some(q), some(k), mask=some(mask), scale=scale, causal=causal, softcap=softcap, bias=some(bias)
            )
            made = _narrowed(made, q.dtype) if by_hand else made
            return self._change("scores", made, q.dtype, cut=few is not None)

        anew = "scores" in written or (written and not by_hand)
        out, pattern = (q, None) if anew else original(q, k, v)
        cut = few is not None and pattern is None
        if pattern is None and (written or "pattern" in self.reads):
            pattern = _pattern(scores(), some(mask), v.dtype)
        elif "scores" in self.reads:
            scores()
        if pattern is not None:
            pattern = self._change("pattern", pattern, cut=cut)
            out = F.dropout(pattern, dropout, dropout > 0) @ repeat_heads(v, q.shape[1]) if written else out
        self._offset += q.shape[2]
        return out

    def finish(self) -> None:
        """Hand over what was read, once the module has returned."""
        for kind, parts in self._parts.items():
            whole = parts[0] if len(parts) == 1 else torch.cat(parts, 2) if kind in ("q", "k", "v") else diagonal(parts)
            self._read(kind, whole, self._rows is not None)
        self._parts, self._offset, self.query = {}, 0, torch.empty(0)

    def _change(self, kind: str, tensor: Tensor, kept: torch.dtype | None = None, *, cut: bool = False) -> Tensor:
        if kind in self.writes:
            tensor = self._write(kind, tensor, self._offset)
        if kind in self.reads:
            part = tensor if cut or self._rows is None else tensor[self._rows]
            self._parts.setdefault(kind, []).append(part if kept is None else _narrowed(part, kept))
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
    """Scaled, capped and masked scores in float32 or better, as kernels keep them inside.

    Masked entries hold the most negative number of that dtype.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k = q.to(dtype), repeat_heads(k, q.shape[1]).to(dtype)
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = q @ k.transpose(-1, -2)  # fresh and large: changed in place from here on
    if softcap is not None:
        scores = torch.tanh(scores / softcap).mul(softcap)
    if bias is not None:
        scores += bias
    if mask is None and causal and scores.shape[-2] > 1:
        mask = scores.new_full(scores.shape[-2:], -torch.inf).triu(1)
    elif mask is not None:
        added = torch.zeros_like(mask, dtype=dtype) if mask.dtype == torch.bool else mask.to(dtype)
        mask = added.masked_fill(hidden(mask), -torch.inf)
    if mask is not None:  # adding a small mask is twice as fast as filling through it
        scores.add_(mask[..., : scores.shape[-1]]).clamp_min_(torch.finfo(dtype).min)
    return scores


def hidden(mask: Tensor) -> Bool[Tensor, "..."]:
    """What a mask hides: where it is False, or the most negative number of its dtype or less."""
    return ~mask if mask.dtype == torch.bool else mask <= torch.finfo(mask.dtype).min


def idle(mask: Tensor | None, keys: int) -> Bool[Tensor, "... query 1"] | None:
    """Queries that a mask bars from every key (False, minus infinity): kernels give them 0. None: there are none."""
    if mask is None:
        return None
    here = mask[..., :keys]
    barred = (~here if here.dtype == torch.bool else here == -torch.inf).all(-1, keepdim=True)
    return barred if bool(barred.any()) else None


def _pattern(
    scores: Float[Tensor, "batch head query key"], mask: Tensor | None, dtype: torch.dtype
) -> Float[Tensor, "batch head query key"]:
    """The pattern of some scores; zero for a query that its mask bars from every key, unless its scores were raised."""
    pattern = scores.softmax(-1, torch.promote_types(scores.dtype, torch.float32)).to(dtype)
    if (barred := idle(mask, scores.shape[-1])) is None:
        return pattern
    return pattern.masked_fill(barred & (scores.amax(-1, keepdim=True) <= torch.finfo(dtype).min), 0)


def _narrowed(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Scores in another dtype, the most negative number in place of minus infinity."""
    return scores if scores.dtype == dtype else scores.clamp(min=torch.finfo(dtype).min).to(dtype)


def repeat_heads(x: Float[Tensor, "batch kv_head key d"], heads: int) -> Float[Tensor, "batch head key d"]:
    """Repeat each key/value head for the query heads that share it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def diagonal(parts: list[Tensor]) -> Tensor:
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
    if isinstance(inner := core(module), nn.MultiheadAttention):
        handle = inner.register_forward_hook(_multihead(tap), with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
    elif hasattr(module, "processor"):
        from cutaway.model.processors import Watched

        yield from _swapped(module, "processor", Watched(module.processor, tap), tap)
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
    """Put a value in front of an attribute, which may be a submodule (processors with weights are)."""
    own = vars(module)
    plain = {name: own[name]} if name in own else {}
    handle = module.register_forward_hook(lambda *_: tap.finish())
    own[name] = value
    try:
        yield
    finally:
        del own[name]
        own.update(plain)
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
    dropout = (kwargs.get("dropout") or 0.0) if module.training else 0.0

    def original(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        out, weights[0] = function(module, q, k, v, attention_mask, **kwargs)
        return out, weights[0] if by_hand else None

    by_hand = function is eager and not dropout  # after dropout its weights are no longer the pattern
    causal = kwargs.get("is_causal")
    out = tap.attend(
        query, key, value, mask=attention_mask, scale=kwargs.get("scaling"), original=original,
        causal=bool(getattr(module, "is_causal", True) if causal is None else causal),
        softcap=kwargs.get("softcap"), bias=kwargs.get("position_bias"), dropout=dropout,
        by_hand=by_hand,
    )  # fmt: skip
    changed = {"scores", "pattern"} & tap.writes
    return (out.transpose(1, 2).contiguous() if changed else out), weights[0]


def _multihead(tap: AttentionTap) -> Callable[..., Any]:
    """A forward hook for `nn.MultiheadAttention` (batch first), which has no seam of its own."""

    def original(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
        return F.scaled_dot_product_attention(q, k, v), None

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
        given = dict(zip(names, args, strict=False)) | kwargs
        if given.get("attn_mask") is not None or given.get("key_padding_mask") is not None:
            raise SiteError(
                f"the inside of {type(module).__name__} is not read under a mask", expected="a call without masks",
                do="its input and output can still be read as raw sites",
            )  # fmt: skip
        with present(module):  # its output projection is read and never called, as the library does it
            weights, out = module.in_proj_weight.chunk(3), module.out_proj
            biases = module.in_proj_bias.chunk(3) if module.in_proj_bias is not None else (None,) * 3
            q, k, v = (
                F.linear(given[name], w, b).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
                for name, w, b in zip(names[:3], weights, biases, strict=True)
            )
            z = tap.attend(q, k, v, mask=None, scale=None, causal=False, original=original)
            tap.finish()
            return (F.linear(z.transpose(1, 2).flatten(2), out.weight, out.bias), output[1]) if tap.writes else output

    return hook
