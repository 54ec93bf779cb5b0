"""Embeddings as sparse sums of texts: SpLiCE."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.representation_decomposition import Decomposition
from cutaway.methods.result import Provenance, Result
from cutaway.model.model import Model
from cutaway.questions.bank import TextBank, same_space
from cutaway.questions.rows import Rows, embedded, unit

SPLICE_SOURCE = "Bhalla, Oesterling, Srinivas, Calmon, Lakkaraju 2024, arXiv 2402.10376 (SpLiCE)"


@dataclass(frozen=True, eq=False, repr=False)
class SparseTexts(Result):
    """Embeddings as sparse non-negative sums of texts.

    `weight` (item, text); `cosine` (item): of the sum with the centred embedding, 1 is a perfect account; `used`
    (item): texts with a weight; `random` (item): the cosine that as many random directions reach.
    """

    main: ClassVar[str] = "weight"

    def top(self, item: int = 0, count: int = 8) -> Any:
        """The heaviest texts of one item, as a table."""
        weight = self["weight"].isel(item=item)
        order = [i for i in np.argsort(-weight.values)[:count] if weight.values[i] > 0]
        return weight.isel(text=order).to_dataframe().reset_index()[["text", "topic", "weight"]]

    def summary(self) -> Any:
        """The heaviest texts of the first item."""
        return self.top()

    def _draw(self, ax: Axes) -> None:
        table = self.top()
        ax.barh(range(len(table)), table["weight"])
        ax.set_yticks(range(len(table)), list(table["text"]))
        ax.invert_yaxis()
        cosine, chance = float(self["cosine"][0]), float(self["random"][0])
        ax.set(xlabel="weight", title=f"cosine {cosine:.2f} (random directions {chance:.2f})")


def splice(
    embeddings: Decomposition | Float[Tensor, "item joint"], bank: TextBank, *, penalty: float = 0.15,
    penalty_as: Literal["lambda", "l1_penalty"] = "lambda", mean: Float[Tensor, "joint"] | None = None, seed: int = 0,
) -> SparseTexts:  # fmt: skip
    """Write each embedding as a sparse non-negative sum of texts.

    w = argmin_{w >= 0} 1/2 |D'w - z|^2 + lambda |w|_1, with z = n(n(y) - mu), D_j = n(n(t_j) - nu), n(x) = x / |x|,
    mu the mean of n(y) over the pictures (`mean`, or of the given ones) and nu that over the bank: both modality means
    are removed, since all pictures lie in one narrow cone and all texts in another.

    Units: weights of unit vectors. Source: Bhalla et al. 2024, arXiv 2402.10376. Their text writes |D'w - z|^2 +
    2 lambda |w|_1, which has the same solution; their program solves |D'w - z|^2 + p |w|_1 and calls p `l1_penalty`, so
    its p = 0.15 is lambda = 0.075 here and picks more texts. `penalty_as="l1_penalty"` takes `penalty` for p. Solved by
    scikit-learn's coordinate descent, as theirs. Their cosine is that of n(n(D'w) + mu) with n(y), which mu alone makes
    high; ours is taken before mu is put back.
    Baseline: the cosine reached with as many random unit directions in place of the texts.

    What it can NOT tell: which of two near-synonyms is meant, or anything the bank has no word for; a weight is a
    share in a description, not an effect on the model's output.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> from cutaway.questions.rows import embedded
    >>> from cutaway.questions.bank import text_bank
    >>> model = cutaway.load("tiny:clip")
    >>> vectors = embedded(model, [scene_at("test", i) for i in range(4)], "vision", progress=False)
    >>> found = splice(vectors, text_bank(model, ["a dog", "a cat", "a red car"]))
    >>> bool((found["weight"] >= 0).all()), found["weight"].shape
    (True, (4, 3))
    """
    started = time.perf_counter()
    parent = None if isinstance(embeddings, Tensor) else embeddings.provenance
    given = embeddings if isinstance(embeddings, Tensor) else torch.from_numpy(embeddings["embedding"].values)
    same_space(bank, given.shape[1], parent.model if parent else "")
    if mean is None and len(given) < 2:
        raise MethodError(
            "one embedding has no mean", expected="at least two embeddings or the `mean` of normalised ones"
        )
    scaled = unit(given.detach().cpu().double())
    target = unit(scaled - (scaled.mean(0) if mean is None else mean.double()))
    words = bank.directions(centre=True).cpu().double()
    drawn = torch.randn(words.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight = _lambda(penalty, penalty_as)
    weights, cosine = _sparse(target.numpy(), words.numpy(), weight)
    _, chance = _sparse(target.numpy(), unit(drawn).numpy(), weight)
    data = xarray.Dataset(
        {
            "weight": (("item", "text"), weights),
            "cosine": ("item", cosine),
            "used": ("item", (weights > 0).sum(1)),
            "random": ("item", chance),
        },
        coords={"text": list(bank.texts), "topic": ("text", list(bank.topics))},
    )
    told = Provenance.of(
        "splice", SPLICE_SOURCE, started=started, model=parent, seed=seed, penalty=penalty,
        penalty_as=penalty_as, texts=len(bank), bank_of=bank.model,
        modality_mean="of these items" if mean is None else "given",
    )  # fmt: skip
    return SparseTexts(data, told)


def picture_texts(
    model: Model, pictures: Rows, bank: TextBank, crowd: Rows, *, penalty: float = 0.15, seed: int = 0,
    progress: bool = True,
) -> SparseTexts:  # fmt: skip
    """Write each picture as a few texts, less what it shares with a crowd of pictures: `splice` of their embeddings.

    Units, source and limits are those of `splice`; its mean is that of the crowd.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> from cutaway.questions.bank import text_bank
    >>> model, scenes = cutaway.load("tiny:clip"), [scene_at("test", i) for i in range(4)]
    >>> made = picture_texts(model, scenes[:1], text_bank(model, ["a dog", "a cat"]), scenes, progress=False)
    >>> made["weight"].shape
    (1, 2)
    """
    mean = unit(embedded(model, crowd, "vision", progress=progress).double()).mean(0)
    vectors = embedded(model, pictures, "vision", progress=False)
    made = splice(vectors, bank, penalty=penalty, mean=mean, seed=seed)
    return replace(made, provenance=replace(made.provenance, model=model.name, revision=model.revision))


def _lambda(penalty: float, named: str) -> float:
    """The penalty beside half a squared error."""
    if named not in ("lambda", "l1_penalty") or penalty <= 0:
        raise MethodError(f"penalty {penalty} as '{named}'", expected="a number above 0, as `lambda` or `l1_penalty`")
    return penalty / 2 if named == "l1_penalty" else penalty


def _sparse(
    target: Float[ndarray, "item joint"], words: Float[ndarray, "text joint"], penalty: float
) -> tuple[Float[ndarray, "item text"], Float[ndarray, "item"]]:
    """Weights, and the cosine of what they sum to with the target; scikit-learn divides the error by its length."""
    from sklearn.linear_model import Lasso

    solver = Lasso(alpha=penalty / target.shape[1], positive=True, fit_intercept=False, max_iter=20_000, tol=1e-6)
    weights = np.atleast_2d(solver.fit(words.T, target.T).coef_)
    built = weights @ words
    lengths = np.linalg.norm(built, axis=1)
    return weights, (built * target).sum(1) / np.where(lengths > 0, lengths, 1)
