"""Pictures as they travel inside a report: compressed once, with their size and a description."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutaway.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 768  # pixels; a map is never shown larger
LOSSLESS = 160_000  # bytes; a PNG above this is kept as a JPEG


@dataclass(frozen=True)
class Picture:
    """A picture: `uri` is a `data:` address, `alt` says in words what it shows."""

    uri: str
    width: int
    height: int
    alt: str

    def __post_init__(self) -> None:
        if not self.uri.startswith("data:image/"):
            raise InputError(
                f"a picture at '{self.uri[:40]}' cannot be part of a report",
                expected="a data:image/… address, because a report loads nothing",
                do="make it with Picture.of(image, alt)",
            )
        if self.width < 1 or self.height < 1:
            raise InputError(
                f"a picture of {self.width}×{self.height} pixels",
                expected="at least 1×1",
                do="check how it was cropped",
            )

    @classmethod
    def of(cls, image: Image.Image | np.ndarray, alt: str, longest: int = LONGEST, lossless: int = LOSSLESS) -> Picture:
        """A picture from Pillow, or from rows × columns × (red, green, blue) in 0…255.

        Give the picture as the model sees it, after cropping: maps are laid over all of it. It is made smaller
        where its longest side has more than `longest` pixels, and stored as PNG, or as JPEG where that is more than
        `lossless` bytes.
        """
        from PIL import Image

        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise InputError(
                    f"an array of shape {image.shape} and type {image.dtype} is not a picture",
                    expected="rows × columns × 3, uint8",
                    do="transpose it and scale it to 0…255",
                )
            image = Image.fromarray(image)
        image = image.convert("RGB")
        image.thumbnail((longest, longest))
        data, mime = _saved(image, "PNG", optimize=True), "png"
        if len(data) > lossless:
            data, mime = _saved(image, "JPEG", quality=88), "jpeg"
        uri = f"data:image/{mime};base64,{base64.b64encode(data).decode()}"
        return cls(uri, image.width, image.height, alt)


def _saved(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
