"""Train the retrained worlds again: `python scripts/make_retrained.py NAME … --work DIR [--workers N] [--pack]`.

Each world is trained some 150 times, seconds each on one core, by so many workers (docs/jobs.md); what is done lies in
the folder, and a run that was stopped goes on there. `--pack` puts the numbers into the package.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cutaway.bench.retrained.family import Family, learnt
from cutaway.bench.retrained.items import planted
from cutaway.bench.retrained.jobs import MARKS, Job, jobs
from cutaway.bench.retrained.training import train
from cutaway.bench.retrained.world import FAMILIES, shipped
from cutaway.jobs import run
from cutaway.jobs.cluster import counted
from cutaway.model.model import Model
from cutaway.source import Source

LARGE = 100_000  # numbers that learn: of such a model the weights on the way are not kept


class Trainer:
    """One world, with what its frozen parts make of items and its models before training, ready for every job."""

    def __init__(self, family: Family) -> None:
        self.family, self.started = family, dict[int, tuple[Model, dict[str, torch.Tensor]]]()
        given, model = planted(), self.start(0)
        self.ready = family.ready(model, given.items)
        self.known = family.known(model, given.queries, given.reference)

    def start(self, seed: int) -> Model:
        """The model of a seed as it is before training, made once."""
        if seed not in self.started:
            model = self.family.start(seed)
            self.started[seed] = model, copy.deepcopy(self.family.learning(model).state_dict())
        model, state = self.started[seed]
        self.family.learning(model).load_state_dict(state)
        return model

    def done(self, job: Job) -> dict[str, torch.Tensor]:
        """The outcome of a job; of the first also the weights, at the end and on the way."""
        marks = {round(mark * self.family.recipe.steps): index for index, mark in enumerate(MARKS)}
        found: dict[str, torch.Tensor] = {}

        def saw(step: int, model: Model) -> None:
            if job.kind == "full" and job.index == 0 and step in marks:
                parts = learnt(self.family.learning(model)).items()
                found.update({f"mark.{marks[step]}.{name}": one.detach().half() for name, one in parts})

        model = train(self.family, self.ready, job.kept, job.seed, self.start(job.seed), saw)
        with torch.no_grad():
            found["outcome"] = self.family.outcome(model, self.known)
        if job.kind == "full" and job.index == 0:
            parts = learnt(self.family.learning(model)).items()
            found |= {f"weight.{name}": one.detach().clone() for name, one in parts}
        return found


@dataclass(frozen=True)
class Trainings:
    """The trainings of a world by their number: work that brings its own models, one trainer in each process."""

    name: str
    begun: list[Trainer] = field(default_factory=list, repr=False)

    def do(self, _: Model, chunk: int) -> dict[str, torch.Tensor]:
        """The outcome of one training."""
        if not self.begun:
            self.begun.append(Trainer(FAMILIES[self.name]))
        return self.begun[0].done([*jobs(planted())][chunk])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "begun": []}


def pack(name: str, work: Path) -> None:
    """One file of all numbers of a world."""
    given = planted()
    files = {job: work / name / f"{job.name}.safetensors" for job in sorted(jobs(given), key=lambda job: job.name)}
    found = {job: load_file(path) for job, path in files.items() if path.exists()}
    kinds: dict[str, list[torch.Tensor]] = {}
    for job, one in found.items():
        kinds.setdefault(job.kind, []).append(one["outcome"])
    numbers = {("outcome" if kind == "subset" else kind): torch.stack(some) for kind, some in kinds.items()}
    numbers["kept"] = torch.stack([job.kept for job in found if job.kind == "subset"]).to(torch.uint8)
    numbers["left"] = torch.tensor([int((~job.kept).nonzero()) for job in found if job.kind == "alone"])
    full = next(one for job, one in found.items() if job.kind == "full")
    few = sum(one.numel() for key, one in full.items() if key.startswith("weight.")) < LARGE
    numbers |= {key: one for key, one in full.items() if key.startswith(("weight.", "mark.") if few else "weight.")}
    shipped(name).parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in numbers.items()}, shipped(name))
    size = shipped(name).stat().st_size / 2**20
    sys.stdout.write(f"{name}: {size:.2f} MiB, {len(found)} of {len(files)} trainings\n")


def main() -> None:
    """Train what is not done yet."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("names", nargs="*", choices=[*FAMILIES, []])
    asked.add_argument("--work", type=Path, required=True, help="where finished trainings are kept")
    asked.add_argument("--workers", default="0", help="so many processes of a Ray; 0: this one")
    asked.add_argument("--pack", action="store_true", help="put finished numbers into the package, train nothing")
    given = asked.parse_args()
    torch.set_num_threads(1)
    for name in given.names or FAMILIES:
        if given.pack:
            pack(name, given.work)
            continue
        folder = given.work / name
        folder.mkdir(parents=True, exist_ok=True)
        every = [*jobs(planted())]
        left = [at for at, job in enumerate(every) if not (folder / f"{job.name}.safetensors").exists()]
        for at, found in run(Trainings(name), left, Source("tiny:clip"), workers=counted(given.workers), what=name):
            made = folder / f"{every[at].name}.new"
            save_file(found, made)
            made.replace(folder / f"{every[at].name}.safetensors")


if __name__ == "__main__":
    main()
