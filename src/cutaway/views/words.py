"""The words of views: how texts are called, numbers with their sign, where on a picture most of something lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from cutaway.data import PLACES
from cutaway.views.kinds import Bar

LONG = 24  # letters; longer texts go by A and B
LEAST, MOST = 5e-4, 1e6  # numbers between these are written without a power of ten


class signed(float):  # noqa: N801
    """A number that a sentence writes with a true minus sign; what a user wrote stays as it was written."""

    def __format__(self, spec: str) -> str:
        return super().__format__(spec).replace("-", "−")


def number(value: float, size: float | None = None) -> str:
    """A number as pages and tables write it: three decimals, fewer where `size`, the largest beside it, is large.

    What would read 0.000 without being zero is written with a power of ten. The page does the same (`say` in page.js).

    >>> number(0.51234), number(0.000041234), number(12.345), number(0)
    ('0.512', '4.12e-5', '12.3', '0.000')
    """
    size = abs(value) if size is None else size
    if (size < 10 and 0 < abs(value) < LEAST) or size >= MOST:
        digits, power = f"{value:.2e}".split("e")
        return f"{digits}e{int(power):+}".replace("e+", "e")
    said = f"{value:.{3 if size < 10 else 1 if size < 100 else 0}f}"
    return said.removeprefix("-") if not float(said) else said


def quoted(text: str) -> str:
    """A text in quotation marks.

    >>> quoted("a dog")
    '“a dog”'
    """
    return f"“{text}”"


@dataclass(frozen=True)
class Names:
    """What the texts of a question are called: quoted, or by letters where two long ones would bury every sentence."""

    texts: tuple[str, ...]

    @property
    def lettered(self) -> bool:
        """Whether they go by letters."""
        return len(self.texts) > 1 and max(map(len, self.texts[:2])) > LONG

    def letter(self, index: int) -> str:
        """The letter that a text goes by, "" where texts are quoted."""
        return chr(ord("A") + index) if self.lettered and index < 26 else ""

    def __getitem__(self, index: int) -> str:
        return self.letter(index) or quoted(self.texts[index])

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def labels(self) -> tuple[str, ...]:
        """The texts as labels of maps, with their letters."""
        letters = map(self.letter, range(len(self)))
        return tuple(f"{mark}: {text}" if mark else text for mark, text in zip(letters, self.texts, strict=True))

    @property
    def aim(self) -> str:
        """What is explained: the first, rather than the second if there is one."""
        return " rather than ".join(self[at] for at in range(len(self))[:2]) or "nothing in particular"


# --- places -----------------------------------------------------------------------------------------------------------


def mass(values: ndarray, places: int = 3) -> tuple[str, float]:
    """The ninth of the picture that holds most of what is above zero, and its share of that."""
    above = np.clip(values, 0, None)
    rows, cols = above.shape
    ninths = np.zeros(places * places)
    for (row, col), value in np.ndenumerate(above):
        ninths[places * (row * places // rows) + col * places // cols] += value
    total = ninths.sum()
    return PLACES[int(ninths.argmax())], float(ninths.max() / total) if total else float("nan")


def mostly(values: ndarray) -> str:
    """Where on the picture most of what decides lies, on the side on which all patches together are; a clause."""
    side = -1 if values.sum() < 0 else 1
    place, share = mass(side * values)
    stance = "for" if side > 0 else "against"
    if np.isnan(share):
        return "No patch speaks for it"
    return f"{share:.1%} of what speaks {stance} it comes from the ninth at the {place}"


def balance(values: ndarray, what: str = "it") -> str:
    """What patches add on either side of zero, as a clause."""
    above, below = values[values > 0], values[values < 0]
    speak = "1 patch speaks" if len(above) == 1 else f"{len(above)} patches speak"
    return f"{speak} for {what} ({_total(above)}), {len(below)} against it ({_total(below)})"


def _total(values: ndarray) -> str:
    return f"{signed(values.sum()):+.3f}"


def inside(values: ndarray, mask: ndarray) -> tuple[float, float]:
    """What the patches of a region add together, and the region's share of the picture; partly covered ones in part."""
    rows, cols = values.shape
    cells = [np.array_split(part, cols, axis=1) for part in np.array_split(mask.astype(float), rows, axis=0)]
    cover = np.array([[cell.mean() for cell in row] for row in cells])
    return float((values * cover).sum()), float(cover.mean())


def adding_up(bars: Sequence[Bar], total: float) -> str:
    """A sum in words: heads, MLPs and the rest, the largest part, and how far all together miss the model's number."""
    heads, mlps = (sum(bar.value or 0 for bar in bars if bar.group == group) for group in ("heads", "MLPs"))
    summed, most = sum(bar.value or 0 for bar in bars), max(bars, key=lambda bar: abs(bar.value or 0))
    return (
        f"The heads add {signed(heads):+.3f}, the MLPs {signed(mlps):+.3f}, everything else "
        f"{signed(summed - heads - mlps):+.3f}; the largest single bar is {most.label} with "
        f"{signed(most.value or 0):+.3f}. Together {signed(summed):+.3f}: the model's own number is "
        f"{signed(total):+.3f}, and the gap of {abs(summed - total):.0e} is rounding."
    )
