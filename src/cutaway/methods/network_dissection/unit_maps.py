"""What each unit of a site does at each patch of many pictures, batch by batch, for every family of model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.data import Scene, render
from cutaway.data.prompts import prompt
from cutaway.errors import MethodError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.questions.question import Question
from cutaway.questions.rows import Rows, reads_words, recorded
from cutaway.store.stored import Store

TEXT = "what is this"  # what a model that writes is asked about each picture, unless something else
MIDDLE = 0.5  # of a drawing: where a denoiser looks at pictures unless a step is named
STEPS = 20
ENOUGH = 512  # scenes


@dataclass(frozen=True, eq=False)
class Maps:
    """What units do at the patches of some pictures; `first` is the number of the first picture."""

    values: Float[Tensor, "picture row col unit"]
    first: int


@dataclass(frozen=True)
class Posed:
    """How pictures are put to a model, where they are not all it takes.

    `text` is what a model that writes is asked about each of them. A denoiser looks at them at `step` of so many
    `steps` (in the middle unless named), through its autoencoder and with noise of the `seed`, each beside a prompt
    that is true of it; what is no scene has none.
    """

    text: str = TEXT
    step: int | None = None
    steps: int = STEPS
    seed: int = 0


def unit_maps(
    model: Model, rows: Rows, site: Site, posed: Posed, *, batch: int = 32, progress: bool = True
) -> Iterator[Maps]:  # fmt: skip
    """The activations of a site on the patch grid, a batch of pictures after the other; nothing is kept.

    `rows` are pictures or scenes, inputs that are ready, or a `Store` of this model. A site with heads has a unit for
    each of their numbers; one without positions has a grid of one patch.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> model = cutaway.load("tiny:llava")
    >>> rows, site = [scene_at("test", i) for i in range(3)], model.sites.one("text.1.mlp.post")
    >>> [tuple(made.values.shape) for made in unit_maps(model, rows, site, Posed(), batch=2, progress=False)]
    [(2, 4, 4, 64), (1, 4, 4, 64)]
    """
    first = 0
    for run in unit_runs(model, rows, site, posed, batch=batch, progress=progress):
        values = on_grid(run, site)
        yield Maps(values, first)
        first += len(values)


def unit_runs(
    model: Model, rows: Rows, site: Site, posed: Posed, *, also: Sequence[Site] = (), batch: int = 32,
    progress: bool = True,
) -> Iterator[Run]:  # fmt: skip
    """The runs behind `unit_maps`, each with the readings of one batch at all positions, `also` of other sites."""
    ready = _ready(model, rows, site, posed, batch)
    yield from recorded(model, ready, site.tower, [site, *also], batch=batch, what="units", progress=progress)


def posed_rows(model: Model, scenes: Sequence[Scene], posed: Posed, batch: int = 32) -> list[Any]:
    """Scenes as a harvest takes them: of a model that answers or draws batches of inputs, else as they are."""
    drawn = model.engine.pipeline is not None
    if not drawn and not model.family.image_tokens:
        return list(scenes)
    parts = enumerate(_parts(scenes, batch))
    return [one for at, part in parts for one in _inputs(model, part, posed, drawn, at)]


def unit_vectors(
    model: Model, rows: Rows, site: Site, posed: Posed, *, peak: bool = True, batch: int = 32, progress: bool = True
) -> Float[Tensor, "item unit"]:  # fmt: skip
    """Each unit's strongest patch of every picture, or its mean over patches: one number a picture and unit.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> model, rows = cutaway.load("tiny:clip"), [scene_at("test", i) for i in range(3)]
    >>> unit_vectors(model, rows, model.sites.one("vision.1.mlp.post"), Posed(), progress=False).shape
    torch.Size([3, 64])
    """
    maps = unit_maps(model, rows, site, posed, batch=batch, progress=progress)
    flat = (one.values.flatten(1, 2).float() for one in maps)
    return torch.cat([(one.amax(1) if peak else one.mean(1)).cpu() for one in flat])


def on_grid(run: Run, site: Site) -> Float[Tensor, "picture row col unit"]:
    """One reading of a site on the patch grid of its pictures."""
    value, axes = run[site].detach(), list(site.axes)
    while axes[0] in ("step", "guidance"):  # of one evaluation there is one of each
        value, axes = value[0], axes[1:]
    if "height" in axes:
        return value.movedim(axes.index("channel"), -1)
    if {"query", "key"} & {*axes}:
        raise MethodError(
            f"'{site}' holds pairs of positions", expected="a site whose last axis are units", exists=", ".join(axes),
            do="take `mlp.post`, `resid_post`, or features of a dictionary",
        )  # fmt: skip
    if "token" not in axes:
        return value.flatten(1)[:, None, None]
    return _folded(run.inputs, site, value.flatten(2))


def _folded(
    inputs: Inputs, site: Site, states: Float[Tensor, "picture token unit"]
) -> Float[Tensor, "picture row col unit"]:
    """The states of the patches of each picture, by row and column."""
    known = inputs.map_for(site, "token", states.shape[1])
    here = known.row >= 0
    rows, cols = int(known.row.max()) + 1, int(known.col.max()) + 1
    counts = here.sum(1)
    if len(known.row) != len(states) or not here.any() or (counts != rows * cols).any():
        raise MethodError(
            f"'{site}' holds {', '.join(map(str, sorted({*counts.tolist()})))} patches a row, on a grid of "
            f"{rows} × {cols}",
            expected="one whole picture a row", do="give inputs with one picture each, and one crop",
        )  # fmt: skip
    picture, token = (torch.from_numpy(one) for one in here.nonzero())
    place = torch.from_numpy(known.row[here] * cols + known.col[here])
    laid = states.new_zeros(len(states), rows * cols, states.shape[2])
    laid[picture, place] = states[picture, token]
    return laid.unflatten(1, (rows, cols))


def _ready(model: Model, rows: Rows, site: Site, posed: Posed, batch: int) -> Any:
    """Rows as `recorded` takes them: pictures for a tower that sees them alone, else inputs, made when asked for."""
    if isinstance(rows, Inputs | Store):
        return rows
    drawn = model.engine.pipeline is not None
    if not drawn and not reads_words(model, site.tower):
        return rows
    return (one for at, part in enumerate(_parts(rows, batch)) for one in _inputs(model, part, posed, drawn, at))


def _parts(rows: Any, size: int) -> Iterator[list[Any]]:
    stream = iter(rows)
    while part := list(islice(stream, size)):
        yield part


def _inputs(model: Model, rows: list[Any], posed: Posed, drawn: bool, at: int) -> Iterator[Inputs]:
    """Batch number `at` as ready inputs, each with noise of its own; inputs among the rows as they are."""
    yield from (row for row in rows if isinstance(row, Inputs))
    rows = [row for row in rows if not isinstance(row, Inputs)]
    if not rows:
        return
    pictures = [render(row) if isinstance(row, Scene) else row for row in rows]
    if drawn:
        step = round(posed.steps * MIDDLE) if posed.step is None else posed.step
        texts = [_told(model, row) if isinstance(row, Scene) and row.things else "" for row in rows]
        yield model.inputs(prompt=texts, image=pictures, step=step, steps=posed.steps, seed=posed.seed * 10_000 + at)
    else:
        yield model.inputs(image=[[one] for one in pictures], text=[posed.text] * len(pictures))


def _told(model: Model, scene: Scene) -> str:
    """A prompt that is true of a scene: of several, the first that the model's tokenizer has room for, else none."""
    tellings = (prompt(scene, scene.seed), prompt(scene, way="things", ground=True), prompt(scene, way="things"))
    most = getattr(model.tokenizer, "model_max_length", None)
    fits = (one.text for one in tellings if most is None or len(model.tokenizer(one.text)["input_ids"]) <= most)
    return next(fits, "")


def unit_site(model: Model, name: str) -> Site:
    """The site of that name, or the MLP units in the middle of what looks at pictures."""
    if name:
        return model.sites.one(name)
    towers = [one for one in ("denoiser", "text", "vision") if any(_sees(model, site, one) for site in model.sites)]
    found = [site for site in model.sites if towers and _sees(model, site, towers[0])]
    if not found:
        raise MethodError(
            f"no MLP of '{model.name}' looks at pictures", expected="a site with units", do="name one: `site=`",
            exists=", ".join(map(str, list(model.sites)[:5])),
        )  # fmt: skip
    return found[len(found) // 2]


def _sees(model: Model, site: Site, tower: str) -> bool:
    """Whether a site holds MLP units at the patches of pictures."""
    mixed = tower == "text" and not model.family.image_tokens
    return site.tower == tower and site.part == "mlp.post" and site.stream != "text" and not mixed


def enough(question: Question) -> bool:
    """Whether a report looks at units unasked: few scenes show most concepts too seldom."""
    return question.crowd is not None and len(question.crowd) >= ENOUGH


def scenes_of(rows: Sequence[Any]) -> list[Scene]:
    """The rows as scenes of EmojiWorld, whose masks are known; MethodError for anything else."""
    odd = next((row for row in rows if not isinstance(row, Scene)), None)
    if odd is not None or len(rows) < 2:
        raise MethodError(
            f"{'nothing is known of where what is in' if odd is not None else 'too few'} "
            f"{type(odd).__name__ if odd is not None else len(rows)}",
            expected="scenes of EmojiWorld, two at least, whose masks are exact",
            do="give `list(cutaway.data.scenes('test', 512))`, or --pictures emojiworld",
        )  # fmt: skip
    return list(rows)
