"""EmojiWorld as a torch data set: pictures, captions and scenes by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import UInt8
from PIL.Image import Image
from torch import Tensor

from cutaway.data.captions import caption
from cutaway.data.render import pictures, render
from cutaway.data.scene import Scene
from cutaway.data.splits import Split, check_split
from cutaway.data.worlds import DEFAULT, World, scene_at
from cutaway.errors import InputError

Form = Literal["tensor", "pil"]


class Example(TypedDict):
    """One element of the data set."""

    picture: UInt8[Tensor, "3 h w"] | Image
    caption: str
    scene: Scene


class Batch(TypedDict):
    """Several elements, drawn together."""

    pictures: UInt8[Tensor, "n 3 h w"]
    captions: list[str]
    scenes: list[Scene]


class EmojiWorld(torch.utils.data.Dataset[Example]):
    """The first n scenes of a split for a seed. Element i is the same in every process and every run.

    `form` is `tensor` (8-bit, channels first) or `pil`; `style` one phrasing for all captions, else each scene's seed
    draws one. `batch(indices)` draws many at once, which is what a training loop wants; with a `DataLoader`, pass
    `collate_fn=cutaway.data.collate`.
    """

    def __init__(
        self,
        split: Split = "train",
        n: int = 100_000,
        seed: int = 0,
        world: World = DEFAULT,
        *,
        form: Form = "tensor",
        style: str | None = None,
    ) -> None:
        check_split(split)
        if form not in ("tensor", "pil"):
            raise InputError(f"no form of picture is called {form!r}", expected="'tensor' or 'pil'", do="choose one")
        self.split, self.n, self.seed, self.world, self.form, self.style = split, n, seed, world, form, style

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Example:
        scene = self.scene(index)
        picture = render(scene) if self.form == "pil" else tensor([scene])[0]
        return {"picture": picture, "caption": self.caption(scene), "scene": scene}

    def scene(self, index: int) -> Scene:
        """Scene number `index`, negative ones from the end."""
        if not -self.n <= index < self.n:
            raise IndexError(f"element {index} of {self.n}")
        return scene_at(self.split, index % self.n, self.seed, self.world)

    def caption(self, scene: Scene) -> str:
        """The scene's caption in this data set."""
        return caption(scene, scene.seed, self.style).text

    def batch(self, indices: Sequence[int]) -> Batch:
        """These elements, the pictures in one tensor."""
        found = [self.scene(index) for index in indices]
        return {"pictures": tensor(found), "captions": [self.caption(scene) for scene in found], "scenes": found}

    def __getitems__(self, indices: list[int]) -> list[Example]:
        """What a `DataLoader` calls for a batch."""
        return [self[index] for index in indices]


def tensor(scenes: Sequence[Scene]) -> UInt8[Tensor, "n 3 h w"]:
    """Many pictures of one canvas size in one 8-bit tensor, channels first."""
    return torch.from_numpy(pictures(scenes))


def collate(examples: Sequence[Any]) -> Batch:
    """Put elements of a data set of tensors together: for `DataLoader(collate_fn=...)`."""
    return {
        "pictures": torch.stack([example["picture"] for example in examples]),
        "captions": [example["caption"] for example in examples],
        "scenes": [example["scene"] for example in examples],
    }
