"""Pictures made for units: python benchmarks/visions.py [--units 8] [--steps 96] [--part units words led said …].

Prints the tables of docs/feature-visualisation.md: how large a unit becomes in a picture that was made for it, beside
the best of a data set and pictures with its spectrum by chance; what a judge names in pictures that were made for a
word; drawings led by the same numbers; pictures made for a sentence. Trained and untrained, two seeds. `--strip DIR`
writes the pictures of the page.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import cutaway
from cutaway import data
from cutaway.data.prompts import DRAWABLE
from cutaway.methods import drawing_visualisation, feature_visualisation
from cutaway.methods.feature_visualisation import Visions
from cutaway.model.targets import answer, similarity
from cutaway.report.findings_made import called, ranked, words

CLIP, LLAVA, DRAWS = "zoo:emoji-clip", "zoo:emoji-llava", "zoo:emoji-sd"
SITES = {CLIP: "vision.4.mlp.post", LLAVA: "text.3.mlp.post"}
WAYS: tuple[str, ...] = ("pixel", "fourier", "maco")
SEEDS: tuple[int, ...] = (0, 1)
PICTURE = data.render(data.scene_at("test", 3))


def inputs_of(model: cutaway.Model, texts: list[str] | None = None) -> cutaway.model.inputs.Inputs:
    """One picture, with what a model that answers is asked."""
    asked = model.family.kind == "generative"
    return model.inputs(image=PICTURE, text=texts or ("What does the picture show?" if asked else None))


def like(one: Visions, other: Visions) -> tuple[float, float]:
    """The cosine of the pictures of one unit from two seeds, and that of pictures of two units, less their means."""
    flat = [x["picture"].values.reshape(x.data.sizes["unit"], -1).astype(float) for x in (one, other)]
    flat = [x - x.mean(0) for x in flat]
    flat = [x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-9) for x in flat]
    cosine = flat[0] @ flat[1].T
    apart = ~np.eye(len(cosine), dtype=bool)
    return float(cosine.diagonal().mean()), float(cosine[apart].mean())


def units(many: int, steps: int) -> None:
    """How large units become, by each way, trained and untrained."""
    print(f"\n## {many} units by chance, {steps} steps; z over 64 scenes, medians over units")
    print("| model | seed | pixel | fourier | maco | best scene | by chance | one unit, two seeds | two units |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, site in SITES.items():
        for opened in (name, f"{name}@untrained"):
            model, first = cutaway.load(opened), None
            inputs, width = inputs_of(model), model.sites.one(site).sizes["d_mlp"]
            chosen = np.random.default_rng(0).choice(width, many, replace=False).tolist()
            for seed in SEEDS:
                z = {}
                for by in WAYS:
                    found = feature_visualisation(
                        model, inputs, site=site, units=chosen, by=by, steps=steps, seed=seed, progress=False
                    )
                    z[by] = found.scores().median("unit")
                same = ("", "") if first is None else tuple(f"{one:.2f}" for one in like(first, found))
                first = found
                cells = [f"{float(z[by]['made']):.1f}" for by in WAYS]
                cells += [f"{float(z['maco'][one]):.1f}" for one in ("best", "random")]
                print(f"| {opened.removeprefix('zoo:')} | {seed} | {' | '.join([*cells, *same])} |", flush=True)


def told(label: str, seed: int, z: Iterable[float], pictures: np.ndarray, things: list[str]) -> None:
    """A row: how large, and what the judge says."""
    rank, probability = ranked(np.asarray(pictures), things)
    top = np.mean([one <= 5 for one in rank])
    print(
        f"| {label} | {seed} | {np.median([*z]):.2f} | {np.mean(probability):.2f} | {np.median(rank):.0f} | "
        f"{np.mean([one == 1 for one in rank]):.2f} | {top:.2f} |", flush=True,
    )  # fmt: skip


def texts(many: int, steps: int, led: bool, strip: Path | None) -> None:
    """Pictures for the cosine with “a thing”: what a judge, who never saw the CLIP, names in them."""
    things = words(many, 0)
    print(
        f"\n## Pictures for the cosine with “a …”, {len(things)} things; rank among {len(DRAWABLE)} things of a judge"
    )
    print("| made by | seed | cosine | judge's probability | median rank | first | in the first 5 |")
    print("|---|---|---|---|---|---|---|")
    kept: dict[str, list[np.ndarray]] = {}
    for opened in (CLIP, f"{CLIP}@untrained"):
        model = cutaway.load(opened)
        twin = "" if opened == CLIP else ", untrained"
        inputs = inputs_of(model, [f"a {called(one)}" for one in things])
        for seed in SEEDS:
            for by in WAYS:
                found = [
                    feature_visualisation(
                        model, inputs, target=similarity(at), by=by, steps=steps, seed=seed, progress=False
                    )
                    for at in range(len(things))
                ]
                pictures = np.concatenate([one["picture"].values for one in found])
                told(by + twin, seed, (float(one["value"][0]) for one in found), pictures, things)
                if seed == SEEDS[0]:
                    kept[by + twin] = list(pictures)
            best = np.concatenate([one["exemplar"].values for one in found])
            if seed == SEEDS[0]:
                told(f"best of 64 scenes{twin}", seed, (float(one["best"][0]) for one in found), best, things)
                kept[f"scene{twin}"] = list(best)
        if led and not twin:
            draws = cutaway.load(DRAWS)
            for seed in SEEDS:
                drawing = draws.inputs(prompt="", pictures=2, steps=20, guidance=1.0, seed=seed)
                aims = [similarity(at) for at in range(len(things))]
                made = drawing_visualisation(draws, drawing, eye=model, shown=inputs, aims=aims, progress=False)
                for side, label in ((1, "drawing, led"), (0, "drawing, best of 2"), (2, "drawing, moved by chance")):
                    value = made["value"].isel(side=side).max("draw").values
                    told(label, seed, map(float, value), made["picture"].values[:, side], things)
                if seed == SEEDS[0]:
                    kept["led"] = list(made["picture"].values[:, 1])
        if strip is not None:
            rows = [kept[name] for name in ("fourier", "maco", "led", "scene", "maco, untrained") if name in kept]
            saved(strip / "visions.webp", rows)


def said(many: int, steps: int) -> None:
    """What picture makes the model write a sentence."""
    things = words(many, 0)
    print(f"\n## Pictures for the sentence “a … on a red background.”, {len(things)} things, log-probability a token")
    print("| made by | seed | mean log p | judge's probability | median rank | first | in the first 5 |")
    print("|---|---|---|---|---|---|---|")
    for opened in (LLAVA, f"{LLAVA}@untrained"):
        model = cutaway.load(opened)
        twin = "" if opened == LLAVA else ", untrained"
        for seed in SEEDS:
            for by in WAYS[1:] or WAYS:
                found = []
                for thing in things:
                    sentence = f"a {called(thing)} on a red background."
                    inputs = model.inputs(image=PICTURE, text="What does the picture show?", answer=sentence)
                    found.append(feature_visualisation(
                        model, inputs, target=answer(mean=True), by=by, steps=steps, seed=seed, progress=False
                    ))  # fmt: skip
                told(by + twin, seed, (float(one["value"][0]) for one in found),
                     np.concatenate([one["picture"].values for one in found]), things)  # fmt: skip
            if seed == SEEDS[0]:
                told(f"best of 64 scenes{twin}", seed, (float(one["best"][0]) for one in found),
                     np.concatenate([one["exemplar"].values for one in found]), things)  # fmt: skip


def saved(path: Path, rows: list[list[np.ndarray]]) -> None:
    """Rows of pictures, twice as large."""
    laid = np.concatenate([np.concatenate(row, 1) for row in rows], 0)
    size = (laid.shape[1] * 2, laid.shape[0] * 2)
    Image.fromarray(laid).resize(size, Image.Resampling.NEAREST).save(path, quality=80)


def main() -> None:
    """Print the tables."""
    global WAYS, SEEDS
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--units", type=int, default=8)
    options.add_argument("--things", type=int, default=8)
    options.add_argument("--steps", type=int, default=96)
    options.add_argument("--part", nargs="*", default=["units", "texts", "led", "said"])
    options.add_argument("--strip", type=Path)
    options.add_argument("--ways", nargs="*", default=WAYS)
    options.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    given = options.parse_args()
    WAYS, SEEDS = tuple(given.ways), tuple(given.seeds)
    torch.set_num_threads(1)
    started = time.perf_counter()
    if "units" in given.part:
        units(given.units, given.steps)
    if "texts" in given.part:
        texts(given.things, given.steps, "led" in given.part, given.strip)
    if "said" in given.part:
        said(given.things, given.steps)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
