"""What writes the answer of a model: every part's direct effect, and whether it ranks heads as ablation does."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import rankdata

from cutaway.methods.representation_decomposition import LogitDecomposition, logit_decomposition
from cutaway.model.edits import Ablate, Edit, Set
from cutaway.model.model import Model
from cutaway.report.findings_asked import KINDS, TOWER, Posed, posed
from cutaway.report.findings_scenes import BOOTSTRAPS, TOLD, resampled

PARTS = {"heads": "attn.z", "MLPs": "mlp.out"}
HOW = ("mean", "zero")
SOURCES = ("things", "elsewhere", "names", "words", "last")  # picture tokens on the asked things and off them; the text


def writes(model: Model, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """Direct effects on true answer less rival, by kind of question, and how they rank heads beside ablations.

    `right`, `total` and `error` (kind): the share of right answers, the mean difference in logits, and how far at most
    the sum of all parts is from it. `direct` (kind, layer, head), `direct_mlp` (kind, layer): means over questions;
    `ablated`, `ablated_mlp` with `how` in front: what is lost at the last position without the part, which has its
    mean over the questions of the kind there, or zero. `read` (kind, source): what all heads bring from positions of a
    source. `area` (kind): the share of picture tokens that lie on the asked things. See `agreement` for the ranks.
    """
    made = []
    for kind in KINDS:
        told(f"direct effects, {kind}")
        made.append(of_kind(posed(model, kind, max(24, n // 3), seed), seed))
    return xarray.concat(made, "kind").assign_coords(kind=list(KINDS))


def of_kind(asked: Posed, seed: int) -> xarray.Dataset:
    """What is directly added to questions of one kind, what ablation costs there, and how far the two agree."""
    found = logit_decomposition(asked.model, asked.inputs, asked.target, by_token=True, pairs=1)
    total = found["total"].values
    heads, mlps = found["heads"].transpose("row", "layer", "head").values, found["mlps"].values
    data: dict[str, Any] = {
        "right": ((), (total > 0).mean()), "total": ((), total.mean()), "error": ((), found["error"].max().item()),
        "direct": (("layer", "head"), heads.mean(0)), "direct_mlp": ("layer", mlps.mean(0)),
        "questions": ((), len(total)), "area": ((), _area(asked)), "read": ("source", _read(asked, found)),
    }  # fmt: skip
    shares = {"heads": heads, "MLPs": mlps}
    lost = ablated(asked)
    data["ablated"] = ("how", "layer", "head"), lost["heads"].mean(1)
    data["ablated_mlp"] = ("how", "layer"), lost["MLPs"].mean(1)
    ranks = [[agreement(shares[part], lost[part][at], seed) for at in range(len(HOW))] for part in PARTS]
    for name in ranks[0][0]:
        data[name] = ("part", "how"), np.array([[one[name] for one in row] for row in ranks])
    coords = {"part": list(PARTS), "how": list(HOW), "source": list(SOURCES)}
    return xarray.Dataset(data, coords=coords | {"layer": range(heads.shape[1]), "head": range(heads.shape[2])})


def ablated(asked: Posed) -> dict[str, Float[ndarray, "how row layer *head"]]:
    """What of the difference is lost, in logits, when one head, or one MLP, is ablated at the last position."""
    run = asked.model.run(asked.inputs, record=[f"{TOWER}.*.{site}" for site in PARTS.values()], tokens=[-1])
    cells: dict[tuple[str, str], list[Edit]] = {(part, how): [] for part in PARTS for how in HOW}
    for part, site in PARTS.items():
        for name, value in run.matching(f"{TOWER}.*.{site}").items():
            mean = value[:, 0].mean(0)
            places: list[dict[str, Any]] = [{"head": head} for head in range(len(mean))] if part == "heads" else [{}]
            for at in places:
                cells[part, "mean"].append(Set(name, mean[at["head"]] if at else mean, token=-1, **at))
                cells[part, "zero"].append(Ablate(name, token=-1, **at))
    swept = asked.model.sweep(
        asked.inputs, [one for some in cells.values() for one in some], asked.target, progress=False
    )
    lost, found, layers = -swept.change.values, {}, len(cells["MLPs", "mean"])
    for part in PARTS:
        size, axes = len(cells[part, "mean"]), (layers, -1) if part == "heads" else (layers,)
        mine, lost = lost[: size * len(HOW)], lost[size * len(HOW) :]
        found[part] = mine.reshape(len(HOW), size, -1).swapaxes(1, 2).reshape(len(HOW), mine.shape[1], *axes)
    return found


def agreement(
    direct: Float[ndarray, "row *part"], lost: Float[ndarray, "row *part"], seed: int
) -> dict[str, float]:  # fmt: skip
    """How far two measures of the same parts rank them alike (Spearman), mean over questions, beside chance.

    `rho` with `rho_low`, `rho_high` (95 %, over questions); `permuted_low`, `permuted_high`: what 95 % of permutations
    of the parts give, one permutation for all questions; `stranger`: the direct effects of one question against what
    the next one loses; `rho_mean`: of the means over questions; `first`: how often the same part is the largest of
    both, in size, and `first_chance`.
    """
    one, two = (values.reshape(len(values), -1) for values in (direct, lost))
    own, other = _standard(one), _standard(two)
    rho, count = (own * other).mean(1), own.shape[1]
    low, high = np.quantile(resampled(len(rho), seed) @ rho, (0.025, 0.975))
    product, dice = own.T @ other / own.size, np.random.default_rng(seed)
    permuted = [product[dice.permutation(count), np.arange(count)].sum() for _ in range(BOOTSTRAPS)]
    ends = np.quantile(permuted, (0.025, 0.975))
    mean = (_standard(one.mean(0)[None]) * _standard(two.mean(0)[None])).mean()
    first = (abs(one).argmax(1) == abs(two).argmax(1)).mean()
    return {
        "rho": float(rho.mean()), "rho_low": float(low), "rho_high": float(high), "rho_mean": float(mean),
        "permuted_low": float(ends[0]), "permuted_high": float(ends[1]), "first": float(first),
        "stranger": float((own * np.roll(other, 1, 0)).mean()), "first_chance": 1 / count,
    }  # fmt: skip


def _standard(values: Float[ndarray, "row part"]) -> Float[ndarray, "row part"]:
    """Ranks of each row, of mean 0 and variance 1; a row without order is all zero."""
    ranks = rankdata(values, axis=1)
    ranks = ranks - ranks.mean(1, keepdims=True)
    size = (ranks**2).mean(1, keepdims=True) ** 0.5
    return np.asarray(ranks / np.where(size > 0, size, 1.0))


def _area(asked: Posed) -> float:
    return float(asked.on_things.sum() / asked.context.sum())


def _read(asked: Posed, found: LogitDecomposition) -> Float[ndarray, "source"]:
    """What heads bring to the last position from positions of each source, mean over questions, in logits."""
    brought = found["head_tokens"].sum(("layer", "head")).transpose("row", "token").values
    kinds, things = asked.inputs.tokens[TOWER].kind, asked.on_things.numpy()
    picture, named, last = kinds == "image", asked.named.numpy(), asked.last.numpy()
    masks = (things, picture & ~things, named, ~picture & ~named & ~last, last)
    return np.array([(brought * mask).sum(1).mean() for mask in masks])
