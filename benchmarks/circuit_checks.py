"""Whether planted circuits are complete and minimal: the table of docs/circuits.md.

    python benchmarks/circuit_checks.py [WORLD ...] [--pairs N] [--seeds 0 1]

`apart`: by how much f of what is left of the circuit and of the model differ at most, whatever part is cut from both;
by chance: as many edges in its place. `left`: what the model keeps without the circuit. `least loss`: of its edges.
`bar`: what 95 % of edges by chance change f by less than, when they are added.
"""

from __future__ import annotations

import argparse

import cutaway
from cutaway.bench.worlds import WORLDS
from cutaway.methods import completeness, minimality

HEAD = "| model | seed | edges | apart | by chance | left | least loss | needed | bar |"


def main() -> None:
    """Print a row for each model, before training and after, each side and seed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("worlds", nargs="*", default=list(WORLDS))
    options.add_argument("--pairs", type=int, default=32)
    options.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    chosen = options.parse_args()
    print(HEAD + "\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in chosen.worlds:
        world = WORLDS[name]
        for side in world.sides:
            for opened in (world.model, world.floor):
                for seed in chosen.seeds:
                    model = cutaway.load(opened)
                    given = world.pairs(chosen.pairs, seed, tower=side, model=model)
                    circuit = world.shown(side)
                    whole = completeness(model, *given, circuit=circuit, seed=seed, progress=False)
                    each = minimality(model, *given, circuit=circuit, seed=seed, progress=False)
                    left = float(whole["model"].sel(cut=1.0).mean())
                    print(
                        f"| {opened} {side if len(world.sides) > 1 else ''} | {seed} | {len(circuit.edges)} | "
                        f"{whole.incompleteness:.4f} | {float(whole['chance'].mean()):.2f} | {left:.4f} | "
                        f"{float(each['loss'].min()):.3f} | {int(each.needed.sum())} | {each.bar:.4f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
