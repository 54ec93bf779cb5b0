"""One table of dictionaries of a place: what each explains, recovers and says, beside what it is held against."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.result import Provenance, Result
from cutaway.methods.sparse_autoencoders.by_item import Pool, by_item
from cutaway.methods.sparse_autoencoders.modality import PICTURE, SHARED, TEXT, modality, modality_classes
from cutaway.methods.sparse_autoencoders.monosemantic import locality, mean_of, monosemanticity
from cutaway.methods.sparse_autoencoders.probing import sparse_probing
from cutaway.methods.sparse_autoencoders.quality import DECADES, Quality, quality
from cutaway.methods.sparse_autoencoders.recovered import loss_recovered
from cutaway.methods.sparse_autoencoders.seen import seen
from cutaway.methods.sparse_autoencoders.tabled import Named, bars, dataset, floors, listed, moments, summed
from cutaway.model.dictionary import Dictionary
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.questions.rows import tracked
from cutaway.store.stored import Store

METHOD = "dictionary_quality"
SOURCE = (
    "Karvonen et al. 2025, arXiv 2503.09532; Pach et al. 2025, arXiv 2504.02821; Papadimitriou et al. 2025, arXiv "
    "2504.11695; floors: arXiv 2606.24716; noise of reseeds: arXiv 2605.18229"
)
UNIT = ("explained", "recovered_mean", "monosemanticity", "morans_i", "probe")  # what is drawn, all of one scale


@dataclass(frozen=True, eq=False, repr=False)
class DictionaryQuality(Result):
    """Measures over (dictionary, seed), some by `kind` of position; what they are: `dictionary_quality`.

    `density` (dictionary, seed, decade): how many features are on in so many rows, by log10 of the share (`decade`, the
    lower edge); those that are never on are in none.
    """

    main: ClassVar[str] = "explained"

    @property
    def shown(self) -> list[str]:
        """What the table shows."""
        return [str(name) for name, one in self.data.items() if one.dims == ("dictionary", "seed")]

    def summary(self) -> Any:
        """One row a dictionary: the mean over seeds ± the standard deviation of a reseed."""
        return summed(self.data, self.shown)

    def note(self) -> str:
        """What stands beside."""
        return (
            "Random directions and neurons are as sparse as the first dictionary and, random ones, as many; a measure "
            "that does not lie above theirs, and above those of an untrained dictionary, by more than the noise of a "
            "reseed says nothing."
        )

    def _draw(self, ax: Axes) -> None:
        bars(ax, self.data, [name for name in UNIT if name in self.shown])


@dataclass(frozen=True, eq=False)
class _Asked:
    """What every dictionary is measured on."""

    model: Model
    store: Store
    inputs: Inputs | Sequence[Inputs] | None
    target: Callable[[Run], Tensor] | None
    kinds: Sequence[str] | None
    embeddings: Float[Tensor, "items d"] | None
    labels: Mapping[str, Any]
    pool: Pool
    k: int
    how: Mapping[str, Any] = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)

    def quality(self, dictionary: Dictionary) -> Quality:
        return quality(dictionary, self.store, **self.how, **self.where)

    def measured(self, dictionary: Dictionary, found: Quality) -> dict[str, float]:
        """All that is one number."""
        whole = found.value
        made = {"explained": whole.explained, "l0": whole.l0, "alive": found.alive, "cosine": whole.cosine,
                "shrinkage": whole.shrinkage}  # fmt: skip
        if self.inputs is not None:
            back = loss_recovered(self.model, dictionary, self.inputs, self.target, kinds=self.kinds, progress=False)
            made |= {"recovered_mean": back.of_mean, "recovered_zero": back.of_zero}
        if self.embeddings is not None:
            one = monosemanticity(dictionary, self.store, self.embeddings, pool=self.pool, **self.how, **self.where)
            made |= {"monosemanticity": mean_of(one.value), "scored": float((~one.value.isnan()).double().mean())}
        kinds = set(found.by_kind)
        if "image" in kinds and self._gridded(dictionary):
            made["morans_i"] = mean_of(locality(dictionary, self.store, **self.how, **self._only("image")).value())
        if {"image", "text"} <= kinds:
            classes = modality_classes(modality(dictionary, self.store, self.store, pool=self.pool, **self.how).score)
            made |= {name: float((classes == name).mean()) for name in (SHARED, PICTURE, TEXT)}
        return made | self._probed(dictionary)

    def _probed(self, dictionary: Dictionary) -> dict[str, float]:
        if not self.labels:
            return {}
        read = by_item(dictionary, self.store, pool=self.pool, **self.how, **self.where)
        features = {"it": torch.cat([one for _, one in read])}
        score = sparse_probing(features, self.labels, ks=(self.k,), progress=False)["score"]
        return {"probe": float(score.mean())}

    def _gridded(self, dictionary: Dictionary) -> bool:
        part = next(seen(dictionary, self.store, batch=1, **self._only("image")))
        return part.places is not None and bool((part.places >= 0).all())

    def _only(self, kind: str) -> dict[str, Any]:
        return {**self.where, "kind": kind}


def dictionary_quality(
    model: Model, dictionaries: Named, store: Store, *, untrained: Dictionary | Sequence[Dictionary] | None = None,
    inputs: Inputs | Sequence[Inputs] | None = None, target: Callable[[Run], Tensor] | None = None,
    kinds: Sequence[str] | None = None, embeddings: Float[Tensor, "items d"] | None = None,
    labels: Mapping[str, Any] | None = None, pool: Pool = "max", k: int = 1, seeds: int = 3, batch: int = 4096,
    steps: int = 1, progress: bool = True, **where: Any,
) -> DictionaryQuality:  # fmt: skip
    """What dictionaries of one place explain, recover and say, beside random directions, the neurons, an untrained one.

    Always: `explained` (all rows, each around the mean of its kind, and `explained_by_kind`), `l0` and `l0_by_kind`,
    `alive`, `cosine`, `shrinkage`, `density` (`quality`), from the rows of `store` that `where` names. With `inputs`
    (and a `target`, written at some `kinds`): `recovered_mean`, `recovered_zero` (`loss_recovered`). With `embeddings`
    of the store's items by another model: `monosemanticity`, the mean over the share `scored` of features. With
    `labels` of its items: `probe`, held-out AUROC of probes on `k` features (`sparse_probing`). Where rows lie on patch
    grids: `morans_i`. Where they are of pictures and words: the shares `shared`, `picture`, `text` of features.

    `dictionaries`: by name, one or a list of the same with several seeds, whose spread is told. Floors that are added
    where site and target are one: `random` directions drawn like the data, as many as the first dictionary has features
    and as sparse, with `seeds` seeds; `neurons`, and `neurons, as sparse`. Units: shares, L0 counts, AUROC.
    MethodError where dictionaries are of different places.

    Source: see the functions named. We leave SCR and TPP out, which fail at their own settings (arXiv 2605.18229). What
    it can NOT tell: whether features are what the model computes with; each measure says what it can not tell itself.

    >>> import cutaway, tempfile
    >>> from cutaway import store
    >>> from cutaway.methods.sparse_autoencoders.baselines import Directions
    >>> model, site = cutaway.load("tiny:clip"), "text.1.resid_post"
    >>> kept = store.harvest(model, ["a red dog", "a cat"], site, tempfile.mkdtemp(), progress=False)
    >>> found = dictionary_quality(model, {"axes": Directions(site, torch.eye(32), torch.zeros(32))}, kept,
    ...                            progress=False)
    >>> found["dictionary"].values.tolist(), round(float(found["explained"].sel(dictionary="neurons", seed=0)), 3)
    (['axes', 'random', 'neurons', 'neurons, as sparse'], 1.0)
    """
    started = time.perf_counter()
    own = listed(dictionaries, untrained)
    first = next(iter(own.values()))[0]
    _check(model, own, store)
    asked = _Asked(model, store, inputs, target, kinds, embeddings, labels or {}, pool, k,
                   {"batch": batch, "steps": steps}, where)  # fmt: skip
    sparse = max(1, round(asked.quality(first).value.l0))
    every = own
    if first.site == first.target:
        of = moments(seen(first, store, batch=batch, steps=steps, **where))
        every = {**own, **floors(first.site, first.width, sparse, of, seeds=seeds)}
    values: dict[str, dict[str, list[float]]] = {}
    sums: dict[tuple[str, int], Quality] = {}
    todo = [(name, at) for name, found in every.items() for at in range(len(found))]
    for name, at in tracked(todo, "measuring", len(todo), show=progress):
        one = sums[name, at] = asked.quality(every[name][at])
        for measure, value in asked.measured(every[name][at], one).items():
            values.setdefault(name, {}).setdefault(measure, []).append(value)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(dict.fromkeys((first.site, first.target))),
        store=str(store.spec.told), items=len(store), pool=pool, k=k, target=repr(target), where=where, sparse=sparse,
        widths={name: found[0].width for name, found in every.items()},
    )  # fmt: skip
    return DictionaryQuality(xarray.merge([dataset(values), _by(sums, list(every))]), told)


def _by(sums: Mapping[tuple[str, int], Quality], names: Sequence[str]) -> xarray.Dataset:
    """What is by kind of position, and the densities."""
    kinds = list(dict.fromkeys(kind for one in sums.values() for kind in one.by_kind))
    seeds = 1 + max(at for _, at in sums)
    shape = (len(names), seeds)
    explained, l0 = (np.full((*shape, len(kinds)), np.nan) for _ in range(2))
    density = np.full((*shape, len(DECADES) - 1), np.nan)
    for (name, at), one in sums.items():
        place = names.index(name), at
        density[place] = one.densities.inside.numpy()
        for kind, found in one.by_kind.items():
            explained[(*place, kinds.index(kind))], l0[(*place, kinds.index(kind))] = found.explained, found.l0
    by = ("dictionary", "seed", "kind")
    return xarray.Dataset(
        {"explained_by_kind": (by, explained), "l0_by_kind": (by, l0),
         "density": (("dictionary", "seed", "decade"), density)},
        coords={"dictionary": list(names), "seed": range(seeds), "kind": kinds, "decade": list(DECADES[:-1])},
    )  # fmt: skip


def _check(model: Model, own: Mapping[str, Sequence[Any]], store: Store) -> None:
    places = {(one.site, one.target) for found in own.values() for one in found}
    if len(places) > 1:
        raise MethodError(
            f"these dictionaries are of {len(places)} places", expected="one site and one target",
            exists=", ".join(sorted(f"{a} → {b}" for a, b in places)[:5]), do="measure them place by place",
        )  # fmt: skip
    store.check_model(model)
