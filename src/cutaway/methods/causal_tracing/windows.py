"""Layers in a row, as many at a time."""

from __future__ import annotations

from collections.abc import Sequence

from cutaway.errors import MethodError


def windows(layers: Sequence[int], wide: int) -> dict[str, list[int]]:
    """Every stretch of so many layers in a row by its name: none reaches over an end.

    >>> windows([1, 3, 5], 2), list(windows([0, 1], 1))
    ({'1-3': [1, 3], '3-5': [3, 5]}, ['0', '1'])
    """
    if not 1 <= wide <= len(layers):
        raise MethodError(
            f"no window of {wide} layers", expected=f"from 1 to {len(layers)} layers in a row",
            exists=f"layers {', '.join(map(str, layers))}", do="give another `wide`",
        )  # fmt: skip
    parts = [list(layers[at : at + wide]) for at in range(len(layers) - wide + 1)]
    return {str(some[0]) if wide == 1 else f"{some[0]}-{some[-1]}": some for some in parts}
