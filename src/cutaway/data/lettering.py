"""Written labels: a font of 5 by 7 pixels that looks the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, UInt8

from cutaway.data.scene import Label

# Five columns a letter, lowest bit at the top.
_FONT = {
    "a": "7E1111117E", "b": "7F49494936", "c": "3E41414122", "d": "7F4141413E", "e": "7F49494941", "f": "7F09090901",
    "g": "3E4149497A", "h": "7F0808087F", "i": "417F41", "j": "2040413F01", "k": "7F08142241", "l": "7F40404040",
    "m": "7F020C027F", "n": "7F0408107F", "o": "3E4141413E", "p": "7F09090906", "q": "3E4151215E", "r": "7F09192946",
    "s": "4649494931", "t": "01017F0101", "u": "3F4040403F", "v": "1F2040201F", "w": "3F4038403F", "x": "6314081463",
    "y": "0304780403", "z": "6151494543", "0": "3E5149453E", "1": "427F40", "2": "4261514946", "3": "2141454B31",
    "4": "1814127F10", "5": "2745454539", "6": "3C4A494930", "7": "0171090503", "8": "3649494936", "9": "064949291E",
    "-": "080808", "!": "5F", "?": "0201510906", ".": "6060", ",": "5030", "'": "0503", " ": "000000",
}  # fmt: skip
_TALL = 7
_GAP = 1  # pixels between letters, and around the text on its plate
_LINE = _TALL + 2


@dataclass(frozen=True, eq=False)
class Plate:
    """A label as pixels: ink on white, and the column and row of its top left pixel on the canvas."""

    pixels: UInt8[np.ndarray, "h w 3"]
    left: int
    top: int


@lru_cache(maxsize=4096)
def plate(label: Label, canvas: tuple[int, int]) -> Plate:
    """The label's plate: letters as large as whole pixels allow for two lines, long words broken where they must be."""
    width, height = canvas
    scale = max(1, min(canvas) // 64)
    lines = _lines(label.text.lower(), width // scale - 2 * _GAP)
    rows = len(lines) * _LINE + _GAP
    ink = np.zeros((rows, max(line.shape[1] for line in lines) + 2 * _GAP + 1), bool)
    for number, line in enumerate(lines):
        left = (ink.shape[1] - line.shape[1]) // 2
        top = number * _LINE + 1 + _GAP // 2
        ink[top : top + _TALL, left : left + line.shape[1]] = line
    ink = ink.repeat(scale, 0).repeat(scale, 1)[:height, :width]
    pixels = np.where(ink[..., None], np.uint8(16), np.uint8(255)).repeat(3, 2)
    top = 0 if label.place == "top" else height - ink.shape[0]
    return Plate(pixels, (width - ink.shape[1]) // 2, top)


def _lines(text: str, room: int) -> list[Bool[np.ndarray, "7 w"]]:
    """The text in lines of at most `room` pixels, broken at spaces, and inside words that are too long."""
    lines: list[str] = []
    for word in text.split():
        if lines and _width(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
        else:
            lines += _pieces(word, room)
    return [_ink(line) for line in lines]


def _pieces(word: str, room: int) -> list[str]:
    """The word in as few even pieces as fit."""
    for count in range(1, len(word) + 1):
        size = -(-len(word) // count)
        pieces = [word[start : start + size] for start in range(0, len(word), size)]
        if max(map(_width, pieces)) <= room:
            return pieces
    return list(word)


def _width(text: str) -> int:
    return sum(len(_FONT[letter]) // 2 + _GAP for letter in text) - _GAP


def _ink(text: str) -> Bool[np.ndarray, "7 w"]:
    columns = b"\0".join(bytes.fromhex(_FONT[letter]) for letter in text)
    bits = np.unpackbits(np.frombuffer(columns, np.uint8)[None], axis=0, bitorder="little")
    return bits[:_TALL].astype(bool)
