"""Train the dictionaries that come with the package: `python scripts/make_dictionaries.py NAME … --work DIR`.

Each takes a few minutes on one core. Activations go to the folder, and a training that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import cutaway
from cutaway import store
from cutaway.methods.sparse_autoencoders.training import train
from cutaway.zoo.dictionaries import SHIPPED, Shipped, folder_of

SEED = 0


def harvested(one: Shipped, folder: Path) -> store.Store:
    """The activations it learns from: of training scenes; of drawings, of the row with the prompt."""
    model = cutaway.load(one.model)
    asked: dict[str, Any] = {"more": {"steps": one.drawn}} if one.drawn else {}
    scenes = store.Scenes(one.scenes, split="train", seed=SEED, **asked)
    sites = list(dict.fromkeys((one.site, one.stands_for)))
    more: dict[str, Any] = {"guidance": "cond"} if one.drawn else {}
    return store.harvest(model, scenes, sites, folder, dtype="float16", **more)


def made(name: str, work: Path, seed: int = SEED) -> Any:
    """One dictionary, in the precision in which it is kept."""
    one = SHIPPED[name]
    kept = harvested(one, work / f"{one.model.split(':')[1]}-{one.site}")
    found = train(
        kept, one.site, "batch_topk", target=one.target or None, folder=work / f"{name}-{seed}", seed=seed, **one.recipe
    )
    sys.stdout.write(found.log.iloc[[0, len(found.log) // 2, -1]].to_string() + "\n")
    halves = {key: x.half() if x.is_floating_point() else x for key, x in found.dictionary.tensors.items()}
    return replace(found.dictionary, tensors=halves)


def main() -> None:
    """Train and save."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("names", nargs="*", choices=[*SHIPPED, []])
    asked.add_argument("--work", type=Path, required=True)
    given = asked.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in given.names or SHIPPED:
        folder_of(name).parent.mkdir(parents=True, exist_ok=True)
        made(name, given.work).save(folder_of(name), overwrite=True)
        size = sum(file.stat().st_size for file in folder_of(name).iterdir())
        sys.stdout.write(f"{name}: {size / 2**20:.2f} MiB\n")


if __name__ == "__main__":
    main()
