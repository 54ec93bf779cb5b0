"""The trained models inside the package, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from cutaway.errors import LoadError, near
from cutaway.zoo import (
    emoji_clip,
    emoji_judge,
    emoji_llava,
    emoji_mmdit,
    emoji_sd,
    emoji_vae,
    parted,
    planted_clip,
    planted_llava,
    planted_mmdit,
    planted_text,
)  # fmt: skip
from cutaway.zoo.spec import UNTRAINED, Spec

# To add a model: a module with its `SPEC`, the template of its card (`.md`) beside it, and its name here.
_MADE = (
    emoji_clip, emoji_llava, emoji_judge, emoji_vae, emoji_sd, emoji_mmdit, planted_text, planted_llava, planted_clip,
    planted_mmdit,
)  # fmt: skip
TRAINED = {module.SPEC.name: module.SPEC for module in _MADE}


def trained(name: str) -> Spec:
    """The spec of that name, with or without `zoo:` in front; with `@untrained` behind that of its untrained twin."""
    kind, wanted = parted(name)
    plain, at, twin = (wanted if kind == "zoo" else name).partition("@")
    if at and twin != UNTRAINED[1:]:
        raise LoadError(
            f"'{plain}' has no '{twin}'", expected=f"zoo:{plain}, or zoo:{plain}{UNTRAINED}, the same before training",
            exists=near(plain, TRAINED), do=f"leave '{at}{twin}' out, or write '{UNTRAINED}'",
        )  # fmt: skip
    if plain not in TRAINED:
        raise LoadError(
            f"no model of the zoo is called '{plain}'", expected="zoo:NAME, or zoo:NAME@untrained",
            exists=near(plain, TRAINED), do="`cutaway zoo list` shows them",
        )  # fmt: skip
    return replace(TRAINED[plain], twin=bool(at))


def spec_of(name: str) -> Spec | None:
    """The spec of a model, by the name it was or would be opened by; None unless it is of the zoo."""
    return trained(name) if parted(name)[0] == "zoo" else None


def build(name: str, *, dtype: torch.dtype = torch.float32, attn: str | None = None) -> tuple[Any, Any]:
    """The model in eval mode and its processor; `NAME@untrained` is the same one before training, made anew."""
    return trained(name).open(dtype=dtype, attn=attn)
