"""Whether a task found in prompts with examples acts on a prompt without: from pictures to words and back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.result import Provenance, Result
from cutaway.methods.task_vectors.heads import FunctionVector, function_vector
from cutaway.methods.task_vectors.states import FirstWord, chosen_sites, random_directions
from cutaway.methods.task_vectors.vectors import TaskVector, task_vector
from cutaway.model.edits import Add, Edit, Set
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.questions.rows import tracked
from cutaway.questions.tasks import Prompts, Task
from cutaway.zoo.evaluate import wilson

METHOD = "task_transfer"
SOURCE = (
    "Hendel et al. 2023, arXiv 2310.15916; Todd et al. 2023, arXiv 2310.15213; Huang et al. 2024, arXiv 2406.15334; "
    "Luo et al. 2024, arXiv 2410.22330"
)
WAYS = ("state", "heads", "sum")
COUNTS = (1, 2, 4, 8, 16, 32)  # heads that are replaced together
BESIDE = ("alone", "asked", "shown", "chance")
SUMMED = 8  # heads whose results are added up, unless told

Cell = list[Edit]
Key = tuple[str, str]  # the name of a task and the way it is told


@dataclass(frozen=True, eq=False, repr=False)
class Transfer(Result):
    """How often a vector of a task makes a prompt without examples do that task.

    `right` (way, task, source, target): the share of right next words when the vector is made of prompts of the
    `source` and put into prompts of the `target`, by pictures or in words; `low`, `high` a 95 % interval (Wilson).
    `at`: the layer or the number of heads, chosen on other prompts (a number into `places` (way, place)). Beside it, at
    the same place: `other`, the vectors of the other tasks; `random`, random directions as long (of `heads`: as many
    heads by chance), mean over draws, `random_high` the best draw. `alone`, `asked`, `shown`, `chance` (task, target):
    the prompt as it is, the question in words, behind examples, the commonest answer always. `accuracy`
    (way, given, source, task, target, place): everything: the vector of the task `given` judged by the answers of
    `task`. `kept`, `random_kept` (way, task, source): right answers to other questions with the vector in, of
    `others`, without it.
    """

    main: ClassVar[str] = "right"

    def matrix(self, way: str = "state", name: str = "right") -> xarray.DataArray:
        """Source × target, mean over tasks."""
        return self[name].sel(way=way).mean("task")

    def summary(self) -> Any:
        """Means over tasks for each way, source and target, beside what else there is."""
        names = ["right", "other", "random", "kept"]
        means = self.data[[name for name in names if name in self.data]].mean("task")
        beside = self.data[["alone", "asked", "shown", "chance"]].mean("task")
        frame = xarray.merge([means, beside]).to_dataframe().reset_index()
        order = ["way", "source", "target", "alone", "asked", "shown", "chance", *names]
        known = frame[[name for name in order if name in frame]]
        return known.sort_values("way", key=lambda column: column.map(WAYS.index), kind="stable")

    def by_task(self, way: str = "state") -> Any:
        """The same for each task."""
        names = ["right", "low", "high", "other", "random", "random_high", "alone", "asked", "shown", "chance"]
        return self.data[names].sel(way=way).to_dataframe().reset_index().drop(columns="way")

    def note(self) -> str:
        """How many prompts there were, and what is kept."""
        n = int(self["n"])
        said = f"Of each task {n} prompts were judged; layers and numbers of heads were chosen on others."
        if "others" in self.data:
            said += f" Other questions: {float(self['others']):.3f} right without a vector."
        return said

    def _draw(self, ax: Axes) -> None:
        """The share of right answers by layer for each source and target, mean over tasks."""
        own = _own(self["accuracy"].sel(way="state")).mean("task")
        names = [str(one) for one in self["places"].sel(way="state").values if str(one)]
        for source in self["source"].values:
            for target in self["target"].values:
                line = own.sel(source=source, target=target).values[: len(names)]
                ax.plot(range(len(names)), line, marker="o", label=f"{source} → {target}")
        for name, style in (("shown", "--"), ("alone", ":")):
            ax.axhline(float(self[name].mean()), color="gray", linestyle=style, label=name)
        ax.set_xticks(range(len(names)), [name.removeprefix("layer ") for name in names])
        ax.set(xlabel="layer", ylabel="right next words", title="a task's state put in at the last position")
        ax.legend(fontsize=7)


@torch.no_grad()
def task_transfer(
    model: Model, tasks: Sequence[Task], *, others: Prompts | None = None, counts: Sequence[int] = COUNTS,
    summed: int = SUMMED, draws: int = 4, seed: int = 0, progress: bool = True,
) -> Transfer:  # fmt: skip
    """Make vectors of tasks told by examples, put them into prompts without, within and between pictures and words.

    Three ways: `state`, the mean state at the last position after a layer replaced (a task vector); `heads`, the mean
    results of the k heads of largest effect replaced there (a multimodal task vector); `sum`, what `summed` such heads
    write, added up and added after a layer (a function vector). The layer, or k, is chosen on
    the prompts of the `trial` and judged on others. Right is a next word that is the first word of the answer.

    Units: shares of prompts. Source: Hendel et al. 2023, arXiv 2310.15916; Todd et al. 2023, arXiv 2310.15213; Huang et
    al. 2024, arXiv 2406.15334 (heads by learning; ours by measured effect); Luo et al. 2024, arXiv 2410.22330.

    What it can NOT tell: that the model itself passes a task on in this form (see `task_vector`). A vector that only
    brings the commonest answer is right as often as `chance`, and one of another task on tasks with the same answers is
    right as well: read `right` against both. `kept` is read where the vector is in: nobody would leave it in.

    >>> import cutaway
    >>> from cutaway.questions.tasks import Task, prompts
    >>> model = cutaway.load("tiny:llama")
    >>> shots = prompts(model, ["a dog : red , a cat :"] * 2, ["blue"] * 2)
    >>> alone = prompts(model, ["a dog :", "a cat :"], ["red", "blue"])
    >>> found = task_transfer(model, [Task("colour", "words", shots, alone, alone)], counts=(1, 2), progress=False)
    >>> found["right"].dims, found["accuracy"].sizes["place"]
    (('way', 'task', 'source', 'target'), 3)
    """
    started = time.perf_counter()
    bench = _Bench.of(model, tasks, counts, summed, draws, seed, progress)
    data = bench.judged(progress)
    if others is not None:
        data = data.assign(bench.cost(data, others))
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=bench.sites, seed=seed, counts=list(counts), summed=summed,
        draws=draws, shots=[len(one.shots) for one in tasks],
    )  # fmt: skip
    return Transfer(data, told)


# --- what is run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bench:
    """Every vector, by task and way of telling, and the edits that put it in at each place."""

    model: Model
    tasks: Mapping[Key, Task]
    sites: tuple[str, ...]
    counts: tuple[int, ...]
    states: Mapping[Key, TaskVector]
    heads: Mapping[Key, FunctionVector]
    sums: Mapping[Key, Tensor]
    draws: int
    seed: int

    @classmethod
    def of(
        cls, model: Model, tasks: Sequence[Task], counts: Sequence[int], summed: int, draws: int, seed: int, show: bool
    ) -> _Bench:
        """Make every vector."""
        known = _known(tasks)
        sites, most = tuple(str(site) for site in chosen_sites(model, None)), 0
        states, heads, sums = {}, {}, {}
        for key, task in tracked(known.items(), "making vectors", len(known), show=show):
            states[key] = task_vector(model, task.shots.inputs, sites=sites, progress=False)
            made = function_vector(model, task.shots.inputs, task.trial.inputs, task.trial.answers, progress=False)
            most = made.tensors["effect"].numel()
            heads[key], sums[key] = made, made.vector(model, made.best(min(summed, most)))
        fitting = tuple(dict.fromkeys(min(count, most) for count in counts))
        return cls(model, known, sites, fitting, states, heads, sums, draws, seed)

    @property
    def names(self) -> list[str]:
        """The tasks."""
        return list(dict.fromkeys(name for name, _ in self.tasks))

    @property
    def ways(self) -> list[str]:
        """The ways in which they are told."""
        return list(dict.fromkeys(way for _, way in self.tasks))

    def places(self, way: str) -> list[str]:
        """Where a vector can be put, in words."""
        if way == "heads":
            return [f"{count} heads" for count in self.counts]
        return [f"layer {Site.parse(site).layer}" for site in self.sites]

    def own(self, way: str, key: Key, place: int) -> Cell:
        """The edits that put the vector of a task in at a place."""
        if way == "heads":
            return self.heads[key].replaced(self.heads[key].best(self.counts[place]))
        site = self.sites[place]
        return self.states[key].placed(site) if way == "state" else [Add(site, self.sums[key], token=-1)]

    def strange(self, way: str, key: Key, place: int, draw: int) -> Cell:
        """The same with a random direction as long, or as many heads by chance."""
        dice = torch.Generator().manual_seed(self.seed + 1000 * draw + place)
        if way == "heads":
            return self.heads[key].replaced(self.heads[key].some(self.counts[place], self.seed + draw))
        site = self.sites[place]
        if way == "state":
            return [Set(site, random_directions(self.states[key].tensors[site], 1, dice)[0], token=-1)]
        return [Add(site, random_directions(self.sums[key], 1, dice)[0], token=-1)]

    def right(self, prompts: Prompts, cells: Sequence[Cell]) -> Float[ndarray, "cell"]:
        """The share of right next words under each cell."""
        swept = self.model.sweep(prompts.inputs, cells, FirstWord(), progress=False)
        return np.asarray((swept.values.values.round() == np.array(prompts.answers)).mean(1))

    def plain(self, prompts: Prompts | None) -> float:
        """The same without an edit."""
        if prompts is None:
            return float("nan")
        said = FirstWord()(self.model.run(prompts.inputs)).cpu().numpy()
        return float((said == np.array(prompts.answers)).mean())

    def judged(self, show: bool) -> xarray.Dataset:
        """Every vector on every task's prompts: where it is put is decided on the trial, and judged on the others."""
        names, ways, deep = self.names, self.ways, max(len(self.places(way)) for way in WAYS)
        size = (len(WAYS), len(names), len(ways))
        every = np.full((*size, len(names), len(ways), deep), np.nan)
        tried, chance = np.full((*size, len(ways), deep), np.nan), np.full((*size, len(ways), deep, self.draws), np.nan)
        for key, task in tracked(self.tasks.items(), "judging", len(self.tasks), show=show):
            at, there = names.index(key[0]), ways.index(key[1])
            cells = {where: self.own(*where) for where in self._everywhere()}
            found = dict(zip(cells, self.right(task.alone, list(cells.values())), strict=True))
            for (way, (name, source), place), share in found.items():
                spot = WAYS.index(way), names.index(name), ways.index(source)
                every[(*spot, at, there, place)] = share
            mine = {where: cell for where, cell in cells.items() if where[1][0] == key[0]}
            for (way, (_, source), place), share in zip(mine, self.right(task.trial, list(mine.values())), strict=True):
                tried[WAYS.index(way), at, ways.index(source), there, place] = share
            lost = [(where, draw) for where in mine for draw in range(self.draws)]
            shares = self.right(task.alone, [self.strange(*where, draw) for where, draw in lost])
            for ((way, (_, source), place), draw), share in zip(lost, shares, strict=True):
                chance[WAYS.index(way), at, ways.index(source), there, place, draw] = share
        return self._table(every, tried, chance)

    def _everywhere(self) -> Iterator[tuple[str, Key, int]]:
        for way in WAYS:
            for key in self.tasks:
                yield from ((way, key, place) for place in range(len(self.places(way))))

    def _table(self, every: ndarray, tried: ndarray, chance: ndarray) -> xarray.Dataset:
        """What is kept: at the place that was best in the trial (the first of equals), and beside it."""
        names, ways, deep = self.names, self.ways, every.shape[-1]
        place = np.where(np.isnan(tried), -1.0, tried).argmax(-1)
        dims = ("way", "task", "source", "target")
        labelled = [[*self.places(way), *[""] * (deep - len(self.places(way)))] for way in WAYS]
        data = xarray.Dataset(
            {"accuracy": (("way", "given", "source", "task", "target", "place"), every), "at": (dims, place),
             "trial": ((*dims, "place"), tried), "places": (("way", "place"), labelled)},
            coords={"way": list(WAYS), "task": names, "given": names, "source": ways, "target": ways},
        )  # fmt: skip
        at = data["at"]
        data["right"] = _own(data["accuracy"]).isel(place=at)
        strangers = data["accuracy"].where(data["given"] != data["task"]).mean("given")
        data["other"] = strangers.isel(place=at).transpose(*dims)
        by_chance = xarray.DataArray(chance, dims=(*dims, "place", "draw")).isel(place=at)
        data["random"], data["random_high"] = by_chance.mean("draw"), by_chance.max("draw")
        n = min(len(task.alone) for task in self.tasks.values())
        bounds = [wilson(float(share), n) for share in data["right"].values.flat]
        for side, name in enumerate(("low", "high")):
            data[name] = dims, np.reshape([bound[side] for bound in bounds], data["right"].shape)
        parts: dict[str, Any] = {part: np.full((len(names), len(ways)), np.nan) for part in BESIDE}
        for (name, way), task in self.tasks.items():
            spot = names.index(name), ways.index(way)
            for part in ("alone", "asked", "shown"):
                parts[part][spot] = self.plain(getattr(task, part))
            parts["chance"][spot] = max(Counter(task.alone.answers).values()) / len(task.alone)
        return data.assign({part: (("task", "target"), values) for part, values in parts.items()}).assign(n=n)

    def cost(self, data: xarray.Dataset, others: Prompts) -> dict[str, Any]:
        """Right answers to other questions, with each vector in at the place chosen for its own way of telling."""
        cells: list[Cell] = []
        for way in WAYS:
            for name in self.names:
                for source in self.ways:
                    place = int(data["at"].sel(way=way, task=name, source=source, target=source))
                    where = way, (name, source), place
                    cells += [self.own(*where), *(self.strange(*where, draw) for draw in range(self.draws))]
        shares = self.right(others, cells).reshape(len(WAYS), len(self.names), len(self.ways), -1)
        dims = ("way", "task", "source")
        return {"kept": (dims, shares[..., 0]), "random_kept": (dims, shares[..., 1:].mean(-1)),
                "others": ((), self.plain(others))}  # fmt: skip


def _own(accuracy: xarray.DataArray) -> xarray.DataArray:
    """Of vectors of all tasks on all tasks, each on its own."""
    own = xarray.concat([accuracy.sel(given=name, task=name, drop=True) for name in accuracy["task"].values], "task")
    own = own.assign_coords(task=accuracy["task"])
    return own.transpose(*(dim for dim in ("way", "task", "source", "target", "place") if dim in own.dims))


def _known(tasks: Sequence[Task]) -> dict[Key, Task]:
    """The tasks by name and way; an error unless each is told in every way."""
    known = {(task.name, task.way): task for task in tasks}
    names, ways = ({key[i] for key in known} for i in range(2))
    if not known or len(known) != len(tasks) or len(known) != len(names) * len(ways):
        raise MethodError(
            f"{len(tasks)} tasks do not make a table", expected="each task once in every way of telling, one at least",
            exists=", ".join(map(repr, tasks[:5])) or "none", do="`cutaway.questions.tasks.emoji_tasks` makes some",
        )  # fmt: skip
    return known
