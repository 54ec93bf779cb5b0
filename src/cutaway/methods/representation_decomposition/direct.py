"""What a decomposition says of one question: what patches, heads and words add to the number directly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.representation_decomposition.logit_routes import Routes
from cutaway.methods.representation_decomposition.representation_decomposition import (
    Decomposition,
    decompositions,
    representation_decomposition,
)
from cutaway.model.targets import similarity
from cutaway.model.weights import Readout, readout
from cutaway.questions.bank import TextBank
from cutaway.questions.question import Question
from cutaway.questions.rows import embedded, unit

WORDS = 24  # texts with more words are not taken apart
DRAWS = 256  # random directions of a chance


@dataclass(frozen=True, eq=False)
class Direct:
    """The direct effects of a decomposition, made `by_token`, of the question's picture: cosines.

    What is towards the number is towards the first of the words, less the same towards its rival if there is one.
    """

    question: Question
    parts: Decomposition

    @property
    def texts(self) -> TextBank:
        """The words of the question as directions."""
        if self.question.texts is None:
            raise MethodError("a question without texts has no direct effects", expected="`questions.match`")
        return self.question.texts

    @cached_property
    def end(self) -> Readout:
        """How the picture tower is read at its end."""
        return readout(self.question.model, "vision")

    @property
    def reader(self) -> str:
        """What reads the picture tower at its end, in words."""
        return self.end.reader

    @property
    def all_read(self) -> bool:
        """Whether a pooling head reads all patches, rather than one token standing for them."""
        return self.end.at == "pool"

    def towards(self, directions: Float[Tensor, "text joint"], *, by_token: bool = False) -> Decomposition:
        """The same decomposition of the picture, towards other directions than the question's texts."""
        question = self.question
        return representation_decomposition(
            question.model, question.pictures[:1], towards=directions, by_token=by_token, progress=False
        )

    @cached_property
    def cosines(self) -> Float[ndarray, "text"]:
        """The cosine of the picture with each of the words, as the model gives it."""
        question = self.question
        run = question.model.run(question.model.inputs(image=question.pictures[0], text=list(question.words)))
        return np.array([float(similarity(text)(run)[0]) for text in range(len(self.question.words))])

    @cached_property
    def patches(self) -> xarray.DataArray:
        """What each patch adds through attention to the cosine with each of the words, (text, row, col)."""
        return self.parts.on_grid(self.parts.effect(self.texts, "head_tokens").sum(("layer", "head"))).isel(item=0)

    @cached_property
    def added(self) -> xarray.DataArray:
        """What each patch adds to the number, (row, col)."""
        return self.question.aimed(self.patches)

    @cached_property
    def heads(self) -> xarray.DataArray:
        """What each head adds to the number, (layer, head)."""
        return self.question.aimed(self.parts.effect(self.texts, "heads")).isel(item=0)

    @cached_property
    def chance(self) -> xarray.DataArray:
        """Each head's effect on random directions as long as the number's own, root mean square, (layer, head)."""
        words = unit(self.texts.embeddings)
        aim = words[0] if len(words) < 2 else words[0] - words[1]
        generator = torch.Generator().manual_seed(self.question.seed)
        noise = torch.randn(DRAWS, words.shape[1], generator=generator).to(words.dtype)
        effect = self.towards(noise).effect(of="heads").isel(item=0)
        return (effect**2).mean("text") ** 0.5 * float(aim.norm())

    @property
    def leading(self) -> tuple[int, int]:
        """The layer and head that add most to the number, on the side that it is on."""
        side = -1 if self.question.value < 0 else 1
        layer, head = np.unravel_index((side * self.heads.values).argmax(), self.heads.shape)
        return int(layer), int(head)

    def by_word(self, text: int) -> xarray.DataArray:
        """What the patches add for a text by each of its words, (word, row, col).

        That is what they add for the text, less what they add for the text without the word.
        """
        words = self.question.words[text].split()
        shorter = [" ".join(words[:at] + words[at + 1 :]) for at in range(len(words))]
        vectors = embedded(self.question.model, [self.question.words[text], *shorter], "text", progress=False)
        added = self.towards(vectors, by_token=True).effect(of="head_tokens").sum(("layer", "head"))
        maps = self.parts.on_grid(added).isel(item=0).drop_vars("text").rename(text="word")
        less = (maps[{"word": 0}] - maps[{"word": slice(1, None)}]).transpose("word", ...)
        return less.assign_coords(word=words)

    @property
    def taken_apart(self) -> tuple[int, ...]:
        """Which of the first two texts are told word by word: texts of one word, and long ones, are not."""
        return tuple(at for at, text in enumerate(self.question.words[:2]) if 2 <= len(text.split()) <= WORDS)

    def attention(self) -> xarray.DataArray:
        """What the class token attends to; where all patches are read, the mean over them, (layer, head, row, col)."""
        sites = [f"vision.{layer}.attn.pattern" for layer in self.parts["layer"].values]
        model, picture = self.question.model, self.question.pictures[0]
        run = model.run(model.inputs(image=picture), record=sites, stop=True)
        patterns = torch.stack([run[site][0].to(model.device) for site in sites]).float()  # layer, head, query, key
        seen = patterns.mean(2) if self.all_read else patterns[:, :, 0]
        return self.parts.on_grid(xarray.DataArray(seen.numpy(force=True), dims=("layer", "head", "token")))

    def feeding(self) -> xarray.DataArray:
        """What each head adds to the number, by what wrote the values that it reads there: (layer, head, writer).

        Writers are the embedding, the attention and the MLP of every layer below, and constants. Each head's sum is
        `heads`. Patterns and norms are held as they were. Of towers that are read at one position.
        """
        if self.all_read:
            raise MethodError(
                "a pooling head reads all patches, and this goes back from one position",
                expected="a tower that is read at one position, as that of CLIP", do="read `heads`, by patch",
            )  # fmt: skip
        model, end = self.question.model, self.end
        inputs = model.inputs(image=self.question.pictures[0])
        run = model.run(inputs, record=[*end.sites])
        scale, at = end.weights(run)[:, 0].max(1)
        words = unit(self.texts.embeddings).to(scale)
        aim = words[0] if len(words) < 2 else words[0] - words[1]
        toward = (aim @ end.matrix.to(scale))[None] * (scale / run[end.space].to(scale).norm(dim=-1))[:, None]
        routes = Routes(model, inputs, 2, toward, at, "vision")
        axes, values = routes.found()["written"]
        found = xarray.DataArray(values, dims=axes, coords={"writer": routes.writers})
        return found.isel(row=0).sum("token")

    def usual(self) -> xarray.DataArray | None:
        """What each head adds to the number on each picture of the crowd, (item, layer, head); None without one."""
        if self.question.crowd is None:
            return None
        stream = decompositions(self.question.model, self.question.crowd, towards=self.texts, progress=False)
        made = [self.question.aimed(part.effect(self.texts, "heads")) for part in stream]
        return xarray.concat(made, "item")
