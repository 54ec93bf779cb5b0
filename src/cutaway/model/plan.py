"""The plan of a sweep: which cells run together, from where, over how many positions, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

# suffix: rows of a decoder from a position on, over the clean cache.  tower: rows of one tower, the rest as it was.
# whole: rows of the whole model.  single: one cell at a time, resumed.  plain: one ordinary forward a cell.
Way = Literal["suffix", "tower", "whole", "single", "plain"]

SAID: dict[Way, str] = {
    "suffix": "decoder rows from the edited position on, over the clean key/value cache",
    "tower": "rows of the edited tower; other towers and the layers before the edit are not run again",
    "whole": "rows of the whole model; towers and layers before the edit are not run again",
    "single": "one cell at a time; steps, towers and layers before the edit are not run again",
    "plain": "one ordinary forward a cell",
}
WASTE = 0.2  # share of positions in a chunk that its latest rows compute for nothing, at most
READ = 20  # positions that a layer works on in the time in which its weights are read from memory
SMALL = 96  # positions in a chunk below which waste is cheaper than another chunk


@dataclass(frozen=True)
class Need:
    """What one cell needs: the way to run it, since when, from which position, what it costs at least (FLOPs).

    `positions` are those of all its rows, where it may share a forward with cells that begin in other layers; else 0.
    """

    way: Way
    tower: str = ""
    since: int = -1
    start: int = 0
    flops: float = 0.0
    positions: int = 0
    why: str = ""


@dataclass(frozen=True)
class Chunk:
    """Cells that share one forward: `since` and `start` are the earliest of theirs."""

    way: Way
    tower: str
    since: int
    start: int
    cells: tuple[int, ...]
    flops: float


@dataclass(frozen=True)
class Plan:
    """All chunks of a sweep; prints as a table."""

    chunks: tuple[Chunk, ...]
    needs: tuple[Need, ...]
    forward: float
    kept: int
    rows: int
    positions: int
    reasons: tuple[str, ...] = field(default=())

    @property
    def flops(self) -> float:
        """What the plan computes."""
        return self.forward + sum(chunk.flops for chunk in self.chunks)

    @property
    def least(self) -> float:
        """What each edit can reach and the target may read, cell by cell."""
        return sum(need.flops for need in self.needs)

    @property
    def plain(self) -> float:
        """What one forward a cell computes."""
        return self.forward * len(self.needs)

    def __repr__(self) -> str:
        ways = list(dict.fromkeys(chunk.way for chunk in self.chunks))
        lines = [f"{len(self.needs)} cells × {self.rows} rows in {len(self.chunks)} forwards"]
        for way in ways:
            mine = [chunk for chunk in self.chunks if chunk.way == way]
            cells = sum(len(chunk.cells) for chunk in mine)
            line = f"  {way}: {cells} cells in {len(mine)} forwards; {SAID[way]}"
            if way == "suffix":
                starts = [chunk.start for chunk in mine]
                line += f"; from position {min(starts)} to {max(starts)} of {self.positions}"
            lines.append(line)
        lines += [f"  {reason}" for reason in self.reasons]
        planned, plain, least = (f"{count / 1e9:.3g}" for count in (self.flops, self.plain, self.least))
        lines.append(f"  counted, not timed: {planned} GFLOPs, of at least {least}; one forward a cell: {plain} GFLOPs")
        lines.append(f"  {self.kept / 2**20:.3g} MiB kept of the clean run")
        return "\n".join(lines)


Group = tuple[Need, tuple[int, ...]]


def chunked(needs: Sequence[Need], positions: int, most: dict[Way, int]) -> list[Group]:
    """Group cells by way, tower and layer, neighbours in position together, at most `most[way]` in a group.

    Rows that start later than their group compute positions for nothing: a group closes when these would be more
    than `WASTE` of it, unless it is small. Groups of several layers are put together where that is faster. Returns the
    earliest need of each group with its cells.
    """
    groups: dict[tuple[Way, str, int], list[int]] = {}
    for i, need in enumerate(needs):
        groups.setdefault((need.way, need.tower, need.since), []).append(i)
    found: list[Group] = []
    for (way, _, _), members in groups.items():
        members.sort(key=lambda i: needs[i].start)
        chunk: list[int] = []
        for i in members:
            length = positions - needs[chunk[0]].start if chunk else 0
            used = sum(positions - needs[j].start for j in (*chunk, i))
            rows = len(chunk) + 1
            wasteful = way == "suffix" and chunk and rows * length > SMALL and used < (1 - WASTE) * rows * length
            if chunk and (rows > most[way] or wasteful):
                found.append((needs[chunk[0]], tuple(chunk)))
                chunk = []
            chunk.append(i)
        if chunk:
            found.append((needs[chunk[0]], tuple(chunk)))
    alike: dict[tuple[Way, str, int, int], list[Group]] = {}
    for group in found:
        need = group[0]
        alike.setdefault((need.way, need.tower, need.start, need.positions), []).append(group)
    return [one for some in alike.values() for one in _joined(some, most[some[0][0].way])]


def _joined(groups: list[Group], most: int) -> list[Group]:
    """Groups of cells that start at one position, in the order of their layers, cut into runs that share a forward.

    Cells of later layers then go through earlier ones for nothing, but the weights of each layer are read once for all.
    A run takes about f (n + READ / p) for n cells of p positions each, f the FLOPs of the earliest: the cut is the one
    for which the sum is least.
    """
    groups = sorted(groups, key=lambda group: group[0].since)
    positions = groups[0][0].positions
    if not positions:
        return groups
    best, cuts = [0.0], [0]
    for stop in range(1, len(groups) + 1):
        cells, least = 0, (float("inf"), stop - 1)
        for start in range(stop - 1, -1, -1):
            cells += len(groups[start][1])
            taken = groups[start][0].flops * (cells + READ / positions)
            if start < stop - 1 and (cells > most or taken >= least[0]):
                break
            least = min(least, (best[start] + taken, start))
        best.append(least[0])
        cuts.append(least[1])
    found, stop = [], len(groups)
    while stop:
        run, stop = groups[cuts[stop] : stop], cuts[stop]
        found.append((run[0][0], tuple(cell for _, cells in run for cell in cells)))
    return found[::-1]
