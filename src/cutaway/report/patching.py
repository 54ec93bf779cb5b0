"""The patching maps: what each place brings back when it is carried from one picture to the other."""

from __future__ import annotations

import numpy as np

from cutaway.methods.result import Result
from cutaway.report.battery import Battery
from cutaway.report.sections import origin
from cutaway.report.snippets import Snippets
from cutaway.report.words import aim, number, signed
from cutaway.views.kinds import Axis, PatchingMap
from cutaway.views.picture import Picture


def maps(found: Battery, picture: Picture, other: Picture, code: Snippets) -> list[PatchingMap]:
    """Layer × patch and layer × head, for what was patched."""
    made = {"token": by_patch, "head": by_head}
    return [made[over](found, result, picture, other, code) for over, result in found.patching.items()]


def by_patch(found: Battery, result: Result, picture: Picture, other: Picture, code: Snippets) -> PatchingMap:
    """Layer × patch of the residual stream; the class token, which every layer ends in, is told in words."""
    grid = found.own.patches.sizes["row"], found.own.patches.sizes["col"]
    values, low, high = _sides(result, "token")
    tokens = values.shape[1] - grid[0] * grid[1]
    layers = [str(layer) for layer in result["recovery"]["layer"].values]
    kept, every = values[:, tokens:], len(layers) == found.own.parts.data.sizes["layer"]
    layer, patch = np.unravel_index(np.nanargmax(kept), kept.shape)
    row, col = divmod(int(patch), grid[1])
    lead = values[:, 0] if tokens else None
    half = next((layers[at] for at, value in enumerate(lead) if value >= 0.5), "") if lead is not None else ""
    class_token = (
        f" The class token holds half of it from layer {half} on." if half else " The class token never holds half."
    )
    return PatchingMap(
        title="Patching by layer and patch",
        seen="While the model looks at the counterfactual, one state after another is replaced by that of this "
        f"picture. 100% brings back all of the gap in {number(found)} for {aim(found)} between the two pictures "
        f"({signed(found.own.margin):+.3f} here, {signed(_there(found)):+.3f} there), 0% nothing. The "
        f"strongest single patch is layer {layers[layer]}, row {row}, column {col}: {signed(kept[layer, patch]):.1%}."
        + (class_token if lead is not None else "")
        + ("" if every else f" Of {found.own.parts.data.sizes['layer']} layers, {len(layers)} were patched."),
        limits=_LIMITS + " Single patches rarely bring back much where a thing covers many.",
        clean=picture, counterfactual=other, captions=_captions(found),
        row_axis=Axis("layer", tuple(layers)), column_axis=Axis.patches(*grid), values=kept,
        low=None if low is None else low[:, tokens:], high=None if high is None else high[:, tokens:], grid=grid,
        code=code.patching("token", result.provenance.sites, every), provenance=origin(result), unit=UNIT, folded=True,
    )  # fmt: skip


def by_head(found: Battery, result: Result, picture: Picture, other: Picture, code: Snippets) -> PatchingMap:
    """Layer × head of the attention's results."""
    values, low, high = _sides(result, "head")
    layers = tuple(str(layer) for layer in result["recovery"]["layer"].values)
    layer, head = np.unravel_index(np.nanargmax(values), values.shape)
    return PatchingMap(
        title="Patching by layer and head",
        seen=f"The same for the result of each head, at all positions at once. Layer {layers[layer]}, head {head} "
        f"brings back most: {signed(values[layer, head]):.1%} of the gap."
        f"{_strange(found, int(layer), int(head))} A head with a small direct effect and a large number here acts "
        "through later layers.",
        limits=_LIMITS + " Heads that do the same job hide one another.",
        clean=picture, counterfactual=other, captions=_captions(found), row_axis=Axis("layer", layers),
        column_axis=Axis.count("head", values.shape[1]), values=values, low=low, high=high,
        code=code.patching("head", result.provenance.sites, True), provenance=origin(result), unit=UNIT, folded=True,
    )  # fmt: skip


UNIT = "share of the gap that comes back"
_LIMITS = (
    "It shows that a place is enough to bring the answer back, not that it is the only one. The patched state is one "
    "that the model never saw together with the rest."
)


def _sides(result: Result, axis: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The mean over pairs and its interval, each (layer, axis); no interval for one pair."""
    recovery = result["recovery"].transpose("pair", "layer", axis)
    if recovery.sizes["pair"] == 1:
        return recovery.values[0], None, None
    low, high = (result[name].transpose("layer", axis).values for name in ("low", "high"))
    return result["mean"].transpose("layer", axis).values, low, high


def _strange(found: Battery, layer: int, head: int) -> str:
    """What the same head brings back from unrelated pictures."""
    if found.unrelated is None:
        return ""
    return f" From unrelated pictures the same head brings {signed(found.unrelated.values[layer, head]):.1%}."


def _there(found: Battery) -> float:
    return found.other.margin if found.other is not None else float("nan")


def _captions(found: Battery) -> tuple[str, str]:
    return f"this picture: {signed(found.own.margin):+.3f}", f"counterfactual: {signed(_there(found)):+.3f}"
