"""Where in a tower a property can be read linearly, beyond what a probe can memorise."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Shaped
from numpy import ndarray

from cutaway.errors import MethodError
from cutaway.methods.linear_probing.drawing_probing import drawing_probing
from cutaway.methods.linear_probing.drawn_states import TOWER
from cutaway.methods.linear_probing.probe_data import Pool, Pooling, Probe, checked, fit, state_batches, states
from cutaway.methods.linear_probing.probes import Probes, scores_of, table
from cutaway.methods.result import Provenance
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.questions.rows import Rows, tracked
from cutaway.store.fitted import Fitted, Origin
from cutaway.store.stored import Store

METHOD = "linear_probing"
SOURCE = "Alain, Bengio 2016, arXiv 1610.01644; control tasks: Hewitt, Liang 2019, arXiv 1909.03368"


def linear_probing(
    model: Model, rows: Rows, given: Mapping[str, Any], *, tower: str = "vision",
    sites: str | Sequence[str] | None = None, pool: Pool | Sequence[int] = "pooled", types: Any = None,
    steps: int | Sequence[int] = 5, guidance: str = "cond", test: float = 0.25, seeds: Sequence[int] = (0, 1, 2, 3, 4),
    penalty: float = 10.0, batch: int = 32, progress: bool = True,
) -> Probes:  # fmt: skip
    """Fit a linear read-out of each label at each site of a tower, and of control labels beside it.

    p(y | x) = softmax(W x + b) for classes, y = w x + b for floats, with x the standardised state and `penalty` |W|^2
    / 2 beside the summed losses. `given` maps a name to labels, one a row. The state is that of the position the tower
    is read at (`pool="pooled"`: of a decoder the last) or the `mean` over patches or words; of a prompt the mean over
    the tokens of its `picture`, over its `question` (its words but the last position, those of the chat's frame too),
    or its `last`; or a position for each row. `sites` are names or patterns, by default the residual stream before and
    after every block. Control: each type of item (`types`: an array, or one for each label; by default each item is a
    type of its own) gets one label, permuted among types. Selectivity = score - control. Of a denoiser
    (`tower="denoiser"`, rows are prompts or drawings): see `DrawnProbes`, at `steps`, in one row of the `guidance`.
    A `Store` of this model stands for the rows it was made of, and nothing is run.

    Units: accuracy or R^2 on held-out items. Source: Alain and Bengio 2016, arXiv 1610.01644; Hewitt and Liang 2019,
    arXiv 1909.03368. Splits of one data set share items, so the variance of the mean over n of them is not s^2 / n:
    intervals are Student's t with s^2 (1/n + test / (1 - test)), after Nadeau and Bengio 2003 (Machine Learning 52).
    `majority` is the floor; probe an untrained model of the same shape for the other.

    What it can NOT tell: that the model uses what can be read (see `erasure.erase`), or that it is absent where a
    linear read-out fails.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> from cutaway.questions.labels import scene_labels
    >>> scenes = [scene_at("test", i) for i in range(24)]
    >>> places = {"x": scene_labels(scenes)["x"]}
    >>> found = linear_probing(cutaway.load("tiny:clip"), scenes, places, seeds=(0, 1), progress=False)
    >>> found["score"].dims, found["score"].shape
    (('site', 'label', 'seed'), (4, 1, 2))
    """
    started = time.perf_counter()
    _check(given, seeds, test, penalty)
    if tower == TOWER:
        return drawing_probing(
            model, rows, given, sites=sites, types=types, steps=steps, guidance=guidance, test=test, seeds=seeds,
            penalty=penalty, batch=batch, progress=progress,
        )  # fmt: skip
    chosen = _chosen(model, rows, tower, sites)
    found = states(model, rows, chosen, Pooling.of(model, tower, pool), batch=batch, progress=progress)
    items = len(next(iter(found.values())))
    named = {name: checked(values, items, name) for name, values in given.items()}
    kinds = {name: _types(types, name, items) for name in named}
    scores = np.zeros((3, len(chosen), len(named), len(seeds)))
    todo = [(s, n, k) for s in range(len(chosen)) for n in range(len(named)) for k in range(len(seeds))]
    for s, n, k in tracked(todo, "probing", len(todo), show=progress):
        name, y = list(named.items())[n]
        scores[:, s, n, k] = scores_of(found[str(chosen[s])], y, kinds[name], test, seeds[k], penalty)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(found), seed=int(seeds[0]), seeds=list(seeds),
        tower=tower, pool=pool if isinstance(pool, str) else "places", test=test, penalty=penalty, items=items,
        types="items" if types is None else "given",
    )  # fmt: skip
    return Probes(table(scores, chosen, named, seeds, test), told)


def _check(given: Mapping[str, Any], seeds: Sequence[int], test: float, penalty: float) -> None:
    if not given or not len(seeds) or not 0 < test < 1 or penalty <= 0:
        raise MethodError(
            f"{len(given)} labels, {len(seeds)} seeds, test {test}, penalty {penalty}",
            expected="a label and a seed at least, test between 0 and 1, penalty above 0",
            do="give labels by name, for instance {'x': numbers}",
        )


def _types(types: Any, name: str, items: int) -> ndarray:
    own = types.get(name) if isinstance(types, Mapping) else types
    return np.arange(items) if own is None else checked(own, items, f"types of {name}")


# --- one probe to keep ------------------------------------------------------------------------------------------------


def _chosen(model: Model, rows: Rows, tower: str, sites: str | Sequence[str] | None) -> list[Site]:
    """The sites that are named, or the residual stream around every block; of a store what it has of that."""
    chosen = model.sites.select(sites or [f"{tower}.0.resid_pre", f"{tower}.*.resid_post"])
    if not isinstance(rows, Store) or sites:
        return chosen
    held = [site for site in chosen if str(site) in rows.sites]
    if not held:
        raise MethodError(
            f"this store has no residual stream of '{tower}'", expected="sites to read",
            exists=", ".join(rows.sites[:5]), do="name some of its sites: `sites=`",
        )  # fmt: skip
    return held


class LinearProbe(Fitted):
    """A linear read-out of one label at one site of one model, to keep and to read new rows with."""

    kind: ClassVar[str] = "linear_probe"

    def predict(self, model: Model, rows: Rows, *, batch: int = 32, progress: bool = True) -> Shaped[ndarray, "item"]:
        """The class or number read in each row; another model than it was fitted on is an error."""
        self.check(model)
        sites, pooling = model.sites.select(self.on.sites), Pooling.of(model, self.config["tower"], self.config["pool"])
        seen = state_batches(model, rows, sites, pooling, batch=batch, progress=progress)
        return np.concatenate([self.probe.predict(part[self.on.sites[0]]) for part in seen])

    @property
    def probe(self) -> Probe:
        """The read-out as arrays, for states that are at hand."""
        classes = self.config["classes"]
        arrays = {name: value.numpy() for name, value in self.tensors.items()}
        return Probe(**arrays, classes=None if classes is None else np.array(classes))


def linear_probe(
    model: Model, rows: Rows, labels: Any, *, site: str, pool: Pool = "pooled", penalty: float = 10.0, batch: int = 32,
    progress: bool = True,
) -> LinearProbe:  # fmt: skip
    """Fit a probe on all rows, to keep and to read others with; `linear_probing` says how far to trust one.

    The read-out, its states and `penalty` are those of `linear_probing`, at one site. Units: the labels' own.

    What it can NOT tell: how well it reads rows it has not seen, nor what the model uses.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> from cutaway.questions.labels import scene_labels
    >>> model, scenes = cutaway.load("tiny:clip"), [scene_at("test", i) for i in range(24)]
    >>> probe = linear_probe(model, scenes, scene_labels(scenes)["kind"], site="vision.1.resid_post", progress=False)
    >>> back = LinearProbe.load(probe.save(Path(tempfile.mkdtemp()) / "kind"))
    >>> new = (scene_at("test", i) for i in range(24, 30))
    >>> set(back.predict(model, new, progress=False)) <= {"plain", "gradient", "texture"}
    True
    """
    if penalty <= 0:
        raise MethodError(f"penalty {penalty}", expected="a number above 0", do="leave it out: 10")
    at = model.sites.one(site)
    found = states(model, rows, [at], Pooling.of(model, at.tower, pool), batch=batch, progress=progress)[str(at)]
    made = fit(found, checked(labels, len(found), "labels"), penalty)
    arrays = {name: getattr(made, name) for name in ("weight", "bias", "centre", "spread")}
    config = {
        "tower": at.tower, "pool": pool, "penalty": penalty, "items": len(found),
        "classes": None if made.classes is None else made.classes.tolist(),
    }  # fmt: skip
    return LinearProbe({name: torch.from_numpy(x) for name, x in arrays.items()}, config, Origin.of(model, at))
