"""Measures for a page of findings: planted effects, and noise that comes out of the same arithmetic."""

import numpy as np
import xarray

from cutaway.methods.representation_decomposition import Decomposition
from cutaway.methods.result import Provenance
from cutaway.report.findings_heads import variance_shares
from cutaway.report.findings_layers import costs
from cutaway.report.findings_scenes import FACTORS, TOPICS, resampled

LAYERS, HEADS = 6, 4
PLACES = ("factor", "layer", "head")
Found = dict[str, xarray.Dataset]

# What the page says of an effect, each once, and nowhere without one.
EFFECTS = (
    "It tells pictures apart", "It writes the name of a thing late", "have learned what to look for",
    "Some answers hang on", "shrinks more than without random ones, by", "easier to read off its states**:",
    "less is left of its lead than", "Better than chance and than the floor on", "rank the heads alike for",
    "carry more recover more for", "), more than saying",
    "more than half goes with the last", "Captions are lost, more than", "Margin is lost, more than",
    "lies above the floor's for", "than a stranger's does, before the last layer, for", "costs more margin than",
)  # fmt: skip


def sets(*made: xarray.Dataset) -> xarray.Dataset:
    return xarray.concat(made, xarray.DataArray(range(len(made)), dims="set", name="set"))


def factors(numbers: dict, dims: tuple = (), **attrs) -> xarray.Dataset:
    data = xarray.Dataset({name: (("factor", *dims), value) for name, value in numbers.items()})
    return data.assign_coords(factor=list(FACTORS)).assign_attrs(attrs)


def known_numbers(right: list[float], spread: float = 0.08) -> xarray.Dataset:
    values = np.array(right)
    numbers = {"right": values, "margin": values - 0.5, "low": values - spread, "high": values + spread}
    return factors(numbers, choices=100)


def head_numbers(own: float) -> xarray.Dataset:
    """Head l.f carries factor f by `own` and more with each layer; texts and patching say the same."""
    share = np.zeros((4, LAYERS, HEADS)) + 0.02
    for f in range(4):
        share[f, :, f] = own * np.linspace(0.9, 1.0, LAYERS)
        share[f, :, f - 1] += 0.001 * np.arange(LAYERS) if own else 0
    plain = {
        "share": share, "shuffled": np.full_like(share, 0.02), "shuffled_high": np.full_like(share, 0.05),
        "p": np.where(share > 0.05, 0.005, 1.0), "named": share if own else 0 * share, "recovery": share,
        "low": share, "high": share, "random": 0 * share, "random_high": 0 * share,
    }  # fmt: skip
    data = xarray.Dataset({name: (PLACES, value) for name, value in plain.items()})
    for name in ("variance", "fit", "random_fit"):
        data[name] = (PLACES[1:], np.ones((LAYERS, HEADS)))
    topics = [TOPICS[factor] for factor in FACTORS] if own else ["place"] * 4
    data["text"] = data["topic"] = (PLACES[1:], np.array([topics] * LAYERS))
    data["used"] = ("factor", [8] * 4)
    return data.assign_coords(factor=list(FACTORS)).assign_attrs(items=64, pairs=8)


def direct_numbers(whole: float = 0.9) -> xarray.Dataset:
    """The heads of the last two of six layers write it all, and no MLP does; at 0.1 there is nothing to write."""
    first, last = [whole] * 5 + [0.3 * whole, 0.1], [whole, 0.3 * whole] + [0.1] * 5
    heads = [first, last, np.linspace(whole, 0.1, 7)]
    accuracy = np.array([heads, np.full((3, 7), whole)])
    data = xarray.Dataset({"accuracy": (("what", "order", "layers"), accuracy), "majority": ("what", [0.1, 0.1])})
    data["random_low"] = data["random_high"] = data["accuracy"].isel(order=2)
    data["low"] = whole - 0.05
    named = data.assign_coords(what=["heads", "MLPs"], order=["first", "last", "random"], layers=range(7))
    return named.assign_attrs(items=64)


def ablation_numbers(own: float) -> xarray.Dataset:
    names, drop = list(FACTORS), np.eye(4) * own
    values = {f"{of}{end}": (("ablated", "factor"), drop) for of in ("drop", "margin") for end in ("", "_low", "_high")}
    random = np.tile(np.linspace(0, 0.1, 80), (4, 1))
    data = xarray.Dataset(values | dict.fromkeys(("random_drop", "random_margin"), (("factor", "draw"), random)))
    data["heads"] = ("ablated", ["1.0", "1.1", "1.2", "1.3"])
    return data.assign_coords(factor=names, ablated=names).assign_attrs(pairs=8, draws=80, reference=64)


def layer_numbers(rise: float) -> xarray.Dataset:
    curve = np.tile(np.linspace(0.2, 0.2 + rise, LAYERS), (4, 1))
    names = ("read", "read_low", "read_high", "selectivity", "used", "used_low", "used_high")
    data = factors(dict.fromkeys(names, curve) | {"used_random": curve / 2, "used_random_high": curve / 2}, ("layer",))
    data["majority"], data["kept"] = ("factor", [0.2] * 4), ("factor", [0.3 if rise else 1.0] * 4)
    data["kept_random"] = (("factor", "draw"), np.tile(np.linspace(0.9, 1.1, 99), (4, 1)))
    return data.assign_coords(layer=range(LAYERS)).assign_attrs(items=64, pairs=8)


def planted() -> Found:
    """Every effect there is, in both sets of scenes."""
    one = {
        "known": known_numbers([0.9] * 4), "known_floor": known_numbers([0.5] * 4), "heads": head_numbers(0.8),
        "heads_floor": head_numbers(0.0), "direct": direct_numbers(), "direct_floor": direct_numbers(0.1),
        "ablation": ablation_numbers(0.5), "layers": layer_numbers(0.6), "layers_floor": layer_numbers(0.0),
    }  # fmt: skip
    return {name: sets(data, data) for name, data in one.items()}


# --- noise ------------------------------------------------------------------------------------------------------------


def noise(seed: int) -> Found:
    """A model that knows nothing, measured: pairs, scenes and heads are drawn at random, and so is the floor."""
    draw = np.random.default_rng(seed)
    made = {
        "known": known_noise, "known_floor": known_noise, "heads": head_noise, "heads_floor": head_noise,
        "direct": direct_noise, "direct_floor": direct_noise, "ablation": ablation_noise, "layers": layer_noise,
        "layers_floor": layer_noise,
    }  # fmt: skip
    return {name: sets(one(draw), one(draw)) for name, one in made.items()}


def known_noise(draw: np.random.Generator) -> xarray.Dataset:
    right = (draw.standard_normal((4, 160, 2)) > 0).mean(2)
    low, high = np.quantile(right @ resampled(160, 0).T, (0.025, 0.975), axis=1)
    return factors({"right": right.mean(1), "low": low, "high": high, "margin": 0 * low}, choices=320)


def head_noise(draw: np.random.Generator) -> xarray.Dataset:
    """Labels that have nothing to do with what heads add; texts and recoveries that have nothing to do with labels."""
    terms = draw.standard_normal((150, LAYERS, HEADS, 6))
    parts = Decomposition(
        xarray.Dataset({"heads": (("item", "layer", "head", "joint"), terms)}), Provenance("noise", "nobody, 2026")
    )
    shares = [
        variance_shares([parts], draw.integers(kinds, size=150), int(draw.integers(99))) for kinds in (9, 9, 30, 3)
    ]
    data, shape = xarray.concat(shares, "factor"), (4, LAYERS, HEADS)
    for name in ("named", "recovery", "low", "high", "random", "random_high"):
        data[name] = (PLACES, draw.random(shape))
    for name in ("variance", "fit", "random_fit"):
        data[name] = (PLACES[1:], draw.random(shape[1:]))
    data["text"] = data["topic"] = (PLACES[1:], draw.choice(list(TOPICS.values()), shape[1:]))
    data["used"] = ("factor", [8] * 4)
    return data.assign_coords(factor=list(FACTORS)).assign_attrs(items=150, pairs=8)


def direct_noise(draw: np.random.Generator) -> xarray.Dataset:
    accuracy = draw.binomial(200, 0.05, (2, 3, 7)) / 200
    accuracy[:, :, 0] = accuracy[0, 0, 0]
    data = xarray.Dataset({"accuracy": (("what", "order", "layers"), accuracy), "majority": ("what", [0.05, 0.05])})
    data["random_low"], data["random_high"] = (
        data["accuracy"].isel(order=2) - 0.03,
        data["accuracy"].isel(order=2) + 0.03,
    )
    data["low"] = accuracy[0, 0, 0] - 0.03
    named = data.assign_coords(what=["heads", "MLPs"], order=["first", "last", "random"], layers=range(7))
    return named.assign_attrs(items=200)


def ablation_noise(draw: np.random.Generator) -> xarray.Dataset:
    """Every set of heads costs as much as any other."""
    rows = []
    for _ in FACTORS:
        clean = 0.3 + draw.standard_normal((40, 2))
        rows.append(costs(clean, clean + 0.3 * draw.standard_normal((84, 40, 2)), 0))
    data = xarray.concat(rows, "factor").assign_coords(factor=list(FACTORS), ablated=list(FACTORS))
    data["heads"] = ("ablated", ["1.0"] * 4)
    return data.assign_attrs(pairs=40, draws=80, reference=64)


def layer_noise(draw: np.random.Generator) -> xarray.Dataset:
    numbers: dict = {"selectivity": draw.standard_normal((4, LAYERS))}
    for name in ("read", "used", "used_random"):
        numbers[name] = 0.4 + 0.1 * draw.standard_normal((4, LAYERS))
        numbers |= {f"{name}_low": numbers[name] - 0.2, f"{name}_high": numbers[name] + 0.2}
    numbers["used"][:, -1] = numbers["used_low"][:, -1] = numbers["used_high"][:, -1] = 1  # by construction
    data = factors(numbers, ("layer",), items=64, pairs=8).assign_coords(layer=range(LAYERS))
    data["majority"], data["kept"] = ("factor", [0.4] * 4), ("factor", draw.standard_normal(4))
    data["kept_random"] = (("factor", "draw"), draw.standard_normal((4, 99)))
    return data
