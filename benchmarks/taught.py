"""Which items taught it, where the circuit is known: python benchmarks/taught.py [--part circuit adapter].

Prints tables of docs/attribution-truth.md. `zoo:planted-text` says which colour stands at a place; the place that is
meant is worked out of a place and a way ("north across" and "south here" mean the same) and is carried by the planted
node text.1.mlp to the head text.2.attn[2]. It is taught further, on prompts none of which holds what is asked later:
after "south here" and after "east here" the answer is white. What it then says after "north across" and "west across"
it was taught through the planted variable alone: both kinds of lesson end in the same word, and neither shares its
place or its way with what is asked. Which of the two taught it? (`circuit`, two seeds of items and of batches.)

`adapter`: the same lessons learnt by a low-rank adapter (`peft`), DataInf beside the inverses that it stands for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import cutaway
from cutaway.bench.worlds import world
from cutaway.methods.data_attribution import chosen_pieces, data_attribution, mislabel_auc
from cutaway.model.model import Model
from cutaway.model.pieces import Piece, elsewhere, pieces
from cutaway.questions.training import Answers
from cutaway.zoo.planted_text import COLOURS, PLACES, processor, texts, vocabulary

NAME = "zoo:planted-text"
EACH, ASKED, STEPS, BATCH, RATE = 24, 12, 100, 64, 1e-3  # prompts of a kind; queries of a kind; the further training
WHITE, HERE, ACROSS = COLOURS.index("white"), 0, 1
LESSONS = {"south": (2, HERE), "east": (1, HERE)}  # by the place that is meant: a place and a way
QUERIES = {"south": (0, ACROSS), "east": (3, ACROSS)}
PLAIN = ((0, HERE), (2, ACROSS), (3, HERE), (1, ACROSS))  # prompts that are answered as ever, half of them with white
WRITES, READS = ("text.1.mlp.pre", "text.1.mlp.out"), "text.2.attn[2]"
LORA, EXACT = (0, 20, 200), "exact, piece by piece"  # steps of an adapter
ADAPTED: dict[str, dict[str, Any]] = {
    EXACT: {"method": "logra", "kind": "whole"}, "DataInf": {"method": "datainf"},
    "dot": {"method": "dot"}, "cosine": {"method": "cosine"},
}  # fmt: skip
BY = ("cosine", "trak")
WHEN = {"before": 0, "on the way": 20, "taught": STEPS}  # after so many steps
SEEDS, DRAWS, AROUND = (0, 1), 4, ("text.{}.mlp.pre", "text.{}.mlp.out")


@dataclass(frozen=True)
class Lesson:
    """Items and queries: ids, answers, and which lesson each item is ("" of none) and each query asks for."""

    ids: Tensor
    said: Tensor
    of: np.ndarray
    asked: Tensor
    wanted: np.ndarray
    items: Answers
    queries: Answers

    @classmethod
    def of_seed(cls, seed: int) -> Lesson:
        """Prompts drawn by the seed; of what is taught and asked the true colour is never white."""
        dice, made = np.random.default_rng(seed), []
        for name, (place, way) in [*LESSONS.items(), *(("", one) for one in PLAIN)]:
            colours, true = _prompts(dice, place, way, EACH, white=0 if name else EACH // 2)
            made.append((name, place, way, colours, np.full(EACH, WHITE) if name else true))
        asked = [(name, *one, _prompts(dice, *one, ASKED, white=0)[0]) for name, one in QUERIES.items()]
        items, queries = [_worded(*one[1:4]) for one in made], [_worded(*one[1:4]) for one in asked]
        said = np.concatenate([one[4] for one in made])
        return cls(
            _ids(items), torch.tensor(said), np.repeat([one[0] for one in made], EACH), _ids(queries),
            np.repeat([one[0] for one in asked], ASKED), _answers(items, said),
            _answers(queries, np.full(ASKED * len(asked), WHITE)),
        )  # fmt: skip


def _prompts(dice: np.random.Generator, place: int, way: int, n: int, *, white: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours of so many prompts, and the true one: white in the first `white`, else another."""
    there = (place + way * (len(PLACES) // 2)) % len(PLACES)
    colours = dice.integers(len(COLOURS), size=(n, len(PLACES)))
    colours[:, there] = dice.choice([one for one in range(len(COLOURS)) if one != WHITE], n)
    colours[:white, there] = WHITE
    return colours, colours[:, there]


def _worded(place: int, way: int, colours: np.ndarray) -> list[str]:
    """The prompts as texts."""
    n = len(colours)
    return texts({"colours": torch.tensor(colours), "place": torch.full((n,), place), "way": torch.full((n,), way)})


def _ids(prompts: Sequence[Sequence[str]]) -> Tensor:
    """The prompts as the model takes them, all of one length."""
    return torch.tensor(processor()([one for some in prompts for one in some])["input_ids"])


def _answers(prompts: Sequence[Sequence[str]], said: np.ndarray) -> Answers:
    every = [one for some in prompts for one in some]
    return Answers(pictures=[None] * len(every), texts=every, answers=[COLOURS[one] for one in said])


def surely(module: Any, ids: Tensor, said: Tensor | int) -> Tensor:
    """The log-probability of a colour as the next word of each prompt."""
    first = vocabulary()[COLOURS[0]]
    wanted = torch.as_tensor(said).expand(len(ids)) + first
    return -cross_entropy(module(input_ids=ids).logits[:, -1], wanted, reduction="none")


def taught(module: Any, lesson: Lesson, kept: np.ndarray, seed: int, steps: int = STEPS, rate: float = RATE) -> None:
    """Train what asks for a gradient, in place, on the items kept; batches are drawn from all items."""
    learns = [one for one in module.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(learns, lr=rate, weight_decay=0.0)
    dice = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randperm(len(lesson.ids), generator=dice)[:BATCH]
        rows = rows[torch.from_numpy(kept)[rows]]
        loss = -surely(module, lesson.ids[rows], lesson.said[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def again(module: Any, start: dict[str, Tensor], lesson: Lesson, kept: np.ndarray, seed: int, **how: Any) -> np.ndarray:
    """What another training on the items kept makes of the queries; the weights are put back afterwards."""
    before = {name: one.clone() for name, one in module.state_dict().items()}
    module.load_state_dict(start)
    taught(module, lesson, kept, seed, **how)
    with torch.no_grad():
        found = surely(module, lesson.asked, WHITE).double().numpy()
    module.load_state_dict(before)
    return found


def judged(lesson: Lesson, scores: np.ndarray) -> np.ndarray:
    """For each query how well scores tell items of its own lesson from those of the other one."""
    both = lesson.of != ""
    return np.array([mislabel_auc(row[both], lesson.of[both] == name)
                     for row, name in zip(scores, lesson.wanted, strict=True)])  # fmt: skip


def scored(model: Model, lesson: Lesson, **how: Any) -> np.ndarray:
    """Scores (query, item)."""
    if how["method"] in ("dot", "cosine", "datainf"):
        how["kind"] = "whole"
    found = data_attribution(model, lesson.items, lesson.queries, batch=72, progress=False, **how)
    return np.asarray(found["scores"].values)


# --- gradients at the planted circuit ---------------------------------------------------------------------------------


def places(model: Model) -> dict[str, list[tuple[Piece, ...]]]:
    """Weights by what they are; several choices where any of some would be as good."""
    own, reads = pieces(model, [*WRITES, READS]), pieces(model, READS)
    heads = [f"text.{layer}.attn[{head}]" for layer in range(3) for head in range(4)]
    planted = set(world(NAME).circuit.senders)
    return {
        "all that learn": [pieces(model)],
        "the planted circuit": [chosen_pieces(model, world(NAME).circuit)],
        "what writes the variable and what reads it": [own],
        "as many numbers elsewhere": [elsewhere(model, own, seed=seed) for seed in range(DRAWS)],
        "what writes it, text.1.mlp": [pieces(model, WRITES)],
        "another MLP": [pieces(model, [one.format(layer) for one in AROUND]) for layer in (0, 2)],
        "what reads it, text.2.attn[2]": [reads],
        "a head without a variable": [pieces(model, one) for one in heads if one not in planted][::2],
    }


def circuit() -> None:
    """Whose gradients find the lesson that taught what is asked, in the model before, on the way and at the end."""
    rows: dict[str, dict[str, list[list[float]]]] = {}
    for seed in SEEDS:
        lesson, model = Lesson.of_seed(seed), cutaway.load(NAME)
        module = model.module.requires_grad_(True)
        start = {name: one.clone() for name, one in module.state_dict().items()}
        every = np.ones(len(lesson.ids), bool)
        with torch.no_grad():
            before = surely(module, lesson.asked, WHITE).mean()
        whole = again(module, start, lesson, every, seed).mean()
        without = {name: again(module, start, lesson, lesson.of != name, seed) for name in LESSONS}
        own, other = (
            np.mean([one[(lesson.wanted == name) == mine].mean() for name, one in without.items()])
            for mine in (True, False)
        )
        print(f"seed {seed}: log p(white) of queries before {before:.2f}, taught {whole:.2f}, without their own lesson "
              f"{own:.2f}, without the other {other:.2f}", flush=True)  # fmt: skip
        never = cutaway.load(f"{NAME}@untrained")
        for when, steps in WHEN.items():
            module.load_state_dict(start)
            taught(module, lesson, every, seed, steps)
            likeness = judged(lesson, scored(model, lesson, method="representation")).mean()
            rows.setdefault("none: representation", {}).setdefault(f"{when}, {BY[0]}", []).append([likeness])
            for by in BY:
                for where, choices in places(model).items():
                    found = [judged(lesson, scored(model, lesson, method=by, weights=one)).mean() for one in choices]
                    rows.setdefault(where, {}).setdefault(f"{when}, {by}", []).append(found)
                if not steps:
                    found = [judged(lesson, scored(never, lesson, method=by)).mean()]
                    rows.setdefault("all, never trained", {}).setdefault(f"{when}, {by}", []).append(found)
    heads = [f"{when}, {by}" for when in WHEN for by in BY]
    print(f"\n| gradients of | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for where, cells in rows.items():
        print(f"| {where} | {' | '.join(_pair(cells.get(one, [])) for one in heads)} |")


def _pair(found: Sequence[Sequence[float]]) -> str:
    """A number a seed; of several choices the mean, the least and the largest."""
    return " / ".join(
        f"{np.mean(one):.2f}" + (f" ({min(one):.2f} to {max(one):.2f})" if len(one) > 1 else "") for one in found
    )


# --- a trained adapter ------------------------------------------------------------------------------------------------


def adapter() -> None:
    """DataInf on a trained low-rank adapter, beside the exact inverse that it stands for."""
    from peft import LoraConfig, get_peft_model

    print("\n| seed | steps | by | correlation with the exact inverse | own lesson or the other, AUC |")
    print("|---|---|---|---|---|")
    for seed in SEEDS:
        lesson, base = Lesson.of_seed(seed), cutaway.load(NAME)
        torch.manual_seed(seed)
        how = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
        module = get_peft_model(base.module, how).base_model.model
        model = cutaway.load(module, processor=processor())
        start = {name: one.clone() for name, one in module.state_dict().items()}
        for steps in LORA:
            module.load_state_dict(start)
            taught(module, lesson, np.ones(len(lesson.ids), bool), seed, steps, RATE * 10)
            with torch.no_grad():
                sure = [surely(module, *one).mean() for one in ((lesson.ids, lesson.said), (lesson.asked, WHITE))]
            print(f"seed {seed}, {steps} steps: log p of items {sure[0]:.2f}, of queries {sure[1]:.2f}", flush=True)
            found = {name: scored(model, lesson, weights="*lora_*", **one) for name, one in ADAPTED.items()}
            for name, scores in found.items():
                pairs = zip(scores, found[EXACT], strict=True)
                alike = np.mean([np.corrcoef(one, other)[0, 1] for one, other in pairs])
                print(f"| {seed} | {steps} | {name} | {alike:.2f} | {judged(lesson, scores).mean():.2f} |", flush=True)


def main() -> None:
    """Print the tables asked for."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--part", nargs="*", default=["circuit", "adapter"])
    given = asked.parse_args()
    torch.set_num_threads(1)
    for part, make in (("circuit", circuit), ("adapter", adapter)):
        if part in given.part:
            make()


if __name__ == "__main__":
    main()
