"""How many scenes a second EmojiWorld draws: python benchmarks/scenes.py [--size 64] [--n 20000] [--processes 1 2].

"cold" draws the first scenes of a process, in which every drawing is still to be resized; "warm" the same ones again.
"training" is what a training loop gets after its first two epochs of n: new scenes, their pictures and captions.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor

from cutaway import data

BATCH = 256


def measure(size: int, n: int, seed: int) -> dict[str, float]:
    """Scenes a second of one process."""
    world = data.World(canvas=(size, size))
    data.concepts()
    rates = {}
    start = time.perf_counter()
    drawn = list(data.scenes("train", n, seed, world))
    rates["scenes"] = n / (time.perf_counter() - start)
    for name in ("cold", "warm"):
        start = time.perf_counter()
        for first in range(0, n, BATCH):
            data.pictures(drawn[first : first + BATCH])
        rates[name] = n / (time.perf_counter() - start)
    start = time.perf_counter()
    for scene in drawn:
        data.caption(scene, scene.seed)
    rates["captions"] = n / (time.perf_counter() - start)
    train(range(n, 2 * n), seed, world)
    start = time.perf_counter()
    train(range(2 * n, 3 * n), seed, world)
    rates["training"] = n / (time.perf_counter() - start)
    return rates


def train(numbers: range, seed: int, world: data.World) -> None:
    """What a training loop asks of the data."""
    for first in range(numbers.start, numbers.stop, BATCH):
        fresh = [data.scene_at("train", index, seed, world) for index in range(first, min(first + BATCH, numbers.stop))]
        data.pictures(fresh)
        for scene in fresh:
            data.caption(scene, scene.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    for processes in args.processes:
        with ProcessPoolExecutor(processes) as pool:
            runs = list(pool.map(measure, [args.size] * processes, [args.n] * processes, range(processes)))
        total = {name: sum(run[name] for run in runs) for name in runs[0]}
        print(f"{processes} process(es), {args.size} px, scenes a second:")
        print("  " + "  ".join(f"{name} {rate:,.0f}" for name, rate in total.items()))


if __name__ == "__main__":
    main()
