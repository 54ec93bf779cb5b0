"""What is patched in a drawing, place by place: layers, steps, heads, positions of the prompt, as edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.edits import Patch
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.prompts import layered_encoders
from cutaway.model.steps import drawn_steps
from cutaway.questions.pairs import same_positions

# What is patched: the sites of a layer, and the axis that is gone over beside layers.
WHATS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "prompt": (("cross.k", "cross.v"), "step"),
    "attention": (("cross.out",), "step"),
    "head": (("cross.z",), "head"),
    "word": (("embed", "resid_post"), "position"),
}
ALL = "all"
_NAMES = {2: ("early", "late"), 3: ("early", "middle", "late")}


@dataclass(frozen=True)
class Places:
    """Everything that is patched one after another: rows by name with their sites, columns by name with a selector."""

    axis: str
    rows: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, Mapping[str, Any]]

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site that is written to."""
        return tuple(dict.fromkeys(site for sites in self.rows.values() for site in sites))

    def edits(self, row: str, column: str, source: Mapping[str, Tensor]) -> list[Patch]:
        """The patches of one place, in the rows of the guidance that see the prompt."""
        return [Patch(site, {site: source[site]}, guidance="cond", **self.columns[column]) for site in self.rows[row]]


def places(
    model: Model, what: str, clean: Inputs, other: Inputs, *, windows: int | Mapping[str, Sequence[int]],
    wide: int, groups: Mapping[str, Sequence[int]] | None,
) -> Places:  # fmt: skip
    """The places of a kind, or a MethodError that says why there are none."""
    few = min(wide, windows if isinstance(windows, int) else 1)
    if what not in WHATS or few < 1 or (groups is not None and wide != 1):
        raise MethodError(
            f"cannot trace what='{what}', windows={windows}, wide={wide}" + (" with groups" if groups else ""),
            expected="one window and one layer at least; `groups` alone or `wide` alone", exists=", ".join(WHATS),
            do="the defaults are prompt, 3 and 1",
        )  # fmt: skip
    parts, axis = WHATS[what]
    found = _sites(model, what, parts)
    layers = sorted(found)
    chosen = bool(groups)
    if groups is None:
        groups = {
            str(layers[at]) if wide == 1 else f"{layers[at]}-{layers[at + wide - 1]}": layers[at : at + wide]
            for at in range(len(layers) - wide + 1)
        }
    lost = sorted({layer for some in groups.values() for layer in some} - {*layers})
    if lost:
        raise MethodError(f"layer {lost[0]} has no {parts[-1]}", expected="layers that have", exists=f"{layers}")
    named = {name: tuple(site for layer in some for site in found[layer]) for name, some in groups.items()}
    if what == "word":
        begins = tuple(f"{tower}.embed" for tower in layered_encoders(model))
        named = named if chosen else {"embed": begins, **named}
    else:
        named[ALL] = tuple(site for some in found.values() for site in some)
    return Places(axis, named, COLUMNS[axis](model, clean, other, named, windows))


def layers_of(model: Model, what: str) -> list[int]:
    """The layers that a kind of place has, in order."""
    return sorted(_sites(model, what, WHATS[what][0]))


def _sites(model: Model, what: str, parts: Sequence[str]) -> dict[int, list[str]]:
    """The sites of these parts by layer; of several text encoders those at the same share of their depth together."""
    if what == "word":
        depths = {tower: len(model.towers[tower].labels) for tower in layered_encoders(model)}
        layers = min(depths.values())
        return {
            at: [f"{tower}.{round((at + 1) * depth / layers) - 1}.resid_post" for tower, depth in depths.items()]
            for at in range(layers)
        }
    found: dict[int, list[str]] = {}
    for site in model.sites:
        if site.tower == "denoiser" and site.part in parts and site.layer is not None and not site.dead:
            found.setdefault(site.layer, []).append(str(site))
    if not found:
        raise MethodError(
            f"'{model.name}' has no {' or '.join(parts)} in its denoiser",
            expected="a pipeline whose patches attend to words by cross-attention, for `word` one with a text encoder",
            exists=f"the towers {', '.join(model.towers)}", do="see `cutaway methods` for what fits it",
        )  # fmt: skip
    return found


def _steps(model: Model, inputs: Inputs) -> range:
    """The steps of a drawing, or the one that is evaluated."""
    step = getattr(inputs.call, "step", None)
    return range(drawn_steps(model.module, inputs)) if step is None else range(step, step + 1)


def _windows(
    model: Model, clean: Inputs, _: Inputs, __: Any, windows: int | Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Windows of steps, one behind another or as they are given, and all together."""
    steps = _steps(model, clean)
    if not isinstance(windows, int):
        lost = sorted({step for some in windows.values() for step in some} - {*steps})
        if lost:
            raise MethodError(f"no step {lost[0]}", expected=f"steps of {steps.start} to {steps[-1]}")
        return {**{name: {"step": list(some)} for name, some in windows.items()}, ALL: {}}
    count = min(windows, len(steps))
    edges = [steps.start + round(at * len(steps) / count) for at in range(count + 1)]
    parts = [range(start, stop) for start, stop in pairwise(edges)]
    names = _NAMES.get(count, tuple(str(one.start) if len(one) == 1 else f"{one.start}-{one[-1]}" for one in parts))
    return {**{name: {"step": one} for name, one in zip(names, parts, strict=True) if count > 1}, ALL: {}}


def _heads(model: Model, _: Inputs, __: Inputs, rows: Mapping[str, tuple[str, ...]], ___: Any) -> Any:
    """Every head, and all together."""
    counts = {model.sites[site][0].sizes.get("head") for sites in rows.values() for site in sites}
    if len(counts) != 1 or None in counts:
        raise MethodError(
            f"these layers have {sorted(map(str, counts))} heads", expected="as many in each",
            do="name layers with as many heads in `groups`",
        )  # fmt: skip
    return {**{str(head): {"head": [head]} for head in range(int(counts.pop() or 0))}, ALL: {}}


def _positions(_: Model, clean: Inputs, other: Inputs, __: Any, ___: Any) -> dict[str, dict[str, Any]]:
    """What lies where in both prompts: the words that differ, those behind them, the end, the padding; and all."""
    if "text" not in clean.tokens or getattr(clean.call, "step", None) is not None:
        raise MethodError(
            "the text encoder is not run here", expected="whole drawings", do="`model.inputs(prompt=…)` without `step=`"
        )
    encoders = [name for name in clean.tokens if name.split("_")[0] == "text"]
    for name in encoders:
        same_positions(clean, other, name, 0)
    if any((clean.tokens[name].kind != clean.tokens["text"].kind).any() for name in encoders):
        raise MethodError(
            f"the encoders {', '.join(encoders)} lay the prompt out differently", expected="the same positions in each",
            do='trace what="prompt"',
        )  # fmt: skip
    here, there = clean.tokens["text"], other.tokens["text"]
    text, differs = here.kind == "text", (here.text != there.text) & (here.kind == "text")
    behind = text & ~differs & (np.cumsum(differs, 1) > 0)
    found = {"the word": differs, "words behind": behind, "end": here.kind == "eos", "padding": here.kind == "pad"}
    return {**{name: {"token": _mask(mask)} for name, mask in found.items() if mask.any()}, ALL: {}}


def _mask(mask: Any) -> Bool[Tensor, "row token"]:
    return torch.from_numpy(np.asarray(mask, bool))


COLUMNS: Mapping[str, Callable[..., dict[str, dict[str, Any]]]] = {
    "step": _windows,
    "head": _heads,
    "position": _positions,
}
