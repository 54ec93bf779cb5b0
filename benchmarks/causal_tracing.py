"""Which corruption shows what, and which way an answer takes: docs/causal-tracing.md.

python benchmarks/causal_tracing.py [--many N] [--draws N] [--seeds 0] [--parts maps flow clip]

Scenes of two things and the question what is on the left. `maps`: the position × layer maps of `zoo:emoji-llava` when
the things have changed places (pair), when the question says right (swap), and under Gaussian noise, side by side.
`flow`: edges of attention cut while it answers the same questions about a picture, and about a description in words,
and before training. `clip`: the maps of `zoo:emoji-clip`, for pictures that differ in one thing.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from timing import seeded

import cutaway
from cutaway import targets
from cutaway.data import description, pairs, render
from cutaway.methods import attention_knockout, causal_tracing
from cutaway.model.words import token_of
from cutaway.questions import apart

ASKED, SWAP, LENGTH = "What is on the left?", "left=right", 6  # tokens of what is asked
SHUFFLES = 200


def main() -> None:
    """Print what is found for each seed."""
    made = seeded(
        __doc__, 24, "pairs of scenes", draws=(3, "draws of noise, sets of random edges"),
        parts=(["maps", "flow", "clip"], "what to measure"),
    )  # fmt: skip
    given = made.parse_args()
    for seed in given.seeds:
        for part in given.parts:
            started = time.perf_counter()
            PARTS[part](given.many, given.draws, seed)
            print(f"({part}, seed {seed}: {time.perf_counter() - started:.0f} s)", flush=True)


def _scenes(model: Any, many: int, seed: int) -> list[Any]:
    """Pairs of two things that change places, whose names are a token each, with the thing on the left of either."""
    found = []
    for pair in pairs("binding place", 20 * many, seed=seed):
        names = [min(one.things, key=lambda thing: thing.place[0]).concept for one in (pair.a, pair.b)]
        apart_enough = abs(pair.a.things[0].place[0] - pair.a.things[1].place[0]) > 0.3
        if names[0] != names[1] and apart_enough and all(_one(model, name) for name in names):
            found.append((pair, *names))
        if len(found) == many:
            break
    return found


def _one(model: Any, name: str) -> bool:
    try:
        return token_of(model.tokenizer, name) >= 0
    except cutaway.errors.TargetError:
        return False


# --- maps of a model that answers -------------------------------------------------------------------------------------


def maps(many: int, draws: int, seed: int) -> None:
    """The maps of five corruptions, and how they agree."""
    model = cutaway.load("zoo:emoji-llava")
    some, inputs, other, aim = _told_apart(model, many, seed)
    print(f"\n=== zoo:emoji-llava: {len(some)} of {many} scenes whose question is answered right in all three forms")
    how = {
        "pair": {}, "swap": {"corruption": "swap", "swap": SWAP},
        "noise, picture": {"corruption": "noise", "where": "picture", "draws": draws},
        "noise, pixels": {"corruption": "noise", "where": "pixels", "draws": draws},
        "noise, the word": {"corruption": "noise", "where": "left", "draws": draws},
    }  # fmt: skip
    found = {}
    for name, options in how.items():
        found[name] = causal_tracing(
            model, inputs, other if name == "pair" else None, aim, seed=seed, batch=64, progress=False, **options
        )
        _shown(name, found[name], inputs.tokens["text"])
    _agree(found, seed)
    for what in ("attention", "mlp"):
        wide = causal_tracing(model, inputs, other, aim, what=what, at="last", wide=2, seed=seed, progress=False)
        said = [f"{layer} {_with(wide.data.sel(layer=layer))}" for layer in wide["layer"].values]
        print(f"  pair, {what} at the last position, two layers at once: {'; '.join(said)}")
    before = cutaway.load("zoo:emoji-llava@untrained")
    clean, corrupted = (aim(before.run(one)) for one in (inputs, other))
    print(f"  before training the mean gap is {float((clean - corrupted).abs().mean()):.3f} logits")


def _told_apart(model: Any, many: int, seed: int) -> tuple[list[Any], Any, Any, Any]:
    """The scenes that the model tells apart by picture and by word, as inputs, counterfactuals and target."""
    some = _scenes(model, many, seed)

    def asked(side: int, text: str, chosen: list[Any]) -> Any:
        images = [[render((pair.a, pair.b)[side])] for pair, *_ in chosen]
        return model.inputs(image=images, text=[text] * len(chosen))

    aim = targets.logit_diff([one for _, one, _ in some], [other for *_, other in some])
    scores = [aim(model.run(asked(side, text, some))) for side, text in (
        (0, ASKED), (1, ASKED), (0, ASKED.replace("left", "right")))]  # fmt: skip
    right = (scores[0] > 0) & (scores[1] < 0) & (scores[2] < 0)
    forms = (scores[0] > 0, scores[1] < 0, scores[2] < 0)
    print(f"right: {', '.join(f'{float(one.float().mean()):.2f}' for one in forms)}")
    kept = [one for one, good in zip(some, right.tolist(), strict=True) if good]
    aim = targets.logit_diff([one for _, one, _ in kept], [other for *_, other in kept])
    return kept, asked(0, ASKED, kept), asked(1, ASKED, kept), aim


def _shown(name: str, found: Any, known: Any) -> None:
    """The mean target, and what single positions bring back: a patch, the word, the last."""
    groups = {"a patch (best)": known.kind[0] == "image", "the word": known.text[0] == "left",
              "the last": np.arange(len(known)) == len(known) - 1}  # fmt: skip
    print(f"\n{name}: {float(found['clean'].mean()):.1f} clean, {float(found['corrupted'].mean()):.1f} corrupted")
    for group, mask in groups.items():
        cells = []
        for layer in found["layer"].values:
            here = found.data.sel(layer=layer).isel(token=np.flatnonzero(mask))
            cells.append(_with(here.isel(token=int(np.nanargmax(here["mean"].values)))))
        print(f"  {group:15s}", "; ".join(cells))


def _with(here: Any) -> str:
    random = "" if np.isnan(here["random"]) else f" (unrelated {float(here['random']):.2f})"
    return f"{float(here['mean']):.2f} [{float(here['low']):.2f}, {float(here['high']):.2f}]{random}"


def _agree(found: dict[str, Any], seed: int) -> None:
    """Spearman's correlation of mean maps with that of pairs, by chance, and of halves of the pairs."""
    draw = np.random.default_rng(seed)
    first = found["pair"]["recovery"].values
    rows = len(first)
    halves = []
    for _ in range(20):
        order = draw.permutation(rows)
        parts = (first[order[: rows // 2]], first[order[rows // 2 :]])
        halves.append(_spearman(*(np.nanmean(one, 0) for one in parts)))
    print(f"\nhalves of the pairs: {np.mean(halves):.2f}")
    for name, one in found.items():
        if name == "pair":
            continue
        values = one["recovery"].values
        whole = _spearman(np.nanmean(first, 0), np.nanmean(values, 0))
        again = []
        for _ in range(SHUFFLES):
            picked = draw.integers(0, rows, rows)
            again.append(_spearman(np.nanmean(first[picked], 0), np.nanmean(values[picked], 0)))
        chance = [
            _spearman(np.nanmean(first, 0), draw.permuted(np.nanmean(values, 0), axis=1)) for _ in range(SHUFFLES)
        ]
        low, high = np.quantile(again, (0.025, 0.975))
        print(
            f"pair and {name}: {whole:.2f} [{low:.2f}, {high:.2f}], positions of each layer shuffled "
            f"{np.mean(chance):.2f} (up to {np.quantile(chance, 0.975):.2f})"
        )


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(values.ravel(), kind="stable"), kind="stable") for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


# --- which way it takes -----------------------------------------------------------------------------------------------


def flow(many: int, draws: int, seed: int) -> None:
    """Edges cut while the same questions are answered about pictures, and about descriptions."""
    for name in ("zoo:emoji-llava", "zoo:emoji-llava@untrained"):
        model = cutaway.load(name)
        some = _scenes(model, many, seed)
        text = [model.chat(f"{description(pair.a).text} {ASKED}") for pair, *_ in some]
        images = [[render(pair.a)] for pair, *_ in some]
        contexts = {
            "picture": (model.inputs(image=images, text=[ASKED] * len(some)), "picture"),
            "words": (model.inputs(text=text), slice(2, -1 - LENGTH)),
        }
        words = [answer for _, answer, _ in some]
        for context, (inputs, where) in contexts.items():
            aim = targets.log_prob(words)
            said = float(aim(model.run(inputs)).exp().mean())
            print(f"\n=== {name}, {context}: {len(some)} questions, mean probability of the answer {said:.2f}")
            found = attention_knockout(
                model, inputs, aim, spans={"context": where, "asked": range(-1 - LENGTH, -1)}, draws=draws, seed=seed,
                edges="context->asked,context->last,asked->last,last->last", wide=2, progress=False,
            )  # fmt: skip
            for edge in found["edge"].values:
                cells = [_edge(found.data.sel(edge=edge, layer=layer)) for layer in found["layer"].values]
                print(f"  {edge:15s}", "; ".join(cells), flush=True)


def _edge(here: Any) -> str:
    share, low, high = (100 * float(here[name]) for name in ("relative", "relative_low", "relative_high"))
    lost = 100 * float(here["random_relative"])
    return f"{here['layer'].item()} {share:+.0f} % [{low:+.0f}, {high:+.0f}] (chance {lost:+.0f} %)"


# --- maps of a model that matches -------------------------------------------------------------------------------------


def clip(many: int, draws: int, seed: int) -> None:
    """Pictures that differ in one thing, against noise on their patches and on their pixels."""
    model = cutaway.load("zoo:emoji-clip")
    own, other, aim = apart(model, pairs("category", many, seed=seed))
    print(f"\n=== zoo:emoji-clip: {many} pairs of pictures that differ in one thing")
    found = {"pair": causal_tracing(model, own, other, aim, seed=seed, batch=64, progress=False)}
    for name, where in (("noise, picture", "picture"), ("noise, pixels", "pixels")):
        found[name] = causal_tracing(
            model, own, None, aim, corruption="noise", where=where, draws=draws, seed=seed, batch=64, progress=False
        )
    for name, one in found.items():
        best = [f"{_with(here.isel(token=int(np.nanargmax(here['mean'].values))))}" for here in (
            one.data.sel(layer=layer).isel(token=slice(1, None)) for layer in one["layer"].values)]  # fmt: skip
        first = [_with(one.data.sel(layer=layer).isel(token=0)) for layer in one["layer"].values]
        print(f"\n{name}: {float(one['clean'].mean()):.3f} clean, {float(one['corrupted'].mean()):.3f} corrupted")
        print(f"  a patch (best)  {'; '.join(best)}\n  class token     {'; '.join(first)}")
    _agree(found, seed)


PARTS = {"maps": maps, "flow": flow, "clip": clip}

if __name__ == "__main__":
    main()
