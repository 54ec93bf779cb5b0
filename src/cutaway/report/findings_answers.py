"""The page of findings of a model that answers in words: five sentences first, every one made from its numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray
from matplotlib.figure import Figure

from cutaway import __version__
from cutaway.report import findings_inside
from cutaway.report.findings_lens import ANY, LENSES, OUTPUT, RANDOM
from cutaway.report.findings_looks import FORMS, LOOKS
from cutaway.report.findings_page import About
from cutaway.report.findings_plots import saved
from cutaway.report.findings_spots import SPOTS
from cutaway.report.findings_words import both, interval, listed, markdown, ranged

Found = dict[str, xarray.Dataset]
COLOURS = {"logit": "#2066a8", "tuned": "#c1571b", "latent": "#2e8b57", "embedding": "#8e44ad"}
GREY = "#a0a0a0"
LOOKED = dict(zip(LOOKS, ("the names look at the picture", "the end looks at the names"), strict=True))
SCORED = {"iou": "overlap (IoU)", "hit": "greatest on the thing"}


def page(found: Found, about: About, figures: dict[str, str]) -> str:
    """The whole page, in Markdown."""
    parts = [
        _front(found, about, figures),
        _reading(found, about),
        findings_inside.circuit(found),
        findings_inside.probing(found),
        findings_inside.decomposition(found),
        _tokens(found),
        _maps(found),
        _mentions(found),
        _limits(),
    ]
    return "\n\n".join(parts) + "\n"


def _front(found: Found, about: About, figures: dict[str, str]) -> str:
    said = "\n".join(f"{i}. {one}" for i, one in enumerate(sentences(found), 1))
    return (
        f"# What {about.model} does with a picture and a question\n\n{said}\n\n"
        "*Where two numbers stand with a slash between them, the same was measured on two sets of pictures; a thing "
        "is said to be so where both sets show it. A head is named by its layer and its number.*\n\n"
        "![How much of the answer is lost when one head cannot look: the names at the picture, the last position at "
        f"the names]({figures['looks']})\n\n*How much of the answer to a left-or-right question is lost when one head "
        "cannot look: left, the names in the question at the picture; right, the last position at the names.*\n\n"
        "![Where left or right can be read; what a head writes and what is lost without "
        f"it]({figures['inside']})\n\n*Left: where a linear probe reads the answer. Right: each dot is a head; were "
        "direct effects all there is, dots would lie on the line.*\n\n"
        "![Read as what is there, by layer; real mentions told from "
        f"hallucinated ones]({figures['lens']})"
    )


def _reading(found: Found, about: About) -> str:
    command = f"cutaway findings {about.model} --out {about.out} --n {about.n} --seed {about.seed}"
    return (
        f"## How this page is made\n\nEvery number and sentence on it is written by one command:\n\n```sh\n{command}\n"
        f"```\n\nMeasuring took {sum(about.seconds.values()):.0f} s. cutaway {__version__}, torch {torch.__version__}. "
        f"Two sets of {about.n} held-out scenes, drawn from the seeds {about.seed} and {about.seed + 1}; a layer that "
        "is picked on one set is tried on the other. *The floor* is the same model before training (trained vision "
        "tower, drawn decoder, a connector that begins where patches lie near the names of what they show). Intervals "
        "are 95 %, over scenes.\n\n"
        "Four lenses read a picture token after each layer (`input`: what enters the first). *Logit*: through the "
        "model's own end (`word_lens`). *Tuned*: the same behind an affine map of each layer that was fitted, on "
        "pictures of training, to foretell what the model says next (`tuned_lens`). *Latent*: the nearest state, by "
        "cosine, of words in texts at the same layer (`latent_lens`). *Embedding*: the nearest input vector of a word "
        "(`embedding_lens`). That a patch carries a name at the input was taught: training has a loss for it."
    )


# --- the five sentences -----------------------------------------------------------------------------------------------


def sentences(found: Found) -> list[str]:
    """What a reader should know first; each says what was found, and where nothing was."""
    inside = (findings_inside.fetches, findings_inside.arrives, findings_inside.ranks)
    return [_reads(found), *(say(found) for say in inside), _tells(found)]


def further(found: Found) -> list[str]:
    """What stands with the tables of the lenses."""
    return [_fades(found), _by_lens(found), _lies(found)]


def _reads(found: Found) -> str:
    own, floor = (picked(found[name].sel(lens="logit"), "reads") for name in ("maps", "maps_floor"))
    told = (
        f"of 100 picture tokens that one thing covers at least half, {both(own['value'])} have its name as "
        f"their first word ({_where(own)}, logit lens); by chance, at another token of the picture, "
        f"{both(own['shuffled'])}; before training {both(floor['value'])}"
    )
    if bool((own["low"] > own["shuffled"]).all() and (own["low"] > floor["high"]).all()):
        return f"**A picture token reads as the thing on it**: {told}. It was taught to."
    return f"**It cannot be said that picture tokens read as the thing on them**: {told}."


def _fades(found: Found) -> str:
    one = found["maps"].sel(lens="logit")
    first, last = one.isel(layer=0), one.isel(layer=-1)
    told = f"{both(first['reads'])} of 100 at the input, {both(last['reads'])} after the last layer (logit lens)"
    if bool((last["reads_high"] < first["reads_low"]).all()):
        steps = one["reads"].diff("layer").mean("set")
        at = int(steps["layer"].values[int(steps.values.argmin())])
        return f"**The name fades as the token goes through the layers**: {told}; most is lost in layer {at}."
    return f"**That the name fades along the layers cannot be said**: {told}."


def _by_lens(found: Found) -> str:
    late = found["maps"].isel(layer=-1)
    told = listed([f"{both(late['reads'].sel(lens=lens))} by the {lens} lens" for lens in LENSES])
    more = [
        lens for lens in ("latent", "embedding")
        if bool((late["reads_low"].sel(lens=lens) > late["reads_high"].sel(lens="logit")).all())
    ]  # fmt: skip
    if more:
        return (
            f"**What the end can no longer read is still there**: after the last layer, of 100 tokens {told}; the "
            f"{listed(more)} lens{'es' * (len(more) > 1)} find{'s' * (len(more) < 2)} more than the logit lens, which "
            "reads what comes next."
        )
    return f"**No lens can be said to read more than the logit lens after the last layer**: of 100 tokens {told}."


def _lies(found: Found) -> str:
    own, floor = (picked(found[name].sel(lens="logit"), "hit") for name in ("maps", "maps_floor"))
    over, before = (picked(found[name].sel(lens="logit"), "iou") for name in ("maps", "maps_floor"))
    told = (
        f"the greatest of a word's map lies on its thing for {both(own['value'])} of 100 words (shuffled "
        f"{both(own['shuffled'])}, before training {both(floor['value'])}), and what is above its middle overlaps with "
        f"the thing by {both(over['value'])} % (shuffled {both(over['shuffled'])}, before training "
        f"{both(before['value'])})"
    )
    if bool((own["low"] > own["shuffled"]).all() and (over["low"] > over["shuffled"]).all()):
        more = bool((own["low"] > floor["high"]).all() and (over["low"] > before["high"]).all())
        rest = "and training made it so" if more else "though that cannot be said to come from training"
        return f"**The map of a word lies on its thing, {rest}**: {told}."
    return f"**The map of a word cannot be said to lie on its thing**: {told}."


def _tells(found: Found) -> str:
    one = found["hallucinated"]
    lens = one.sel(reader="trained", lens="logit", layer=ANY)
    share = "/".join(
        f"{100 * (1 - r / m):.0f}" for r, m in zip(one["real"].values, one["mentions"].values, strict=True)
    )
    told = (
        f"{share} of 100 things that its captions mention are not there; of a real and a hallucinated mention the "
        f"real one has the higher lens number in {both(lens['auroc'])} of 100 cases, the higher probability when "
        f"it was said in {both(one['output_auroc'])}, with the lens of the model before training in "
        f"{both(one['auroc'].sel(reader='untrained', lens='logit', layer=ANY))}, by chance in 50"
    )
    if not bool((lens["low"] > 0.5).all()):
        return f"**The lens cannot be said to tell hallucinations**: {told}."
    if bool((lens["gain_low"] > 0).all()):
        return (
            f"**The lens tells hallucinated things from real ones, and better than the model's own certainty**: {told}."
        )
    than = "worse than" if bool((lens["gain_high"] < 0).all()) else "beyond luck no better than"
    return f"**The lens tells hallucinated things from real ones, {than} the model's own certainty**: {told}."


# --- tables -----------------------------------------------------------------------------------------------------------


def picked(one: xarray.Dataset, what: str) -> xarray.Dataset:
    """A measure at the layer where it is largest on the other set: `value`, `low`, `high`, `shuffled`, `layer`."""
    at = [int(one[what].isel(set=1 - k).argmax("layer")) for k in range(one.sizes["set"])]
    here = one.isel(layer=xarray.DataArray(at, dims="set"), set=xarray.DataArray(range(len(at)), dims="set"))
    names = {"value": what, "low": f"{what}_low", "high": f"{what}_high", "shuffled": f"{what}_shuffled"}
    made = {name: here[of].reset_coords(drop=True) for name, of in names.items() if of in here}
    return xarray.Dataset({**made, "layer": ("set", here["layer"].values)})


def layer_name(layer: object) -> str:
    """What a layer is called: -1 is what enters the first."""
    return "input" if str(layer) == "-1" else "all layers" if layer == ANY else str(layer)


def _where(one: xarray.Dataset) -> str:
    names = list(dict.fromkeys(map(layer_name, one["layer"].values)))
    return "at the input" if names == ["input"] else f"after layer {'/'.join(names)}"


def _tokens(found: Found) -> str:
    one, floor = found["maps"], found["maps_floor"]
    layers = one["layer"].values.tolist()
    header = ["lens", *map(layer_name, layers), "picked layer", "there, %", "shuffled", "floor there"]
    rows = []
    for lens in LENSES:
        best, before = picked(one.sel(lens=lens), "reads"), picked(floor.sel(lens=lens), "reads")
        rows.append([
            lens, *(both(one["reads"].sel(lens=lens, layer=layer)) for layer in layers),
            "/".join(map(layer_name, best["layer"].values)), ranged(best["value"], best["low"], best["high"]),
            both(best["shuffled"]), both(before["value"]),
        ])  # fmt: skip
    counts = "/".join(str(int(value)) for value in one["tokens"].values)
    return (
        "## What picture tokens read as\n\nThe share, in %, of the picture tokens of which one thing covers at least "
        f"half ({counts} tokens) whose first word is its name or that of a kin. *Shuffled*: the same of a token of the "
        f"picture by chance. *Floor there*: at the layer that is picked for the floor.\n\n{markdown(header, rows)}\n\n"
        f"{_fades(found)}\n\n{_by_lens(found)}"
    )


def _maps(found: Found) -> str:
    one, floor = found["maps"], found["maps_floor"]
    header, rows = ["lens"], []
    for name in SCORED.values():
        header += [f"layer: {name}", "%", "shuffled", "floor"]
    for lens in LENSES:
        row = [lens]
        for what in SCORED:
            best, before = picked(one.sel(lens=lens), what), picked(floor.sel(lens=lens), what)
            row += [
                "/".join(map(layer_name, best["layer"].values)), ranged(best["value"], best["low"], best["high"]),
                both(best["shuffled"]), both(before["value"]),
            ]  # fmt: skip
        rows.append(row)
    counts = "/".join(str(int(value)) for value in one["words"].values)
    return (
        f"## Where the map of a word lies\n\nFor each word of what a scene shows ({counts} words), the map of its "
        "log-probability (latent, embedding: cosine) over the picture tokens, against the tokens of which the thing "
        "covers at least half. *Overlap*: intersection over union with the tokens above the middle between the least "
        "and the greatest of the map. *Greatest on the thing*: the pointing game. *Shuffled*: the same maps with their "
        f"tokens in another order.\n\n{markdown(header, rows)}\n\n{_lies(found)}"
    )


def _mentions(found: Found) -> str:
    one = found["hallucinated"]
    header = ["score", "layer", "AUROC, %", "less that of the output, %", "floor"]
    rows = [
        [
            "probability when said",
            "–",
            ranged(*(one[f"{OUTPUT}_{name}"] for name in ("auroc", "low", "high"))),
            "–",
            "–",
        ]
    ]
    for lens in LENSES:
        own, before = (one.sel(reader=who, lens=lens) for who in ("trained", "untrained"))
        rows.append(_detected(f"{lens} lens", own.sel(layer=ANY), before.sel(layer=ANY), ANY))
        single = own.drop_sel(layer=ANY)
        at = [int(single["auroc"].isel(set=1 - k).argmax("layer")) for k in range(single.sizes["set"])]
        index = {"layer": xarray.DataArray(at, dims="set"), "set": xarray.DataArray(range(len(at)), dims="set")}
        names = "/".join(layer_name(single["layer"].values[i]) for i in at)
        rows.append(_detected(f"{lens} lens", single.isel(index), before.drop_sel(layer=ANY).isel(index), names))
    rows.append(
        ["random number", "–", ranged(*(one[f"{RANDOM}_{name}"] for name in ("auroc", "low", "high"))), "–", "–"]
    )
    pairs = zip(one["mentions"].values, one["real"].values, strict=True)
    counts = " / ".join(f"{int(m)} mentions, {int(m - r)} of what is not there" for m, r in pairs)
    return (
        "## What is said and not there\n\nThe model is asked “What does the picture show?” and writes its caption "
        f"greedily. Of the things named ({counts}), which are there? Each is counted once a caption; a kin of what is "
        "shown counts as shown. The score of a mention is the greatest probability (cosine) of its word at any picture "
        "token, over all layers (Jiang et al. 2024, arXiv 2410.02762) or at the one that is best on the other set. "
        "AUROC: of a real and a hallucinated mention, how often the real one has the higher score (chance 50).\n\n"
        f"{markdown(header, rows)}"
    )


def _detected(name: str, own: xarray.Dataset, before: xarray.Dataset, layer: str) -> list[str]:
    gains = zip(own["gain"].values, own["gain_low"].values, own["gain_high"].values, strict=True)
    gain = " / ".join(f"{100 * g:+.0f} {interval(float(low), float(high))}" for g, low, high in gains)
    return [name, layer_name(layer), ranged(own["auroc"], own["low"], own["high"]), gain, both(before["auroc"])]


def _limits() -> str:
    return (
        "## What this cannot tell\n\nThere is one trained model and one floor: intervals are over scenes, never over "
        "trainings. A direct effect leaves out what later layers make of a part, and knock-outs and ablations also "
        "change what else would have gone that way; a head that fetches places here need not do so for other "
        "questions. What a probe reads need not be used, and the answer at a patch is only where the patch lies. The "
        "model was taught with lists of what is where. A lens is correlational: that a token reads as a word does not "
        "show that the model uses it, and that a name fades from the end's reading does not show that it is gone. That "
        "picture tokens carry names was taught in this model by a loss of its own, so these shares say nothing about "
        "models that were not taught so; the floor begins with patches near the names of what they show, so it is "
        "above chance without training. The tuned lens foretells the next word, which at a picture token is no name, "
        "and reads less for that reason. "
        "Nearest states depend on the texts of the bank. A mention that is a kin of what is shown counts as real."
    )


# --- the figure -------------------------------------------------------------------------------------------------------


def draw_all(found: Found, folder: Path, stem: str) -> dict[str, str]:
    """Draw the figures; their paths as the page beside the folder writes them."""
    return saved({"looks": looks(found), "inside": inside(found), "lens": lens(found)}, folder, stem)


def looks(found: Found) -> Figure:
    """What is lost without a look, head by head."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for ax, look in zip(figure.subplots(1, 2), LOOKS, strict=True):
        lost = 100 * found["looks"]["head_lost"].sel(look=look, form=FORMS[0]).mean("set").transpose("layer", "head")
        image = ax.imshow(lost, cmap="RdBu_r", vmin=-100, vmax=100, origin="lower", aspect="auto")
        for (layer, head), value in np.ndenumerate(lost.values):
            if abs(value) >= 5:
                colour = "white" if abs(value) > 60 else "black"
                ax.text(head, layer, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        ax.set(xlabel="head", ylabel="layer", title=LOOKED[look])
        figure.colorbar(image, ax=ax, label="% of the answer lost")
    return figure


def inside(found: Found) -> Figure:
    """Where the answer is read; what each head writes directly and what is lost without it."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [layer_name(x) for x in found["spots"]["layer"].values]
    for spot in SPOTS:
        own, before = (100 * found[name]["mean"].sel(spot=spot, label="answer") for name in ("spots", "spots_floor"))
        line = left.plot(names, own.mean("set"), label=spot)[0]
        for k in range(own.sizes["set"]):
            left.plot(names, own.isel(set=k), ".", color=line.get_color(), markersize=4)
        left.plot(names, before.mean("set"), color=GREY, linewidth=1)
    left.axhline(50, color="black", linestyle="--", linewidth=1)
    left.set(ylim=(30, 103), xlabel="after layer", ylabel="of 100", title="left or right, read by a probe at")
    left.legend(fontsize=8, title="grey: before training", title_fontsize=8)
    one = found["writes"].sel(kind="side")
    direct, lost = one["direct"].mean("set").values.ravel(), one["ablated"].sel(how="mean").mean("set").values.ravel()
    right.plot(direct, lost, "o", markersize=4)
    right.axline((0, 0), slope=1, color=GREY, linewidth=1)
    heads = one.sizes["head"]
    for at in np.argsort(-abs(lost))[:5]:
        right.annotate(f"{at // heads}.{at % heads}", (direct[at], lost[at]), fontsize=8, xytext=(4, 2),
                       textcoords="offset points")  # fmt: skip
    right.set(xlabel="written directly, logits", ylabel="lost without it, logits", title="heads, questions of side")
    return figure


def lens(found: Found) -> Figure:
    """Left: tokens read as the thing on them, by layer and lens, before training grey. Right: AUROC of mentions."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    one, floor, names = found["maps"], found["maps_floor"], [layer_name(x) for x in found["maps"]["layer"].values]
    for name in LENSES:
        mine = one.sel(lens=name)
        left.plot(names, 100 * mine["reads"].mean("set"), color=COLOURS[name], label=name)
        for k in range(one.sizes["set"]):
            left.plot(names, 100 * mine["reads"].isel(set=k), ".", color=COLOURS[name], markersize=4)
        left.plot(names, 100 * floor["reads"].sel(lens=name).mean("set"), color=GREY, linewidth=1)
    left.set(ylim=(0, 100), xlabel="after layer", ylabel="of 100 tokens", title="read as the thing on them")
    both_ways = found["hallucinated"]
    bars = [
        ("said with", both_ways[f"{OUTPUT}_auroc"], both_ways[f"{OUTPUT}_low"], both_ways[f"{OUTPUT}_high"], "black")
    ]
    for name in LENSES:
        mine = both_ways.sel(reader="trained", lens=name, layer=ANY)
        bars.append((name, mine["auroc"], mine["low"], mine["high"], COLOURS[name]))
    for at, (_, value, low, high, colour) in enumerate(bars):
        for k in range(value.sizes["set"]):
            ends = 100 * np.array([[value[k] - low[k]], [high[k] - value[k]]])
            right.errorbar(at + 0.2 * (k - 0.5), 100 * value[k], yerr=ends, fmt="o", color=colour, markersize=4)
    right.axhline(50, color="black", linestyle="--", linewidth=1)
    right.set_xticks(range(len(bars)), [name for name, *_ in bars])
    right.set(ylim=(30, 100), ylabel="AUROC, %", title="real mentions against hallucinated ones")
    left.legend(fontsize=8, title="lens (grey: before training)", title_fontsize=8)
    return figure
