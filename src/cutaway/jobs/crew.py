"""Workers, and what they are given: one chunk at a time to each, every chunk done once."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import torch

from cutaway.errors import MethodError
from cutaway.jobs.cluster import counted, reached
from cutaway.jobs.job import Work, done
from cutaway.jobs.worker import WORK, Opening, Worker, on_gpu, sent
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.questions.rows import tracked
from cutaway.source import Source

R = TypeVar("R")
AGAIN = 2  # how often a chunk is done again whose worker died


class Crew:
    """Workers with a model each, for one job after another; without actors, this process itself. Made by `crew`."""

    def __init__(self, model: Model | Source, actors: Sequence[Any] = ()) -> None:
        self.model, self.actors = model, tuple(actors)

    @cached_property
    def here(self) -> Model:
        """The model of this process."""
        return self.model if isinstance(self.model, Model) else load(self.model)

    def run(
        self, work: Work[R], chunks: Sequence[int], *, progress: bool = True, what: str = "running"
    ) -> Iterator[tuple[int, R]]:
        """As `jobs.run`, with these workers."""
        if self.actors:
            self._check()
        made = self._spread(work, chunks) if self.actors else ((one, done(work, self.here, one)) for one in chunks)
        return tracked(made, what, len(chunks), show=progress)

    def _check(self) -> None:
        """Refuse what workers would not know of: edits held around, and the precision that this block runs in."""
        kind = self.model.device.type if isinstance(self.model, Model) else "cpu"
        held = isinstance(self.model, Model) and self.model.engine.held is not None
        if held or torch.is_autocast_enabled(kind):
            raise MethodError(
                "edits are held around this (`model.edited`)" if held else "this block runs under autocast",
                expected="a model as it is: its workers open it by themselves", do="do it outside, or take `workers=0`",
            )  # fmt: skip

    def _spread(self, work: Work[R], chunks: Sequence[int]) -> Iterator[tuple[int, R]]:
        """A chunk to each worker that is free; Ray begins a worker anew that died, and its chunk."""
        import ray

        job, held = uuid.uuid4().hex, [sent(work, WORK)]
        todo, free = deque(chunks), list(self.actors)
        busy: dict[Any, tuple[Any, int]] = {}

        def give() -> None:
            while todo and free:
                actor, chunk = free.pop(), todo.popleft()
                busy[actor.do.remote(job, held, chunk)] = actor, chunk

        give()
        while busy:
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            actor, chunk = busy.pop(ready)
            found = _got(ready, chunk)
            free.append(actor)
            give()
            yield chunk, found


Workers = int | str | Crew


@contextmanager
def crew(model: Model | Source, workers: Workers) -> Iterator[Crew]:
    """Workers for several jobs on one model: they are started once and open it once. Arguments are those of `run`.

    >>> import cutaway
    >>> with crew(cutaway.load("tiny:llama"), 0) as here:
    ...     len(here.actors)
    0
    """
    if isinstance(workers, Crew):
        if workers.model is not model:
            raise MethodError("these workers have another model", do="make a crew of this one (`jobs.crew`)")
        yield workers
        return
    workers = counted(workers)
    if workers == 0:
        yield Crew(model)
        return
    with reached(workers, on_gpu(model)) as layout:
        import ray

        takes = {"num_cpus": layout.cpus, "num_gpus": layout.gpus, "max_restarts": -1, "max_task_retries": AGAIN}
        kind, opening = ray.remote(Worker).options(**takes), Opening.of(model)
        actors = [kind.remote(opening, layout.threads) for _ in range(layout.workers)]
        try:
            yield Crew(model, actors)
        finally:
            for actor in actors:
                ray.kill(actor)


def run(
    work: Work[R],
    chunks: Sequence[int],
    model: Model | Source,
    *,
    workers: Workers = 0,
    progress: bool = True,
    what: str = "running",
) -> Iterator[tuple[int, R]]:
    """Each chunk of a job with what it gives, once each, as they are done.

    `workers`: 0 works here, in order; n in n processes of a Ray that is started for it; `"ray://HOST:10001"` or
    `"auto"` on a cluster, one worker a GPU, or a node for a model on the CPU (`"…#8"` takes 8); a `Crew` that is there.
    A worker opens the model by its name and checks that it is this one by content; a module without a name is sent
    whole. It has its share of the threads of this process, on a cluster of the processors. A worker that dies is begun
    anew and its chunk done again. What the work raises is raised here as what it is. Chunks give the same whoever
    does them, where processors and threads are alike: other kernels, and other numbers of threads, add up in another
    order. Raises MethodError where Ray is not there, where edits are held around, where a chunk ends its worker again.

    >>> from dataclasses import dataclass
    >>> import cutaway
    >>> @dataclass(frozen=True)
    ... class Length:
    ...     texts: tuple[str, ...]
    ...     def do(self, model, chunk):
    ...         return model.inputs(text=self.texts[chunk]).tensors["input_ids"].shape[1]
    >>> dict(run(Length(("a dog", "a red dog")), range(2), cutaway.load("tiny:llama")))
    {0: 3, 1: 4}
    """
    with crew(model, workers) as some:
        yield from some.run(work, chunks, progress=progress, what=what)


def _got(ready: Any, chunk: int) -> Any:
    """What a worker gave; what the work raised, as it raised it."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(ready)
    except RayTaskError as failed:
        raise (failed if failed.cause is None else failed.cause) from failed
    except RayError as died:
        reason = str(died).strip().splitlines() or [type(died).__name__]
        if "serialize" in reason[0].lower():
            raise MethodError(
                f"what chunk {chunk} raised cannot be sent from its worker ({reason[-1].strip()})",
                expected="an exception that pickles", do="run the chunk with `workers=0` to see it",
            ) from died  # fmt: skip
        raise MethodError(
            f"chunk {chunk} ended its worker {AGAIN + 1} times ({reason[0]})",
            expected="a process with room for the model and what is run on it",
            do="take fewer workers, or smaller batches: most often it is the memory",
        ) from died
