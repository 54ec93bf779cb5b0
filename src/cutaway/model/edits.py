"""Edits: small picklable values that say what to change where. Each prints as one line; several compose in order.

An edit acts on the part of its site that the selectors leave (`batch`, `head`, `token`, `query`, `key`, `unit`, `step`,
`guidance`; an int drops its axis, as in numpy) and its value must broadcast to that part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import EditError
from cutaway.model.own import averaged, in_order
from cutaway.model.sites import Site
from cutaway.model.tokens import Positions

Value = float | int | Float[Tensor, "..."]
# For each site and position axis of a padded batch: how many positions each row has.
Lengths = Mapping[str, Mapping[str, Int[Tensor, "row"]]]
# For each site and axis that was recorded in part: which numbers of it.
Parts = Mapping[str, Mapping[str, Int[Tensor, "n"]]]
Choice = int | slice | range | Sequence[int] | None
SELECTORS = ("batch", "head", "token", "query", "key", "unit", "step", "guidance")


@dataclass(frozen=True, repr=False, eq=False)
class Edit:
    """Base of all edits: a site (or pattern of sites) and selectors on its axes."""

    site: str | Site
    _: KW_ONLY
    batch: Choice = None
    head: Choice = None
    token: Positions | None = None
    query: Positions | None = None
    key: Positions | None = None
    unit: Choice = None
    step: Choice = None
    guidance: str | None = None

    lengths: Lengths | None = field(default=None, repr=False)
    part: Parts | None = field(default=None, repr=False)

    @property
    def pattern(self) -> str:
        """The site or pattern of sites this edit writes to."""
        return str(self.site)

    def selectors(self) -> dict[str, Any]:
        """The selectors that were given."""
        return {name: getattr(self, name) for name in SELECTORS if getattr(self, name) is not None}

    def value(self, site: Site) -> Value | None:
        """What has to broadcast to the selected part; None when the edit brings no value."""
        return None

    def full(self, site: Site) -> Float[Tensor, "..."] | None:
        """A value for the whole site, of which the selected part is taken; None when there is none."""
        return None

    def kept(self, site: Site, axis: str) -> Int[Tensor, "n"] | None:
        """The numbers of an axis that the run a value comes from has recorded; None: all of them."""
        return (self.part or {}).get(str(site), {}).get(axis)

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """The new content of the selected part."""
        raise NotImplementedError

    def __repr__(self) -> str:
        said = [repr(self.pattern)]
        for item in fields(self):
            if item.name in ("site", *SELECTORS) or not item.repr:
                continue
            said.append(_short(getattr(self, item.name)))
        said += [f"{name}={_short(value)}" for name, value in self.selectors().items()]
        return f"{type(self).__name__}({', '.join(said)})"


@dataclass(frozen=True, repr=False, eq=False)
class Set(Edit):
    """Replace: x <- value."""

    to: Value

    def __init__(self, site: str | Site, to: Value, **selectors: Any) -> None:
        _fill(self, site, selectors, to=to)

    def value(self, site: Site) -> Value | None:
        """The replacement."""
        return self.to

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """The replacement, spread over the selected part."""
        return _needed(value).expand_as(current)


@dataclass(frozen=True, repr=False, eq=False)
class Add(Edit):
    """Steer: x <- x + scale * vector.

    >>> Add("text.16.resid_post", torch.ones(4), scale=2.0, token=-1)
    Add('text.16.resid_post', <4 float32>, 2.0, token=-1)
    """

    vector: Value
    scale: float

    def __init__(self, site: str | Site, vector: Value, scale: float = 1.0, **selectors: Any) -> None:
        _fill(self, site, selectors, vector=vector, scale=scale)

    def value(self, site: Site) -> Value | None:
        """The vector."""
        return self.vector

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """The sum."""
        return current + self.scale * _needed(value)


@dataclass(frozen=True, repr=False, eq=False)
class Bend(Edit):
    """Steer at the old length: x <- |x| (x + scale * vector) / |x + scale * vector|, along the last axis of the site.

    That is a turn of x in the plane of x and the vector, towards it for a scale above 0 and never beyond it. What adds
    up to zero has no direction, and stays zero.

    >>> Bend("text.1.resid_post", torch.ones(4), 2.0, token=-1)
    Bend('text.1.resid_post', <4 float32>, 2.0, token=-1)
    """

    vector: Value
    scale: float

    def __init__(self, site: str | Site, vector: Value, scale: float = 1.0, **selectors: Any) -> None:
        if "unit" in selectors:
            raise EditError(
                "Bend keeps the length of whole states", expected="no `unit=` selector", do="give a vector with zeros"
            )
        _fill(self, site, selectors, vector=vector, scale=scale)

    def value(self, site: Site) -> Value | None:
        """The vector."""
        return self.vector

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """The sum, as long as the state was; in single precision at least, for half of it can not hold long lengths."""
        exact = current.to(torch.promote_types(current.dtype, torch.float32))
        moved = exact + self.scale * _needed(value).to(exact)
        length = moved.norm(dim=-1, keepdim=True)
        kept = moved * (exact.norm(dim=-1, keepdim=True) / length.where(length > 0, 1.0))
        return current if self.scale == 0 else kept.to(current.dtype)


@dataclass(frozen=True, repr=False, eq=False)
class Scale(Edit):
    """Multiply: x <- factor * x."""

    factor: Value

    def __init__(self, site: str | Site, factor: Value, **selectors: Any) -> None:
        _fill(self, site, selectors, factor=factor)

    def value(self, site: Site) -> Value | None:
        """The factor."""
        return self.factor

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """The product."""
        return current * _needed(value)


@dataclass(frozen=True, repr=False, eq=False)
class Patch(Edit):
    """Interchange: x <- the same part of another run (`source`: a Run that recorded the site, or its tensor).

    In padded batches each row of a Run gives its own positions, the first to the first; a tensor is taken as it lies.
    """

    source: Any

    def __init__(self, site: str | Site, source: Any, **selectors: Any) -> None:
        taken, lengths, part = _activations(source, str(site))
        _fill(self, site, selectors, source=taken, lengths=lengths, part=part)

    def full(self, site: Site) -> Float[Tensor, "..."] | None:
        """The whole activation of the other run."""
        return _of(self.source, site)

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """The other run's part."""
        return _needed(value).expand_as(current)


@dataclass(frozen=True, repr=False, eq=False)
class Ablate(Edit):
    """Remove: x <- 0, the mean of a reference over `over` axes, or the reference with its batch rows shuffled.

    `mean` and `resample` need a reference: a Run that recorded the site, or its tensor. `resample` draws one
    permutation of the reference's rows with `seed`, the same at every site, and never keeps a row in place.
    """

    how: Literal["zero", "mean", "resample"]
    reference: Any
    over: tuple[str, ...]
    seed: int

    def __init__(
        self,
        site: str | Site,
        how: Literal["zero", "mean", "resample"] = "zero",
        reference: Any = None,
        *,
        over: Sequence[str] = ("batch",),
        seed: int = 0,
        **selectors: Any,
    ) -> None:
        if how not in ("zero", "mean", "resample"):
            raise EditError(f"Ablate cannot '{how}'", exists="zero, mean, resample")
        if how != "zero" and reference is None:
            raise EditError(
                f"Ablate('{site}', '{how}') has nothing to take the {how} of",
                expected="`reference=`: a run that recorded the site, or its activations as a tensor",
                do=f"first `run = model.run(many_inputs, record='{site}')`, then `Ablate('{site}', '{how}', run)`",
            )
        source, lengths, part = (None,) * 3 if reference is None else _activations(reference, str(site))
        gone = over if how == "mean" else ()  # an axis that is averaged over has no numbers any more
        part = part and {name: {a: n for a, n in kept.items() if a not in gone} for name, kept in part.items()}
        _fill(self, site, selectors, how=how, reference=source, over=tuple(over), seed=seed, lengths=lengths, part=part)

    def value(self, site: Site) -> Value | None:
        """Zero, when that is what is asked."""
        return 0.0 if self.how == "zero" else None

    def full(self, site: Site) -> Float[Tensor, "..."] | None:
        """The mean, or the shuffled reference."""
        if self.how == "zero":
            return None
        reference = _of(self.reference, site)
        if self.how == "mean":
            unknown = set(self.over) - set(site.axes)
            if unknown:
                raise EditError(f"{self!r} cannot average over {sorted(unknown)}", exists=f"the axes {site.axes}")
            return averaged(reference, site.axes, self.over, dict((self.lengths or {}).get(str(site), {})))
        return _shuffled(reference, site.axes.index("batch"), self.seed)

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """The replacement, spread over the selected part."""
        return _needed(value).expand_as(current)


@dataclass(frozen=True, repr=False, eq=False)
class Project(Edit):
    """Take the span of some directions out (x - QQ'x), or keep only it (QQ'x); Q is an orthonormal basis of the span.

    `directions` is one vector or several, along the last axis of the site.
    """

    directions: Float[Tensor, "*k d"]
    keep: Literal["out", "onto"]

    def __init__(
        self, site: str | Site, directions: Tensor, keep: Literal["out", "onto"] = "out", **selectors: Any
    ) -> None:
        if keep not in ("out", "onto"):
            raise EditError(f"Project cannot keep '{keep}'", exists="out, onto")
        if "unit" in selectors:
            raise EditError(
                "Project takes whole directions", expected="no `unit=` selector", do="set those entries to 0"
            )
        _fill(self, site, selectors, directions=directions, keep=keep)

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """The projection."""
        given = torch.atleast_2d(self.directions).to(current.device)
        if given.shape[-1] != current.shape[-1]:
            raise EditError(
                f"{self!r} does not fit",
                expected=f"directions of length {current.shape[-1]}",
                exists=f"length {given.shape[-1]}",
            )
        exact = current.to(torch.promote_types(current.dtype, torch.float32))
        basis = torch.linalg.qr(given.to(exact.dtype).T).Q
        inside = (exact @ basis) @ basis.T
        return (inside if self.keep == "onto" else exact - inside).to(current.dtype)


@dataclass(frozen=True, repr=False, eq=False)
class Knockout(Edit):
    """Cut attention edges: the scores from `query` positions to `key` positions fall far below all others.

    `site` is an attention (`text.5.attn`, `text.*.attn`, `denoiser.3.cross`). What the model hides from a query (later
    words, padding) lies lower still: a query whose keys are all cut spreads evenly over its own keys.
    """

    def __init__(
        self, site: str | Site, *, query: Positions | None = None, key: Positions | None = None, **rest: Any
    ) -> None:
        words = str(site).removesuffix(".scores").split(".")
        if words[-1] not in ("attn", "cross", "*"):
            attention = next((n for n, word in enumerate(words) if word in ("attn", "cross")), None)
            near = ".".join(words[: attention + 1]) if attention is not None else f"{words[0]}.*.attn"
            raise EditError(
                f"Knockout cuts the edges of an attention, and '{site}' is none", expected=f"an attention: `{near}`",
                do="to remove what a site holds use `Ablate`",
            )  # fmt: skip
        _fill(self, site, {"query": query, "key": key, **rest})

    @property
    def pattern(self) -> str:
        """The scores of the attention."""
        return str(self.site).removesuffix(".scores") + ".scores"

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """Half the most negative number, which is what masked scores hold and keep."""
        return current.clamp(max=torch.finfo(current.dtype).min / 2)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _fill(edit: Edit, site: str | Site, selectors: dict[str, Any], **values: Any) -> None:
    """Set the fields of a frozen edit; a selector that does not exist is an error that lists those that do."""
    unknown = set(selectors) - set(SELECTORS)
    if unknown:
        raise EditError(
            f"{type(edit).__name__} has no selector {', '.join(sorted(unknown))}",
            exists="the selectors " + ", ".join(SELECTORS),
        )
    chosen = {s: x.cpu() if isinstance(x := selectors.get(s), Tensor) else x for s in SELECTORS}
    for name, value in {"site": site, **chosen, **values}.items():
        object.__setattr__(edit, name, value)


def _activations(source: Any, pattern: str) -> tuple[Any, Lengths | None, Parts | None]:
    """The tensors an edit needs of a run, by site, the lengths of its rows, and what was kept of an axis.

    So it pickles without the run.
    """
    if isinstance(source, Tensor | dict):
        return source, None, None
    if not hasattr(source, "matching"):
        raise EditError(
            f"cannot take '{pattern}' from {type(source).__name__}", expected="a Run that recorded it, or its tensor"
        )
    kept = {name: source.part.get(name, {}) for name in source.matching(pattern)}
    ordered = {
        name: in_order(x, source.sites[name], source.inputs, kept[name]) for name, x in source.matching(pattern).items()
    }
    lengths = {name: of for name, (_, of) in ordered.items() if of}
    part = {name: {axis: one.places for axis, one in axes.items()} for name, axes in kept.items()}
    return {name: x for name, (x, _) in ordered.items()}, lengths, part


def _of(source: Any, site: Site) -> Tensor:
    return source if isinstance(source, Tensor) else source[str(site)]


def _needed(value: Tensor | None) -> Tensor:
    if value is None:
        raise EditError("this edit needs a value and got none")
    return value


def _shuffled(reference: Tensor, axis: int, seed: int) -> Tensor:
    rows = reference.shape[axis]
    if rows < 2:
        raise EditError("resample needs a reference of at least two rows", exists=f"{rows}", do="record a larger batch")
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    moved = torch.empty_like(order)
    moved[order] = order.roll(1)
    return reference.index_select(axis, moved.to(reference.device))


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"<{'x'.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}>"
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{k}: {_short(v)}" for k, v in list(value.items())[:1])
            + (", …}" if len(value) > 1 else "}")
        )
    return repr(value)
