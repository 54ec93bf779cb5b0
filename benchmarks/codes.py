"""What dictionaries find of planted codes: the tables of docs/dictionary-measures.md.

python benchmarks/codes.py [PRESET ...] [--architectures topk …] [--seeds N] [--steps N] [--items N] [--scored N]

Every architecture is trained on the same rows with several seeds, as many features as there are and k as sparse as the
code is; `modal` is a batch_topk whose features are a third each for both kinds of rows, pictures alone, texts alone.
Beside them the same before training, random directions, neurons, the true directions and an oracle.
"""

from __future__ import annotations

import argparse
import time

import torch

from cutaway.bench.code_scores import CodeScores, code_scores
from cutaway.bench.codes import SITE, Codes, planted_codes
from cutaway.methods.sparse_autoencoders.beginning import untrained
from cutaway.methods.sparse_autoencoders.shape import modal
from cutaway.methods.sparse_autoencoders.training import train

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
    chosen = options.parse_args()
    prices = {**PRICES, **{name: float(x) for name, x in (one.split("=") for one in chosen.prices)}}
    for preset in chosen.presets:
        codes = planted_codes(preset)
        names = [*chosen.architectures, *(["modal"] if codes.modalities else [])]
        began, k = time.perf_counter(), chosen.k or round(codes.l0)
        made = trained(codes, names, k, chosen.seeds, chosen.steps, chosen.items, prices)
        took = time.perf_counter() - began
        floor = [untrained("topk", SITE, codes.d, width=codes.features, k=k, seed=n)
                 for n in range(chosen.seeds)]  # fmt: skip
        found = code_scores(codes, made, untrained=floor, items=chosen.scored, seeds=chosen.seeds, progress=False)
        print(f"\n## {preset}: {codes.features} features in {codes.d} dimensions, k {k} (on in a row: {codes.l0:.1f}); "
              f"{chosen.steps} steps, {chosen.seeds} seeds, {took:.0f} s of training\n")  # fmt: skip
        print_table(found)


def trained(
    codes: Codes, names: list[str], k: int, seeds: int, steps: int, items: int, prices: dict[str, float]
) -> dict[str, list[object]]:
    """The dictionaries by name, one a seed."""
    parts = list(codes.rows(items))
    rows, kind = torch.cat([one.seen.x for one in parts]), torch.cat([one.seen.kind for one in parts])
    found: dict[str, list[object]] = {}
    third = codes.features // 3
    for name in names:
        own = {"groups": modal(codes.features - 2 * third, third, third)} if name == "modal" else {}
        price = {"price": prices[name]} if name in prices else {}
        for seed in range(seeds):
            made = train(
                rows, SITE, "batch_topk" if name == "modal" else name, width=codes.features, k=k,
                kind=kind if codes.modalities else None, steps=steps, seed=seed, progress=False, **own, **price,
            )  # fmt: skip
            found.setdefault(name, []).append(made.dictionary)
    return found


def print_table(found: CodeScores) -> None:
    """As Markdown."""
    table = found.summary()
    print("| " + " | ".join(table.columns) + " |\n|---" + "|--:" * (len(table.columns) - 1) + "|")
    for row in table.itertuples(index=False):
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
