"""Backgrounds as pixels: plain, gradient, and three textures."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int32, UInt8

from cutaway.data.scene import COLOURS, Background

STRENGTH = 0.6  # how far a texture goes from its first colour to its second
SEEDS = 48  # backgrounds with seeds that differ by this many look alike
_WHOLE = 256  # fixed point of the mix, so that every machine rounds alike


def ground(background: Background, canvas: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The background's pixels."""
    first = np.array(COLOURS[background.colours[0]], np.int32)
    if background.kind == "plain":
        width, height = canvas
        return np.broadcast_to(first.astype(np.uint8), (height, width, 3))
    second = np.array(COLOURS[background.colours[1]], np.int32)
    share = _share(background.kind, background.seed % SEEDS, canvas)[..., None]
    mixed: UInt8[np.ndarray, "h w 3"] = ((first * _WHOLE + (second - first) * share + 128) >> 8).astype(np.uint8)
    return mixed


@lru_cache(maxsize=512)
def _share(kind: str, seed: int, canvas: tuple[int, int]) -> Int32[np.ndarray, "h w"]:
    """How much of the second colour each pixel takes, of 256."""
    width, height = canvas
    short = min(canvas)
    x = ((np.arange(width) + 0.5) / short)[None, :].repeat(height, 0)
    y = ((np.arange(height) + 0.5) / short)[:, None].repeat(width, 1)
    if kind == "gradient":
        along = _turned(x, y, 45 * (seed % 8))
        share = (along - along.min()) / np.ptp(along)
    else:
        share = STRENGTH * _texture(x, y, seed, short)
    return np.rint(share * _WHOLE).astype(np.int32)


def _texture(
    x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"], seed: int, short: int
) -> Float[np.ndarray, "h w"]:
    """Stripes, checks or dots with edges one pixel soft; `seed` gives pattern, direction and grain."""
    pattern, rest = seed % 3, seed // 3
    period = (0.16, 0.22, 0.28, 0.36)[rest % 4]
    angle = (0, 45, 90, 135)[rest // 4 % 4]
    soft = period * short / 2
    if pattern == 0:
        return _soft(_wave(_turned(x, y, angle) / period), soft)
    u, v = (_turned(x, y, angle % 90), _turned(x, y, angle % 90 + 90))
    if pattern == 1:
        one, two = (2 * _soft(_wave(side / (1.4 * period)), soft) - 1 for side in (u, v))
        return (1 + one * two) / 2
    distance = np.hypot(_wave(u / period, shape="saw"), _wave(v / period, shape="saw"))
    return _soft(0.58 - distance, soft)


def _turned(x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"], degrees: int) -> Float[np.ndarray, "h w"]:
    turn = math.radians(degrees)
    return x * math.cos(turn) + y * math.sin(turn)


def _wave(phase: Float[np.ndarray, "h w"], shape: str = "peak") -> Float[np.ndarray, "h w"]:
    """A wave of period 1: `peak` goes between -0.5 and 0.5 in straight lines, `saw` rises from -1 to 1 and drops."""
    part = phase - np.floor(phase)
    return 2 * part - 1 if shape == "saw" else np.abs(2 * part - 1) - 0.5


def _soft(signed: Float[np.ndarray, "h w"], per_pixel: float) -> Float[np.ndarray, "h w"]:
    """1 inside, 0 outside, a ramp of about one pixel between."""
    return np.clip(signed * per_pixel + 0.5, 0, 1)
