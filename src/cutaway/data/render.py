"""From a scene to its picture, and to the exact share that each thing has in every pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from cutaway.data.ground import ground
from cutaway.data.lettering import plate
from cutaway.data.scene import Scene, Thing
from cutaway.data.sprites import Tile, tile
from cutaway.errors import InputError

_Window = tuple[slice, slice]


def render(scene: Scene) -> Image.Image:
    """The picture, RGB."""
    return Image.fromarray(pixels(scene))


def pixels(scene: Scene) -> UInt8[np.ndarray, "h w 3"]:
    """The picture as an array of rows, columns and red, green, blue."""
    width, height = scene.canvas
    out = np.empty((height, width, 3), np.uint8)
    _paint(scene, out)
    return out


def pictures(scenes: Sequence[Scene]) -> UInt8[np.ndarray, "n 3 h w"]:
    """Many pictures of one canvas size in one array, channels first, ready for `torch.from_numpy`."""
    if not scenes:
        raise InputError("there is no scene to draw", expected="at least one", do="pass one scene or more")
    width, height = scenes[0].canvas
    out = np.empty((len(scenes), height, width, 3), np.uint8)
    for row, scene in zip(out, scenes, strict=True):
        if scene.canvas != (width, height):
            raise InputError(
                f"scenes of {width}×{height} and of {scene.canvas[0]}×{scene.canvas[1]} pixels in one batch",
                expected="one canvas size",
                do="draw them apart with render",
            )
        _paint(scene, row)
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def coverage(scene: Scene) -> Float[np.ndarray, "layer h w"]:
    """How much of each pixel comes from the background, from each thing in order, and from the label.

    The things + 2 layers sum to one in every pixel. Up to the rounding of colours, the picture is the sum over
    layers of coverage × colour.
    """
    width, height = scene.canvas
    layers = np.zeros((len(scene.things) + 2, height, width))
    layers[0] = 1
    for index, thing in enumerate(scene.things, 1):
        laid, window, part = _laid(thing, scene.canvas)
        rows, columns = window
        through = laid.through[part][..., 0] / 255
        layers[:index, rows, columns] *= through
        layers[index, rows, columns] = 1 - through
    if scene.label:
        sign = plate(scene.label, scene.canvas)
        rows, columns = _window(sign.pixels.shape, sign.left, sign.top)
        layers[:, rows, columns] = 0
        layers[-1, rows, columns] = 1
    return layers


def masks(scene: Scene, threshold: float = 0.0) -> Bool[np.ndarray, "thing h w"]:
    """Where each thing is seen: pixels of which it gives more than `threshold`, what lies over it taken away.

    At 0 these are all the pixels that would change without the thing. At 0.5 the masks are disjoint.
    """
    return coverage(scene)[1:-1] > threshold


def label_mask(scene: Scene) -> Bool[np.ndarray, "h w"]:
    """Where the label's plate lies; empty without a label."""
    return coverage(scene)[-1] > 0


def boxes(scene: Scene) -> list[tuple[int, int, int, int] | None]:
    """Left, top, right, bottom of what is seen of each thing, the last two exclusive; None where nothing is."""
    found: list[tuple[int, int, int, int] | None] = []
    for mask in masks(scene):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if rows.size else None
        found.append(edges)
    return found


def _paint(scene: Scene, out: UInt8[np.ndarray, "h w 3"]) -> None:
    out[:] = ground(scene.background, scene.canvas)
    for thing in scene.things:
        laid, (rows, columns), part = _laid(thing, scene.canvas)
        under = out[rows, columns]
        mixed = np.multiply(under, laid.through[part], dtype=np.uint16)
        mixed += 128
        mixed += mixed >> 8  # with the next shift: exactly round(x / 255)
        mixed >>= 8
        mixed += laid.colour[part]
        np.minimum(mixed, 255, out=mixed)
        out[rows, columns] = mixed
    if scene.label:
        sign = plate(scene.label, scene.canvas)
        out[_window(sign.pixels.shape, sign.left, sign.top)] = sign.pixels


def _laid(thing: Thing, canvas: tuple[int, int]) -> tuple[Tile, _Window, _Window]:
    """The thing's tile, the part of the canvas it falls on, and the part of the tile that falls on the canvas."""
    width, height = canvas
    side = max(1, round(thing.size * min(canvas)))
    laid = tile(thing.concept, thing.artist, side, thing.rotation, thing.tint)
    left = math.floor(thing.place[0] * width + laid.corner[0] + 0.5)
    top = math.floor(thing.place[1] * height + laid.corner[1] + 0.5)
    tall, wide = laid.through.shape[:2]
    rows = slice(min(max(top, 0), height), max(min(top + tall, height), 0))
    columns = slice(min(max(left, 0), width), max(min(left + wide, width), 0))
    part = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    return laid, (rows, columns), part


def _window(shape: tuple[int, ...], left: int, top: int) -> _Window:
    return slice(top, top + shape[0]), slice(left, left + shape[1])
