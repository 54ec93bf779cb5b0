"""How long a job will take on more workers than there are: from chunks that were timed, and what starting costs."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from cutaway.errors import MethodError


@dataclass(frozen=True)
class Forecast:
    """Seconds on the wall with so many workers, and `speedup`, how many times faster than one worker without a start.

    `least` of these seconds no number of workers takes away: the start, and the longest chunk.
    """

    workers: int
    seconds: float
    speedup: float
    least: float

    def __repr__(self) -> str:
        return (
            f"{self.workers} workers: {self.seconds:.3g} s, {self.speedup:.3g} times as fast as one; "
            f"{self.least:.3g} s of it whatever their number"
        )


def forecast(chunks: Sequence[float], workers: int, *, start: float = 0.0, turn: float = 0.0) -> Forecast:
    """The seconds of a job whose `chunks` take so long each: the longest first, each to the worker that is free first.

    T(n) = start + max(turn × chunks, M(n)), M(n) the end of the last worker, between sum / n and sum / n + longest.
    `start`: until a worker has Python, the model and its clean run, all at once; `turn`: what this process takes to
    give a chunk out and take its values in, one after another. Units: seconds. The rule is list scheduling, longest
    first (Graham 1969), which is what `jobs.sweep` does.

    What it can NOT tell: whether chunks take as long beside others (workers of one machine share its memory, its
    caches and its disk), whether weights come as fast to many nodes as to one, and what a worker that dies costs.

    >>> forecast([1.0] * 128, 64, start=10.0)
    64 workers: 12 s, 10.7 times as fast as one; 11 s of it whatever their number
    """
    if workers < 1 or not len(chunks) or min(chunks) < 0 or start < 0 or turn < 0:
        raise MethodError("no time to tell", expected="a worker, a chunk, and times from 0 on", do="time some chunks")
    ends = [0.0] * workers
    for taken in sorted(chunks, reverse=True):
        heapq.heappush(ends, heapq.heappop(ends) + taken)
    seconds = start + max(turn * len(chunks), *ends)
    return Forecast(workers, seconds, sum(chunks) / seconds if seconds else 1.0, start + max(chunks))
