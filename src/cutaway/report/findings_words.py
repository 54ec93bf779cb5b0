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
    """A p-value in words; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def correlation(rho: xarray.DataArray, p: xarray.DataArray) -> str:
    """A correlation with its p-value in each set of scenes; a dash where there is none."""
    pairs = zip(rho.values, p.values, strict=True)
    return " / ".join(f"{one:.2f} ({p_value(float(at))})" if np.isfinite(one) else "–" for one, at in pairs)


def percent(share: float) -> str:
    """A share in whole percent; a dash where there is none."""
    return str(round(100 * share)) if np.isfinite(share) else "–"


def both(values: xarray.DataArray) -> str:
    """The same share in each set of scenes, in whole percent: `31/49`."""
    return "/".join(percent(float(value)) for value in values.values)


def ranged(values: xarray.DataArray, low: xarray.DataArray, high: xarray.DataArray) -> str:
    """The same with an interval each: `31 [28, 33] / 49 [45, 52]`."""
    if not np.isfinite(values).any():
        return "–"
    cells = [values.values, low.values, high.values]
    return " / ".join(f"{percent(float(v))} {interval(float(a), float(b))}" for v, a, b in zip(*cells, strict=True))


def interval(low: float, high: float) -> str:
    """An interval of shares, in percent."""
    return f"[{percent(low)}, {percent(high)}]"


def best_head(values: xarray.DataArray) -> str:
    """The head at which a value is largest, in each set of scenes: `5.3/4.2`."""
    return "/".join(_best(values.isel(set=k)) for k in range(values.sizes["set"]))


def _best(values: xarray.DataArray) -> str:
    if not np.isfinite(values).any():
        return "–"
    best = values.argmax(("layer", "head"))
    return f"{int(best['layer'])}.{int(best['head'])}"


def half_way(values: xarray.DataArray) -> str:
    """The first layer at which a curve is half way from its first to its largest value, in each set of scenes."""
    return "/".join(_half_way(values.isel(set=k).values) for k in range(values.sizes["set"]))


def _half_way(values: np.ndarray) -> str:
    rise = values.max() - values[0]
    if not np.isfinite(rise):
        return "–"
    return "no rise" if rise < 0.05 else str(int(np.argmax(values >= values[0] + rise / 2)))


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def layers_of(count: int) -> str:
    """`layer`, or `3 layers`."""
    return "layer" if count == 1 else f"{count} layers"
