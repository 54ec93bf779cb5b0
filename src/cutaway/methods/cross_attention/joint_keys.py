"""The keys of words in joint attention, which depend on the picture: words beside a drawing, at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.asides import Aside, aside, beside
from cutaway.model.edits import Set
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.session import Reading

TOWER = "denoiser"
Keys = dict[str, list[Float[Tensor, "picture token head d"]]]


@dataclass
class Beside:
    """Words beside a drawing of joint attention: they look at its patches and at one another, and change nothing.

    Of the drawing are held, by step, the patches before each block, their queries and their keys. `said` are the
    words, encoded each alone; `patches` which of the joint positions are patches.
    """

    model: Model
    inputs: Inputs
    said: Aside
    guidance: str
    patches: Bool[Tensor, "position"]
    found: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, inputs: Inputs, spoken: Sequence[str], guidance: str) -> Beside:
        """Of these words; InputError where the inputs are no whole drawing, or a word has no position."""
        said = aside(model, inputs, spoken)
        return cls(model, inputs, said, guidance, torch.from_numpy(inputs.tokens[f"{TOWER}.joint"].row[0] >= 0))

    @property
    def layers(self) -> range:
        """Every block has a text side up to its keys."""
        return range(self.model.sites.towers()[TOWER])

    def watch(self) -> int:
        """Draw, and hold what is needed; how many steps there were."""
        names = [f"{TOWER}.{layer}.{part}" for layer in self.layers for part in ("image.resid_pre", "attn.q", "attn.k")]
        self.model.run(
            self.inputs, record=[f"{TOWER}.latent", *names], into=self._add, guidance=self.guidance, output="latent"
        )
        return len(self.found)

    def _add(self, reading: Reading) -> None:
        value = reading.value[0]
        if reading.site.part in ("attn.q", "attn.k"):
            value = value[:, self.patches.to(value.device)]
        held = self.found.setdefault(reading.step, {})
        if str(reading.site) in held:
            raise MethodError(
                f"step {reading.step} asks the denoiser more than once", expected="a scheduler of one call a step",
                do="draw with one of first order",
            )  # fmt: skip
        held[str(reading.site)] = value.clone()

    def queries(self, step: int) -> dict[str, Float[Tensor, "picture patch head d"]]:
        """Of the patches, by layer."""
        return {name: value for name, value in self.found[step].items() if name.endswith(".q")}

    def keys(self, step: int) -> Keys:
        """By layer the keys of the patches, then those of each word."""
        held = self.found[step]
        given = beside(self.model, self.inputs, step, held[f"{TOWER}.latent"], self.said.states)
        edits = [Set(name, value) for name, value in held.items() if name.endswith("resid_pre")]
        run = self.model.run(given, record=f"{TOWER}.*.attn.k", edits=edits, stop=True)
        first, count = bool(self.patches[0]), int(self.patches.sum())
        owner = torch.tensor(self.said.owner)
        made: Keys = {}
        for layer in self.layers:
            name = f"{TOWER}.{layer}.attn.k"
            every = run[name][0, 0]
            text = every[:, count:] if first else every[:, : len(owner)]
            words = [text[:, owner.to(text.device) == at] for at in range(len(self.said.words))]
            made[f"{TOWER}.{layer}.attn."] = [held[name].double(), *(word.double() for word in words)]
        return made
