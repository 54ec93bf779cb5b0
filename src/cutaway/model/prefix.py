"""One clean key/value cache for many rows: a decoder re-run from a position on attends to it without copying it.

`shared` builds the cache. An attention that is not touched inside gets back only the keys and values of the new
positions (a cross-attention: those of the encoder, once), and its attention function (entered through a copy of the
module's config, as for reading) lets all rows look at the shared ones. One whose queries, keys, values, scores or
pattern are edited gets all of them, row by row.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
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


def shared(clean: Any, start: int, rows: int, whole: Collection[int] = (), crossed: Collection[int] = ()) -> Any:
    """The clean run's cache up to `start`, for `rows` times as many rows.

    The self-attentions in `whole` hand out all keys, the cross-attentions in `crossed` those of each row.
    """
    if not isinstance(clean, EncoderDecoderCache):
        return _before(clean, start, whole)
    layers = [
        PrefixLayer(*(_spread(x, rows) if index in crossed else x for x in (layer.keys, layer.values)))
        for index, layer in enumerate(clean.cross_attention_cache.layers)
    ]
    return EncoderDecoderCache(_before(clean.self_attention_cache, start, whole), Cache(layers=layers))


def _before(clean: Any, start: int, whole: Collection[int]) -> Cache:
    layers = [PrefixLayer(layer.keys[:, :, :start], layer.values[:, :, :start]) for layer in clean.layers]
    for index in whole:
        layers[index].whole = True
    return Cache(layers=layers)


def _spread(x: Float[Tensor, "batch head key d"], rows: int) -> Float[Tensor, "row head key d"]:
    """Each row's own keys: without copying where there is one row, since nobody writes into them."""
    return x.expand(rows, -1, -1, -1) if len(x) == 1 else x.repeat(rows, 1, 1, 1)


@contextmanager
def attending(modules: Sequence[Any], crossing: Sequence[Any], cache: Any) -> Iterator[None]:
    """Let these self- and cross-attentions look at the shared keys and values, for the length of the block."""
    if NAME not in AttentionInterface._global_mapping:
        AttentionInterface.register(NAME, _attention)
    own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    layers = [*(own.layers[module.layer_idx] for module in modules), *(None for _ in crossing)]
    plain = [(module, module.config) for module in (*modules, *crossing)]
    try:
        for (module, config), layer in zip(plain, layers, strict=True):
            changed = copy.copy(config)
            changed.cutaway_prefix = layer
            changed._attn_implementation_internal = NAME
            module.config = changed
        yield
    finally:
        for module, config in plain:
            module.config = config


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What the library calls: attention over the shared prefix and the row's own new positions, or over the encoder."""
    layer: PrefixLayer | None = module.config.cutaway_prefix  # type: ignore[union-attr,assignment]
    own, past = (None, (key, value)) if layer is None else ((key, value), (layer.keys, layer.values))
    out = prefix_attention(
        query, own, *past, mask=attention_mask, scale=options.get("scaling"), softcap=options.get("softcap")
    )
    return out.transpose(1, 2), None


def prefix_attention(
    query: Float[Tensor, "row head new d"],
    own: tuple[Float[Tensor, "row kv_head new d"], Float[Tensor, "row kv_head new e"]] | None,
    past_key: Float[Tensor, "batch kv_head past d"],
    past_value: Float[Tensor, "batch kv_head past e"],
    *,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None = None,
) -> Float[Tensor, "row head new e"]:
    """softmax(cap(s q [K, k]') + mask) [V, v] with K, V shared by rows b, batch + b, 2 batch + b, … of a batch.

    One product with K serves all rows of a batch entry, so K is read once and never repeated. `own`, the keys and
    values k, v of the new positions, is None in a cross-attention, which is not causal.
    """
    (rows, heads, new, _), (batch, groups, past, _) = query.shape, past_key.shape
    n, each = rows // batch, heads // groups

    def folded(x: Tensor) -> Tensor:
        """(row, head, …) as (batch, kv_head, cell, head of the group, …)."""
        return x.unflatten(0, (n, batch)).unflatten(2, (groups, -1)).permute(1, 2, 0, 3, *range(4, x.dim() + 2))

    q = folded(query * (query.shape[-1] ** -0.5 if scale is None else scale))
    before = (q.flatten(2, 4) @ past_key.mT).view(batch, groups, n, each, new, past)
    here = before.new_empty(*before.shape[:-1], 0) if own is None else q @ folded(own[0]).mT
    if softcap is not None:
        before, here = (torch.tanh(scores / softcap).mul(softcap) for scores in (before, here))
    if mask is None and own is not None and new > 1:
        mask = torch.ones(1, 1, new, past + new, dtype=torch.bool, device=query.device).tril(past)
    if mask is not None:
        seen = mask[..., : past + here.shape[-1]]
        seen = seen.repeat(n, 1, 1, 1) if len(seen) not in (1, rows) else seen
        fit = seen[:, :, None, None] if len(seen) == 1 else _by_cell(seen, n, batch)
        before, here = _masked(before, fit[..., :past]), _masked(here, fit[..., past:])
    scores = torch.cat([before, here], -1)
    pattern = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    if mask is not None and (barred := idle(fit, past + new)) is not None:
        pattern = pattern.masked_fill(barred, 0)
    out = (pattern[..., :past].flatten(2, 4) @ past_value).view(batch, groups, n, each, new, -1)
    if own is not None:
        out = out + pattern[..., past:] @ folded(own[1])
    return out.permute(2, 0, 1, 3, 4, 5).reshape(rows, heads, new, -1)


def _by_cell(mask: Tensor, n: int, batch: int) -> Tensor:
    """A mask (row, 1, query, key) as (batch, 1, cell, 1, query, key)."""
    return mask.unflatten(0, (n, batch)).permute(1, 2, 0, 3, 4)[:, :, :, None]


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores with a mask applied in place: kept where it is true, or added to; nothing to do where it hides nothing."""
    if mask.dtype == torch.bool:
        return scores if bool(mask.all()) else scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores.add_(mask).clamp_min_(torch.finfo(scores.dtype).min) if bool(mask.any()) else scores
