"""What the page on circuits says of a word in a drawing: where the picture hears it, and by which way it comes."""

from __future__ import annotations

import xarray

from cutaway.report.findings_word import AT, DRAWER, KEPT, PARTS, STEPS
from cutaway.report.findings_words import both, listed, markdown

GOOD = 0.1  # of the difference: what a layer carries that is named


def sentence(one: xarray.Dataset) -> str:
    """Where the words enter, if that is the same at every step that was looked at and in both sets."""
    heard = one["enters"].sel(part="both")
    after, before = heard.sel(of="trained"), heard.sel(of="untrained")
    best = {
        frozenset(after.isel(set=at).sel(step=step).argsort().values[-2:].tolist())
        for at in range(one.sizes["set"]) for step in AT
    }  # fmt: skip
    same = len(best) == 1 and all(bool((after.sel(layer=layer) > GOOD).all()) for layer in next(iter(best)))
    if not same:
        return (
            f"**Where a word becomes a thing can not be said**: in one step of `{DRAWER}`, with one name among the "
            "words as another, the two layers whose heads lose most are not the same at every step and in both sets."
        )
    layers = sorted(next(iter(best)))
    told = listed([f"layer {layer} ({_steps(after.sel(layer=layer))})" for layer in layers])
    wrote = one["writes"].sel(of="trained", what="heads")
    loudest = wrote.isel(layer=int(wrote.mean(("set", "step")).values.argmax()))
    ways, floor = (one["ways"].sel(of=of) for of in ("trained", "untrained"))
    return (
        f"**The picture hears a word in layers {layers[0]} and {layers[1]} above all**: in one step of `{DRAWER}`, "
        "with one name among the words as another, the prediction loses most, of 100 of its difference, when the heads "
        f"of {told} hear the words so; before training every layer loses some, the least "
        f"{_steps(before.min('layer'))}, the most {_steps(before.max('layer'))}. The picture hears the words as they "
        f"enter ({_steps(ways.sel(way='as they enter'))}, before training "
        f"{_steps(floor.sel(way='as they enter'))}) and what their own MLPs add "
        f"({_steps(ways.sel(way='their MLPs'))}, before training {_steps(floor.sel(way='their MLPs'))}); of what heads "
        f"write to the picture most is lost with layer {int(loudest['layer'])} ({_steps(loudest)}). Means of pairs."
    )


def section(one: xarray.Dataset) -> str:
    """Every layer, every way, and how much few edges carry."""
    columns = [(of, step) for of in one["of"].values for step in AT]
    head = [f"{of}, step {step}" for of, step in columns]

    def row(name: str, values: xarray.DataArray) -> list[str]:
        return [name, *(both(values.sel(of=of, step=step)) for of, step in columns)]

    layers = one["layer"].values
    enters = [row(f"{layer}: {part}", one["enters"].sel(layer=layer, part=part)) for layer in layers for part in PARTS]
    wrote = [row(f"{layer}: {what}", one["writes"].sel(layer=layer, what=what))
             for layer in layers for what in one["what"].values]  # fmt: skip
    ways = [row(str(way), one["ways"].sel(way=way)) for way in one["way"].values]
    kept = [row(str(k), one["f"].sel(k=k)) for k in KEPT]
    chance = row(f"{KEPT[-1]} by chance", one["random"].sel(k=KEPT[-1]))
    return (
        "## A word in a drawing\n\n"
        f'`{DRAWER}`, steps {" and ".join(map(str, AT))} of {STEPS}, each as one evaluation: "a fox on a blue '
        "background\", and the same with another thing's name among the words that the denoiser reads; latents, time "
        f"and pooled prompt stay ({int(one['pairs'].min())} pairs a set make the order, as many others are measured, "
        f"{int(one['edges'].min())} edges). The number is how near the prediction lies to that with the one name and "
        "how far from that with the other; these two differ by "
        f"{_steps(one['moved'].sel(of='trained'))} of 100 of what is predicted (root mean square; before training "
        f"{_steps(one['moved'].sel(of='untrained'))}). What is lost of the difference, of 100, when keys or values of "
        "a layer's heads are made of the words with the other name:\n\n"
        + markdown(["layer", *head], enters)
        + "\n\nWhen all that reads the picture hears a layer's heads or MLP as with the other name:\n\n"
        + markdown(["layer", *head], wrote)
        + "\n\nWhen the keys and values of all layers hear so of the words what they are as they enter, what their "
        "attention adds, what their MLPs add:\n\n"
        + markdown(["of the words", *head], ways)
        + "\n\nWhat the best edges by `eap-ig` keep alone. Where as many carry more before training than after, that "
        "few do is no sign of something learnt.\n\n" + markdown(["edges", *head], [*kept, chance])
    )


def _steps(values: xarray.DataArray) -> str:
    """Both sets, step by step: `22/25 at step 3, 25/24 at step 10`."""
    return ", ".join(f"{both(values.sel(step=step))} at step {step}" for step in AT)
