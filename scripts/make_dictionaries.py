"""Train the dictionaries that come with the package: `python scripts/make_dictionaries.py NAME … --work DIR`.

Each takes a few minutes on one core. Activations go to the folder, and a training that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment

import cutaway
from cutaway import store
from cutaway.data import caption, questions, render, scene_at
from cutaway.data.prompts import DRAWINGS, prompt
from cutaway.data.splits import Split
from cutaway.data.worlds import DEFAULT
from cutaway.methods.sparse_autoencoders.beginning import untrained
from cutaway.methods.sparse_autoencoders.quality import quality
from cutaway.methods.sparse_autoencoders.recovered import loss_recovered
from cutaway.methods.sparse_autoencoders.seen import Seen, read, seen
from cutaway.methods.sparse_autoencoders.tabled import moments
from cutaway.methods.sparse_autoencoders.training import train
from cutaway.model.dictionary import Dictionary, decoder_rows, opened
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.questions.rows import unit
from cutaway.store.reducers import Mean
from cutaway.zoo.dictionaries import HOME, SHIPPED, Shipped, folder_of

AGAIN = 4242  # apart from the dice of a training, whose dead features keep the directions that it drew
SEED, HELD, JUDGED = 0, 400, 256  # of the scenes; scenes that are measured on; those the model is judged on
CARD = HOME / "README.md"
TEXT = """# Dictionaries that come with the package

{table}

One autoencoder and one transcoder a family, `batch_topk`, trained by `scripts/make_dictionaries.py` ({scenes} scenes
of the training split; of zoo:emoji-sd 1500 drawings of 20 steps, the row with the prompt, with a bias a step) and
kept in half precision. Measured by the same program (`--card`) on {held} scenes of the test split: `explained`, 1 -
error / variance around the mean of each kind of position; `alive`, the share of features that are on in any row
there; `loss recovered` on {judged} scenes, (spliced - mean) / (clean - mean) of what the model says of its own
captions, answers or noise, beside a dictionary of the same width and k with weights by chance around the mean.

Where the mean in a site's place costs next to nothing, as for the LLaVA's MLP, that share is noise. Nearly anything
recovers at a residual stream of these models: read it beside the untrained.

Open one with its model: `cutaway.load("zoo:emoji-clip", dictionary="zoo:emoji-clip-sae")`, or `--dictionary
zoo:emoji-clip-sae`. What the best features tell beside the best neurons: docs/findings/features.md. One seed each;
another seed finds other features.
"""


def harvested(one: Shipped, folder: Path, split: Split = "train", scenes: int = 0) -> store.Store:
    """The activations of scenes, of drawings those of the row with the prompt; it learns from the training split."""
    model = cutaway.load(one.model)
    asked: dict[str, Any] = {"more": {"steps": one.drawn}} if one.drawn else {}
    data = store.Scenes(scenes or one.scenes, split=split, seed=SEED, **asked)
    sites = list(dict.fromkeys((one.site, one.stands_for)))
    more: dict[str, Any] = {"guidance": "cond"} if one.drawn else {}
    return store.harvest(model, data, sites, folder, dtype="float16", **more)


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


# --- the card ---------------------------------------------------------------------------------------------------------


def judged(model: Model, one: Shipped) -> list[Inputs]:
    """What the model is judged on: scenes of the test split with their captions, answers, or noised pictures."""
    found = []
    for start in range(0, JUDGED, 16):
        some = [scene_at("test", at, 0, DRAWINGS if one.drawn else DEFAULT) for at in range(start, start + 16)]
        pictures = [render(scene) for scene in some]
        if one.drawn:
            words, how = [prompt(scene).text for scene in some], {"step": one.drawn // 2, "steps": one.drawn}
            found.append(model.inputs(prompt=words, image=pictures, seed=start, **how))
        elif model.family.image_tokens:
            asked = [questions(scene)[start // 16 % 3] for scene in some]
            given = {"text": [each.question for each in asked], "answer": [each.answer for each in asked]}
            found.append(model.inputs(image=pictures, **given))
        else:
            found.append(model.inputs(image=pictures, text=[caption(scene).text for scene in some]))
    return found


def line(name: str, work: Path) -> tuple[str, ...]:
    """What a dictionary is worth on scenes that it was not trained on, beside one that was not trained."""
    one = SHIPPED[name]
    model, own = cutaway.load(one.model), opened(f"zoo:{name}")
    held = harvested(one, work / f"held-{one.model.split(':')[1]}-{one.site}", split="test", scenes=HELD)
    found = quality(own, held, steps=max(1, one.drawn))
    recovered = loss_recovered(model, own, judged(model, one), progress=False)
    shape, d = dict(one.recipe), own.d_in
    centre = Mean()
    for part in held.rows(one.stands_for):
        centre.add(part.x)
    floor = untrained(
        "topk", one.site, d, target=one.target or None, d_out=own.d_out, width=own.width, k=shape["k"],
        centre=centre.value,
    )  # fmt: skip
    before = loss_recovered(model, floor, judged(model, one), progress=False)
    size = sum(file.stat().st_size for file in folder_of(name).iterdir())
    return (
        name, one.model, f"`{one.site}`" + (f" → `{one.target}`" if one.target else ""), str(own.width),
        f"{found.value.l0:.1f}", f"{found.value.explained:.3f}", f"{found.alive:.2f}", f"{recovered.of_mean:.3f}",
        f"{before.of_mean:.3f}", f"{size / 1e6:.2f} MB",
    )  # fmt: skip


def card(work: Path) -> None:
    """Write the card of all of them."""
    head = ("name", "model", "reads → stands for", "features", "on in a row", "explained", "alive", "loss recovered",
            "the same untrained", "size")  # fmt: skip
    rows = [head, ("---",) * len(head), *(line(name, work) for name in SHIPPED)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    CARD.write_text(
        TEXT.format(table=table, held=HELD, judged=JUDGED, scenes=SHIPPED["emoji-clip-sae"].scenes), "utf-8"
    )


def again(name: str, work: Path, seed: int) -> str:
    """How another seed differs: what it explains, and the features of the first that it has, matched one to one.

    Both are taken by the features that are on in held-out rows; beside it as many random directions like the data.
    """
    one, own, other = SHIPPED[name], opened(f"zoo:{name}"), made(name, work, seed)
    held = harvested(one, work / f"held-{one.model.split(':')[1]}-{one.site}", split="test", scenes=HELD)
    how = {"steps": max(1, one.drawn)}
    found = [quality(each, held, **how).value for each in (own, other)]
    first, second = (_directions(each, held, how) for each in (own, other))
    centre = moments(replace(part, x=part.y) for part in _rows(own, held, how)).covariance.double()
    root = torch.linalg.cholesky(centre + 1e-6 * centre.diagonal().mean() * torch.eye(len(centre), dtype=torch.float64))
    dice = torch.Generator().manual_seed(AGAIN + seed)
    chance = unit(torch.randn(len(second), len(centre), generator=dice) @ root.T.float())
    said = []
    for rows in (second, chance):
        cosine = first @ rows.T
        best = cosine[linear_sum_assignment(-cosine.numpy())]
        said.append(f"{float(best.mean()):.2f} | {float((best > 0.7).float().mean()):.3f}")
    explained = " / ".join(f"{each.explained:.3f}" for each in found)
    return f"| {name} | {explained} | {len(first)} / {len(second)} | {said[0]} | {said[1]} |"


def _rows(own: Dictionary, held: store.Store, how: dict[str, int]) -> Iterator[Seen]:
    return seen(own, held, **how)


def _directions(own: Dictionary, held: store.Store, how: dict[str, int]) -> torch.Tensor:
    """The decoder rows of features that are on in any row, of length 1."""
    on = torch.stack([(read(own, part)[0] > 0).any(0) for part in _rows(own, held, how)]).any(0)
    return unit(decoder_rows(own).float())[on]


def main() -> None:
    """Train and save."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("names", nargs="*", choices=[*SHIPPED, []])
    asked.add_argument("--work", type=Path, required=True, help="where activations and trainings are kept")
    asked.add_argument("--card", action="store_true", help="measure those that are there and write their card")
    asked.add_argument("--again", type=int, help="train them with this seed, keep nothing, and say how it differs")
    given = asked.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if given.card:
        card(given.work)
        return
    for name in given.names or SHIPPED if given.again is not None else ():
        sys.stdout.write(again(name, given.work, given.again) + "\n")
    for name in given.names or SHIPPED if given.again is None else ():
        folder_of(name).parent.mkdir(parents=True, exist_ok=True)
        made(name, given.work).save(folder_of(name), overwrite=True)
        size = sum(file.stat().st_size for file in folder_of(name).iterdir())
        sys.stdout.write(f"{name}: {size / 2**20:.2f} MiB\n")


if __name__ == "__main__":
    main()
