"""What a dictionary is made of, as data: its activation, its decoder, its path and what it must know of a position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from cutaway.errors import MethodError, near
from cutaway.model.tokens import KINDS

Activation = Literal["relu", "topk", "batch_topk", "jumprelu", "gated"]
PICTURE = ("image", "frame", "cls", "register", "newline")
TEXT = ("text", "bos", "eos")


@dataclass(frozen=True)
class Group:
    """Features that may be on at positions of these kinds alone; no kind: at all."""

    width: int
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shape:
    """The pieces of a dictionary; each can be combined with each.

    `width` features; `activation` says which of them are on (`reading.features` has the equations), `k` how many a row
    (of `batch_topk` on average). `nested`: every prefix of these widths must stand for the target by itself
    (Matryoshka). `points` > 0: decoder rows are convex combinations of so many rows of the data, `drift` the furthest
    they may leave these, as a share of the root of d (archetypal). `unit`: decoder rows have length 1. `skip`: a linear
    path from what is read to what is stood for. `groups`: features by kind of position. `timed` > 0: biases for
    each of so many denoising steps. `bandwidth` and `penalty` are of `jumprelu`: how wide its straight-through window
    is, and what is paid for a feature (`step`: 1; `tanh`: tanh of 4 f |d|).
    """

    width: int
    activation: Activation = "batch_topk"
    k: int = 32
    nested: tuple[int, ...] = ()
    points: int = 0
    drift: float = 0.05
    unit: bool = True
    skip: bool = False
    groups: tuple[Group, ...] = ()
    timed: int = 0
    bandwidth: float = 0.2
    penalty: Literal["step", "tanh"] = "step"

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            raise MethodError(
                f"no activation is called '{self.activation}'", expected=", ".join(get_args(Activation)), do="name one"
            )
        if self.width < 1 or not 1 <= self.k <= self.width:
            raise MethodError(
                f"{self.width} features of which {self.k} are on", expected="one at least, and k of the width at most",
                do="give a smaller `k` or a larger `width`",
            )  # fmt: skip
        rising = all(low < high for low, high in zip((0, *self.nested), self.nested, strict=False))
        if self.nested and (not rising or self.nested[-1] != self.width):
            raise MethodError(
                f"prefixes of {', '.join(map(str, self.nested))} features", do="end with the width",
                expected=f"rising widths, of which the last is {self.width}",
            )  # fmt: skip
        if self.groups and sum(group.width for group in self.groups) != self.width:
            raise MethodError(
                f"groups of {' + '.join(str(group.width) for group in self.groups)} features",
                expected=f"{self.width} in all", do="give each feature one group",
            )  # fmt: skip
        odd = next((kind for group in self.groups for kind in group.kinds if kind not in KINDS[1:]), None)
        if odd is not None:
            raise MethodError(
                f"no kind is called '{odd}'", expected="kinds of positions", exists=near(odd, KINDS), do="name one"
            )

    @property
    def edges(self) -> tuple[int, ...]:
        """Where the prefixes end; of a plain dictionary one that is all of it."""
        return self.nested or (self.width,)

    @property
    def sparse(self) -> bool:
        """Whether the number of features that are on is given, rather than what each costs."""
        return self.activation in ("topk", "batch_topk")

    def told(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Shape:
        """From what `told` gave."""
        known = {name: told[name] for name in (one.name for one in fields(cls)) if name in told}
        groups = tuple(Group(one["width"], tuple(one["kinds"])) for one in known.get("groups", ()))
        return cls(**{**known, "nested": tuple(known.get("nested", ())), "groups": groups})


def modal(shared: int, picture: int, text: int) -> tuple[Group, ...]:
    """Groups of a modality-aware dictionary: features for all positions, for those of pictures, for those of texts.

    >>> [group.width for group in modal(64, 32, 32)], modal(64, 32, 32)[2].kinds
    ([64, 32, 32], ('text', 'bos', 'eos'))
    """
    return (Group(shared), Group(picture, PICTURE), Group(text, TEXT))


def halves(width: int, parts: int = 4, least: int = 1) -> tuple[int, ...]:
    """Widths that double, the last of them all: the prefixes of a Matryoshka dictionary.

    >>> halves(1024)
    (128, 256, 512, 1024)
    """
    return tuple(sorted({max(least, width >> down) for down in range(parts)}))


ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "relu": {"activation": "relu"},
    "topk": {"activation": "topk"},
    "batch_topk": {"activation": "batch_topk"},
    "jumprelu": {"activation": "jumprelu"},
    "gated": {"activation": "gated"},
    "matryoshka": {"activation": "batch_topk", "nested": "halves"},
    "archetypal": {"activation": "topk", "points": 1024, "unit": False},
}


def shaped(architecture: str | Shape, width: int | None = None, **more: Any) -> Shape:
    """A shape by the name of its architecture, with what is given beside it; a shape as it is, or with these changes.

    >>> shaped("matryoshka", 512, k=16).nested
    (64, 128, 256, 512)
    """
    if isinstance(architecture, Shape):
        return replace(architecture, **(more if width is None else {**more, "width": width}))
    if architecture not in ARCHITECTURES:
        raise MethodError(
            f"no architecture is called '{architecture}'", expected="one of the list",
            exists=near(architecture, ARCHITECTURES), do="`cutaway.methods.sparse_autoencoders.shape` lists them",
        )  # fmt: skip
    if width is None:
        raise MethodError("no width is given", expected="how many features there are", do="give `width=`")
    known = {**ARCHITECTURES[architecture], **more}
    if known.get("nested") == "halves":
        known["nested"] = halves(width)
    known.setdefault("k", min(32, width))
    nested: Sequence[int] = known.get("nested", ())
    return Shape(width, **{**known, "nested": tuple(nested)})
