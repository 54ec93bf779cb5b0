"""The inside of attention in `diffusers`: a processor is wrapped for the run and the attention call inside it caught.

A processor that takes the softmax by hand (the classic one, the sliced one) is run as the fused one with the classic
arithmetic put in place of the kernel: the same operations on the same numbers, so the output is the same bit for bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cutaway.errors import SiteError
from cutaway.model.blocks import IMAGE_PROMPTED

if TYPE_CHECKING:
    from cutaway.model.attention import AttentionTap


class Watched:
    """A diffusers processor around the one it stands for; its attention goes through a tap."""

    def __init__(self, plain: Callable[..., Any], tap: AttentionTap) -> None:
        @wraps(type(plain).__call__)
        def run(attn: Any, *args: Any, **kwargs: Any) -> Any:
            by_hand = _by_hand(plain, attn)
            catch = _Catch(tap, plain, attn if by_hand else None)
            with catch:
                made = (by_hand or plain)(attn, *args, **kwargs)
            if not catch.calls:
                raise _unreadable(plain, "does not call torch's attention function, where its inside could be seen")
            return made

        # The module reads this at every call to choose its arguments: made once, it is quick to read.
        run.__signature__ = inspect.signature(type(plain).__call__)  # type: ignore[attr-defined]
        self._plain = plain
        self.__call__ = run  # type: ignore[method-assign]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module calls."""
        return vars(self)["__call__"](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


def _by_hand(plain: Any, attn: Any) -> Callable[..., Any] | None:
    """The fused processor that does what a classic or sliced one does on this module; None for any other."""
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor

    normed = getattr(attn, "norm_q", None) is not None or getattr(attn, "norm_k", None) is not None
    spatial = getattr(attn, "spatial_norm", None) is not None
    same = type(plain) is AttnProcessor or (type(plain) is SlicedAttnProcessor and not spatial)
    return AttnProcessor2_0() if same and not normed else None


def _unreadable(plain: Any, why: str) -> SiteError:
    return SiteError(
        f"the inside of attention cannot be reached: the processor {type(plain).__name__} {why}",
        expected="one call of scaled_dot_product_attention",
        exists="`attn.z` and `attn.out` of the same layer, which need nothing of the inside",
        do="choose another processor for the run: `pipe.unet.set_attn_processor(AttnProcessor2_0())`",
    )


class _Catch(TorchFunctionMode):
    """Sends the first `scaled_dot_product_attention` through a tap, everything else on its way.

    An image prompt (IP-Adapter) attends a second time, with the same queries, to its picture: no part of the site.
    """

    def __init__(self, tap: AttentionTap, plain: Any, classic: Any) -> None:
        super().__init__()
        self._tap, self._plain, self._classic = tap, plain, classic
        self._query: Tensor | None = None
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        q, k, v = (given.pop(name) for name in names[:3])
        self.calls += 1
        if self.calls > 1:
            if type(self._plain).__name__ not in IMAGE_PROMPTED:
                raise _unreadable(self._plain, "attends several times, and which is meant is not known")
            return func(self._tap.query if q is self._query else q, k, v, **given)
        self._query, mask, scale = q, given.get("attn_mask"), given.get("scale")
        if self._classic is not None:
            scale, size = self._classic.scale, getattr(self._plain, "slice_size", None)

        def original(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
            if self._classic is not None:
                return _classic(self._classic, q, k, v, mask, size)
            return func(q, k, v, **given), None

        return self._tap.attend(
            q, k, v, mask=mask, scale=scale, causal=bool(given.get("is_causal")), original=original,
            dropout=given.get("dropout_p") or 0.0, by_hand=self._classic is not None,
        )  # fmt: skip


def _classic(
    attn: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, size: int | None
) -> tuple[Tensor, Tensor]:
    """Attention as the classic processors do it, with the module's own softmax, `size` heads at a time."""
    batch, heads = q.shape[:2]
    q, k, v = (x.reshape(batch * heads, *x.shape[2:]) for x in (q, k, v))
    mask = mask.reshape(batch * heads, *mask.shape[2:]) if mask is not None else None
    out, pattern = [], []
    for start in range(0, batch * heads, size or batch * heads):
        part = slice(start, start + (size or batch * heads))
        pattern.append(attn.get_attention_scores(q[part], k[part], mask[part] if mask is not None else None))
        out.append(torch.bmm(pattern[-1], v[part]))
    return torch.cat(out).unflatten(0, (batch, heads)), torch.cat(pattern).unflatten(0, (batch, heads))
