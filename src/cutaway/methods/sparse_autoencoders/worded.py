"""What a direction of a residual stream says in words: through the end of its tower, by texts or by next words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError, SiteError
from cutaway.methods.sparse_autoencoders.directions import directions
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.weights import Readout, readout
from cutaway.questions.bank import TextBank
from cutaway.questions.rows import unit

READABLE = 2  # letters: shorter words of a vocabulary are pieces


@dataclass(frozen=True, eq=False)
class Words:
    """Texts that a tower can say, and how much it says each: cosines with texts of a bank, or logits of next words."""

    end: Readout
    texts: tuple[str, ...]
    bank: TextBank | None = None
    ids: Tensor | None = None  # of next words

    @classmethod
    def of(cls, model: Model, tower: str, bank: TextBank | None) -> Words | None:
        """Those of a bank where the tower ends in its space, next words where it writes; None where it does neither."""
        try:
            end = readout(model, tower)
        except SiteError:
            return None
        if end.space.endswith(".logits"):
            kept = [i for i in range(end.weight.shape[1]) if _readable(model, i)]
            return cls(end, tuple(_said(model, i) for i in kept), ids=torch.tensor(kept))
        return None if bank is None else cls(end, bank.texts, bank)

    @property
    def unit(self) -> str:
        """Of `read`."""
        return "log probability" if self.bank is None else "cosine"

    def write(self, rows: Float[Tensor, "unit d_model"]) -> Float[Tensor, "unit text"]:
        """The cosine of what each direction adds at the end with each text, or with each next word's direction.

        Less what all texts have in common. The last norm's denominator is a positive number and leaves cosines alone.
        """
        made = rows.to(self.end.weight.dtype) @ self.end.matrix.T
        if self.bank is not None:
            return unit(made) @ self.bank.directions().to(made).T
        logits = made[:, self.ids]
        return unit(logits - logits.mean(1, keepdim=True))

    def read(self, run: Run) -> Float[Tensor, "row text"]:
        """What the model itself makes of each text, of a run that recorded the end of the tower."""
        if self.bank is not None:
            return unit(run[self.end.space].float()) @ unit(self.bank.embeddings).float().T
        at = self.end.positions(run.inputs)
        logits = run[self.end.space].float()
        return logits[torch.arange(len(logits)), at].log_softmax(-1)[:, self.ids]

    @cached_property
    def record(self) -> str:
        """What `read` needs of a run."""
        return self.end.space


def _said(model: Model, token: int) -> str:
    return str(model.tokenizer.decode([token])).strip()


def _readable(model: Model, token: int) -> bool:
    word = _said(model, token)
    return len(word) >= READABLE and word.isalpha()


def written(model: Model, site: str, bank: TextBank | None) -> tuple[Words, Float[Tensor, "unit text"]] | None:
    """The texts that the units of a site write, and how much; None where nothing says what they write."""
    here = model.sites.one(site)
    try:
        rows = directions(model, site)
    except MethodError:
        return None
    words = Words.of(model, here.tower, bank)
    if words is None or rows.shape[1] != words.end.matrix.shape[1]:
        return None
    return words, words.write(rows)
