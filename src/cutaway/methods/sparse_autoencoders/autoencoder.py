"""Dictionaries as they are kept: tensors in safetensors, their shape, and the model and sites they were fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError, SiteError, StoreError
from cutaway.methods.sparse_autoencoders.reading import (
    Rows,
    Tensors,
    before,
    decoded,
    factor,
    features,
    levelled,
    places,
    steps_of,
)
from cutaway.methods.sparse_autoencoders.shape import Shape
from cutaway.model.dictionary import NOWHERE, At
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.store.fitted import Fitted

C = TypeVar("C", bound="Coder")


@dataclass(frozen=True, eq=False, repr=False)
class Coder(Fitted):
    """What all dictionaries share: features of rows, and rows of features; `reading` has the equations.

    Tensors: `encoder` and `decoder` (a feature a row), `encoder_bias`, `decoder_bias`, and what the shape asks for.
    """

    @cached_property
    def shape(self) -> Shape:
        """What it is made of."""
        return Shape.read(self.config["shape"])

    @property
    def width(self) -> int:
        """How many features there are."""
        return self.shape.width

    @cached_property
    def asks(self) -> tuple[str, ...]:
        """What it must know of a position: its kind, its denoising step."""
        scales = [self.tensors[name] for name in ("scale", "scale_out") if name in self.tensors]
        kinds = bool(self.shape.groups) or any(bool((table != table[:1]).any()) for table in scales)
        return ("kind",) * kinds + ("step",) * bool(self.shape.timed)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How long the rows of each site are that it reads."""
        return tuple(self.config.get("sizes", (self.tensors["encoder"].shape[1],)))

    def check(self, model: Model, *sites: str | Site) -> None:
        """Raise StoreError unless it was trained on this very model; folders of other tools do not say on which."""
        if not self.on.content:
            return
        here = str(model.dtype).removeprefix("torch.")
        if model.name == self.on.model and here != self.on.dtype:
            raise StoreError(
                f"this {self.kind} was fitted on {self.on}, not on '{model.name}' in {here}",
                expected="the same weights in the same precision", exists=", ".join(self.on.sites),
                do=f"open the model in {self.on.dtype} (`dtype=`, --dtype); or, since a dictionary takes any, "
                "`model.with_dictionaries(…, check=False)`, which does not look at the weights",
            )  # fmt: skip
        super().check(model, *sites)

    def single(self: C) -> C:
        """The same in single precision."""
        return replace(
            self, tensors={name: x.float() if x.is_floating_point() else x for name, x in self.tensors.items()}
        )

    @property
    def _centred(self) -> bool:
        return bool(self.config.get("centred", False))

    def encode(self, x: Float[Tensor, "*rows d_in"], at: At = NOWHERE) -> Float[Tensor, "*rows width"]:
        """The features of activations; those that are off are 0. In the precision of the dictionary."""
        w, rows, _, _ = self._rows(x, at)
        f = features(before(w, self.shape, rows, self._centred), w, self.shape)
        return f.reshape(*x.shape[:-1], self.width)

    def before(self, x: Float[Tensor, "*rows d_in"], at: At = NOWHERE) -> Float[Tensor, "*rows width"]:
        """u, what stands before the activation: it has a slope where a feature is off."""
        w, rows, _, _ = self._rows(x, at)
        return before(w, self.shape, rows, self._centred).reshape(*x.shape[:-1], self.width)

    def decode(
        self, features: Float[Tensor, "*rows width"], x: Float[Tensor, "*rows d_in"], at: At = NOWHERE
    ) -> Float[Tensor, "*rows d_out"]:
        """What the features stand for, in units of the target; `x` for a linear path and for a row's own norm."""
        if features.shape[-1] != self.width or features.shape[:-1].numel() != x.shape[:-1].numel():
            raise MethodError(
                f"features of shape {tuple(features.shape)} beside rows of shape {tuple(x.shape)}",
                expected=f"{self.width} features for each row", do="give what `encode` made of these rows",
            )  # fmt: skip
        w, rows, mean, size = self._rows(x, at)
        if "skip" in w and self._level != "none":
            rows = Rows(x.reshape(-1, x.shape[-1]).to(rows.x.dtype), rows.kind, rows.step)
        y = decoded(features.reshape(-1, self.width).to(w["decoder"].dtype), w, rows)
        scale = factor(w.get("scale_out", w.get("scale")), rows.kind, self._sizes_out)
        y = y if scale is None else y / scale
        if self._level != "none" and self.config.get("level_out", True):
            y = y * size + mean
        return y.reshape(*x.shape[:-1], y.shape[-1])

    @property
    def _level(self) -> str:
        return str(self.config.get("level", "none"))

    @property
    def _sizes_out(self) -> tuple[int, ...]:
        return tuple(self.config.get("sizes_out", (self.tensors["decoder"].shape[1],)))

    def _rows(self, x: Tensor, at: At) -> tuple[Tensors, Rows, Tensor, Tensor]:
        """The weights where x lies, x as they take it, and what brings a row back from its own norm."""
        w = self.on_device(x.device)
        lacks = [name for name in self.asks if getattr(at, name) is None]
        if lacks:
            raise MethodError(
                f"this dictionary must know the {' and the '.join(lacks)} of each position",
                expected=f"`At({lacks[0]}=…)` beside them", do="give it; `At.all('image')` is one kind for all",
            )  # fmt: skip
        if x.shape[-1] != sum(self.sizes):
            raise MethodError(
                f"rows of {x.shape[-1]} numbers, and this dictionary reads {sum(self.sizes)}",
                expected=f"activations of {', '.join(self.on.sites)}", do="give these; heads one behind the other",
            )  # fmt: skip
        kind = places(at.kind, tuple(x.shape[:-1]), x.device) if "kind" in self.asks else None
        step = places(steps_of(at, self.shape.timed), tuple(x.shape[:-1]), x.device) if self.shape.timed else None
        flat = x.reshape(-1, x.shape[-1]).to(w["encoder"].dtype)
        scale = factor(w.get("scale"), kind, self.sizes)
        level, mean, size = levelled(flat if scale is None else flat * scale, self._level)
        return w, Rows(level, kind, step), mean, size

    def on_device(self, device: torch.device | str) -> Tensors:
        """The tensors on a device; those that are there already are not copied."""
        kept = self._held
        if str(device) not in kept:
            kept[str(device)] = {name: value.to(device) for name, value in self.tensors.items()}
        return kept[str(device)]

    @cached_property
    def _held(self) -> dict[str, Tensors]:
        return {}


@dataclass(frozen=True, eq=False, repr=False)
class SparseAutoencoder(Coder):
    """A dictionary of one site: of an autoencoder the target is the site itself, of a transcoder another.

    >>> import torch
    >>> from cutaway.methods.sparse_autoencoders.beginning import untrained
    >>> made = untrained("topk", "vision.3.resid_post", 32, width=64, k=4)
    >>> f = made.encode(torch.randn(5, 32))
    >>> f.shape, int((f > 0).sum(1).max()), made.decode(f, torch.zeros(5, 32)).shape
    (torch.Size([5, 64]), 4, torch.Size([5, 32]))
    """

    kind: ClassVar[str] = "sparse autoencoder"

    @property
    def site(self) -> str:
        """Where x is read."""
        return str(self.config["site"])

    @property
    def target(self) -> str:
        """What `decode` stands for."""
        return str(self.config.get("target", self.site))

    @property
    def d_in(self) -> int:
        """How many numbers a row of x has."""
        return self.sizes[0]

    @property
    def d_out(self) -> int:
        """How many numbers a row of y has."""
        return self._sizes_out[0]

    def __repr__(self) -> str:
        to = "" if self.target == self.site else f" → {self.target}"
        return f"{type(self).__name__}({told(self.shape)} at {self.site}{to} of '{self.on.model}')"


@dataclass(frozen=True, eq=False, repr=False)
class Crosscoder(Coder):
    """One code of several sites (layers, towers, models): rows of all of them behind one another, in one order.

    u = Σ_l W_e^l s_l x_l + b_e and x̂_l = (f W_d^l + b_d^l) / s_l. `joined` lays sites behind one another, `parted`
    takes them apart, `lengths` says how much of each feature is written at which site.
    Source: Lindsey et al. 2024, Sparse Crosscoders for Cross-Layer Features and Model Diffing.
    """

    kind: ClassVar[str] = "crosscoder"

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, in the order in which they lie behind one another."""
        return tuple(self.config["sites"])

    @property
    def site(self) -> str:
        """There is no single one: an error that says so."""
        raise SiteError(
            f"a crosscoder reads {len(self.sites)} sites and has no single one", expected="a dictionary of one site",
            exists=", ".join(self.sites[:5]), do="`encode(joined({site: rows}))` reads them all",
        )  # fmt: skip

    @property
    def target(self) -> str:
        """As `site`."""
        return self.site

    def joined(self, rows: Mapping[str, Float[Tensor, "*rows _"]]) -> Float[Tensor, "*rows d_in"]:
        """The rows of every site behind one another, as `encode` takes them."""
        lacks = [site for site in self.sites if site not in rows]
        if lacks:
            raise MethodError(
                f"no rows of {', '.join(lacks)}", expected="rows of every site", exists=", ".join(rows), do="add them"
            )
        return torch.cat([rows[site] for site in self.sites], -1)

    def parted(self, rows: Float[Tensor, "*rows d_in"]) -> dict[str, Float[Tensor, "*rows _"]]:
        """Rows of each site again."""
        return dict(zip(self.sites, rows.split(list(self.sizes), -1), strict=True))

    @property
    def lengths(self) -> Float[Tensor, "site width"]:
        """How long the decoder row of each feature is at each site, in units where all sites are of one size."""
        return torch.stack([part.norm(dim=1) for part in self.tensors["decoder"].split(list(self.sizes), 1)])

    def __repr__(self) -> str:
        return f"Crosscoder({told(self.shape)} of {', '.join(self.sites)} of '{self.on.model}')"


def told(shape: Shape) -> str:
    """A shape in a few words."""
    k = f", k {shape.k}" if shape.sparse else ""
    more = [
        *(["nested"] if shape.nested else []), *([f"of {shape.points} points"] if shape.points else []),
        *(["skip"] if shape.skip else []), *(["by kind"] if shape.groups else []),
        *([f"{shape.timed} steps"] if shape.timed else []),
    ]  # fmt: skip
    return ", ".join([f"{shape.width} features, {shape.activation}{k}", *more])


def opened(kept: Fitted) -> SparseAutoencoder | Crosscoder:
    """The dictionary that `Fitted.load` opened without knowing its kind."""
    kinds: Sequence[type[SparseAutoencoder | Crosscoder]] = (SparseAutoencoder, Crosscoder)
    for cls in kinds:
        if ("sites" in kept.config and cls is Crosscoder) or ("site" in kept.config and cls is SparseAutoencoder):
            return cls(kept.tensors, kept.config, kept.on)
    raise MethodError(
        "this is no dictionary", expected="what `train` made", exists=repr(kept), do="open another folder"
    )
