"""The words at which units are largest, of a tower that reads them: where in which texts, and how active in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.questions.rows import reads_words
from cutaway.store.reducers import Mean, TopK

AROUND = 6  # tokens shown on each side


@dataclass(frozen=True, eq=False)
class WordContexts:
    """For each unit: the largest activations at words, each in its text, and the mean of its activations above 0."""

    values: Float[ndarray, "unit place"]
    before: ndarray
    token: ndarray
    after: ndarray
    mean: Float[ndarray, "unit"]


def word_contexts(
    model: Model, site: Site, texts: Sequence[str], top: int, *, batch: int = 32
) -> WordContexts | None:  # fmt: skip
    """Run texts alone, and keep of each unit those in which it is largest anywhere; None where no words are read."""
    if not reads_words(model, site.tower) or "token" not in site.axes or model.engine.pipeline is not None:
        return None
    most, mean = TopK(min(top, len(texts))), Mean()
    places: list[Tensor] = []
    said: list[list[str]] = []
    for start in range(0, len(texts), batch):
        inputs = model.inputs(text=list(texts[start : start + batch]))
        values = model.run(inputs, record=site)[str(site)].float()
        words = _words(inputs, site, values.shape[1])
        mean.add(values.clamp(min=0).flatten(0, 1), words.flatten())
        hidden = values.masked_fill(~words[..., None].to(values.device), -torch.inf)
        best = hidden.max(1)
        most.add(best.values.clamp(min=-1e30))
        places.append(best.indices.cpu())
        said += [[str(word) for word in row] for row in inputs.map_for(site, "token", values.shape[1]).text]
    found, at = most.value, torch.cat(places)
    rows = [
        [_around(said[int(item)], int(at[item, unit])) for item in column] for unit, column in enumerate(found.items.T)
    ]
    before, token, after = np.moveaxis(np.array(rows, dtype=object), -1, 0)
    largest, size = found.values.T.float().numpy(), mean.value.float().numpy()
    return WordContexts(largest, before.astype(str), token.astype(str), after.astype(str), size)


def _words(inputs: Inputs, site: Site, size: int) -> Tensor:
    return torch.from_numpy(inputs.map_for(site, "token", size).kind == "text")


def _around(words: list[str], at: int) -> tuple[str, str, str]:
    before, after = words[max(0, at - AROUND) : at], words[at + 1 : at + 1 + AROUND]
    return " ".join(before) + " " * bool(before), words[at], " " * bool(after) + " ".join(after)
