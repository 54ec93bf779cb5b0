"""What a page of findings measures of models that draw: where words lie, what carries them, what an edit changes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import xarray

from cutaway.applications import concept_edit
from cutaway.data import Noun
from cutaway.data.prompts import DRAWABLE, Part, claims_of, prompt
from cutaway.methods import cross_attention, diffusion_lens, drawing_tracing, hide_words
from cutaway.methods.causal_tracing.drawing_tracing import Mode
from cutaway.methods.cross_attention.spoken import phrase
from cutaway.methods.logit_lens.diffusion_lens import last_read
from cutaway.methods.truth import fit
from cutaway.model.edits import Knockout
from cutaway.model.model import Model
from cutaway.model.shift import shifted
from cutaway.questions.judged import judged, prompts_apart
from cutaway.zoo.emoji_judge import judge
from cutaway.zoo.evaluate_drawn import scenes_of
from cutaway.zoo.judging import Seen, look

Told = Callable[[str], None]
Rows = dict[tuple[int, str, str], list[float]]  # of things in a prompt, a map or what is hidden, and a score
STEPS, GUIDANCE, EXAMPLES = 10, 3.0, 2
CALLS: Mapping[str, dict[str, Any]] = {"emoji-mmdit": {"length": 0}}  # no empty positions in the place of T5
MAPS = ("its words", "the word behind", "all words")
HIDDEN = ("nothing", "its words", "all words", "end and padding")
PARTS: tuple[Part, ...] = ("thing", "background")
PLACES = ("the word", "words behind", "end", "padding", "all")
MODES: dict[Mode, str] = {"denoise": "in", "noise": "out"}
WAYS = ("the edit", "random, as large")
ASKED = ("{} on a purple background", "{} in the bottom right on a yellow background")
TAUGHT = ("{}", "{} on a blue background", "{} on a white background", "{} in the top left on a green background")


def maps(of: Model, n: int, own: int, told: Told, drawer: Model | None = None) -> xarray.Dataset:
    """How maps of words fit what was drawn, of one thing and of two; what is left of the first when words are hidden.

    `drawer` is who drew what the maps are held against; what is hidden is measured where that is the model itself.
    """
    rows: Rows = {}
    for things in (1, 2):
        told(f"{things} things")
        scenes = list(islice(scenes_of("test", things, own), max(4, n // 40)))
        said = [prompt(scene, scene.seed, ground=True).text for scene in scenes]
        found = cross_attention(of, _inputs(of, said, own), apart=(), progress=False)
        plain = _seen(drawer or of, said, own)
        _fits(rows, things, scenes, found, plain)
        if drawer is None:
            _hides(rows, things, scenes, of, said, own, plain)
    scores = sorted({key[2] for key in rows})
    data: dict[str, Any] = {}
    for score in scores:
        kept = [name for name in (HIDDEN if score == "left" else MAPS) if (1, name, score) in rows]
        middle = np.array([[between(rows.get((things, name, score), [])) for name in kept] for things in (1, 2)])
        axis = "hidden" if score == "left" else "map"
        data |= {
            f"{score}{end}": xarray.DataArray(middle[..., at], dims=("things", axis), coords={axis: kept})
            for at, end in enumerate(("", "_low", "_high"))
        }
    counted = [len(rows.get((things, MAPS[0], "iou"), [])) for things in (1, 2)]
    return xarray.Dataset(data | {"drawn": ("things", counted)}, {"things": [1, 2]})


def _fits(rows: Rows, things: int, scenes: Sequence[Any], found: Any, seen: Seen) -> None:
    """Every thing that is there against each of the maps."""
    for at, scene in enumerate(scenes):
        for thing in scene.things:
            truth = seen.mask(at, thing.concept).numpy().astype(bool)
            if float(seen.there(thing.concept)[at]) <= 0.5 or not truth.any():
                continue
            words = found.words(at)
            places = phrase(words, thing.concept)
            each = found["attention"].isel(picture=at)
            heats = {"its words": found.heat(thing.concept, at).values, "all words": each.sum("place").values}
            if places[-1] + 1 < len(words):
                heats["the word behind"] = each.isel(place=places[-1] + 1).values
            for name, heat in heats.items():
                across = len(truth) // len(heat)  # a patch of joint attention covers several cells
                made = fit(np.kron(heat, np.ones((across, across))), truth)
                for score, value in {"iou": made.iou, "hit": made.hit, "shuffled": made.iou_shuffled}.items():
                    rows.setdefault((things, name, score), []).append(float(value))


def _hides(
    rows: Rows, things: int, scenes: Sequence[Any], of: Model, said: list[str],
    own: int, plain: Seen,
) -> None:  # fmt: skip
    """The probability of the first thing, of drawings that have it, when words are hidden from every patch."""
    inputs = _inputs(of, said, own)
    first = [scene.things[0].concept for scene in scenes]
    had = [at for at, name in enumerate(first) if float(plain.there(name)[at]) > 0.5]
    edits = hide_words(of, inputs, first)
    mask = edits[0].key
    kinds = inputs.tokens["denoiser.joint" if edits[0].query is not None else "text"].kind
    sets = {
        "nothing": None, "its words": mask, "all words": torch.from_numpy(kinds == "text"),
        "end and padding": torch.from_numpy(np.isin(kinds, ("eos", "pad"))),
    }  # fmt: skip
    for name, hidden in sets.items():
        seen = plain
        if hidden is not None:
            cut = Knockout(str(edits[0].site), query=edits[0].query, key=hidden, guidance="cond")
            with of.edited([cut]):
                seen = _seen(of, said, own)
        for at in had:
            rows.setdefault((things, name, "left"), []).append(float(seen.there(first[at])[at]))


def places(of: Model, n: int, own: int, told: Told) -> xarray.Dataset:
    """Which positions of the text encoder bring back what tells two prompts apart, and what is left without them."""
    made = {}
    for part in PARTS:
        told(part)
        first, second, target = prompts_apart(part, max(4, n // 64), seed=own)
        clean, other = (_inputs(of, said, own) for said in (first, second))
        top = {"last": [last_layer(of)]}
        for mode, name in MODES.items():
            found = drawing_tracing(
                of,
                clean,
                other,
                target,
                what="word",
                groups=top,
                mode=mode,
                random=mode == "denoise",
                seed=own,
                progress=False,
            )
            one = found.data.sel(layer="last").drop_vars("layer").sel(position=list(PLACES))
            names = ("mean", "low", "high", *(["random"] if mode == "denoise" else []))
            made[part, name] = one[list(names)].rename({key: f"{name}_{key}" for key in names})
        made[part, "gap"] = xarray.Dataset({"gap": found.gap})
    return xarray.concat(
        [xarray.merge([made[part, name] for name in ("in", "out", "gap")]) for part in PARTS],
        xarray.DataArray(list(PARTS), dims="part", name="part"),
    )


def last_layer(of: Model) -> int:
    """The layer of the text encoder whose states the denoiser reads."""
    return last_read(of, of.inputs(prompt="a fox", steps=1))["text"]


def layers(of: Model, n: int, own: int, told: Told) -> xarray.Dataset:
    """Which layers carry it, by what they read of the prompt, and at which steps. Of a UNet."""
    sizes = {str(site.layer): _side(of, site) for site in of.sites if site.part == "cross.pattern"}
    grids = {f"{side} × {side}": [int(name) for name, own_side in sizes.items() if own_side == side]
             for side in sorted(set(sizes.values()), reverse=True)}  # fmt: skip
    alone = {f"layer {name}": [int(name)] for name in sizes}
    windows = {"first tenth": range(STEPS // 10), "first third": range(STEPS // 3), "first half": range(STEPS // 2),
               "second half": range(STEPS // 2, STEPS), "last third": range(STEPS - STEPS // 3, STEPS)}  # fmt: skip
    made = []
    for part in PARTS:
        told(part)
        first, second, target = prompts_apart(part, max(4, n // 64), seed=own)
        clean, other = (_inputs(of, said, own) for said in (first, second))
        fixed: dict[str, Any] = {"what": "prompt", "seed": own, "random": False, "progress": False}
        everywhere: dict[str, Any] = {"groups": grids | alone, "windows": 1, **fixed}
        put_in = drawing_tracing(of, clean, other, target, mode="denoise", **everywhere)
        taken_out = drawing_tracing(of, clean, other, target, mode="noise", **everywhere)
        when = drawing_tracing(of, clean, other, target, groups={}, windows=windows, **fixed)
        both_ways: dict[str, Any] = {}
        for name, one in {"in": put_in, "out": taken_out}.items():
            here = one.data.isel({one.axis: -1}).sel(layer=list(grids | alone))
            both_ways |= {f"{name}_{key}": ("layer", here[key].values) for key in ("mean", "low", "high")}
        steps = when.data.isel(layer=-1).sel({when.axis: list(windows)})
        both_ways |= {f"when_{key}": ("window", steps[key].values) for key in ("mean", "low", "high")}
        made.append(xarray.Dataset(both_ways, {"layer": list(grids | alone), "window": list(windows)}))
    return xarray.concat(made, xarray.DataArray(list(PARTS), dims="part", name="part"))


def lens(of: Model, n: int, own: int, told: Told) -> xarray.Dataset:
    """What is drawn from the states behind each layer of the text encoder: the thing, the background."""
    scenes = list(islice(scenes_of("test", 1, own), max(4, n // 40)))
    said = [prompt(scene, scene.seed, way="things", ground=True).text for scene in scenes]
    made = []
    for at, part in enumerate(PARTS):
        told(part)
        asked = [claims_of(one) for one in said]
        target = judged([claims[-at] for claims in asked])
        found = diffusion_lens(of, _inputs(of, said, own), target, seed=own, progress=False)
        middle = np.array([between(row) for row in found["value"].values])
        data = {f"value{end}": ("layer", middle[:, k]) for k, end in enumerate(("", "_low", "_high"))}
        data["random"] = ("layer", found["random"].mean("picture").values)
        made.append(xarray.Dataset(data, {"layer": [str(name) for name in found["layer"].values]}))
    return xarray.concat(made, xarray.DataArray(list(PARTS), dims="part", name="part"))


def edits(of: Model, n: int, own: int, told: Told) -> xarray.Dataset:
    """Concepts exchanged in closed form, one at a time: is the new one drawn, and are others drawn as before?"""
    names = [name for name in DRAWABLE if name != "key"]
    random.Random(f"findings/{own}").shuffle(names)
    many = max(2, n // 80)
    old, new, kept, untold = names[:many], names[many : 2 * many], names[-12:-6], names[-6:]
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in ("before", *WAYS)}
    for at in range(many):
        told(f"{old[at]} to {new[at]}")
        edit = concept_edit(of, {_a(old[at]): _a(new[at])}, prompts=TAUGHT, keep=[_a(one) for one in kept])
        changes = {"before": {}, "the edit": edit.tensors, "random, as large": edit.random(own).tensors}
        for way, change in changes.items():
            with shifted(of.engine, change):
                rows[way].append(_asked(of, old[at], new[at], kept, untold, own))
    data: dict[str, Any] = {}
    for what in rows["before"][0]:
        middle = np.array([between([row[what] for row in rows[way]]) for way in rows])
        data |= {f"{what}{end}": ("way", middle[:, k]) for k, end in enumerate(("", "_low", "_high"))}
    return xarray.Dataset(data, {"way": list(rows)})


def shown(of: Model, n: int, own: int, told: Told) -> xarray.Dataset:
    """The first prompts of one thing, for the eye: drawn, maps of two words, drawn without one, and another meaning.

    They are the first of the set, whatever they show.
    """
    scenes = list(islice(scenes_of("test", 1, own), EXAMPLES))
    said = [prompt(scene, scene.seed, way="things", ground=True).text for scene in scenes]
    names = [scene.things[0].concept for scene in scenes]
    inputs = _inputs(of, said, own)
    found = cross_attention(of, inputs, apart=(), progress=False)
    places = [phrase(found.words(at), name) for at, name in enumerate(names)]
    each = [found["attention"].isel(picture=at) for at in range(EXAMPLES)]
    with of.edited(hide_words(of, inputs, names)):
        without = _drawn(of, inputs)
    told("another meaning")
    other = [_other(scene) for scene in scenes]
    edited = []
    for at, name in enumerate(names):
        edit = concept_edit(of, {_a(name): _a(other[at])}, prompts=TAUGHT)
        with shifted(of.engine, edit.tensors):
            edited.append(_drawn(of, inputs)[at])
    return xarray.Dataset(
        {
            "drawn": (("prompt", "y", "x", "channel"), found["drawn"].values),
            "own": (("prompt", "row", "col"), np.stack([one.isel(place=at).sum("place").values
                                                        for one, at in zip(each, places, strict=True)])),
            "behind": (("prompt", "row", "col"), np.stack([one.isel(place=at[-1] + 1).values
                                                           for one, at in zip(each, places, strict=True)])),
            "without": (("prompt", "y", "x", "channel"), without),
            "edited": (("prompt", "y", "x", "channel"), np.stack(edited)),
            "said": ("prompt", said), "name": ("prompt", names), "other": ("prompt", other),
        }
    )  # fmt: skip


def _other(scene: Any) -> str:
    """Another thing, drawn by the scene's own seed."""
    return random.Random(f"another/{scene.seed}").choice([one for one in DRAWABLE if one != scene.things[0].concept])


def _drawn(of: Model, inputs: Any) -> np.ndarray:
    return np.stack([np.asarray(one.convert("RGB")) for one in of.run(inputs).outputs.images])


def _asked(of: Model, old: str, new: str, kept: Sequence[str], untold: Sequence[str], own: int) -> dict[str, float]:
    """Shares of drawings that have the new thing, still the old one, and those of other prompts that have theirs."""
    said = [text.replace("{}", _a(old)) for text in ASKED] + [
        ASKED[0].replace("{}", _a(one)) for one in (*kept, *untold)
    ]
    there = _seen(of, said, own)
    held = {name: (there.there(name) > 0.5).float() for name in {old, new, *kept, *untold}}
    k = len(ASKED)
    return {
        "new": float(held[new][:k].mean()), "old": float(held[old][:k].mean()),
        "kept": float(np.mean([float(held[one][k + at]) for at, one in enumerate(kept)])),
        "untold": float(np.mean([float(held[one][k + len(kept) + at]) for at, one in enumerate(untold)])),
    }  # fmt: skip


# --- drawing ----------------------------------------------------------------------------------------------------------


def _inputs(of: Model, said: Sequence[str], own: int) -> Any:
    more: dict[str, Any] = CALLS.get(of.name.removeprefix("zoo:").partition("@")[0], {})
    return of.inputs(prompt=list(said), seed=own, steps=STEPS, guidance=GUIDANCE, **more)


@torch.no_grad()
def _seen(of: Model, said: Sequence[str], own: int) -> Seen:
    """What the judge sees in drawings of prompts."""
    images = of.run(_inputs(of, said, own), output="pt").outputs.images
    return look(judge(), torch.as_tensor(images).float() * 2 - 1)


def _side(of: Model, site: Any) -> int:
    """How many cells a side of the grid of an attention has."""
    pattern = of.run(of.inputs(prompt="a fox", steps=1, step=0), record=site)[site]
    return round(pattern.shape[-2] ** 0.5)


def _a(name: str) -> str:
    return Noun(name).one


def between(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean with a 95 % interval over these, from a bootstrap; NaN for none."""
    array = np.asarray(values, float)
    if not len(array):
        return np.nan, np.nan, np.nan
    dice = np.random.default_rng(0)
    drawn = array[dice.integers(len(array), size=(2000, len(array)))].mean(1)
    return float(array.mean()), float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))
