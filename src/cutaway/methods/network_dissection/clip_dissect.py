"""Units named by texts in the space of a model that matches: CLIP-Dissect with soft-WPMI, and no masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.model import Model
from cutaway.questions.bank import TextBank, text_bank
from cutaway.questions.rows import Rows, embedded, unit

SOURCE = "Oikarinen, Weng 2023, arXiv 2204.10965 (CLIP-Dissect)"
SURE = (0.998, 0.97)  # how sure it is that the strongest, and the last of the strong pictures show the concept


@dataclass(frozen=True, eq=False)
class Named:
    """For each unit the text with the highest score, all scores, and the best of units whose pictures are shuffled."""

    texts: tuple[str, ...]
    scores: Float[Tensor, "unit text"]
    null: Float[Tensor, "unit"]


def soft_wpmi(
    units: Float[Tensor, "picture unit"], fits: Float[Tensor, "picture text"], *, top: int = 100, weight: float = 1.0
) -> Float[Tensor, "unit text"]:
    """How much better a text fits a unit's strongest pictures than it fits those of the other units.

    s_kt = sum_{i in top} log(1 + p_i (f_it - 1)) - weight (log mean_k exp of the same): f_it in 0 … 1 says how well
    text t fits picture i, p_i falls from 0.998 to 0.97 along the unit's `top` pictures. Units: nats. Source: Oikarinen
    and Weng 2023, arXiv 2204.10965, section 3, as their program has it.

    >>> fits = torch.eye(4)[:, :2]
    >>> soft_wpmi(torch.eye(4), fits, top=1).argmax(1)[:2]
    tensor([0, 1])
    """
    top = min(top, len(units))
    strongest = units.topk(top, 0).indices  # rank, unit
    sure = torch.linspace(*SURE, top, dtype=torch.float64)[:, None]
    given = torch.stack([(1 + sure * (fits[row].double() - 1)).log().sum(0) for row in strongest.T])
    usual = given.logsumexp(0) - torch.log(torch.tensor(float(len(given))))
    return given - weight * usual


def clip_dissect(
    units: Float[Tensor, "picture unit"], clip: Model, pictures: Rows, texts: Sequence[str] | TextBank, *,
    top: int = 100, sharp: float = 10.0, seed: int = 0, progress: bool = True,
) -> Named:  # fmt: skip
    """Name units by the texts that a model that matches finds in their strongest pictures.

    `units` (`unit_maps.unit_vectors`) are those of any model, over the same `pictures`; f_it = softmax over texts of
    `sharp` times the cosine of picture and text in the space of `clip`, both as it gives them. Null: the same with the
    unit's pictures shuffled; a unit is named beyond chance where its best score is above most of these.
    What it can NOT tell: a concept that the bank or the CLIP does not know; where in a picture the unit is active.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> clip, rows = cutaway.load("tiny:clip"), [scene_at("test", i) for i in range(6)]
    >>> made = clip_dissect(torch.rand(6, 3), clip, rows, ["a dog", "a cat", "a fox"], top=2, progress=False)
    >>> len(made.texts), made.scores.shape
    (3, torch.Size([3, 3]))
    """
    bank = texts if isinstance(texts, TextBank) else text_bank(clip, texts, progress=progress)
    seen = unit(embedded(clip, pictures, "vision", progress=progress).double())
    if len(seen) != len(units):
        raise MethodError(
            f"{len(units)} pictures of the units and {len(seen)} others", expected="the same pictures", do="give these"
        )
    fits = (sharp * seen @ unit(bank.embeddings.double()).cpu().T).softmax(1)
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))
    scores, null = (soft_wpmi(one, fits, top=top) for one in (units.cpu(), units.cpu()[order]))
    return Named(tuple(bank.texts[at] for at in scores.argmax(1)), scores, null.amax(1))
