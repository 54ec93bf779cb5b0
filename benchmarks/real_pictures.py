"""DINOv2-small taken apart: what its patches and heads say of a picture that is half one photograph, half another."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image
from real_words import table
from transformers import AutoModel

import cutaway
from cutaway.methods import logit_lens, representation_decomposition
from cutaway.methods.representation_decomposition import decompositions
from cutaway.model.model import Model
from cutaway.questions.bank import picture_bank

SIDE, GRID = 224, 16
SHIPPED = {"cat": "chelsea.png", "cup": "coffee.png", "woman": "astronaut.png", "rocket": "rocket.jpg"}  # scikit-image
SAMPLES = {"temple": "china.jpg", "flower": "flower.jpg"}  # scikit-learn
LAYERS = (-1, 2, 5, 7, 8, 9, 10, 11)
DRAWS = 16
FEW = 5  # pictures whose heads are held patch by patch


def opened(folder: Path, seed: int | None = None) -> Model:
    """The model; with a seed, a twin of the same shape with random weights."""
    model = cutaway.load(folder)
    if seed is None:
        return model
    torch.manual_seed(seed)
    twin = AutoModel.from_config(model.module.config)
    for block in twin.encoder.layer:  # they begin at 1, where a random twin's states are nearly alike
        block.layer_scale1.lambda1.data.fill_(1.0)
        block.layer_scale2.lambda1.data.fill_(1.0)
    return cutaway.load(twin, processor=model.processor)


def photographs() -> dict[str, Image.Image]:
    """Six photographs that scikit-image and scikit-learn ship, cut to a square."""
    found = {}
    for package, named in (("skimage", SHIPPED), ("sklearn", SAMPLES)):
        origin = find_spec(package)
        assert origin is not None
        assert origin.origin is not None
        folder = Path(origin.origin).parent / ("data" if package == "skimage" else "datasets/images")
        found |= {name: square(Image.open(folder / file).convert("RGB")) for name, file in named.items()}
    return found


def square(picture: Image.Image) -> Image.Image:
    """The middle of a picture."""
    side = min(picture.size)
    left, top = ((size - side) // 2 for size in picture.size)
    return picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def halves(left: Image.Image, right: Image.Image) -> Image.Image:
    """The left half of one picture beside the right half of another."""
    made = left.copy()
    made.paste(right.crop((SIDE // 2, 0, SIDE, SIDE)), (SIDE // 2, 0))
    return made


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every two in both orders."""
    return [order for one in combinations(names, 2) for order in (one, one[::-1])]


def alike(model: Model, twin: Model, shown: dict[str, Image.Image]) -> str:
    """The cosines of class tokens, two by two."""
    made = []
    for one in (model, twin):
        unit = picture_bank(one, list(shown.values()), list(shown), progress=False).directions(centre=False)
        made.append((unit @ unit.T).numpy(force=True))
    rows = [[name, *(f"{value:.2f}" for value in made[0][at])] for at, name in enumerate(shown)]
    apart = ~np.eye(len(shown), dtype=bool)
    return table(["", *shown], rows) + (
        f"\n\nTwo different photographs: {made[0][apart].mean():.2f} on average; with random weights "
        f"{made[1][apart].mean():.2f}."
    )


def told_apart(lead: ndarray) -> ndarray:
    """Of a lead by patch (…, row, col): how often a patch on the left has more of it than one on the right."""
    left, right = (half.reshape(*lead.shape[:-2], -1) for half in (lead[..., : GRID // 2], lead[..., GRID // 2 :]))
    return (left[..., :, None] > right[..., None, :]).mean((-1, -2))


def by_patch(model: Model, twins: Sequence[Model], shown: dict[str, Image.Image]) -> str:
    """Which half a patch belongs to: by its state (lens), and by what it adds to the class token (decomposition)."""
    rows = []
    for label, one in (("trained", model), *((f"random weights, seed {at}", twin) for at, twin in enumerate(twins))):
        bank = picture_bank(one, list(shown.values()), list(shown), progress=False)
        mixed = [halves(shown[a], shown[b]) for a, b in pairs(list(shown))]
        lens = logit_lens(one, mixed, bank, progress=False)
        leads = [lens["patch"].isel(picture=at).sel(text=a) - lens["patch"].isel(picture=at).sel(text=b)
                 for at, (a, b) in enumerate(pairs(list(shown)))]  # fmt: skip
        seen = np.stack(
            [told_apart(lead.sel(layer=list(LAYERS)).transpose("layer", "row", "col").values) for lead in leads]
        )
        rows.append([f"lens, {label}", *_spread(seen)])
        noise = torch.randn(2 * DRAWS, bank.embeddings.shape[1], generator=torch.Generator().manual_seed(0))
        towards = torch.cat([bank.embeddings, noise.to(bank.embeddings)])
        stream = decompositions(one, mixed, towards=towards, by_token=True, batch=FEW, progress=False)
        added, chance = np.split(np.concatenate([_added(part) for part in stream]), [len(bank)], axis=1)
        said = np.stack(
            [added[at, shown_at[0]] - added[at, shown_at[1]] for at, shown_at in enumerate(_numbers(shown))]
        )
        rows.append([f"decomposition, {label}", *_only_last(told_apart(said))])
        drawn = np.stack([told_apart(chance[:, at] - chance[:, at + 1]) for at in range(0, 2 * DRAWS, 2)])
        rows.append([f"decomposition, random directions, {label}", *_only_last(np.abs(drawn - 0.5).mean(0) + 0.5)])
    made = table(["after layer", *("embedding" if layer < 0 else str(layer) for layer in LAYERS)], rows)
    told = (
        "Of a patch on the left and one on the right, how often the left one says more of the left picture: mean over "
        f"{len(mixed)} pictures of two halves (standard deviation); a coin gives 50 %. Random directions have no side "
        "of their own: theirs is how far they are from a coin."
    )
    return f"{made}\n\n{told}"


def shares(model: Model, twin: Model, shown: dict[str, Image.Image]) -> str:
    """Where the class token comes from: shares of its squared length, and how exact the sum is."""
    rows = []
    for label, one in (("trained", model), ("random weights", twin)):
        made = representation_decomposition(one, list(shown.values()), progress=False)
        frame = made.summary().set_index("layer")
        late = [f"{round(frame.loc[str(layer), 'all'], 2) + 0.0:.0%}" for layer in (0, 4, 8, 9, 10, 11)]
        size = float(np.abs(made["embedding"]).max())
        rows.append([label, *late, f"{float(made['error'].max()) / size:.0e}"])
    return table(["", *(f"layer {layer}" for layer in (0, 4, 8, 9, 10, 11)), "error, of the largest entry"], rows)


def figure(model: Model, shown: dict[str, Image.Image], a: str = "cat", b: str = "cup") -> Figure:
    """A picture of two halves, what its patches are like layer by layer, and what they add to the class token."""
    bank = picture_bank(model, list(shown.values()), list(shown), progress=False)
    mixed = halves(shown[a], shown[b])
    lens = logit_lens(model, [mixed], bank, progress=False)["patch"].isel(picture=0)
    parts = representation_decomposition(model, [mixed], towards=bank, by_token=True, progress=False)
    added = _added(parts)[0]
    at = list(shown)
    maps = {f"lens, layer {layer}": (lens.sel(text=a, layer=layer) - lens.sel(text=b, layer=layer)).values
            for layer in (5, 8, 10, 11)}  # fmt: skip
    maps["added to the class token"] = added[at.index(a)] - added[at.index(b)]
    made = Figure(figsize=(8.4, 1.9), dpi=110, layout="constrained")
    first, *rest = made.subplots(1, len(maps) + 1)
    first.imshow(mixed)
    first.set_title(f"{a} | {b}", fontsize=8)
    for ax, (name, values) in zip(rest, maps.items(), strict=True):
        most = float(np.abs(values).max())
        ax.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most)
        ax.set_title(name, fontsize=8)
    for ax in (first, *rest):
        ax.set_axis_off()
    return made


def _added(parts: object) -> ndarray:
    """What each patch adds to the cosine with each direction through all heads, (item, text, row, col)."""
    effect = parts.effect(of="head_tokens").sum(("layer", "head"))  # type: ignore[attr-defined]
    return parts.on_grid(effect).transpose("item", "text", "row", "col").values  # type: ignore[attr-defined]


def _numbers(shown: dict[str, Image.Image]) -> list[tuple[int, int]]:
    names = list(shown)
    return [(names.index(a), names.index(b)) for a, b in pairs(names)]


def _spread(values: ndarray) -> list[str]:
    return [f"{mean:.0%} ({std:.0%})" for mean, std in zip(values.mean(0), values.std(0), strict=True)]


def _only_last(values: ndarray) -> list[str]:
    return [*[""] * (len(LAYERS) - 1), f"{values.mean():.0%} ({values.std():.0%})"]
