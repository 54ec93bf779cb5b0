"""How much of naming rests on the direct effects of the first or the last layers: they are replaced by their mean."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.errors import MethodError
from cutaway.methods.representation_decomposition.embedding_terms import SOURCE
from cutaway.methods.representation_decomposition.representation_decomposition import Decomposition
from cutaway.methods.result import Provenance, Result
from cutaway.questions.bank import TextBank
from cutaway.store.reducers import Mean


@dataclass(frozen=True, eq=False, repr=False)
class AblationCurve(Result):
    """Zero-shot accuracy (0 to 1) with the direct effects of more and more layers replaced by their mean.

    `accuracy` (order, layers): order `first` ablates layers 0 to n-1, `last` the last n, `random` as many heads or
    MLPs drawn anywhere (mean over draws, `random_low` and `random_high` its range). `majority` is the floor.
    """

    main: ClassVar[str] = "accuracy"

    def _draw(self, ax: Axes) -> None:
        n = self["layers"].values
        for order in self["order"].values:
            ax.plot(n, self["accuracy"].sel(order=order), marker="o", label=f"{order} n")
        ax.fill_between(n, self["random_low"], self["random_high"], alpha=0.2, color="C2")
        ax.axhline(float(self["majority"]), color="gray", linestyle=":", label="largest class")
        ax.set(xlabel="layers mean-ablated, n", ylabel="accuracy")
        ax.set_ylim(bottom=0)
        ax.legend()


def accumulated_ablation(
    parts: Decomposition | Iterable[Decomposition], classes: TextBank, truth: Int[ndarray, "item"], *,
    what: str = "heads", draws: int = 10, seed: int = 0,
) -> AblationCurve:  # fmt: skip
    """How much zero-shot accuracy rests on the direct effects of the first or the last n layers.

    y_n = y - sum_{k in S_n} (c_k - mean over items of c_k), S_n the heads (`what="heads"`) or MLPs (`"mlps"`) of n
    layers; an item is right when argmax_t cos(y_n, t) over the texts `classes` is `truth`. Units: share of items.

    Source: Gandelsman et al. 2023, arXiv 2310.05916, the figure on accumulated mean-ablation; we add the reverse
    order and, as a baseline, the same number of components drawn at random.

    What it can NOT tell: indirect effects, as no forward is run: a layer may feed the ones that survive. With few
    items the mean keeps much of each item.

    `parts` need no more than what is towards `classes`, which is all that is asked of them. They may be batches that
    can be gone over twice, once for the means: of each no more than the number of right items is held.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> from cutaway.methods import representation_decomposition
    >>> from cutaway.questions.bank import text_bank
    >>> model = cutaway.load("tiny:clip")
    >>> names = text_bank(model, ["a dog", "a cat"])
    >>> scenes = [scene_at("test", i) for i in range(4)]
    >>> made = representation_decomposition(model, scenes, towards=names, progress=False)
    >>> curve = accumulated_ablation(made, names, np.array([0, 1, 0, 1]))
    >>> curve["accuracy"].dims
    ('order', 'layers')
    """
    started = time.perf_counter()
    if what not in ("heads", "mlps"):
        raise MethodError(f"cannot ablate '{what}'", exists="heads, mlps")
    given, batches = np.asarray(truth), [parts] if isinstance(parts, Decomposition) else parts
    if isinstance(batches, Iterator):
        raise MethodError(
            "a stream can be gone over once, and the means come before what is without them",
            expected="a Decomposition, or batches of one that can be gone over twice", do="put them into a list",
        )  # fmt: skip
    mean, items = Mean(), 0
    for part in batches:
        mean.add(torch.from_numpy(_terms(part, classes, what).swapaxes(0, 1)))
        items += part.data.sizes["item"]
    if given.shape != (items,) or given.min() < 0 or given.max() >= len(classes):
        raise MethodError(
            f"truth of shape {given.shape} up to {given.max()}",
            expected=f"for each of {items} items the number of one of {len(classes)} texts",
        )
    data = _curves(batches, mean.value.numpy(), part.data.sizes["layer"], classes, given, what, draws, seed)
    told = Provenance.of(
        "accumulated_ablation", SOURCE, started=started, model=part.provenance, seed=seed, what=what, draws=draws,
        classes=len(classes),
    )  # fmt: skip
    return AblationCurve(data, told)


def _terms(part: Decomposition, classes: TextBank, what: str) -> Float[ndarray, "term item text"]:
    """The effect of every head, or MLP, of a batch on the classes, layer by layer."""
    effect = part.effect(classes, what, cosine=False).transpose("layer", ..., "item", "text").values
    return effect.reshape(-1, *effect.shape[-2:])


def _curves(
    batches: Iterable[Decomposition], mean: Float[ndarray, "term text"], layers: int, classes: TextBank,
    truth: Int[ndarray, "item"], what: str, draws: int, seed: int,
) -> xarray.Dataset:  # fmt: skip
    draw, counts, every = np.random.default_rng(seed), range(layers + 1), np.arange(len(mean))
    per = len(mean) // layers
    chosen = [every[: n * per] for n in counts] + [every[len(mean) - n * per :] for n in counts]
    chosen += [draw.permutation(every)[: n * per] for _ in range(draws) for n in counts]
    right, start = np.zeros(len(chosen)), 0
    for part in batches:
        near = part.effect(classes, "embedding", cosine=False).transpose("item", "text").values
        moved = _terms(part, classes, what) - mean[:, None]
        here = truth[start : start + len(near)]
        right += [((near - moved[some].sum(0)).argmax(1) == here).sum() for some in chosen]
        start += len(near)
    accuracy = (right / len(truth)).reshape(2 + draws, len(counts))
    return xarray.Dataset(
        {
            "accuracy": (("order", "layers"), np.stack([*accuracy[:2], accuracy[2:].mean(0)])),
            "random_low": ("layers", accuracy[2:].min(0)),
            "random_high": ("layers", accuracy[2:].max(0)),
            "majority": ((), np.bincount(truth).max() / len(truth)),
        },
        coords={"order": ["first", "last", "random"], "layers": list(counts)},
    )
