"""One clean key/value cache for many rows: a decoder re-run from a position on attends to it without copying it.

`shared` builds the cache. A layer that is not touched inside its attention gets back only the keys and values of the
new positions, and its attention function (entered through a copy of the module's config, as for reading) adds the
shared ones. A layer whose queries, keys, values, scores or pattern are edited gets all of them, row by row.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from cutaway.model.attention import idle

NAME = "cutaway-prefix"


class PrefixLayer(DynamicLayer):
    """The keys and values of one layer before position `start`, those of the clean run, the same for all rows."""

    def __init__(self, keys: Float[Tensor, "batch head key d"], values: Float[Tensor, "batch head key e"]) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized, self.whole = keys.dtype, keys.device, True, False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The new keys and values; behind those of the prefix for a `whole` layer. Nothing is kept."""
        if not self.whole:
            return key_states, value_states
        n = len(key_states) // len(self.keys)
        past = (tensor.repeat(n, 1, 1, 1) for tensor in (self.keys, self.values))
        return tuple(torch.cat(pair, -2) for pair in zip(past, (key_states, value_states), strict=True))  # type: ignore[return-value]


def fresh(crossed: bool) -> Any:
    """An empty cache that keeps every position, also in layers with a sliding window."""
    return EncoderDecoderCache(DynamicCache(), DynamicCache()) if crossed else DynamicCache()


def shared(clean: Any, start: int, rows: int, whole: Sequence[int] = ()) -> Any:
    """The clean run's cache up to `start` for `rows` times as many rows; the layers in `whole` hand out all keys."""
    own = clean.self_attention_cache if isinstance(clean, EncoderDecoderCache) else clean
    layers = [PrefixLayer(layer.keys[:, :, :start], layer.values[:, :, :start]) for layer in own.layers]
    for index in whole:
        layers[index].whole = True
    cache = Cache(layers=layers)
    if not isinstance(clean, EncoderDecoderCache):
        return cache
    crossed = DynamicCache()
    for index, layer in enumerate(clean.cross_attention_cache.layers):
        crossed.update(layer.keys.repeat(rows, 1, 1, 1), layer.values.repeat(rows, 1, 1, 1), index)
    return EncoderDecoderCache(cache, crossed)


@contextmanager
def attending(modules: Sequence[Any], cache: Any) -> Iterator[None]:
    """Let these attention modules add the shared keys and values, for the length of the block."""
    if NAME not in AttentionInterface._global_mapping:
        AttentionInterface.register(NAME, _attention)
    own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    plain = [(module, module.config) for module in modules]
    try:
        for module, config in plain:
            changed = copy.copy(config)
            changed.cutaway_prefix = own.layers[module.layer_idx]
            changed._attn_implementation_internal = NAME
            module.config = changed
        yield
    finally:
        for module, config in plain:
            module.config = config


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What the library calls: attention over the shared prefix and the row's own new positions."""
    layer: PrefixLayer = module.config.cutaway_prefix  # type: ignore[union-attr,assignment]
    out = prefix_attention(
        query, key, value, layer.keys, layer.values, mask=attention_mask, scale=options.get("scaling"),
        softcap=options.get("softcap"),
    )  # fmt: skip
    return out.transpose(1, 2), None


def prefix_attention(
    query: Float[Tensor, "row head new d"],
    key: Float[Tensor, "row kv_head new d"],
    value: Float[Tensor, "row kv_head new e"],
    past_key: Float[Tensor, "batch kv_head past d"],
    past_value: Float[Tensor, "batch kv_head past e"],
    *,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None = None,
) -> Float[Tensor, "row head new e"]:
    """softmax(cap(s q [K, k]') + mask) [V, v] with K, V shared by rows b, batch + b, 2 batch + b, … of a batch.

    One product with K serves all rows of a batch entry, so K is read once and never repeated.
    """
    (rows, heads, new, _), (batch, groups, past, _) = query.shape, past_key.shape
    n, each = rows // batch, heads // groups

    def folded(x: Tensor) -> Tensor:
        """(row, head, …) as (batch, kv_head, cell, head of the group, …)."""
        return x.unflatten(0, (n, batch)).unflatten(2, (groups, -1)).permute(1, 2, 0, 3, *range(4, x.dim() + 2))

    q = folded(query * (query.shape[-1] ** -0.5 if scale is None else scale))
    before = (q.flatten(2, 4) @ past_key.mT).view(batch, groups, n, each, new, past)
    own = q @ folded(key).mT
    if softcap is not None:
        before, own = (torch.tanh(scores / softcap).mul(softcap) for scores in (before, own))
    if mask is None and new > 1:
        mask = torch.ones(1, 1, new, past + new, dtype=torch.bool, device=query.device).tril(past)
    if mask is not None:
        here = mask[..., : past + new]
        here = here.repeat(n, 1, 1, 1) if len(here) not in (1, rows) else here
        fit = here[:, :, None, None] if len(here) == 1 else _by_cell(here, n, batch)
        before, own = _masked(before, fit[..., :past]), _masked(own, fit[..., past:])
    scores = torch.cat([before, own], -1)
    pattern = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    if mask is not None and (barred := idle(fit, past + new)) is not None:
        pattern = pattern.masked_fill(barred, 0)
    out = (pattern[..., :past].flatten(2, 4) @ past_value).view(batch, groups, n, each, new, -1)
    out = out + pattern[..., past:] @ folded(value)
    return out.permute(2, 0, 1, 3, 4, 5).reshape(rows, heads, new, -1)


def _by_cell(mask: Tensor, n: int, batch: int) -> Tensor:
    """A mask (row, 1, query, key) as (batch, 1, cell, 1, query, key)."""
    return mask.unflatten(0, (n, batch)).permute(1, 2, 0, 3, 4)[:, :, :, None]


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores with a mask applied in place: kept where it is true, or added to; nothing to do where it hides nothing."""
    if mask.dtype == torch.bool:
        return scores if bool(mask.all()) else scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores.add_(mask).clamp_min_(torch.finfo(scores.dtype).min) if bool(mask.any()) else scores
