"""What writes the guidance of `zoo:emoji-mmdit`, patch by patch: the tables of docs/velocity.md.

python benchmarks/velocity.py [--many N] [--seeds 0 1] [--untrained]

For each seed other prompts of one thing and other noise. Patches of the thing are those that the judge sees it on, in
what the trained pipeline drew. `--untrained`: the pipeline before training, over the same patches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from timing import BEFORE, seeded

import cutaway
from cutaway import Ablate
from cutaway.data.prompts import prompt
from cutaway.methods import velocity_decomposition
from cutaway.methods.truth import fit, on_patches
from cutaway.model.denoiser_end import denoiser_end
from cutaway.model.targets import Target, outcome
from cutaway.zoo import emoji_judge
from cutaway.zoo.evaluate_drawn import GUIDANCE, STEPS, scenes_of
from cutaway.zoo.judging import look

AT = (4, 10, 16)  # steps at which heads are ablated
SITE = "denoiser.*.image.attn.z"


@dataclass(frozen=True)
class Along(Target):
    """<d, y>, the mean over some patches, of what a denoiser gives in one evaluation: one direction a row."""

    end: Any
    directions_of: Sequence[torch.Tensor]
    patches: Sequence[torch.Tensor]

    def __call__(self, run: Any) -> torch.Tensor:
        """The number of each row."""
        said = self.end.parted(outcome(run)).double()
        both = zip(said, self.directions_of, self.patches, strict=True)
        return torch.stack([(one * toward).sum(-1)[here].mean() for one, toward, here in both])


def main() -> None:
    """Print what is found for each seed."""
    given = seeded(__doc__, 12, "prompts", untrained=BEFORE).parse_args()
    drawer = cutaway.load("zoo:emoji-mmdit")
    model = cutaway.load("zoo:emoji-mmdit@untrained") if given.untrained else drawer
    for seed in given.seeds:
        started = time.perf_counter()
        scenes = list(islice(scenes_of("test", 1, seed), given.many))
        fixed = {
            "prompt": [prompt(scene, scene.seed, way="things", ground=True).text for scene in scenes],
            "seed": seed * 10_000, "steps": STEPS, "guidance": GUIDANCE, "length": 0,
        }  # fmt: skip
        names = [scene.things[0].concept for scene in scenes]
        truth = _seen(drawer, drawer.inputs(**fixed), names)
        inputs = model.inputs(**fixed)
        found = velocity_decomposition(model, inputs, draws=8, seed=seed, progress=False)
        kept = [at for at, mask in enumerate(truth) if mask.any()]
        print(f"\n{model.name}, seed {seed}: {len(kept)} of {len(names)} drawings have their thing")
        _sum(found, truth, kept)
        _words(found, truth, kept, names)
        _ablated(model, fixed, found, truth, kept)
        print(f"  {time.perf_counter() - started:.0f} s")


@torch.no_grad()
def _seen(drawer: cutaway.Model, inputs: Any, names: list[str]) -> list[np.ndarray]:
    """The patches that show most of the thing, of each drawing; none where the judge does not find it."""
    drawn = torch.as_tensor(drawer.run(inputs, output="pt").outputs.images).float() * 2 - 1
    seen = look(emoji_judge.judge(), drawn)
    found = []
    for at, name in enumerate(names):
        mask = on_patches(seen.mask(at, name).numpy() > 0, 8, 8) >= 0.5
        found.append(mask & (float(seen.there(name)[at]) > 0.5))
    return found


def _over(values: Any, masks: list[np.ndarray], kept: list[int]) -> np.ndarray:
    """The mean over the chosen patches of each kept picture, then over pictures and steps: what else there is."""
    array = values.transpose("picture", "step", ..., "row", "col").values
    return np.mean([array[at][..., masks[at]].mean(-1).mean(0) for at in kept], 0)


def _sum(found: Any, truth: list[np.ndarray], kept: list[int]) -> None:
    """What adds up to the guidance difference, at the thing's patches and at all others."""
    rest = float(abs(found["rest"]).max() / abs(found["total"]).max())
    print(f"  rest, largest, of the largest total: {rest:.1e}")
    for where, masks in {"thing": truth, "elsewhere": [~mask for mask in truth]}.items():
        total = float(_over(found.pushed(), masks, kept))
        heads, mlps = (_over(found.pushed(name), masks, kept) / total for name in ("heads", "mlps"))
        others = {name: float(_over(found.pushed(name), masks, kept).sum()) / total
                  for name in ("embed", "biases", "constant")}  # fmt: skip
        source = _over(found.pushed("sources").sum(("layer", "head")), masks, kept) / total
        print(f"  at {where}: {total:.3f} long; heads {heads.sum():.2f}, MLPs {mlps.sum():.2f}, "
              + ", ".join(f"{name} {value:.2f}" for name, value in others.items()))  # fmt: skip
        print(f"    heads by layer {_listed(heads.sum(1))}, MLPs by layer {_listed(mlps)}")
        order = np.argsort(-np.abs(heads), axis=None)[:4]
        top = [f"{at // 4}.{at % 4} {heads.ravel()[at]:.2f}" for at in order]
        print(f"    largest heads {', '.join(top)}; heads from words {source[0]:.2f}, other text {source[1]:.2f}, "
              f"patches {source[2]:.2f}")  # fmt: skip
    wrote = found.pushed("heads").mean(("step", "picture", "row", "col"))
    chance = (found.pushed("heads_chance").mean(("step", "picture")) ** 2).mean("draw") ** 0.5
    more = found.pushed("mlps").mean(("step", "picture", "row", "col"))
    random = (found.pushed("mlps_chance").mean(("step", "picture")) ** 2).mean("draw") ** 0.5
    print(f"  all patches: heads by layer {_listed(wrote.sum('head').values)}; times the same along other "
          f"patches: heads {float(wrote.sum() / chance.sum()):.2f}, MLPs {float(more.sum() / random.sum()):.2f}; "
          f"{int((abs(wrote) > 2 * chance).sum())} of {wrote.size} heads above twice")  # fmt: skip


def _words(found: Any, truth: list[np.ndarray], kept: list[int], names: list[str]) -> None:
    """How the direct map of the thing's word fits the patches that show the thing."""
    rows: dict[str, list[float]] = {}
    for at in kept:
        maps = {"the word": found.heat(names[at], at).values, "“background”": found.heat("background", at).values,
                "all words": found.pushed("words").isel(picture=at).sum("place").mean("step").values,
                "length of the difference": found.pushed().isel(picture=at).mean("step").values}  # fmt: skip
        for name, heat in maps.items():
            made = fit(heat, truth[at])
            rows.setdefault(f"{name}: IoU", []).append(float(made.iou))
            rows.setdefault(f"{name}: greatest on it", []).append(float(made.hit))
            if name == "the word":
                rows.setdefault("shuffled: IoU", []).append(float(made.iou_shuffled))
                rows.setdefault("shuffled: greatest on it", []).append(float(made.hit_shuffled))
    for name, values in rows.items():
        half = 1.96 * np.std(values, ddof=1) / len(values) ** 0.5
        print(f"    {name:44s} {np.mean(values):.3f} ± {half:.3f}")


def _ablated(model: cutaway.Model, fixed: dict[str, Any], found: Any, truth: list[np.ndarray], kept: list[int]) -> None:
    """Direct effects of heads beside what their removal does to the same number, at the thing's patches."""
    end, patches = denoiser_end(model), [torch.from_numpy(truth[at].ravel()) for at in kept]
    for how in ("zero", "mean"):
        for step in AT:
            inputs = model.inputs(**{**fixed, "prompt": [fixed["prompt"][at] for at in kept]}, step=step)
            toward = torch.from_numpy(found["direction"].sel(step=step).values).flatten(1, 2)[kept].double()
            target = Along(end, list(toward), patches)
            one = velocity_decomposition(model, inputs, toward.float(), draws=0, by_word=False, progress=False)
            plain = model.run(inputs, record=SITE)
            edit = Ablate(SITE) if how == "zero" else Ablate(SITE, "mean", plain, over=("batch", "token"))
            swept = model.sweep(inputs, model.grid(edit, head=range(4)), target, progress=False)
            effect = (swept.clean - swept.values).transpose("row", "site", "head").values
            direct = np.stack([one["heads"].values[0, 0, at][..., truth[of]].mean(-1) for at, of in enumerate(kept)])
            each = [_ranks(a, b) for a, b in zip(direct, effect, strict=True)]
            means, half = (direct.mean(0), effect.mean(0)), 1.96 * np.std(each, ddof=1) / len(each) ** 0.5
            early, late = (_ranks(*(mean[part] for mean in means)) for part in (slice(6), slice(6, None)))
            print(
                f"  step {step}, {how}: rank agreement of direct with removed, a drawing {np.mean(each):.2f} ± "
                f"{half:.2f}, of the means {_ranks(*means):.2f}; of layers 0 to 5 {early:.2f}, of 6 and 7 {late:.2f}"
            )
            print(f"    removed, by layer {_listed(means[1].sum(1))}, direct {_listed(means[0].sum(1))}")


def _ranks(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation."""
    return float(spearmanr(one.ravel(), other.ravel()).statistic)


def _listed(values: np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in values]


if __name__ == "__main__":
    main()
