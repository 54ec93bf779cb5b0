"""What EmojiWorld knows of its scenes and pairs, as parts of a question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Bool
from numpy import ndarray
from PIL.Image import Image

from cutaway import data
from cutaway.data import Noun, Pair, Scene
from cutaway.errors import InputError, MethodError
from cutaway.model.model import Model
from cutaway.model.targets import closer
from cutaway.questions.pairs import closer_to
from cutaway.questions.rows import reads_words

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


def apart(
    model: Model, pairs: Iterable[Any], tower: str = "vision", *, progress: bool = False
) -> tuple[list[Any], list[Any], closer]:
    """Many pairs as what is compared: the rows of one side, those of the other, and the number that tells them apart.

    For a tower of pictures the rows are scenes and the number is cos(y, own caption) - cos(y, caption of the other);
    for one of texts they are captions and it is told from the pictures. Of a model that matches.

    >>> import cutaway
    >>> own, other, target = apart(cutaway.load("tiny:clip"), data.pairs("background", 3))
    >>> len(own), target
    (3, closer(3 rows))
    """
    given = list(pairs)
    wrong = next((one for one in given if not isinstance(one, Pair)), None)
    if wrong is not None or not given:
        raise InputError(
            "there is no pair to tell apart" if wrong is None else f"a {type(wrong).__name__} is no pair",
            expected="pairs of EmojiWorld", do='`data.pairs("background", 32)` draws some',
        )  # fmt: skip
    if model.family.kind != "contrastive":
        raise MethodError(
            f"'{model.name}' is {model.family.kind} and has no joint space for captions",
            expected="a contrastive model such as CLIP or SigLIP", exists=f"the towers {', '.join(model.towers)}",
            do="`questions.ask(model, pair)` asks one that answers, with target=targets.logit_diff(…)",
        )  # fmt: skip
    scenes = [pair.a for pair in given], [pair.b for pair in given]
    texts = [pair.caption_a.text for pair in given], [pair.caption_b.text for pair in given]
    (own, other), told = (texts, scenes) if reads_words(model, tower) else (scenes, texts)
    return [*own], [*other], closer_to(model, *told, progress=progress)
