"""How well single features say what an item shows: k-sparse probes, beside k neurons and all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.linear_probing.probe_data import checked, fit, split
from cutaway.methods.result import Provenance, Result
from cutaway.methods.truth import auroc
from cutaway.questions.rows import tracked

METHOD = "sparse_probing"
SOURCE = (
    "k-sparse probing: Gurnee et al. 2023, arXiv 2305.01610; of dictionaries: Kantamneni et al. 2025, arXiv 2502.16681"
)
NEURONS = "neurons"


@dataclass(frozen=True, eq=False, repr=False)
class SparseProbes(Result):
    """`score` (dictionary, k, label, seed): AUROC on held-out items of probes on k features, the mean over classes.

    `full` (label, seed): of probes on all activations. 0.5 is chance. `classes` (label): how many were probed.
    """

    main: ClassVar[str] = "score"

    def summary(self) -> Any:
        """One row a dictionary, one column a k, meaned over labels and seeds; and all activations."""
        table = self["score"].mean(("label", "seed")).to_pandas()
        table.columns = [f"k = {k}" for k in table.columns]
        if "full" in self.data:
            table.loc["all activations"] = float(self["full"].mean())
        return table.reset_index()

    def _draw(self, ax: Axes) -> None:
        for name in self["dictionary"].values:
            line = self["score"].sel(dictionary=name).mean("label")
            mean, far = line.mean("seed"), line.std("seed")
            ax.plot(self["k"].values, mean, marker="o", label=str(name))
            ax.fill_between(self["k"].values, mean - far, mean + far, alpha=0.2)
        if "full" in self.data:
            ax.axhline(float(self["full"].mean()), color="gray", linestyle=":", label="all activations")
        ax.set(xscale="log", xlabel="features in the probe", ylabel="held-out AUROC")
        ax.legend(fontsize=7)


def sparse_probing(
    features: Mapping[str, Float[Tensor, "item _"]], labels: Mapping[str, Any], *,
    activations: Float[Tensor, "item d"] | None = None, ks: Sequence[int] = (1, 2, 4, 8), test: float = 0.25,
    seeds: Sequence[int] = (0, 1, 2), penalty: float = 1.0, least: int = 8, progress: bool = True,
) -> SparseProbes:  # fmt: skip
    """Probes that may use k features of a dictionary, beside those that may use k neurons, or all activations.

    For each class against the rest: the k features whose means differ most between the two, |E[f | c] - E[f | not c]|
    on training items; logistic regression on these (standardised, `penalty` |w|^2 / 2); AUROC on held-out items.
    `features` are those of items (`by_item`) under the name of each dictionary, labels words or numbers, one an item;
    `activations` add a line `neurons` and `full`. Classes with fewer than `least` items are left out. Units: AUROC,
    0.5 by chance.

    Source: Gurnee et al. 2023, arXiv 2305.01610; Kantamneni et al. 2025, arXiv 2502.16681, who find all activations the
    hardest baseline; "Are SAE Benchmarks Reliable?", arXiv 2605.18229, finds this the most reliable of its measures.
    What it can NOT tell: whether the model uses what a feature says, nor whether a feature that is a good probe of one
    class says nothing else. More features to choose from are an advantage: compare at equal width.

    >>> import torch
    >>> y = torch.arange(80) % 2
    >>> own, noise = torch.stack([y, 1 - y], 1).float(), torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    >>> found = sparse_probing({"own": own, "noise": noise}, {"parity": y.numpy()}, ks=(1,), progress=False)
    >>> found["score"].mean(("k", "label", "seed")).round(1).values.tolist()
    [1.0, 0.5]
    """
    started = time.perf_counter()
    given = {**features, **({} if activations is None else {NEURONS: activations})}
    arrays = {name: one.detach().cpu().double().numpy() for name, one in given.items()}
    items = {len(one) for one in arrays.values()}
    if len(items) != 1 or not labels or not ks or min(ks) < 1:
        raise MethodError(
            f"features of {sorted(items)} items, {len(labels)} labels, k of {list(ks)}",
            expected="features of the same items, a label, and k from 1 on", do="pool them by item first: `by_item`",
        )  # fmt: skip
    kept = {name: _classes(checked(y, items.copy().pop(), name), least, name) for name, y in labels.items()}
    scores = np.zeros((len(arrays), len(ks), len(kept), len(seeds)))
    full, todo = np.zeros((len(kept), len(seeds))), [(n, s) for n in range(len(kept)) for s in range(len(seeds))]
    for n, s in tracked(todo, "probing", len(todo), show=progress):
        name, classes = list(kept.items())[n]
        y = np.asarray(labels[name])
        train, held = split(y, test, seeds[s])
        for c in classes:
            for d, x in enumerate(arrays.values()):
                order = separating(x[train], y[train] == c)
                scores[d, :, n, s] += [_probe(x[:, order[:k]], y == c, train, held, penalty) for k in ks]
            if activations is not None:
                full[n, s] += _probe(arrays[NEURONS], y == c, train, held, penalty)
        scores[:, :, n, s] /= len(classes)
        full[n, s] /= len(classes)
    data = xarray.Dataset(
        {"score": (("dictionary", "k", "label", "seed"), scores),
         "classes": ("label", [len(one) for one in kept.values()])},
        coords={"dictionary": list(arrays), "k": list(ks), "label": list(kept), "seed": list(seeds)},
    )  # fmt: skip
    told = Provenance.of(METHOD, SOURCE, started=started, seed=int(seeds[0]), test=test, penalty=penalty, least=least,
                         items=items.pop())  # fmt: skip
    return SparseProbes(data if activations is None else data.assign(full=(("label", "seed"), full)), told)


def separating(x: Float[ndarray, "item width"], of: Bool[ndarray, "item"]) -> Int[ndarray, "width"]:
    """The features in the order of how far their means lie apart between some items and the others, furthest first."""
    return np.argsort(-np.abs(x[of].mean(0) - x[~of].mean(0)), kind="stable")


def _classes(y: ndarray, least: int, name: str) -> list[Any]:
    values, counts = np.unique(y, return_counts=True)
    found = [value for value, count in zip(values, counts, strict=True) if least <= count <= len(y) - least]
    if not found:
        raise MethodError(
            f"no class of '{name}' has {least} items", expected="classes with some items each",
            exists=f"{len(values)} classes of {len(y)} items", do="give more items, or a smaller `least`",
        )  # fmt: skip
    return found


def _probe(x: ndarray, real: ndarray, train: ndarray, held: ndarray, penalty: float) -> float:
    """AUROC on held-out items; 0.5 where those are all alike."""
    if not 0 < real[held].sum() < len(held):
        return 0.5
    probe = fit(x[train], real[train], penalty)
    return float(auroc(probe.values(x[held])[:, 0], real[held], np.ones((1, len(held))))[0])
