"""Texts that a tower can say, and how much it says each: those of a bank, or next words where it writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import SiteError
from cutaway.methods.neuron_descriptions.write_vectors import read_as, write_vectors
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.weights import Readout, readout
from cutaway.questions.bank import TextBank
from cutaway.questions.rows import unit

READABLE = 2  # letters: shorter words of a vocabulary are pieces


@dataclass(frozen=True, eq=False)
class Words:
    """Texts, the end of the tower that says them, and `ids`, their places among all that can be said there."""

    end: Readout
    texts: tuple[str, ...]
    ids: Int[Tensor, "text"]
    bank: TextBank | None = None

    @classmethod
    def of(cls, model: Model, tower: str, bank: TextBank | None) -> Words | None:
        """Those of a bank where the tower ends in its space, next words where it writes; None where it does neither."""
        try:
            end = readout(model, tower)
        except SiteError:
            return None
        if end.space.endswith(".logits"):
            said = [str(model.tokenizer.decode([token])).strip() for token in range(end.weight.shape[1])]
            kept = [token for token, word in enumerate(said) if len(word) >= READABLE and word.isalpha()]
            return cls(end, tuple(said[token] for token in kept), torch.tensor(kept))
        return None if bank is None else cls(end, bank.texts, torch.arange(len(bank.texts)), bank)

    @property
    def unit(self) -> str:
        """Of what is read of a run."""
        return "log probability" if self.bank is None else "cosine"

    def read(self, run: Run) -> Float[Tensor, "row text"]:
        """What the model itself makes of each text, of a run that recorded `end.space`."""
        if self.bank is not None:
            return unit(run[self.end.space].float()) @ unit(self.bank.embeddings).float().T
        at = self.end.positions(run.inputs)
        logits = run[self.end.space].float()
        return logits[torch.arange(len(logits)), at].log_softmax(-1)[:, self.ids]


def written(model: Model, site: Site, bank: TextBank | None) -> tuple[Words, Float[Tensor, "unit text"]] | None:
    """The texts that the units of a site write, and how much; None where nothing says what they write."""
    words = Words.of(model, site.tower, bank)
    try:
        rows = write_vectors(model, site)
    except SiteError:
        return None
    if words is None or rows.shape[1] != words.end.matrix.shape[1]:
        return None
    return words, read_as(model, site, rows, bank)[:, words.ids]
