"""Tasks told by example as vectors, in `zoo:emoji-llava`: the tables of docs/task-vectors.md.

python benchmarks/task_vectors.py [--many N] [--draws N] [--seeds 0 1] [--untrained]

For each seed other prompts, other random directions. `--untrained`: the model before training.
"""

from __future__ import annotations

import time

from timing import BEFORE, seeded

import cutaway
from cutaway.methods import task_transfer
from cutaway.questions.tasks import emoji_questions, emoji_tasks


def main() -> None:
    """Print what is found for each seed."""
    given = seeded(__doc__, 24, "prompts of each kind", untrained=BEFORE,
                   draws=(4, "random directions beside each vector")).parse_args()  # fmt: skip
    name = "zoo:emoji-llava" + "@untrained" * given.untrained
    model = cutaway.load(name)
    for seed in given.seeds:
        started = time.perf_counter()
        tasks = emoji_tasks(model, many=given.many, seed=seed)
        others = emoji_questions(model, 3 * given.many, seed=seed)
        found = task_transfer(model, tasks, others=others, draws=given.draws, seed=seed, progress=False)
        print(f"\n{name}, seed {seed}: {given.many} prompts of each kind, {time.perf_counter() - started:.0f} s")
        print(found.note())
        print(found.summary().round(3).to_string(index=False))
        for way in found["way"].values:
            print(f"\nby task, {way}")
            print(found.by_task(way).round(2).to_string(index=False))
        print("\nstate, by layer (mean over tasks)")
        own = found["accuracy"].sel(way="state")
        names = [str(one) for one in own["task"].values]
        for source in own["source"].values:
            for target in own["target"].values:
                line = sum(own.sel(given=one, task=one, source=source, target=target).values for one in names)
                print(f"  {source} -> {target}", (line / len(names)).round(2).tolist())
        print("\nwhere it was put:")
        for way in found["way"].values:
            said = found["places"].sel(way=way).values
            print(way, {str(one): int(n) for one, n in zip(said, _counts(found, way, len(said)), strict=True) if one})


def _counts(found: object, way: str, size: int) -> list[int]:
    """How often each place was chosen."""
    chosen = found["at"].sel(way=way).values.ravel().tolist()  # type: ignore[index]
    return [chosen.count(place) for place in range(size)]


if __name__ == "__main__":
    main()
