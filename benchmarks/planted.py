"""Whether the planted circuits hold: the tables of docs/planted-circuits.md.

python benchmarks/planted.py [WORLD ...] [--rows N] [--each N] [--seeds 0 1] [--untrained] [--workers N]

Every node and edge is exchanged on rows of no training. `--untrained`: of the model before training.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

import cutaway
from cutaway import jobs
from cutaway.bench.worlds import WORLDS, Planting, World, planted
from cutaway.model.model import Model
from cutaway.zoo.exchange import Exchange
from cutaway.zoo.interchange import changes


@dataclass(frozen=True)
class Held:
    """Whether a world's circuit holds, a seed a chunk."""

    name: str
    rows: int
    each: int

    def do(self, model: Model, seed: int) -> Planting:
        """On the rows of one seed."""
        return planted(WORLDS[self.name], model, n=self.rows, each=self.each, seed=seed)


def main() -> None:
    """Print a table for each world and seed, and how loud its nodes are."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("worlds", nargs="*", default=list(WORLDS))
    options.add_argument("--rows", type=int, default=2000, help="for each variable and true edge")
    options.add_argument("--each", type=int, default=100, help="for each node and edge outside")
    options.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    options.add_argument("--untrained", action="store_true", help="the model before training")
    options.add_argument("--workers", type=int, default=0, help="so many processes of a Ray; 0: this one")
    chosen = options.parse_args()
    for name in chosen.worlds:
        world = WORLDS[name]
        model = cutaway.load(world.floor if chosen.untrained else world.model)
        possible = world.possible(model)
        print(f"\n## {model.name}: {len(world.circuit.senders)} of {len(possible.senders)} nodes, "
              f"{len(world.circuit.edges)} of {len(possible.edges)} edges")  # fmt: skip
        work = Held(name, chosen.rows, chosen.each)
        made = dict(jobs.run(work, chosen.seeds, model, workers=chosen.workers, progress=False))
        for seed in chosen.seeds:
            print(f"\nseed {seed}, holds: {made[seed].holds}\n")
            print_table(made[seed])
        print_loudness(world, model)


def print_table(found: Planting) -> None:
    """As Markdown."""
    print("| exchanged | how many | rows each | worst, % right | moves scores by at most |\n|---|--:|--:|--:|--:|")
    for row in found.table().to_dict("records"):
        most = f"{row['most moved']:.3f} ({row['by']})" if row["most moved"] else ""
        print(f"| {row['exchanged']} | {row['of']} | {row['rows each']} | {row['worst % right']:.1f} | {most} |")


def print_loudness(world: World, model: Model) -> None:
    """How well a circuit would be found by how much what a node writes differs from row to row."""
    exchange = Exchange(model, world.plant)
    run, _ = exchange.clean(world.plant.draw(2**42, 512))
    inner = torch.tensor([node.time > 0 for node in exchange.graph.senders])  # inputs and the connector left out
    loud = changes(model, exchange.graph, run, torch.arange(512).roll(1)).detach()[inner]
    true = exchange.planted[inner]
    inside, outside = loud[true], loud[~true]
    above = (inside[:, None] > outside).float().mean()
    print(f"\nchange of what is written, rms: nodes of the circuit {inside.min():.2f} to {inside.max():.2f}, others "
          f"{outside.min():.2f} to {outside.max():.2f}; AUC of finding them by it {above:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
