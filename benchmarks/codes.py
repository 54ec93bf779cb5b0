"""What dictionaries find of planted codes: the tables of docs/dictionary-measures.md.

python benchmarks/codes.py [PRESET ...] [--architectures topk …] [--seeds N] [--steps N] [--items N] [--scored N]
    [--workers N]

Every architecture is trained on the same rows with several seeds, as many features as there are and k as sparse as the
code is; `modal` is a batch_topk whose features are a third each for both kinds of rows, pictures alone, texts alone.
Beside them the same before training, random directions, neurons, the true directions and an oracle.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cutaway import jobs
from cutaway.bench.code_scores import CodeScores, code_scores
from cutaway.bench.codes import SITE, planted_codes
from cutaway.methods.sparse_autoencoders.beginning import untrained
from cutaway.methods.sparse_autoencoders.shape import modal
from cutaway.methods.sparse_autoencoders.training import train
from cutaway.model.dictionary import Dictionary
from cutaway.model.model import Model
from cutaway.source import Source

EVERY = ("relu", "topk", "batch_topk", "jumprelu", "gated", "matryoshka", "archetypal")
PRICES = {"relu": 4.0, "jumprelu": 60.0, "gated": 6.0}  # what a feature costs, where k does not say how many


def main() -> None:
    """Print a table for each preset."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("presets", nargs="*", default=["small", "small-modalities"])
    options.add_argument("--architectures", nargs="*", default=list(EVERY))
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--items", type=int, default=2**16, help="of which the rows for training are")
    options.add_argument("--scored", type=int, default=2**14, help="items on which all are scored")
    options.add_argument("--k", type=int, default=0, help="features on in a row; 0: as many as in the code, rounded")
    options.add_argument("--prices", nargs="*", default=[], help="as relu=1.0")
    options.add_argument("--workers", type=int, default=0, help="so many processes of a Ray; 0: this one")
    chosen = options.parse_args()
    prices = {**PRICES, **{name: float(x) for name, x in (one.split("=") for one in chosen.prices)}}
    for preset in chosen.presets:
        codes = planted_codes(preset)
        names = [*chosen.architectures, *(["modal"] if codes.modalities else [])]
        began, k = time.perf_counter(), chosen.k or round(codes.l0)
        work = Trainings(preset, tuple(names), k, chosen.seeds, chosen.steps, chosen.items, prices)
        done = dict(jobs.run(work, range(len(work)), Source("tiny:clip"), workers=chosen.workers, progress=False))
        made = {name: [done[at] for at in range(len(work)) if work.what(at)[0] == name] for name in names}
        took = time.perf_counter() - began
        floor = [untrained("topk", SITE, codes.d, width=codes.features, k=k, seed=n)
                 for n in range(chosen.seeds)]  # fmt: skip
        found = code_scores(codes, made, untrained=floor, items=chosen.scored, seeds=chosen.seeds, progress=False)
        print(f"\n## {preset}: {codes.features} features in {codes.d} dimensions, k {k} (on in a row: {codes.l0:.1f}); "
              f"{chosen.steps} steps, {chosen.seeds} seeds, {took:.0f} s of training\n")  # fmt: skip
        print_table(found)


@dataclass(frozen=True)
class Trainings:
    """Dictionaries of planted rows, one a name and seed: work that asks nothing of its model."""

    preset: str
    names: tuple[str, ...]
    k: int
    seeds: int
    steps: int
    items: int
    prices: dict[str, float]
    begun: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.names) * self.seeds

    def what(self, chunk: int) -> tuple[str, int]:
        """The name and the seed of a chunk."""
        return self.names[chunk // self.seeds], chunk % self.seeds

    def do(self, _: Model, chunk: int) -> Dictionary:
        """The dictionary of one name and seed."""
        codes, (name, seed) = planted_codes(self.preset), self.what(chunk)
        if not self.begun:
            parts = list(codes.rows(self.items))
            self.begun.append((torch.cat([one.seen.x for one in parts]), torch.cat([one.seen.kind for one in parts])))
        (rows, kind), third = self.begun[0], codes.features // 3
        own = {"groups": modal(codes.features - 2 * third, third, third)} if name == "modal" else {}
        price = {"price": self.prices[name]} if name in self.prices else {}
        return train(
            rows, SITE, "batch_topk" if name == "modal" else name, width=codes.features, k=self.k,
            kind=kind if codes.modalities else None, steps=self.steps, seed=seed, progress=False, **own, **price,
        ).dictionary  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "begun": []}


def print_table(found: CodeScores) -> None:
    """As Markdown."""
    table = found.summary()
    print("| " + " | ".join(table.columns) + " |\n|---" + "|--:" * (len(table.columns) - 1) + "|")
    for row in table.itertuples(index=False):
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
