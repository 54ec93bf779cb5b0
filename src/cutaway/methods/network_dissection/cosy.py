"""Descriptions put to the test by drawing them: CoSy with EmojiWorld in the place of an image generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from cutaway.data import TINTS, Label, Scene, World, concepts, scene_at
from cutaway.errors import MethodError
from cutaway.methods.network_dissection.concept_masks import KINDS, Name, shown
from cutaway.methods.network_dissection.unit_maps import Posed, unit_vectors
from cutaway.methods.truth import auroc
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.questions.rows import tracked

_PAINTER = "noto"  # in whose drawings things have the colours that they are known by
SOURCE = "Kopf, Bommer, Hedström, Lapuschkin, Höhne, Bykov 2024, arXiv 2405.20331 (CoSy)"


@dataclass(frozen=True, eq=False)
class Drawn:
    """For each unit and its description: how much stronger the unit is on pictures drawn to it than on others.

    `auc`: how often a drawn picture is above a control, 0.5 by chance; `mad`: the mean difference in standard
    deviations of the controls. `auc_random`, `mad_random`: the same for the description of another unit,
    NaN where all are described alike.
    """

    auc: Float[ndarray, "unit"]
    mad: Float[ndarray, "unit"]
    auc_random: Float[ndarray, "unit"]
    mad_random: Float[ndarray, "unit"]


def drawn_to(name: Name, many: int, *, seed: int = 0, world: World | None = None) -> list[Scene]:
    """Scenes that show a concept, by its kind and word, with all else by chance.

    >>> [("concept", "fox") in {*shown(one)} for one in drawn_to(("concept", "fox"), 2)]
    [True, True]
    """
    kind, word = name
    base = World(things=(1, 1)) if world is None else world
    scenes = (scene_at("test", at, seed + 7919, _world(base, kind, word)) for at in range(many * 400))
    if kind == "writing":
        scenes = (replace(one, label=Label("word")) for one in scenes)
    found = []
    for scene in scenes:
        if name in {*shown(scene)}:
            found.append(scene)
        if len(found) == many:
            return found
    raise MethodError(
        f"{len(found)} of {many} scenes show {kind} '{word}'", expected="a concept that scenes can be drawn to",
        exists=", ".join(KINDS), do="choose another, or a world that allows it",
    )  # fmt: skip


def controls(name: Name, many: int, *, seed: int = 0, world: World | None = None) -> list[Scene]:
    """Scenes that do not show it."""
    base = World(things=(1, 1)) if world is None else world
    scenes = (scene_at("test", at, seed + 104_729, base) for at in range(many * 400))
    kept = (one for one in scenes if name not in {*shown(one)})
    return [one for one, _ in zip(kept, range(many), strict=False)]


def cosy(
    model: Model, site: Site, units: Sequence[int], names: Sequence[Name], posed: Posed | None = None, *,
    many: int = 24, world: World | None = None, batch: int = 32, seed: int = 0, progress: bool = True,
) -> Drawn:  # fmt: skip
    """Draw what each unit is said to answer to, and see whether it does.

    AUC = P(a(drawn) > a(control)), MAD = (mean a(drawn) - mean a(control)) / sd a(control), a the unit's strongest
    patch of a picture. Source: Kopf et al. 2024, arXiv 2405.20331; their generator draws what it takes a text to mean,
    ours draws the concept exactly. Baseline: the description of the next unit that has another one.
    What it can NOT tell: that nothing else drives the unit more. AUC alone does not see descriptions that are too
    narrow (`similarities`).

    >>> import cutaway
    >>> model = cutaway.load("tiny:clip")
    >>> site = model.sites.one("vision.1.mlp.post")
    >>> cosy(model, site, [0, 1], [("ground", "plain"), ("concept", "fox")], many=4, progress=False).auc.shape
    (2,)
    """
    if len(units) != len(names) or not len(units):
        raise MethodError(f"{len(units)} units and {len(names)} names", expected="a name for each", do="give as many")
    put, names = Posed() if posed is None else posed, list(names)
    scores: dict[Name, tuple[ndarray, ndarray]] = {}
    for name in tracked(dict.fromkeys(names), "drawing concepts", show=progress):
        drawn, others = (make(name, many, seed=seed, world=world) for make in (drawn_to, controls))
        values = unit_vectors(model, [*drawn, *others], site, put, batch=batch, progress=False)
        scores[name] = values[: len(drawn)].numpy(), values[len(drawn) :].numpy()
    own = [_scored(scores[name], unit) for unit, name in zip(units, names, strict=True)]
    foils = [next((one for one in names[at:] + names[:at] if one != name), None) for at, name in enumerate(names)]
    blank = (np.nan, np.nan)
    swapped = [blank if foil is None else _scored(scores[foil], unit) for unit, foil in zip(units, foils, strict=True)]
    (auc, mad), (auc_random, mad_random) = (np.array(one, float).T for one in (own, swapped))
    return Drawn(auc, mad, auc_random, mad_random)


def _world(base: World, kind: str, word: str) -> World:
    """A world in which scenes show a concept often."""
    match kind:
        case "concept":
            return replace(base, names=(word,))
        case "group":
            return replace(base, names=tuple(one.name for one in concepts(group=word)))
        case "artist":
            return replace(base, artists=(word,))
        case "ground":
            return replace(base, kinds=(word,))  # type: ignore[arg-type]
        case "colour" if word in TINTS:
            return replace(base, tinted=1.0)
        case "colour":
            own = tuple(one.name for one in concepts(artist=_PAINTER) if one.colour(_PAINTER) == word)
            return replace(base, names=own, artists=(_PAINTER,), tinted=0.0)
    return base


def _scored(values: tuple[ndarray, ndarray], unit: int) -> tuple[float, float]:
    drawn, others = (one[:, unit].astype(float) for one in values)
    every, real = np.concatenate([drawn, others]), np.arange(len(drawn) + len(others)) < len(drawn)
    spread = others.std()
    mad = (drawn.mean() - others.mean()) / spread if spread > 0 else np.nan
    return float(auroc(every, real, np.ones((1, len(every))))[0]), float(mad)
