"""Dictionaries that come with the package: by name, where each lies and of which model it is."""

from __future__ import annotations

from pathlib import Path

SHIPPED: dict[str, str] = {}  # each with the model that it belongs to
HOME = Path(__file__).parent / "models" / "dictionaries"


def folder_of(name: str) -> Path:
    """Where a dictionary lies."""
    return HOME / name


def names_of(model: str) -> tuple[str, ...]:
    """The dictionaries of a model of the zoo."""
    return tuple(name for name, of in SHIPPED.items() if f"zoo:{of}" == model)
