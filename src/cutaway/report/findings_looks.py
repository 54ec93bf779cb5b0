"""Which heads fetch where things are, and which bring it to the answer: attention knock-outs, head by head."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray
from jaxtyping import Float
from numpy import ndarray

from cutaway.model.edits import Knockout
from cutaway.model.model import Model
from cutaway.report.findings_asked import TOWER, Posed, sided
from cutaway.report.findings_scenes import TOLD, resampled

LOOKS = ("names at the scene", "last at the names")  # who looks at what
FORMS = ("picture", "words")  # how the scene is given
DRAWS = 12  # random sets of heads, where more than one is named
MOST = 3  # heads that are named for a look at most
WHOLE = 0.8  # of what all heads of the layer lose together: heads are added until it is reached
Place = tuple[int, int]


def looks(
    model: Model, n: int, seed: int, told: TOLD, forms: Sequence[str] = FORMS
) -> xarray.Dataset:  # fmt: skip
    """Questions which of left and right: what is lost when some positions cannot look at others, head by head.

    Half of the scenes choose: the layer whose cut loses most of the mean difference, and in it the fewest heads that
    lose `WHOLE` of that, at most `MOST`. The other half is measured. `right`, `margin` (form), uncut; `layer_right`,
    `layer_lost` (look, form, layer): the share of right answers, and of the mean difference that is lost, without a
    look in all heads of a layer; `head_right`, `head_lost` (…, layer, head). `chosen` (look, form): the heads;
    `own_right`, `own_lost` with their interval over scenes; `alone_lost`: when every other head of every layer is cut
    instead; `random_lost_high`, `random_right_low`: the greatest loss, and the fewest right answers, of as many heads
    of any layers that were not chosen. `other_lost` (look, form): with the heads chosen in the other form.
    """
    half = max(24, n // 5)
    made = []
    for form in forms:
        told(f"looks, {form}")
        some = sided(model, 2 * half, seed, told=form == "words")
        picks, held = stretch(some, 0, half), stretch(some, half, 2 * half)
        made.append((held, [_chosen(picks, look) for look in LOOKS]))
    rows = []
    for at, (held, chosen) in enumerate(made):
        others = made[at - 1][1]
        each = [_measured(held, look, chosen[k], others[k], seed) for k, look in enumerate(LOOKS)]
        rows.append(xarray.concat(each, "look"))
    return xarray.concat(rows, "form").assign_coords(form=list(forms), look=list(LOOKS)).assign(scenes=half)


def stretch(some: Posed, start: int, stop: int) -> Posed:
    """Some of the questions, from one place to another."""
    return Posed(some.model, some.scenes[start:stop], some.questions[start:stop], some.rivals[start:stop], some.told)


def cut(asked: Posed, look: str, heads: Sequence[Sequence[Place] | int]) -> Float[ndarray, "cell row"]:
    """The difference in each cell: a number is a layer whose look is cut in all heads, a list its heads."""
    query, key = (asked.named, asked.context) if look == LOOKS[0] else (asked.last, asked.named)
    where = {"query": query, "key": key}
    cells = [
        [Knockout(f"{TOWER}.{one}.attn", **where)] if isinstance(one, int)
        else [Knockout(f"{TOWER}.{layer}.attn", head=head, **where) for layer, head in one]
        for one in heads
    ]  # fmt: skip
    return np.asarray(asked.model.sweep(asked.inputs, cells, asked.target, progress=False).values.values)


def shape(asked: Posed) -> tuple[int, int]:
    """Layers and heads of the decoder."""
    return asked.model.sites.towers()[TOWER], asked.model.sites.one(f"{TOWER}.0.attn.z").sizes["head"]


def untouched(asked: Posed) -> Float[ndarray, "row"]:
    """The target of each question in the model as it is."""
    return np.asarray(asked.target(asked.model.run(asked.inputs)).double().numpy(force=True))


def _chosen(asked: Posed, look: str) -> list[Place]:
    """The layer that loses most, and its heads, the one that loses most first, until they lose nearly as much."""
    layers, heads = shape(asked)
    clean = untouched(asked).mean()
    whole = clean - cut(asked, look, list(range(layers))).mean(1)
    layer = int(whole.argmax())
    single = clean - cut(asked, look, [[(layer, head)] for head in range(heads)]).mean(1)
    order = [(layer, int(head)) for head in np.argsort(-single)]
    together = clean - cut(asked, look, [order[:count] for count in range(1, MOST + 1)]).mean(1)
    enough = np.flatnonzero(together >= WHOLE * whole[layer])
    return sorted(order[: int(enough[0]) + 1 if len(enough) else MOST])


def _measured(asked: Posed, look: str, chosen: list[Place], other: list[Place], seed: int) -> xarray.Dataset:
    layers, heads = shape(asked)
    every = list(product(range(layers), range(heads)))
    rest = [one for one in every if one not in chosen]
    dice = np.random.default_rng(seed)
    draws = DRAWS if len(chosen) > 1 else 0  # of one head all others are there already
    random = [[rest[i] for i in dice.choice(len(rest), len(chosen), replace=False)] for _ in range(draws)]
    cells: list[Sequence[Place] | int] = [*range(layers), *([one] for one in every), chosen, rest, other, *random]
    clean, values = untouched(asked), cut(asked, look, cells)
    whole, single, own, alone, given, drawn = np.split(values, np.cumsum([layers, len(every), 1, 1, 1]))
    drawn = drawn if draws else single[[every.index(one) for one in rest]]

    def lost(found: ndarray) -> ndarray:
        return np.asarray(1 - found.mean(-1) / clean.mean())

    def right(found: ndarray) -> ndarray:
        return np.asarray((found > 0).mean(-1))

    weights = resampled(len(clean), seed)
    ends = np.quantile(1 - (weights @ own[0]) / (weights @ clean), (0.025, 0.975))
    sure = np.quantile(weights @ (own[0] > 0), (0.025, 0.975))
    grid = (layers, heads)
    numbers: dict[str, Any] = {
        "right": right(clean), "margin": clean.mean(), "own_lost": lost(own)[0], "own_lost_low": ends[0],
        "own_lost_high": ends[1], "own_right": right(own)[0], "own_right_low": sure[0], "own_right_high": sure[1],
        "alone_lost": lost(alone)[0], "other_lost": lost(given)[0], "random_lost_high": lost(drawn).max(),
        "random_right_low": right(drawn).min(), "random_lost": lost(drawn).mean(),
    }  # fmt: skip
    data: dict[str, Any] = {name: ((), float(value)) for name, value in numbers.items()}
    data |= {"layer_lost": ("layer", lost(whole)), "layer_right": ("layer", right(whole))}
    data |= {"head_lost": (("layer", "head"), lost(single).reshape(grid))}
    data["chosen"] = (), ", ".join(f"{layer}.{head}" for layer, head in chosen)
    return xarray.Dataset(data, coords={"layer": range(layers), "head": range(heads)})
