"""The colour words of a sprite: how much of it is red, brown, white and so on."""

from __future__ import annotations

from typing import Any

import numpy as np

LEAST = 0.12  # share of the drawing below which a colour is not named
MOST_WORDS = 3


def colours(pixels: np.ndarray) -> list[list[Any]]:
    """At most three pairs (word, share of the drawn area), largest first, from RGBA pixels."""
    rgb = pixels[pixels[..., 3] > 127][:, :3].astype(np.float64) / 255
    names, counts = np.unique(_words(rgb), return_counts=True)
    shares = sorted(
        ((int(count) / len(rgb), str(name)) for name, count in zip(names, counts, strict=True)), reverse=True
    )
    return [[name, round(share, 2)] for share, name in shares[:MOST_WORDS] if share >= LEAST]


def _words(rgb: np.ndarray) -> np.ndarray:
    """One colour word for each pixel, by hue, saturation and value."""
    high, low = rgb.max(1), rgb.min(1)
    spread = high - low
    safe = np.where(spread > 0, spread, 1)
    red, green, blue = rgb.T
    hue = np.where(
        high == red,
        ((green - blue) / safe) % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = hue * 60
    saturation = np.where(high > 0, spread / np.where(high > 0, high, 1), 0)
    warm = (hue >= 12) & (hue < 48)
    rules = [
        (high < 0.24, "black"),
        ((saturation < 0.13) & (high > 0.86), "white"),
        (saturation < 0.16, "gray"),
        (((hue < 48) | (hue > 345)) & (saturation < 0.34) & (high < 0.8) & (high > 0.24), "gray"),
        ((high < 0.4) & (saturation < 0.35), "black"),
        ((high < 0.3) & (saturation < 0.7), "black"),
        (warm & (high < 0.78) & ~((saturation > 0.75) & (high > 0.7)), "brown"),
        ((hue < 12) & (high < 0.58), "brown"),
        (((hue < 20) | (hue >= 335)) & (saturation < 0.5) & (high > 0.75), "pink"),
        ((hue >= 300) & (hue < 345) & (high > 0.7), "pink"),
        ((hue < 12) | (hue >= 345), "red"),
        (hue < 40, "orange"),
        (hue < 68, "yellow"),
        (hue < 165, "green"),
        (hue < 252, "blue"),
    ]
    return np.select([rule for rule, _ in rules], [word for _, word in rules], "purple")
