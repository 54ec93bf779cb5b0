"""Inputs: what the model is given, and what each position of each tower is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from cutaway.errors import InputError, near
from cutaway.model.calls import Forward
from cutaway.model.known import rows_joined
from cutaway.model.sites import Site
from cutaway.model.tokens import TokenMap

CHANNELS, WHOLE = 3, 4  # of a picture, and the axes of a batch of whole ones


@dataclass(frozen=True)
class Inputs:
    """A bundle for one run: the keyword arguments of the call, the token map of each tower, the pictures as seen.

    `call` is what is called with them: the forward, a method of the model, a pipeline, its denoiser once. `unasked`
    names the tensors that a forward needs and nobody asked for: the start of a decoder, which `generate` begins itself.
    `answers`: how many tokens at the end of each row are an answer that is judged, not asked for. `drawn`: what each
    row of a drawing is called (its prompt, its class), each of them drawn `copies` times, next to one another.
    """

    tensors: Mapping[str, Any]
    tokens: Mapping[str, TokenMap] = field(default_factory=dict)
    pictures: tuple[Image.Image, ...] = ()
    call: Forward = field(default_factory=Forward)
    latent: tuple[int, int] | None = None
    unasked: tuple[str, ...] = ()
    answers: tuple[int, ...] = ()
    drawn: tuple[str, ...] = ()
    copies: int = 1

    @property
    def whole(self) -> Tensor | None:
        """The pixels of the one picture that these inputs hold, in the model's units; None for several, or pieces."""
        given, text = self.tensors.get("pixel_values"), self.tokens.get("text")
        if not isinstance(given, Tensor) or given.dim() != WHOLE or given.shape[1] != CHANNELS or len(given) != 1:
            return None
        return None if text is not None and (text.image >= 0).any() and text.batch > 1 else given

    def where(
        self, kind: str | None = None, *, tower: str | None = None, **coordinates: Any
    ) -> Bool[Tensor, "batch token"]:
        """The positions of a kind and of given coordinates, on the named tower or the first one that has them.

        `inputs.where("image", row=3)`, `inputs.where(text="dog")`, `inputs.where(col=range(2, 5), tower="vision")`.
        """
        names = [tower] if tower else sorted(self.tokens, key=lambda name: not name.startswith("text"))
        missing = InputError(f"no token map for tower '{tower}'", exists=near(tower or "", self.tokens))
        for name in names:
            if name not in self.tokens:
                raise missing
            try:
                return self.tokens[name].where(kind, **coordinates)
            except InputError as error:
                missing = error
        raise missing

    def grid(self, values: Float[Tensor, "batch token"], *, tower: str, image: int = 0) -> Float[Tensor, "row col"]:
        """Fold one value a position of a tower back onto the patch grid of a picture."""
        if tower not in self.tokens:
            raise InputError(f"no token map for tower '{tower}'", exists=near(tower, self.tokens))
        return self.tokens[tower].grid(values, image)

    def map_for(self, site: Site, axis: str, size: int) -> TokenMap:
        """The token map of one position axis of a site that holds `size` positions."""
        name = map_name(site, axis, self.tokens)
        if name not in self.tokens:
            raise InputError(f"nothing is known of the {axis} axis of '{site}'", exists=near(name, self.tokens))
        found = self.tokens[name]
        if self.latent and name == "denoiser" and size and len(found) != size:
            height, width = self.latent
            while height * width > size and height > 1:
                height, width = -(-height // 2), -(-width // 2)
            found = TokenMap.patches(found.batch, height, width)
        return found

    def own(self, site: Site, axis: str) -> Bool[Tensor, "row position"] | None:
        """Which positions of an axis are each row's own, where some are padding that the model's mask hides; else None.

        Padding that no mask hides (SigLIP's texts, the prompts of a pipeline) is read by the model and counts.
        """
        name = map_name(site, axis, self.tokens)
        spoken = {"encoder", "audio"} & set(self.tokens)
        mask = self.tensors.get("decoder_attention_mask" if name == "text" and spoken else "attention_mask")
        known = self.tokens.get(name)
        if name not in ("text", "encoder") or known is None or not isinstance(mask, Tensor):
            return None
        hides = tuple(mask.shape) == (known.batch, len(known)) and not bool(mask.all())
        return mask.bool().cpu() if hides else None

    def rows(self, tower: str) -> tuple[int, ...] | None:
        """The row of the inputs that each row of a tower belongs to; None where nothing is known of the tower.

        They differ where a prompt has several pictures, or a picture several crops.
        """
        known, text = self.tokens.get(tower), self.tokens.get("text")
        if known is None:
            return tuple(range(len(self.drawn))) or None
        pictures = known.image.max(1)
        if tower == "text" or text is None or not (text.image >= 0).any() or (pictures < 0).any():
            return tuple(range(known.batch))
        owner = {int(image): row for row in range(text.batch) for image in np.unique(text.image[row]) if image >= 0}
        packed = known.batch == 1 < text.batch and len(np.unique(known.image[known.image >= 0])) > 1
        return tuple(range(text.batch)) if packed else tuple(owner.get(int(image), 0) for image in pictures)

    def named(self, rows: int) -> dict[str, list[Any]]:
        """What so many rows of a drawing are called: the prompt of each and which of its pictures it is; else nothing.

        >>> import cutaway
        >>> inputs = cutaway.load("tiny:sd").inputs(prompt=["a dog", "a cat"], pictures=2)
        >>> inputs.named(4)
        {'prompt': ['a dog', 'a dog', 'a cat', 'a cat'], 'picture': [0, 1, 0, 1]}
        """
        if not self.drawn or rows % len(self.drawn) or rows // len(self.drawn) not in (1, self.copies):
            return {}
        copies = rows // len(self.drawn)
        prompts = [name for name in self.drawn for _ in range(copies)]
        return {"prompt": prompts, "picture": [*range(copies)] * len(self.drawn)}

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Inputs:
        """The same inputs on a device, floating tensors in a dtype."""
        moved = {name: _moved(value, device, dtype) for name, value in self.tensors.items()}
        return replace(self, tensors=moved)

    @staticmethod
    def stack(bundles: Sequence[Inputs]) -> Inputs:
        """Several inputs as one batch, rows in order; refuses what does not line up."""
        if not bundles:
            raise InputError("nothing to stack", expected="at least one Inputs")
        head, call = bundles[0], bundles[0].call.joined([bundle.call for bundle in bundles])
        shapes = [{k: tuple(v.shape[1:]) for k, v in b.tensors.items() if isinstance(v, Tensor)} for b in bundles]
        for other, shape in zip(bundles, shapes, strict=True):
            if call is None or shape != shapes[0] or other.copies != head.copies:
                raise InputError(
                    "these inputs do not line up in one batch", expected=f"tensors like {shapes[0]}", exists=f"{shape}",
                    do="pad the texts to one length (`model.inputs` with a list of texts), or run them one by one",
                )  # fmt: skip
        assert call is not None
        tensors = rows_joined([bundle.tensors for bundle in bundles])
        maps = {name: _stacked([b.tokens[name] for b in bundles]) for name in head.tokens}
        pictures, drawn = (tuple(one for b in bundles for one in getattr(b, name)) for name in ("pictures", "drawn"))
        return replace(head, tensors=tensors, tokens=maps, pictures=pictures, drawn=drawn, call=call)

    def __repr__(self) -> str:
        said = [
            f"{name}: {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
            if isinstance(value, Tensor)
            else f"{name}: {value!r}"
            for name, value in self.tensors.items()
        ]
        towers = [f"{name}: {tokens.batch} x {len(tokens)} positions" for name, tokens in self.tokens.items()]
        return f"Inputs({self.call}; {', '.join(said)}; {', '.join(towers)})"


def map_name(site: Site, axis: str, known: Mapping[str, TokenMap]) -> str:
    """What the token map of one position axis of a site is called among those known."""
    if site.part.startswith("cross.") and (axis == "key" or site.part in ("cross.k", "cross.v")):
        sources = {"denoiser": "text", "connector": "vision", "text": "audio" if "audio" in known else "encoder"}
        return sources.get(site.tower, site.tower)
    joint = f"{site.tower}.{site.stream or 'joint'}"
    return joint if joint in known and site.layer is not None else site.tower


def _moved(value: Any, device: torch.device | str, dtype: torch.dtype | None) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype if dtype is not None and value.is_floating_point() else value.dtype)


def _stacked(maps: list[TokenMap]) -> TokenMap:
    shift = np.cumsum([0] + [max(int(m.image.max()) + 1, 0) for m in maps[:-1]])
    columns = {name: np.concatenate([getattr(m, name) for m in maps]) for name in vars(maps[0])}
    moved = [np.where(m.image >= 0, m.image + s, -1) for m, s in zip(maps, shift, strict=True)]
    return TokenMap(**{**columns, "image": np.concatenate(moved)})


# --- what a user may pass ---------------------------------------------------------------------------------------------


def as_list(value: Any) -> list[Any]:
    """One or several, as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
