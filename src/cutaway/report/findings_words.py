"""How the page of findings writes tables, shares, intervals, p-values and lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xarray


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def p_value(value: float) -> str:
    """A p-value in words."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def correlation(rho: float, p: float) -> str:
    """A correlation with its p-value; a dash where there is none."""
    return f"{rho:.2f} ({p_value(p)})" if np.isfinite(rho) else "–"


def percent(share: float) -> str:
    """A share in whole percent; a dash where there is none."""
    return str(round(100 * share)) if np.isfinite(share) else "–"


def interval(low: float, high: float) -> str:
    """An interval of shares, in percent."""
    return f"[{percent(low)}, {percent(high)}]"


def best_head(values: xarray.DataArray) -> str:
    """The head at which a value is largest."""
    if not np.isfinite(values).any():
        return "–"
    best = values.argmax(("layer", "head"))
    return f"{int(best['layer'])}.{int(best['head'])}"


def half_way(values: np.ndarray) -> str:
    """The first layer at which a curve is half way from its first to its largest value, or that it never rises."""
    rise = values.max() - values[0]
    if not np.isfinite(rise):
        return "–"
    if rise < 0.05:
        return "no rise"
    return str(int(np.argmax(values >= values[0] + rise / 2)))


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def layers_of(count: int) -> str:
    """`layer`, or `3 layers`."""
    return "layer" if count == 1 else f"{count} layers"
