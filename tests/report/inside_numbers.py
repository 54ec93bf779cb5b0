"""The inside of a model that answers, planted: one head looks, the answer travels; and the same arithmetic on noise."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import xarray

from cutaway.report import findings_looks, findings_writes
from cutaway.report.findings_asked import KINDS, Posed
from cutaway.report.findings_looks import FORMS, LOOKS
from cutaway.report.findings_spots import READ, SPOTS
from cutaway.report.findings_writes import HOW, PARTS, SOURCES, agreement
from world import opened

LAYERS, HEADS = 6, 4
FETCH, BRING = [(3, 2)], [(4, 0), (4, 1)]
Found = dict[str, xarray.Dataset]


def sets(*made: xarray.Dataset) -> xarray.Dataset:
    return xarray.concat(made, xarray.DataArray(range(len(made)), dims="set", name="set"))


def writes(alike: float, seed: int, rows: int = 40) -> xarray.Dataset:
    """Losses that follow direct effects with that weight, the rest being noise; 0 is noise alone."""
    draw, made = np.random.default_rng(seed), []
    for _ in KINDS:
        parts = {"heads": (LAYERS, HEADS), "MLPs": (LAYERS,)}
        direct = {part: draw.standard_normal((rows, *shape)) for part, shape in parts.items()}
        lost = {
            part: [alike * x + (1 - alike) * draw.standard_normal(x.shape) for _ in HOW] for part, x in direct.items()
        }
        ranks = [[agreement(direct[part], lost[part][at], seed) for at in range(len(HOW))] for part in PARTS]
        data = {name: (("part", "how"), [[one[name] for one in row] for row in ranks]) for name in ranks[0][0]}
        data |= {
            "direct": (("layer", "head"), direct["heads"].mean(0)),
            "direct_mlp": ("layer", direct["MLPs"].mean(0)),
        }
        data["ablated"] = ("how", "layer", "head"), np.mean(lost["heads"], 1)
        data["ablated_mlp"] = ("how", "layer"), np.mean(lost["MLPs"], 1)
        data["read"] = "source", draw.standard_normal(len(SOURCES))
        data |= dict.fromkeys(("right", "total", "error", "area", "questions"), ((), 1.0))
        made.append(xarray.Dataset(data))
    coords = {"part": list(PARTS), "how": list(HOW), "source": list(SOURCES), "kind": list(KINDS)}
    return xarray.concat(made, "kind").assign_coords(coords)


@dataclass(frozen=True)
class Planted(Posed):
    """Stands for questions about left and right."""

    clean: np.ndarray | None = None


def looks(knows: bool, seed: int, forms: tuple[str, ...] = FORMS) -> xarray.Dataset:
    """A model in which the heads of `FETCH`, then of `BRING`, carry the answer; or one whose answers are noise."""
    draw = np.random.default_rng(seed)

    def cut(asked, look, cells):
        needed = FETCH if look == LOOKS[0] else BRING
        share = [
            float(one == needed[0][0]) if isinstance(one, int)
            else np.mean([head in one for head in needed]) for one in cells
        ]  # fmt: skip
        clean = asked.clean[None] * (1 - np.array(share)[:, None]) if knows else 0 * asked.clean
        return clean + 0.05 * draw.standard_normal((len(cells), len(asked.clean)))

    def half(some, start, stop):
        return Planted(some.model, [], [], [], clean=some.clean[start:stop])

    def sided(model, n, seed, told=False):
        noise = draw.standard_normal(n)
        return Planted(model, [], [], [], clean=5 + noise if knows else 0.05 * noise)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("cut", cut), ("stretch", half), ("sided", sided)):
            patch.setattr(findings_looks, name, value)
        patch.setattr(findings_looks, "shape", lambda asked: (LAYERS, HEADS))
        patch.setattr(findings_looks, "untouched", lambda asked: asked.clean)
        return findings_looks.looks(opened("llava"), 120, seed, lambda _: None, forms)


def spots(travels: bool, seed: int) -> xarray.Dataset:
    """The answer is read at the patch after layer 2, at the names after 3, at the end after 4; or nowhere."""
    draw = np.random.default_rng(seed)
    mean = 0.5 + 0.06 * draw.standard_normal((len(SPOTS), len(READ), LAYERS + 1))
    for at, layer in enumerate((2, 3, 3, 4)):
        mean[at, 1, layer + 1 :] += 0.45 * travels
    mean = np.clip(mean, 0, 1)
    data = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "control": 0 * mean + 0.5, "majority": 0 * mean + 0.5}
    made = xarray.Dataset({name: (("spot", "label", "layer"), value) for name, value in data.items()})
    named = made.assign_coords(spot=list(SPOTS), label=list(READ), layer=range(-1, LAYERS))
    return named.assign(questions=180, by_place=0.9)


@cache
def _inside(alike: float, before: float, knows: bool, travels: bool, seed: int) -> Found:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings_writes, "BOOTSTRAPS", 200)
        return _made(alike, before, knows, travels, seed)


def inside(
    alike: float = 0.5, before: float = 0.9, knows: bool = True, travels: bool = True, seed: int = 0
) -> Found:  # fmt: skip
    """Every measure of the inside on two sets; a copy, since tests change it."""
    return dict(_inside(alike, before, knows, travels, seed))


def _made(alike: float, before: float, knows: bool, travels: bool, seed: int) -> Found:
    pair = (2 * seed, 2 * seed + 1)
    return {
        "writes": sets(*(writes(alike, one) for one in pair)),
        "writes_floor": sets(*(writes(before, one + 7) for one in pair)),
        "looks": sets(*(looks(knows, one) for one in pair)),
        "looks_floor": sets(*(looks(False, one, FORMS[:1]) for one in pair)),
        "spots": sets(*(spots(travels, one) for one in pair)),
        "spots_floor": sets(*(spots(False, one + 7) for one in pair)),
    }
