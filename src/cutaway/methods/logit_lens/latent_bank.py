"""What a state is held against when it is not read through the end: states of words in texts, or word vectors."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.logit_lens.heard import Heard, hear, sites_of
from cutaway.model.model import Model
from cutaway.model.weights import embedding_table
from cutaway.questions.rows import Rows, check_rows, feed
from cutaway.store.fitted import Fitted, Origin

TABLE, STATES = "embedding", "states"
HALF = (torch.float16, torch.bfloat16)


class LatentBank(Fitted):
    """`states` (layer, entry, d_model) of words, each with its `token`, its `text` and its `place` in that.

    Of a table of word vectors there is one layer, which stands for all, and no text (-1).
    """

    kind: ClassVar[str] = "latent_bank"

    def fits(self, model: Model, tower: str) -> None:
        """Raise StoreError unless it was made of this very model, at this tower."""
        self.check(model, *sites_of(model, tower))

    @property
    def through(self) -> str:
        """What it is made of: "states", of words in texts, or "embedding", the input vectors of words."""
        return str(self.config["through"])

    @property
    def texts(self) -> list[str]:
        """The texts that its words stand in."""
        return list(self.config["texts"])

    def layer(self, at: int) -> Float[Tensor, "entry d_model"]:
        """The states of a layer (-1: what enters the first), in single precision at least."""
        kept = self.tensors["states"]
        return exact(kept[0 if len(kept) == 1 else at + 1])

    def entries(self, token: int) -> Bool[Tensor, "entry"]:
        """Which entries are a word."""
        return self.tensors["token"] == token


def exact(states: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The same in single precision at least."""
    return states.float() if states.dtype in HALF else states


@torch.no_grad()
def latent_bank(
    model: Model, texts: Rows, *, tower: str = "text", each: int = 20, batch: int = 32, progress: bool = True
) -> LatentBank:  # fmt: skip
    """Keep the states of every word of some texts, after every layer: at most `each` of one word, the first met.

    Special tokens are left out. Its size is layers × entries × d_model numbers, in the dtype of the model.

    >>> import cutaway
    >>> latent_bank(cutaway.load("tiny:llama"), ["a red dog", "a cat"], progress=False).tensors["states"].shape
    torch.Size([4, 5, 32])
    """
    if each < 1:
        raise MethodError(f"{each} states of a word", expected="one at least", do="leave `each` out")
    check_rows(model, texts, tower)
    met: Counter[int] = Counter()
    kept: dict[str, list[Tensor]] = {name: [] for name in ("states", "token", "text", "place")}
    said: list[str] = []
    for inputs in feed(model, texts, tower, batch=batch, what="reading texts", progress=progress):
        heard = hear(model, inputs, tower)
        ids = _ids(heard)
        (rows, places), own = heard.places, ids[heard.own]
        wanted = torch.tensor([_wanted(model, int(token), met, each) for token in own])
        at = wanted.nonzero()[:, 0]
        first = heard.own.long().argmax(1)  # places count from the row's own first
        kept["states"].append(torch.stack([heard.states(site, at).cpu() for site in heard.sites]))
        kept["token"].append(own[at])
        kept["text"].append(rows[at] + len(said))
        kept["place"].append(places[at] - first[rows[at]])
        said += [_said(model, row[mask]) for row, mask in zip(ids, heard.own, strict=True)]
    tensors = {name: torch.cat(parts, 1 if name == "states" else 0) for name, parts in kept.items()}
    if not len(tensors["token"]):
        raise MethodError("these texts have no word", expected="words that are no special tokens", do="give others")
    config = {"through": STATES, "tower": tower, "each": each, "texts": said}
    return LatentBank(tensors, config, Origin.of(model, *sites_of(model, tower)))


@torch.no_grad()
def embedding_bank(model: Model, *, tower: str = "text") -> LatentBank:
    """The input vectors of all words, as a bank that is the same at every layer (the embedding lens).

    >>> import cutaway
    >>> embedding_bank(cutaway.load("tiny:llama")).through
    'embedding'
    """
    table = embedding_table(model, tower).cpu()
    nothing = torch.full((len(table),), -1)
    tensors = {
        "states": table[None].clone(),
        "token": torch.arange(len(table)),
        "text": nothing,
        "place": nothing.clone(),
    }
    config = {"through": TABLE, "tower": tower, "texts": []}
    return LatentBank(tensors, config, Origin.of(model, *sites_of(model, tower)))


def _ids(heard: Heard) -> Int[Tensor, "row token"]:
    ids = heard.run.inputs.tensors.get("input_ids")
    if ids is None or ids.shape != heard.own.shape:
        raise MethodError(
            "it is not known which word stands at which position of these inputs",
            expected="texts for a decoder (`input_ids`)", exists=", ".join(heard.run.inputs.tensors),
            do="give texts alone",
        )  # fmt: skip
    return ids.cpu()


def _wanted(model: Model, token: int, met: Counter[int], each: int) -> bool:
    """Whether the state of a word is kept, which is then counted."""
    if token in (getattr(model.tokenizer, "all_special_ids", None) or ()) or met[token] >= each:
        return False
    met[token] += 1
    return True


def _said(model: Model, ids: Int[Tensor, "n"]) -> str:
    """A text as the model was given it, word by word."""
    tokenizer: Any = model.tokenizer
    return " ".join(map(str, ids.tolist())) if tokenizer is None else str(tokenizer.decode(ids.tolist()))
