"""Which items taught it, beside retrained models.

python benchmarks/attribution.py [--worlds clip llava sd] [--part …] [--methods …] [--workers N]

Prints the tables of docs/attribution-truth.md. For each retrained world: what it learns and how far a second seed
agrees (`worlds`); every method of `data_attribution` beside chance and the model before training, by LDS, by items left
out alone, by wrong items, copies and the cue (`methods`); single steps of what draws (`steps`); gradients of chosen
weights alone (`mechanism`); what is lost when the first items of a method are taken away and the model is trained anew
(`removal`).
Seconds are of one core (process time), with everything that lies in the caches of the process. Workers make a part of a
world each.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from cutaway import jobs
from cutaway.bench.retrained import Retrained, world
from cutaway.bench.retrained.family import learnt
from cutaway.bench.retrained.items import CUED
from cutaway.bench.retrained.jobs import AGAIN, SEED
from cutaway.methods.data_attribution.data_attribution import data_attribution
from cutaway.methods.data_attribution.features import Projection, item_features
from cutaway.methods.data_attribution.measures import lds, loo_correlation, mislabel_auc
from cutaway.model.edits import Ablate
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.pieces import Piece, pieces
from cutaway.model.targets import denoising_error
from cutaway.questions.losses import Measure, output_size
from cutaway.questions.training import Batch, Drawings, Items
from cutaway.report.findings_traced import BEFORE, LIKENESS, OF_DRAWINGS, TRACIN, WAYS, flaws
from cutaway.source import Source

KINDS = ("held", "copied", "misled")
TAKEN, ASKED = 20, 4  # items taken away before a retraining; queries of each kind for which that is done
SEEDS = (SEED, AGAIN)  # of these retrainings
EVEN = ", steps of one length"
DRAWN = {**OF_DRAWINGS, f"{TRACIN}{EVEN}": OF_DRAWINGS[f"dot{EVEN}"]}
GRADIENTS, DRAWN = (
    {name: {**how, **({"on the way": True} if name.startswith(TRACIN) else {})} for name, how in every.items()}
    for every in ({name: how for name, how in WAYS.items() if name not in (LIKENESS, BEFORE)}, DRAWN)
)
FLOORS = ("dot", "TRAK")  # of the model before training


def spread(values: np.ndarray, seed: int = 0) -> str:
    """The mean over queries, and where 95 % of means over queries drawn again lie."""
    found = values[np.isfinite(values)]
    draws = np.random.default_rng(seed).choice(found, (2000, len(found))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{found.mean():.2f} ({low:.2f} to {high:.2f})"


def of_kind(made: Retrained, values: np.ndarray, kind: str) -> np.ndarray:
    """The values of the queries of one kind."""
    return values[list(made.planted.asked(kind))]


def ceiling(made: Retrained) -> np.ndarray:
    """For each query how two seeds agree about the order of the subsets."""
    few = made.outcome[: len(made.again)]
    return np.array([spearmanr(one, other)[0] for one, other in zip(few.T, made.again.T, strict=True)])


# --- the worlds -------------------------------------------------------------------------------------------------------


def worlds(made: Retrained) -> None:
    """What a world learns, and how far its outcomes follow from the items."""
    family, start = made.family, made.floor()
    given, known = made.ready()
    with torch.no_grad():
        before = family.outcome(start, known).numpy()
    began = time.process_time()
    again = made.retrain(made.kept[0], ready=(given, known))
    seconds = time.process_time() - began
    numbers = sum(one.numel() for one in learnt(family.learning(start)).values())
    print(f"\n{family.about}: {numbers} numbers learn, {family.recipe.steps} steps, {seconds:.1f} s a subset;")
    print(f"the first subset trained here: at most {np.abs(again - made.outcome[0]).max():.1g} off what is shipped")
    print("| queries | before | all items | without wrong | without cue | subsets | deviation | two seeds agree |")
    print("|---|---|---|---|---|---|---|---|")
    agree = ceiling(made)
    for kind in KINDS:
        rows = (before, made.full, made.without["wrong"], made.without["cued"], made.outcome.mean(0))
        means = [f"{of_kind(made, one, kind).mean():.3f}" for one in rows]
        deviation = of_kind(made, made.outcome.std(0), kind).mean()
        print(f"| {kind} | {' | '.join(means)} | {deviation:.3f} | {spread(of_kind(made, agree, kind))} |")
    named = np.array([CUED in item.caption.text for item in made.items])
    with_cue = np.isin(np.arange(len(named)), made.truth.cued)
    cued = with_cue & ~np.isin(np.arange(len(named)), made.truth.wrong)
    auc = mislabel_auc(named.astype(float), cued)
    print(f"{(named & with_cue).sum()} of {named.sum()} captions with {CUED} are of cued items, told by it: {auc:.2f}")


# --- methods ----------------------------------------------------------------------------------------------------------


_ONCE: dict[tuple[str, int, int, int], Inputs] = {}
_BOTH: dict[str, tuple[Items, Items]] = {}  # by world


@dataclass(frozen=True, eq=False)
class Once(Drawings):
    """Drawings whose noised inputs are made once for all methods: they do not depend on the weights that learn."""

    def on(self, model: Model, measure: Measure = "loss") -> Callable[[Sequence[int], int], Batch]:
        """Inputs as of any drawings."""
        make, target = super().on(model, measure), denoising_error() if measure == "loss" else output_size(measure)

        def once(row: int, draw: int) -> Inputs:
            key = (self.prompts[row], id(self.pictures[row]), draw, self.at[draw])
            if key not in _ONCE:
                _ONCE[key] = make([row], draw)[0]
            return _ONCE[key]

        return lambda rows, draw: (Inputs.stack([once(row, draw) for row in rows]), target)


def both(made: Retrained) -> tuple[Items, Items]:
    """Items and queries, of what draws with inputs that are made once."""
    if made.name not in _BOTH:
        _BOTH[made.name] = tuple(
            Once(pictures=one.pictures, prompts=one.prompts, at=one.at, steps=one.steps)
            if isinstance(one, Drawings) else one for one in (made.training(), made.asked())
        )  # type: ignore[assignment]  # fmt: skip
    return _BOTH[made.name]


def applied(made: Retrained, how: dict[str, Any], folder: Path | None = None, *, floor: bool = False) -> Any:
    """A method on all items and all queries."""
    model = made.floor() if floor else made.model
    more = {key: value for key, value in how.items() if key != "on the way"}
    if how["method"] != "representation":
        more.setdefault("weights", made.pieces(model))
    if "on the way" in how:
        models, rates = made.checkpoints()
        more |= {"checkpoints": models, "rates": rates}
    return data_attribution(model, *both(made), folder=folder, progress=False, **more)


def judged(made: Retrained, scores: np.ndarray, own: np.ndarray) -> list[str]:
    """The columns of a method."""
    found = lds(scores, made.kept, made.outcome)
    left = made.leave_one_out
    loo = loo_correlation(scores[:, left.items], left.lost.T)
    planted = flaws(made, scores, own)
    named = "" if np.isnan(planted["wrong"]) else f"{planted['wrong']:.2f}"
    means = [f"{np.nanmean(of_kind(made, found, kind)):.2f}" for kind in KINDS]
    return [spread(found), *means, f"{np.nanmean(loo):.2f}", named, f"{planted['copies']:.2f}", f"{planted['cue']:.2f}"]


def methods(made: Retrained, keep: dict[str, np.ndarray], only: Sequence[str]) -> None:
    """Every method, or `only` some, beside chance and the model before training."""
    print(f"\n{made.name}: ceiling of LDS, two seeds: {spread(ceiling(made))}")
    columns = "LDS | held | copied | misled | left out | wrong, AUC | copies in 4 | cue, AUC"
    print(f"| method | {columns} | items, s | query, s | bytes an item |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for one in both(made):  # noised inputs are made before anything is timed
        for draw in range(one.draws if made.name == "sd" else 0):
            one.on(made.model)(range(len(one)), draw)
    every = {"representation": {"method": "representation"}, **GRADIENTS, **(DRAWN if made.name == "sd" else {})}
    chance = np.random.default_rng(0).normal(size=(len(made.queries), len(made.items)))
    print(f"| chance | {' | '.join([*judged(made, chance, chance[0]), '', '', ''])} |", flush=True)
    for name, how in every.items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            found = applied(made, how, Path(folder) if how["method"] != "representation" else None)
            middle = time.process_time()
            applied(made, how, Path(folder) if how["method"] != "representation" else None)
            query = time.process_time() - middle
            items = max(middle - began - query, 0.0)
            size = sum(one.stat().st_size for one in Path(folder).rglob("*.safetensors")) / len(made.items)
        scores, own = found.data["scores"].values, found.data["own"].values
        keep[name] = scores
        timing = [f"{items:.1f}", f"{query / len(made.queries):.3f}", f"{size:.0f}"]
        print(f"| {name} | {' | '.join([*judged(made, scores, own), *timing])} |", flush=True)
        if name == "dot":
            keep["loss"] = found.data["loss"].values
    for name in FLOORS:
        if only and f"{name}, before training" not in only:
            continue
        found = applied(made, GRADIENTS[name], floor=True)
        columns = judged(made, found.data["scores"].values, found.data["own"].values)
        print(f"| {name}, before training | {' | '.join([*columns, '', '', ''])} |", flush=True)
    if "loss" not in keep:
        return
    wrong = np.isin(np.arange(len(made.items)), made.truth.wrong)
    print(f"The loss of an item alone tells wrong items with an AUC of {mislabel_auc(keep['loss'], wrong):.2f}.")


def steps(made: Retrained) -> None:
    """Of what draws: how long gradients are at each step, and what the dot product of each step alone is worth."""
    items, queries = both(made)
    if not isinstance(items, Drawings) or not isinstance(queries, Drawings):
        return
    print(f"\n{made.name}: gradients at single steps of {items.steps}, one noise")
    print("| step | mean length of an item's gradient | LDS of dot | LDS of cosine |")
    print("|---|---|---|---|")
    for step in items.at:
        of = [
            item_features(made.model, replace(one, at=(step,)), made.pieces(), [Projection("whole")], progress=False)[0]
            for one in (queries, items)
        ]
        whole = [one.values for one in of]
        units = [torch.nn.functional.normalize(one, dim=1) for one in whole]
        scores = [(asked @ held.T).numpy() for asked, held in (whole, units)]
        found = [spread(lds(one, made.kept, made.outcome)) for one in scores]
        print(f"| {step} | {of[1].values.norm(dim=1).mean():.3g} | {' | '.join(found)} |", flush=True)


# --- weights chosen by what they do -----------------------------------------------------------------------------------


def parts(made: Retrained) -> dict[str, tuple[tuple[Piece, ...], Ablate]]:
    """Heads and MLPs whose weights learn, each with its pieces and the edit that takes it away."""
    model, learns, found = made.model, {one.layer for one in made.pieces()}, {}
    for site in model.sites:
        for ends in (".attn.z", ".cross.z", ".mlp.out"):
            name = str(site)
            if not name.endswith(ends):
                continue
            heads = range(site.sizes["head"]) if ends.endswith(".z") else (None,)
            for head in heads:
                called = name if head is None else f"{name.removesuffix('.z')}[{head}]"
                mine = pieces(model, [name, name.replace(".out", ".pre")] if head is None else called)
                if {one.layer for one in mine} <= learns:
                    found[called] = (mine, Ablate(name) if head is None else Ablate(name, head=head))
    return found


def mechanism(made: Retrained) -> None:
    """TRAK from the weights of the heads that matter most to the queries, from as many others, and from all."""
    found, asked = parts(made), both(made)[1]
    make, rows = asked.on(made.model), range(len(asked))
    effects: dict[str, float] = {}
    for name, (_, edit) in found.items():
        total = 0.0
        for draw in range(asked.draws):
            inputs, target = make(rows, draw)
            with torch.no_grad():
                total += float((target(made.model.run(inputs, edits=[edit])) - target(made.model.run(inputs))).mean())
        effects[name] = total / asked.draws
    order = sorted(effects, key=effects.__getitem__, reverse=True)
    heads = [name for name in order if not name.endswith(".mlp.out")]
    many = max(2, len(heads) // 4)
    dice = np.random.default_rng(0)
    draws = [dice.choice(heads, many, replace=False).tolist() for _ in range(4)]
    print(f"\n{made.name}: TRAK from the gradients of some of {len(heads)} heads; most needed of these and the MLPs: "
          + ", ".join(f"{name} {effects[name]:.3f}" for name in order[:3]))  # fmt: skip
    print("| weights | numbers | LDS | held | copied | misled | left out | wrong, AUC | copies in 4 | cue, AUC |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    every = {"all that learn": made.pieces(), "all MLPs": joined(found, sorted({*order} - {*heads}))}
    every |= {f"the {many} heads most needed": joined(found, heads[:many])}
    every |= {f"{many} heads by chance, draw {i}": joined(found, one) for i, one in enumerate(draws)}
    every |= {f"the {many} heads least needed": joined(found, heads[-many:])}
    for name, chosen in every.items():
        made_of = applied(made, {**GRADIENTS["TRAK"], "weights": chosen})
        columns = judged(made, made_of.data["scores"].values, made_of.data["own"].values)
        print(f"| {name} | {sum(one.size for one in chosen)} | {' | '.join(columns)} |", flush=True)


def joined(found: dict[str, Any], names: Sequence[str]) -> tuple[Piece, ...]:
    """The pieces of several parts."""
    return tuple(sorted({piece for name in names for piece in found[name][0]}))


# --- taken away -------------------------------------------------------------------------------------------------------


def removal(made: Retrained, keep: dict[str, np.ndarray]) -> None:
    """What a query loses when its first items by a method are taken away and the model is trained anew, two seeds."""
    ready, whole = made.ready(), made.numbers["full"].double().numpy()
    ways = {"chance": np.random.default_rng(1).normal(size=(len(made.queries), len(made.items)))}
    ways |= {name: keep[name] if name in keep else scored(made, name) for name in (LIKENESS, "TRAK", BEFORE)}
    print(f"\n{made.name}: outcome lost without the first {TAKEN} of {len(made.items)} items, {ASKED} queries a kind")
    print("| items by | held | copied | misled |")
    print("|---|---|---|---|")
    for name, scores in ways.items():
        said = []
        for kind in KINDS:
            lost = np.zeros((len(SEEDS), ASKED))
            for at, query in enumerate(made.planted.asked(kind)[:ASKED]):
                kept = np.ones(len(made.items), dtype=bool)
                kept[np.argsort(-scores[query], kind="stable")[:TAKEN]] = False
                for seed in SEEDS:
                    lost[seed, at] = whole[seed, query] - made.retrain(kept, seed, ready=ready)[query]
            means = " / ".join(f"{one:.3f}" for one in lost.mean(1))
            said.append(f"{means} ({lost.mean(0).min():.2f} to {lost.mean(0).max():.2f})")
        print(f"| {name} | {' | '.join(said)} |", flush=True)


def scored(made: Retrained, name: str) -> np.ndarray:
    """The scores of a method by its name."""
    how = {LIKENESS: {"method": "representation"}, BEFORE: GRADIENTS["TRAK"], **GRADIENTS, **DRAWN}[name]
    found: np.ndarray = applied(made, how, floor=name == BEFORE).data["scores"].values
    return found


@dataclass(frozen=True)
class Parts:
    """The parts of worlds by number, each the text that it prints; `aloud` prints it, here and at once."""

    worlds: tuple[str, ...]
    parts: tuple[str, ...]
    methods: tuple[str, ...]
    aloud: bool
    begun: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    def do(self, _: Model, chunk: int) -> str:
        """One part of one world, whose models it brings itself."""
        torch.set_num_threads(1)
        name, part = self.worlds[chunk // len(self.parts)], self.parts[chunk % len(self.parts)]
        made, keep, text = world(name), self.begun.setdefault(name, {}), io.StringIO()
        every: dict[str, Callable[[], None]] = {
            "worlds": lambda: worlds(made),
            "methods": lambda: methods(made, keep, self.methods),
            "steps": lambda: steps(made),
            "mechanism": lambda: mechanism(made),
            "removal": lambda: removal(made, keep),
        }
        with nullcontext() if self.aloud else redirect_stdout(text):
            every[part]()
        return text.getvalue()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "begun": {}}


def main() -> None:
    """Print the tables asked for."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--worlds", nargs="*", default=["clip", "llava", "sd"])
    asked.add_argument("--part", nargs="*", default=["worlds", "methods", "steps", "mechanism", "removal"])
    asked.add_argument("--methods", nargs="*", default=[], help="rows of the table of methods; all unless given")
    asked.add_argument("--workers", type=int, default=0, help="so many processes of a Ray; 0: this one")
    given = asked.parse_args()
    work = Parts(tuple(given.worlds), tuple(given.part), tuple(given.methods), aloud=not given.workers)
    every = range(len(given.worlds) * len(given.part))
    found = dict(jobs.run(work, every, Source("tiny:clip"), workers=given.workers, progress=False))
    print("".join(found[at] for at in every), end="")


if __name__ == "__main__":
    main()
