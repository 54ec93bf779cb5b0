"""The page of findings: five sentences and three pictures in front, every one made from the numbers it states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xarray

from cutaway import __version__
from cutaway.report.findings_claims import LEVEL, Claims, claims, names, reading, spared
from cutaway.report.findings_layers import SET
from cutaway.report.findings_scenes import CONCEPTS, FACTORS
from cutaway.report.findings_tables import ablation, direct, heads, known, layers, limits
from cutaway.report.findings_words import both, layers_of, listed

FEW = 10  # of 100 captions
Found = dict[str, xarray.Dataset]


@dataclass(frozen=True)
class About:
    """What the page says of its own making; `seconds` of each section."""

    model: str
    n: int
    seed: int
    out: str
    seconds: dict[str, float]


def page(found: Found, about: About, figures: dict[str, str]) -> str:
    """The whole page, in Markdown."""
    made = claims(found)
    parts = [
        _front(found, made, about, figures),
        _reading(about),
        known(found, made),
        heads(found, made),
        direct(found, made, figures["direct"]),
        ablation(found, made),
        layers(found, made, figures["layers"]),
        limits(found),
    ]
    return "\n\n".join(parts) + "\n"


def _front(found: Found, made: Claims, about: About, figures: dict[str, str]) -> str:
    numbered = "\n".join(f"{i}. {said}" for i, said in enumerate(sentences(found, made), 1))
    pictures = (
        ("What it knows: right captions, before and after training", "known"),
        ("How much of what each head does depends on what is in the picture, before and after training", "heads"),
        ("What is lost without three heads", "cost"),
    )
    shown = "\n\n".join(f"![{said}]({figures[name]})" for said, name in pictures)
    return (
        f"# What {about.model} sees in a picture, and where it keeps it\n\n{numbered}\n\n"
        "*Where two numbers stand with a slash between them, the same was measured on two sets of pictures; a thing "
        f"is said to be so where both sets show it.*\n\n{shown}"
    )


def _reading(about: About) -> str:
    command = f"cutaway findings {about.model} --out {about.out} --n {about.n} --seed {about.seed}"
    return (
        f"## How this page is made\n\nEvery number and sentence on it is written by one command:\n\n```sh\n{command}\n"
        f"```\n\nMeasuring took {sum(about.seconds.values()):.0f} s. cutaway {__version__}, "
        f"torch {torch.__version__}. Two sets of held-out scenes of one thing each, drawn from the seeds {about.seed} "
        f"and {about.seed + 1}, with other things in each; heads and layers that are picked on one set are tried on "
        "the other. *The floor* is the same model before training. A head is written `layer.head`, both from 0. "
        "Intervals are 95 %. A thing is claimed where, in each set, luck would bring it in less than 5 % of cases "
        "for all factors (or heads) together: p-values are Holm's over the four factors, those of heads by the "
        f"largest of all heads in shuffled data."
    )


# --- the five sentences -----------------------------------------------------------------------------------------------


def sentences(found: Found, made: Claims) -> list[str]:
    """What a reader should know first; each says what was found, and where nothing was."""
    return [_knows(found, made), _late(found, made), _vary(found, made), _needed(found, made), _read(found, made)]


def _rest(some: list[str] | dict[str, list[str]]) -> list[str]:
    return [factor for factor in FACTORS if factor not in some]


def _knows(found: Found, made: Claims) -> str:
    one, floor = found["known"]["right"], found["known_floor"]["right"]

    def told(some: list[str]) -> str:
        return listed([f"{both(one.sel(factor=factor))} for the {factor}" for factor in some])

    before = f"before training {both(floor.min('factor'))} to {both(floor.max('factor'))}, and a coin 50"
    if not made.known:
        return (
            "**It cannot be said to tell pictures apart that differ in one thing**: of 100 times it picks the right "
            f"one of two captions in {told(list(FACTORS))}; {before}."
        )
    rest = _rest(made.known)
    but = f", but not in the {listed(rest)} ({both_of(one, rest)})" if rest else ""
    return (
        f"**It tells pictures apart that differ only in the {listed(made.known)}**{but}: of 100 times it picks the "
        f"right one of two captions in {told(made.known)}; {before}."
    )


def both_of(values: xarray.DataArray, some: list[str]) -> str:
    """The numbers of several factors: `51/49 and 50/52`."""
    return listed([both(values.sel(factor=factor)) for factor in some])


def _late(found: Found, made: Claims) -> str:
    one = found["direct"].sel(what="heads")
    whole, most = both(one["accuracy"].sel(order="first").isel(layers=0)), both(one["majority"])
    if not names(found):
        return f"**It cannot be said to name things**: {whole} % are right, of always the same name {most} %."
    if "heads" not in made.late:
        return (
            f"**Where it writes the name of a thing cannot be said**: it names {whole} % of things, and no number of "
            f"last layers takes more than half of that and more than heads from anywhere would."
        )
    half, early = made.late["heads"], spared(found, "heads")
    last, random = (both(one["accuracy"].sel(order=order, layers=half)) for order in ("last", "random"))
    first = f"; those of the first {layers_of(early)} are not missed" if early else ""
    return (
        f"**It writes the name of a thing late**: of 100 things it names {whole} (among {CONCEPTS} names), {last} "
        f"without what the heads of the last {layers_of(half)} of {int(one['layers'].max())} add to the answer, and "
        f"{random} without as many heads from anywhere{first}."
    )


def _vary(found: Found, made: Claims) -> str:
    sure = (found["heads"]["p"] < LEVEL).all("set").any(("layer", "head"))
    size = found["heads"].sizes["layer"] * found["heads"].sizes["head"]
    before = [factor for factor in _rest(made.carried) if bool(sure.sel(factor=factor))]
    luck = [factor for factor in _rest(made.carried) if factor not in before]
    said = [f"with the {listed(before)} none can be said to vary more than one does before training"] if before else []
    said += [f"with the {listed(luck)} none can be said to vary at all"] if luck else []
    if not made.carried:
        return f"**No head of {size} can be said to have learned one of these things**: {'; '.join(said)}."
    learned = listed([f"{len(at)} with the {factor}" for factor, at in made.carried.items()])
    return (
        f"**Some of its {size} heads, the parts that carry information from patch to patch, have learned what to look "
        f"for**: beyond luck and beyond every head before training, what they do varies in {learned}"
        f"{'; ' if said else ''}{'; '.join(said)}."
    )


def _needed(found: Found, made: Claims) -> str:
    one = found["ablation"]
    own = {f: row for f in made.known if bool((row := one.sel(ablated=f, factor=f))["drop"].notnull().all())}
    if not own:
        return "**Nothing can be said of what hangs on some of its heads**: it knows too little, or no text names them."
    most = max(0, round(100 * max(float(row["drop"].max()) for row in own.values())))
    without = f"without the heads ({SET} at most) whose texts speak of a thing most"
    if made.choices:
        told = listed([f"{both(own[factor]['drop'])} of 100 on the {factor}" for factor in made.choices])
        hangs = (
            f"**Some answers hang on {SET} heads**: {without}, more captions go wrong than without random ones: {told}"
        )
    elif most <= FEW:
        hangs = (
            f"**Hardly an answer hangs on {SET} heads**: {without}, at most {most} more of 100 captions about it go "
        )
        hangs += "wrong, not more, beyond luck, than without random ones"
    else:
        hangs = f"**What {SET} heads cost in answers, random ones may cost too**: {without}, up to {most} more of 100 "
        hangs += "captions about it go wrong"
    silent = [factor for factor in made.known if factor not in own]
    none = f"; no text names a head for the {listed(silent)}" if silent else ""
    if not made.needed:
        return f"{hangs}; nor does its lead over the wrong caption shrink more, beyond luck{none}."
    sure = listed([f"{both(own[f]['margin'])} % for the {f}" for f in made.needed])
    rest = [factor for factor in own if factor not in made.needed]
    but = f", which cannot be said of the {listed(rest)}" if rest else ""
    return f"{hangs}; its lead over the wrong caption shrinks more than without random ones, by {sure}{but}{none}."


def _read(found: Found, made: Claims) -> str:
    best = {factor: reading(found, factor) for factor in FACTORS}
    rest = _rest(made.read)
    if made.read:
        told = listed([f"{both(best[f]['mean'])} % for the {f}, before {both(best[f]['floor'])} %" for f in made.read])
        read = f"**Training made the {listed(made.read)} easier to read off its states**: a linear probe gets {told}"
        read += f"; of the {listed(rest)} that cannot be said" if rest else ""
    else:
        read = "**Nothing can be said to be easier to read off its states than before training**"
    if not made.known:
        return f"{read}."
    without = "without what a probe reads in the last state"
    if not made.erased:
        return f"{read}; {without}, no lead is less, beyond luck, than without random directions."
    spare = [factor for factor in made.known if factor not in made.erased]
    but = f", which cannot be said of the {listed(spare)}" if spare else ""
    more = f"less is left of its lead than without random directions for the {listed(made.erased)}"
    return f"{read}; {without}, {more}{but}."
