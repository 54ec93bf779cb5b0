"""What is measured of two models that draw, planted: words lie where things are, padding carries; or noise alone."""

import numpy as np
import xarray

from cutaway.report.findings_drawn import HIDDEN, MAPS, PARTS, PLACES, WAYS

Found = dict[str, xarray.Dataset]
GRIDS = ("16 × 16", "8 × 8", "layer 0", "layer 1")
WINDOWS = ("first half", "second half")


def between(values: np.ndarray, name: str = "", wide: float = 0.05) -> dict[str, np.ndarray]:
    """The values with an interval around them, under the names that a section uses."""
    ends = ("mean", "low", "high") if name.endswith("_") else ("", "_low", "_high")
    return {f"{name}{end}": values + shift for end, shift in zip(ends, (0, -wide, wide), strict=True)}


def noisy(middle: object, shape: tuple[int, ...], noise: float, draw: np.random.Generator) -> np.ndarray:
    return np.clip(np.broadcast_to(np.asarray(middle, float), shape) + noise * draw.standard_normal(shape), 0, 1)


def maps(own: float, behind: float, left: float, noise: float, draw: np.random.Generator) -> xarray.Dataset:
    """Overlaps of the three maps, in two sets; what is left when the name is hidden."""
    shape, data = (2, 2, len(MAPS)), {}
    for what in ("iou", "hit"):
        data |= {k: (("set", "things", "map"), v)
                 for k, v in between(noisy((own, behind, 0.2), shape, noise, draw), what).items()}  # fmt: skip
    data["shuffled"] = ("set", "things", "map"), np.full(shape, 0.1)
    kept = noisy((0.9, left, 0.01, 0.8), (2, 2, len(HIDDEN)), noise, draw)
    data |= {k: (("set", "things", "hidden"), v) for k, v in between(kept, "left").items()}
    data["drawn"] = ("set", "things"), np.full((2, 2), 12)
    return xarray.Dataset(data, {"set": [0, 1], "things": [1, 2], "map": list(MAPS), "hidden": list(HIDDEN)})


def places(word: float, padding: float, noise: float, draw: np.random.Generator) -> xarray.Dataset:
    shape, axes = (2, len(PARTS), len(PLACES)), ("set", "part", "position")
    middle = noisy((word, 0.2, 0.2, padding, 1.0), shape, noise, draw)
    data = {k: (axes, v) for way in ("in_", "out_") for k, v in between(middle, way).items()}
    data |= {"in_random": (axes, np.zeros(shape)), "gap": (("set", "part"), np.full(shape[:2], 0.8))}
    return xarray.Dataset(data, {"set": [0, 1], "part": list(PARTS), "position": list(PLACES)})


def layers(thing: int, background: int, draw: np.random.Generator) -> xarray.Dataset:
    """The thing comes in by one of the two grids, the background by one; -1 is by either at random, in each set."""
    level = np.zeros((2, len(PARTS), len(GRIDS)))
    for part, at in enumerate((thing, background)):
        for k in range(2):
            level[k, part, at if at >= 0 else k] = 0.9
    data = {k: (("set", "part", "layer"), v) for way in ("in_", "out_") for k, v in between(level, way).items()}
    when = draw.random((2, len(PARTS), len(WINDOWS)))
    data |= {k: (("set", "part", "window"), v) for k, v in between(when, "when_").items()}
    return xarray.Dataset(data, {"set": [0, 1], "part": list(PARTS), "layer": list(GRIDS), "window": list(WINDOWS)})


def lens(draw: np.random.Generator) -> xarray.Dataset:
    shape, axes = (2, len(PARTS), 3), ("set", "part", "layer")
    data = {k: (axes, v) for k, v in between(noisy((0, 0.2, 0.9), shape, 0.01, draw), "value").items()}
    data["random"] = axes, np.zeros(shape)
    return xarray.Dataset(data, {"set": [0, 1], "part": list(PARTS), "layer": ["embed", "0", "1"]})


def edits(new: float, noise: float, draw: np.random.Generator) -> xarray.Dataset:
    ways, data = ("before", *WAYS), {}
    for what, middle in {"new": (0, new, 0), "old": (0.9, 1 - new, 0.9), "kept": 0.8, "untold": 0.8}.items():
        values = noisy(middle, (2, len(ways)), noise, draw)
        data |= {k: (("set", "way"), v) for k, v in between(values, what).items()}
    return xarray.Dataset(data, {"set": [0, 1], "way": list(ways)})


def shown() -> xarray.Dataset:
    pictures = np.zeros((2, 2, 8, 8, 3), np.uint8)
    heat = np.random.default_rng(0).random((2, 2, 4, 4))
    data = dict.fromkeys(("drawn", "without", "edited"), (("set", "prompt", "y", "x", "channel"), pictures))
    data |= dict.fromkeys(("own", "behind"), (("set", "prompt", "row", "col"), heat))
    words = {"said": "a fox on a red background", "name": "fox", "other": "dog"}
    data |= {name: (("set", "prompt"), [[text] * 2] * 2) for name, text in words.items()}
    return xarray.Dataset(data, {"set": [0, 1]})


def drawn(own=0.7, behind=0.7, before=0.2, left=0.8, word=0.1, padding=0.8, new=0.9, grids=(1, 0), noise=0.0,
          seed=0) -> Found:  # fmt: skip
    """All sections of both models."""
    draw, found = np.random.default_rng(seed), {}
    for end in ("", "_joint"):
        found |= {
            f"maps{end}": maps(own, behind, left, noise, draw),
            f"maps{end}_floor": maps(before, before, left, noise, draw),
            f"places{end}": places(word, padding, noise, draw), f"lens{end}": lens(draw),
            f"edits{end}": edits(new, noise, draw), f"shown{end}": shown(),
        }  # fmt: skip
    return {**found, "layers": layers(*grids, draw)}
