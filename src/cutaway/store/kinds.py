"""The kinds of positions as the numbers that shards hold: places in this list, which `store.json` keeps."""

from __future__ import annotations

from typing import get_args

from cutaway.model.tokens import TokenKind

KINDS: tuple[str, ...] = ("", *get_args(TokenKind))
