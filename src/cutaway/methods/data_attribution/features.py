"""What is kept of each item: the gradient of its loss, projected piece by piece; made once, in parts, and taken up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes
from torch import Tensor

from cutaway.errors import MethodError, StoreError
from cutaway.jobs.spread import crew_of
from cutaway.model.fingerprint import fingerprint
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.pieces import Piece
from cutaway.model.weight_gradients import WeightGradients, weight_gradients
from cutaway.questions.losses import Measure
from cutaway.questions.training import Items, Target
from cutaway.store.files import only_writer, read_json, sweep_up, write_json, write_whole

Kind = Literal["factored", "dense", "whole", "adapter"]
SPEC, PART = "gradients.json", "items-{:06d}.safetensors"
HELD = 2**26  # numbers of a dense projection that are kept between batches
DO = "give another folder, or take the damaged one away"


@dataclass(frozen=True)
class Projection:
    """How the gradient G of a piece (rows × columns) becomes few numbers.

    `factored`: L' G R, with random normal L and R of `size` columns (an identity where a side is no larger), divided by
    the root of `size`: `size`² numbers a piece. `dense`: one random matrix over all numbers of all pieces, to `size`
    numbers in all. `adapter`: G R alone, which is the gradient of a low-rank adapter B A at its beginning (A = R'
    random, B = 0). `whole`: every number. All keep products in the mean over seeds; `seed` says which dice.
    """

    kind: Kind = "factored"
    size: int = 8
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Bases:
    """Sides of pieces as given, L and R for each: of eigenvectors, say."""

    sides: Mapping[Piece, tuple[Tensor | None, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Features:
    """`values` (item × number): projected gradients, the numbers of a piece next to one another (`parts`: from, to).

    `losses`: what each item costs, the mean over its draws.
    """

    values: Float[Tensor, "item feature"]
    losses: Float[Tensor, "item"]
    parts: tuple[tuple[int, int], ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.values)

    def each(self) -> Iterator[Float[Tensor, "item feature"]]:
        """The numbers of one piece after another."""
        return (self.values[:, start:stop] for start, stop in self.parts)


class Projected:
    """What turns the gradients of a batch into features, with its random sides made once."""

    def __init__(self, how: Projection | Bases, chosen: Sequence[Piece]) -> None:
        self.how, self.chosen = how, tuple(chosen)
        self.sides: dict[Piece, tuple[Tensor | None, Tensor | None]] = {}
        self.held: dict[tuple[Piece, int], Tensor] = {}
        if isinstance(how, Bases):
            self.sides = dict(how.sides)
        elif how.size < 1:
            raise MethodError(
                f"a projection to {how.size} numbers", expected="one at least", do="give `size` from 1 on"
            )
        elif how.kind in ("factored", "adapter"):
            for at, piece in enumerate(self.chosen):
                left = None if how.kind == "adapter" else _side(piece.shape[0], how, 2 * at)
                self.sides[piece] = left, _side(piece.shape[1], how, 2 * at + 1)

    def __call__(self, made: WeightGradients) -> Float[Tensor, "row feature"]:
        """The features of the rows of a batch."""
        if isinstance(self.how, Projection) and self.how.kind == "dense":
            found = [self._dense(piece, made.of(piece).flatten(1)) for piece in self.chosen]
            return torch.stack(found).sum(0)
        return torch.cat([made.of(piece, *self.sides.get(piece, (None, None))).flatten(1) for piece in self.chosen], 1)

    def parts(self) -> tuple[tuple[int, int], ...]:
        """Where the numbers of each piece lie; of a dense projection all together."""
        if isinstance(self.how, Projection) and self.how.kind == "dense":
            return ((0, self.how.size),)
        found, begun = [], 0
        for piece in self.chosen:
            sides = zip(piece.shape, self.sides.get(piece, (None, None)), strict=True)
            rows, columns = (size if side is None else side.shape[1] for size, side in sides)
            found.append((begun, begun + rows * columns))
            begun += rows * columns
        return tuple(found)

    def _dense(self, piece: Piece, flat: Float[Tensor, "row number"]) -> Float[Tensor, "row feature"]:
        """A piece's share of a random projection of everything, a stretch of its numbers at a time."""
        assert isinstance(self.how, Projection)
        size, found = self.how.size, flat.new_zeros(len(flat), self.how.size)
        step = max(1, HELD // size)
        for start in range(0, flat.shape[1], step):
            stretch = flat[:, start : start + step]
            if (piece, start) not in self.held:
                named = f"{self.how.seed}/{piece.layer}/{piece.rows}/{piece.columns}/{start}"
                dice = torch.Generator().manual_seed(int(fingerprint(named)[:12], 16))
                block = torch.randn(stretch.shape[1], size, generator=dice) / size**0.5
                if sum(one.numel() for one in self.held.values()) + block.numel() <= HELD:
                    self.held[piece, start] = block
            else:
                block = self.held[piece, start]
            found += stretch @ block.to(stretch)
        return found


def _side(wide: int, how: Projection, number: int) -> Tensor | None:
    """A random side of a piece; None where it is not larger than what it would be projected to."""
    if wide <= how.size:
        return None
    dice = torch.Generator().manual_seed(how.seed * 1_000_003 + number)
    return torch.randn(wide, how.size, generator=dice) / how.size**0.5


@dataclass(frozen=True)
class Plan:
    """How items are gone over: so many at once, by which measure; `even` divides each draw by its own length."""

    batch: int = 16
    measure: Measure = "loss"
    even: bool = False


def item_features(
    model: Model, items: Items, chosen: Sequence[Piece], hows: Sequence[Projection | Bases], plan: Plan = Plan(), *,
    folder: str | Path | None = None, progress: bool = True,
) -> list[Features]:  # fmt: skip
    """The features of items, for each projection: the mean over an item's draws of its projected gradient.

    With a `folder` each batch is written as soon as it is there, whole or not at all: the same call takes up what is
    missing, whoever was stopped and when. A folder knows its model, items, pieces and projections by content. Workers
    of a model that is `spread` make the batches, whose bits are those of one process.
    """
    if not len(items):
        raise MethodError("no items to take gradients of", expected="one at least", do="give training items")
    work = Gradients(items, tuple(chosen), plan, hows=tuple(hows))
    where = None if folder is None else _opened(Path(folder), (model.engine, items, work.chosen, work.hows, plan))
    found: dict[int, dict[str, Tensor]] = {}
    with nullcontext() if where is None else only_writer(where):
        paths = {at: where / PART.format(work.rows(at).start) for at in range(len(work))} if where is not None else {}
        if where is not None:
            sweep_up(where)
        found |= {at: _taken_up(path) for at, path in paths.items() if path.is_file()}
        todo = [at for at in range(len(work)) if at not in found]
        for at, made in crew_of(model).run(work, todo, progress=progress, what="gradients"):
            found[at] = made
            if at in paths:
                write_whole(paths[at], [as_bytes(made)])
    every = [found[at] for at in range(len(work))]
    losses = torch.cat([one["losses"] for one in every])
    each = [torch.cat([one[f"features.{k}"] for one in every]) for k in range(len(hows))]
    return [Features(values, losses, one.parts()) for values, one in zip(each, work.projected, strict=True)]


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of items by number, as a value that workers take; what is made once in a process stays there."""

    items: Items
    chosen: tuple[Piece, ...]
    plan: Plan
    begun: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(range(0, len(self.items), max(1, self.plan.batch)))

    def rows(self, chunk: int) -> range:
        """The items of a batch."""
        size = max(1, self.plan.batch)
        return range(chunk * size, min((chunk + 1) * size, len(self.items)))

    def make(self, model: Model, rows: Sequence[int], draw: int) -> tuple[Inputs, Target]:
        """The inputs of a batch and what is asked of them."""
        if "make" not in self.begun:
            self.begun["make"] = self.items.on(model, self.plan.measure)
        made: tuple[Inputs, Target] = self.begun["make"](rows, draw)
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "begun": {}}


@dataclass(frozen=True, eq=False)
class Gradients(Batches):
    """What is kept of the gradients of each batch."""

    hows: tuple[Projection | Bases, ...] = field(kw_only=True)

    @property
    def projected(self) -> list[Projected]:
        """The projections with their random sides, made once in each process."""
        if "projected" not in self.begun:
            self.begun["projected"] = [Projected(how, self.chosen) for how in self.hows]
        made: list[Projected] = self.begun["projected"]
        return made

    def do(self, model: Model, chunk: int) -> dict[str, Tensor]:
        """The features and losses of one batch."""
        make, rows = partial(self.make, model), self.rows(chunk)
        return _batch(model, self.items.draws, make, rows, self.chosen, self.projected, even=self.plan.even)


@dataclass(frozen=True, eq=False)
class Curvature(Batches):
    """The two factors of the curvature of each piece, summed over the draws of each batch."""

    def do(self, model: Model, chunk: int) -> list[tuple[Tensor, Tensor]]:
        """For each piece the sums of x x' and of d d', in double precision."""
        made = (
            weight_gradients(model, *self.make(model, self.rows(chunk), draw), self.chosen)
            for draw in range(self.items.draws)
        )
        found: list[tuple[Tensor, Tensor]] = []
        for one in made:
            both = [(a.cpu().double(), b.cpu().double()) for a, b in map(one.moments, self.chosen)]
            found = added(found, both) if found else both
        return found


def added(
    sums: Sequence[tuple[Tensor, Tensor]], more: Sequence[tuple[Tensor, Tensor]]
) -> list[tuple[Tensor, Tensor]]:  # fmt: skip
    """Factors of all pieces, added."""
    return [(a + c, b + d) for (a, b), (c, d) in zip(sums, more, strict=True)]


def of_target(
    model: Model, inputs: Inputs, target: Target, chosen: Sequence[Piece], hows: Sequence[Projection | Bases]
) -> list[Features]:
    """The features of the rows of some inputs, of any target: what a question asks."""
    made = weight_gradients(model, inputs, target, chosen)
    every = [Projected(how, chosen) for how in hows]
    return [Features(one(made), made.values.to(torch.float32), one.parts()) for one in every]


def eigenbases(
    model: Model, items: Items, chosen: Sequence[Piece], plan: Plan = Plan(), *, size: int = 0, progress: bool = True
) -> Bases:
    """For each piece the eigenvectors of the two factors of its curvature, the first `size` of each side (0: all).

    Factors: A = sum of x x', S = sum of d d' over items, draws and positions. A table of words has S diagonal. Workers
    of a model that is `spread` make the sums of batches, which are added here in their order: the bits are those of
    one process.
    """
    work = Curvature(items, tuple(chosen), plan)
    sums: list[tuple[Tensor, Tensor]] = []
    waiting: dict[int, list[tuple[Tensor, Tensor]]] = {}
    following = 0
    for at, made in crew_of(model).run(work, range(len(work)), progress=progress, what="curvature"):
        waiting[at] = made
        while following in waiting:
            more = waiting.pop(following)
            sums, following = added(sums, more) if sums else more, following + 1
    dtype = torch.float64 if model.device.type == "cpu" else torch.float32
    sides = ((_leading(outer, size, dtype), _leading(inner, size, dtype)) for inner, outer in sums)
    return Bases(dict(zip(work.chosen, sides, strict=True)))


def _leading(square: Tensor, size: int, dtype: torch.dtype) -> Tensor | None:
    """The leading eigenvectors as columns; None where a diagonal is given whole: it has its own."""
    if square.dim() == 1:
        if not size or size >= len(square):
            return None
        most = square.argsort(descending=True)[:size]
        return torch.eye(len(square))[:, most]
    vectors = torch.linalg.eigh(square).eigenvectors.flip(1)
    return vectors[:, : size or len(square)].to(dtype)


def _batch(
    model: Model, draws: int, make: Callable[[Sequence[int], int], tuple[Inputs, Target]], rows: Sequence[int],
    chosen: Sequence[Piece], every: Sequence[Projected], *, even: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """The features and losses of one batch of items, the mean over their draws."""
    found: dict[str, Tensor] = {}
    for draw in range(draws):
        made = weight_gradients(model, *make(rows, draw), chosen)
        each = {f"features.{k}": one(made) for k, one in enumerate(every)} | {"losses": made.values}
        for name, value in each.items():
            if even and name != "losses":
                value = value / value.norm(dim=1, keepdim=True).clamp_min(torch.finfo(value.dtype).tiny)
            kept = value.detach().cpu() / draws
            found[name] = found[name] + kept if name in found else kept
    return {name: value.contiguous() for name, value in found.items()}


def _taken_up(path: Path) -> dict[str, Tensor]:
    """What was kept of a batch; StoreError where it is damaged."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise StoreError(
            f"'{path}' cannot be read ({error})", expected="gradients as they were written",
            do="take this file away: the same call makes it again",
        ) from error  # fmt: skip


def _opened(folder: Path, told: tuple[Any, ...]) -> Path:
    """The folder of these features, new or known by its content."""
    key = fingerprint(*told)
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"'{folder}' is a file", expected="a folder, or nothing there yet", do=DO)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / SPEC).is_file():
        if any(folder.glob("*.safetensors")):
            raise StoreError(f"'{folder}' holds other files", expected="a folder of its own", do=DO)
        write_json(folder / SPEC, {"format": "cutaway-gradients/1", "key": key})
    if read_json(folder / SPEC, DO).get("key") != key:
        raise StoreError(
            f"'{folder}' holds gradients of another model, or of other items, weights, projections or batches",
            expected="the same call as before", do=DO,
        )  # fmt: skip
    return folder
