"""What a dictionary that a model was opened with is worth on scenes: one table beside its floors."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutaway.errors import MethodError, near
from cutaway.methods.network_dissection.unit_maps import TEXT, Posed, posed_rows, scenes_of
from cutaway.methods.sparse_autoencoders.beginning import untrained
from cutaway.methods.sparse_autoencoders.dictionary_quality import SOURCE as QUALITY
from cutaway.methods.sparse_autoencoders.dictionary_quality import DictionaryQuality, dictionary_quality
from cutaway.methods.sparse_autoencoders.monosemantic import scene_embeddings
from cutaway.methods.sparse_autoencoders.quality import quality
from cutaway.methods.sparse_autoencoders.seen import seen
from cutaway.methods.sparse_autoencoders.tabled import moments
from cutaway.model.dictionary import Dictionary
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.store.harvesting import harvest

SOURCE = QUALITY
OWN = "own"


def dictionary_worth(
    model: Model, scenes: Sequence[Any], *, site: str = "", inputs: Inputs | None = None, target: Any = None,
    text: str = TEXT, step: int | None = None, seeds: int = 2, seed: int = 0, batch: int = 16, progress: bool = True,
) -> DictionaryQuality:  # fmt: skip
    """What a dictionary that the model was opened with explains, recovers and says on scenes, beside its floors.

    The scenes are run as `unit_profiles` runs them (a model that writes is asked `text` of each, a denoiser sees them
    noised at `step`), what the dictionary reads and stands for is kept for as long as this takes, and measured by
    `dictionary_quality`: explained = 1 - |y - ŷ|² / |y - mean|², what is on in a row, features that are ever on,
    monosemanticity by what the scenes show, and with `inputs` and their `target` what of that comes back. Beside it:
    the same untrained, from the mean of these rows; random directions and neurons, as sparse.

    Units, sources and limits are those of `dictionary_quality`. MethodError for a model without that dictionary and
    for rows that are no scenes. What it can NOT tell: whether features are what the model computes with.

    >>> import cutaway, torch
    >>> from cutaway.data import scene_at
    >>> from cutaway.model.dictionary import Neurons
    >>> model = cutaway.load("tiny:clip", dictionary=Neurons("vision.1.resid_post", torch.zeros(32)))
    >>> found = dictionary_worth(model, [scene_at("test", at) for at in range(4)], seeds=1, progress=False)
    >>> [str(name) for name in found["dictionary"].values], round(float(found["explained"][0, 0]), 3)
    (['own', 'untrained', 'random', 'neurons', 'neurons, as sparse'], 1.0)
    """
    own, some = _of(model, site), scenes_of(scenes)
    posed = Posed(text, step, seed=seed)
    steps = posed.steps if model.engine.pipeline is not None else 1
    rows = posed_rows(model, some, posed, batch)
    with tempfile.TemporaryDirectory() as folder:
        sites = list(dict.fromkeys((own.site, own.target)))
        kept = harvest(model, rows, sites, Path(folder) / "rows", batch=batch, progress=progress)
        sparse = max(1, round(quality(own, kept, steps=steps).value.l0))
        floor = untrained(
            "topk", own.site, own.d_in, target=None if own.target == own.site else own.target, d_out=own.d_out,
            width=own.width, k=min(sparse, own.width), centre=moments(seen(own, kept, steps=steps)).mean.float(),
            seed=seed,
        )  # fmt: skip
        return dictionary_quality(
            model, {OWN: own}, kept, untrained=floor, inputs=inputs, target=target, embeddings=scene_embeddings(some),
            seeds=seeds, steps=steps, progress=progress,
        )  # fmt: skip


def _of(model: Model, site: str) -> Dictionary:
    """The dictionary of a site of features, the first one unless named."""
    known = model.dictionaries
    if site not in known and (site or not known):
        raise MethodError(
            f"'{model.name}' was opened without a dictionary{f' at {site}' if site else ''}",
            expected="the features of one: SITE.features", exists=near(site, list(known)) or "none",
            do="open it with one: --dictionary DIR (`model.with_dictionaries(…)`)",
        )  # fmt: skip
    return known[site or next(iter(known))]
