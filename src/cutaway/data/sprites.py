"""The drawings: read from the package, turned, resized and painted, and kept ready for the next scene."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cutaway.data.concepts import ASSETS, concepts
from cutaway.data.scene import TINTS, check_thing

FAINT = 6  # opacity of 255 below which a resized pixel is dropped: the ringing of the filter
SMALL = 30  # pixels up to which a drawing is made from its half size
_DEEPEST = np.float32(0.35)  # brightness of a tint where the drawing is black; 1 where it is white
_LIGHT = (1 - _DEEPEST) * np.array([[0.299], [0.587], [0.114]], np.float32)
_SHARES = {word: np.array(rgb, np.float32) / 255 for word, rgb in TINTS.items()}


@dataclass(frozen=True, eq=False)
class Tile:
    """A drawing ready to be laid on a picture: colour times opacity, what shines through (255 - opacity), its corner.

    `corner` is where the tile's top left pixel lies from the thing's centre, (x, y) in pixels.
    """

    colour: UInt8[np.ndarray, "h w 3"]
    through: UInt8[np.ndarray, "h w 1"]
    corner: tuple[float, float]


def sprite(name: str, artist: str) -> Image.Image:
    """The drawing as shipped: 96 pixels square, RGBA, its longest side filling the square."""
    check_thing(name, artist)
    return _sprite(name, artist).convert("RGBA")


def tile(name: str, artist: str, side: int, rotation: float, tint: str | None) -> Tile:
    """The drawing at `side` pixels, turned by `rotation` degrees, cut to its edges. Do not write to the arrays."""
    key = name, artist, side, rotation
    found = _READY.get(key)
    if found is None:
        found = _READY.keep(key, _made(*key))
    if tint is None:
        return found
    return Tile(painted(found.colour, 255 - found.through, tint), found.through, found.corner)


def _made(name: str, artist: str, side: int, rotation: float) -> Tile:
    """Turned at more than the size it will have, so that the turn costs little sharpness, then resized."""
    image = _half(name, artist) if side <= SMALL else _sprite(name, artist)
    full = image.width
    if rotation % 360:
        image = image.rotate(rotation, Image.Resampling.BILINEAR, expand=True)
    scaled = max(1, round(side * image.width / full)), max(1, round(side * image.height / full))
    shrinks = scaled[0] < image.width
    pixels = np.array(image.resize(scaled, Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC))
    pixels[pixels[..., 3] < FAINT] = 0
    solid = pixels[..., 3] > 0
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    top, bottom = (int(rows[0]), int(rows[-1]) + 1) if rows.size else (0, 1)
    left, right = (int(columns[0]), int(columns[-1]) + 1) if columns.size else (0, 1)
    pixels = pixels[top:bottom, left:right]
    opacity = pixels[..., 3:]
    colour = np.minimum(pixels[..., :3], opacity)
    corner = (left - scaled[0] / 2, top - scaled[1] / 2)
    return Tile(np.ascontiguousarray(colour), np.ascontiguousarray(255 - opacity), corner)


def painted(
    colour: UInt8[np.ndarray, "h w 3"], opacity: UInt8[np.ndarray, "h w 1"], tint: str
) -> UInt8[np.ndarray, "h w 3"]:
    """One hue in place of all, light and shade kept; colours are premultiplied by opacity, before and after."""
    bright = colour @ _LIGHT
    bright += np.multiply(opacity, _DEEPEST, dtype=np.float32)
    bright = bright * _SHARES[tint]
    bright += 0.5
    return bright.astype(np.uint8)


class _Shelf:
    """Tiles ready for use, up to a number of bytes; the oldest are dropped first."""

    def __init__(self, room: int) -> None:
        self.room, self.used, self.tiles = room, 0, dict[tuple[object, ...], Tile]()
        self.get = self.tiles.get

    def keep(self, key: tuple[object, ...], made: Tile) -> Tile:
        """Store a tile and give it back."""
        self.used += made.colour.nbytes + made.through.nbytes
        self.tiles[key] = made
        while self.used > self.room and len(self.tiles) > 1:
            old = self.tiles.pop(next(iter(self.tiles)))
            self.used -= old.colour.nbytes + old.through.nbytes
        return made


_READY = _Shelf(192 << 20)


@lru_cache(maxsize=4096)
def _sprite(name: str, artist: str) -> Image.Image:
    """The shipped drawing with premultiplied colours."""
    blob = _blobs(artist)[name]
    return Image.open(io.BytesIO(blob)).convert("RGBA").convert("RGBa")


@lru_cache(maxsize=4096)
def _half(name: str, artist: str) -> Image.Image:
    return _sprite(name, artist).reduce(2)


@cache
def _blobs(artist: str) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    stored = load_file(ASSETS / f"{artist}.safetensors")
    data, start = stored["webp"].tobytes(), stored["start"].tolist()
    return {entry.name: data[start[i] : start[i + 1]] for i, entry in enumerate(concepts())}
