"""A model by name with how it is to be opened: what a command line says before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A hub id, folder, `zoo:` or `tiny:` name, and the options of `cutaway.load`; prints as the name."""

    name: str
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    attn: str | None = None
    trust_remote_code: bool = False

    def __str__(self) -> str:
        return self.name
