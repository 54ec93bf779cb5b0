"""What EmojiWorld knows of its scenes and pairs, as parts of a question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Bool
from numpy import ndarray
from PIL.Image import Image

from cutaway import data
from cutaway.data import Noun, Pair, Scene
from cutaway.errors import InputError

OTHER = {"yes": "no", "no": "yes"}


@dataclass(frozen=True)
class Drawn:
    """A drawn scene, and the scene that it is told apart from, if there is one."""

    scene: Scene
    pair: Pair | None = None

    @property
    def picture(self) -> Image:
        """The scene as a picture."""
        return data.render(self.scene)

    @property
    def counterpart(self) -> Image | None:
        """The other scene as a picture."""
        return data.render(self.pair.b) if self.pair else None

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """What is true of it; of a pair, what is true of this one alone, and what of the other."""
        if self.pair:
            return self.pair.caption_a.text, self.pair.caption_b.text
        return (data.captions(self.scene)[0].text,)

    @property
    def truth(self) -> Mapping[str, Bool[ndarray, "h w"]]:
        """Where everything is seen, by its name; of a pair, also where the two pictures differ."""
        things = [Noun(thing.concept, thing.tint).the for thing in self.scene.things]
        count, seen = Counter(things), Counter[str]()
        found = {}
        for name, mask in zip(things, data.masks(self.scene), strict=True):
            seen[name] += 1
            found[f"{name} {seen[name]}" if count[name] > 1 else name] = mask
        if self.scene.label:
            found["the written word"] = data.label_mask(self.scene)
        if self.pair:
            found["what differs"] = (data.pixels(self.scene) != data.pixels(self.pair.b)).any(-1)
        return {name: mask for name, mask in found.items() if mask.any()}

    def asked(self, text: str, answer: str, rival: str) -> tuple[str, str, str]:
        """A question with its true answer and a wrong one: of a pair, one whose answer is another for the other scene.

        A text of the user's own is kept, and its answer known if it is a question that `data.questions` asks.
        """
        there = {one.question: one.answer for one in data.questions(self.pair.b)} if self.pair else {}
        known = {one.question: one.answer for one in data.questions(self.scene)}
        if not text:
            fit = [one for one in known if not self.pair or there.get(one, known[one]) != known[one]]
            if not fit:
                raise InputError(
                    f"no question tells the two scenes of this pair apart ({self.pair.factor if self.pair else ''})",
                    expected="a pair whose scenes answer one question differently", exists=", ".join([*known][:3]),
                    do="give a text of your own, with its answer and rival",
                )  # fmt: skip
            text = fit[0]
        answer = answer or known.get(text, "")
        other = there.get(text, OTHER.get(answer, ""))
        return text, answer, rival or (other if other != answer else "")


def drawn(given: Any) -> Drawn | None:
    """What is known of a scene or of a pair, whose first scene it is; None of anything else."""
    if isinstance(given, Pair):
        return Drawn(given.a, given)
    return Drawn(given) if isinstance(given, Scene) else None
