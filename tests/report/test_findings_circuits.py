"""The page on circuits: what it says of planted numbers, of numbers by chance, and of one set alone."""

import numpy as np
import pytest
import xarray

from cutaway.report import findings_circuits as measured
from cutaway.report import findings_word
from cutaway.report.findings_networks import draw_all, page, sentences
from cutaway.report.findings_page import About

SETS = {"set": [0, 1]}


def worlds(own: float, before: float = 0.7) -> xarray.Dataset:
    hows = list(measured.HOWS)
    edges = np.full((2, 2, len(hows)), own)
    edges[..., hows.index("random")], edges[..., hows.index("untrained")] = 0.5, before
    table = ("set", "world", "how")
    data = dict.fromkeys(("edges", "nodes", "alone"), (table, edges)) | {"fewest": (table, 10 * edges)}
    data |= {"planted": (table[:2], np.full((2, 2), 6)), "possible": (table[:2], np.full((2, 2), 262))}
    return xarray.Dataset(data, coords={**SETS, "world": ["one", "two"], "how": hows})


def circuits(by_layer: np.ndarray, f: np.ndarray) -> xarray.Dataset:
    forms, k, of = ["picture", "words"], list(measured.EDGES), list(measured.OF)
    curve = np.broadcast_to(f, (2, 2, len(k)))
    names = ("f", "f_low", "f_high", "f_own", "f_other")
    data = dict.fromkeys(names, (("set", "form", "k"), curve))
    data |= dict.fromkeys(("f_random", "f_any"), (("set", "form", "k"), 0 * curve))
    data |= {name: (("set", "form"), np.ones((2, 2))) for name in ("right", "gap")} | {"scenes": ("set", [12, 12])}
    shared = np.broadcast_to([0.7, 0.8, 0.4, 0.02], (2, len(measured.TOPS), 4))
    data |= {"shared": (("set", "top", "of"), shared), "by_layer": (("set", "layer", "pair"), by_layer)}
    coords = {**SETS, "form": forms, "k": k, "top": list(measured.TOPS), "of": of}
    return xarray.Dataset(data, coords={**coords, "layer": [0, 1, 2, 1000], "pair": of[:3]})


def back(gain: float, low: float) -> xarray.Dataset:
    numbers = {"right": 0.7, "gain": gain, "low": low, "high": 0.2}
    data = {name: ("set", [value] * 2) for name, value in numbers.items()}
    moved = (("set", "to", "after"), np.full((2, 2, 2), 0.7))
    return xarray.Dataset({**data, "moved": moved, "questions": ("set", [50, 50])}, coords={**SETS, "to": [0, 1]})


def flow(direct: float) -> xarray.Dataset:
    ways, at = [f"{one}->{other}" for one, other in measured.WAYS], ["0-1", "all"]
    lost = np.full((2, 2, 3, 2), 0.5)
    lost[:, :, 1] = direct
    axes = ("set", "form", "edge", "layer")
    data = {"lost": (axes, lost), "low": (axes, lost - 0.1), "high": (axes, lost + 0.1), "random": (axes, 0 * lost)}
    return xarray.Dataset(data, coords={**SETS, "form": ["picture", "words"], "edge": ways, "layer": at})


def layers(across: list[float]) -> np.ndarray:
    table = np.full((2, 4, 3), 0.8)
    table[..., 2] = across
    return table


RISING = np.linspace(0, 1.02, len(measured.EDGES))


def word(trained: list[float], second: list[float] | None = None) -> xarray.Dataset:
    """Shares that are lost by layer, in each of two sets; before training the same in all layers."""
    axes = ("set", "of", "step")
    lost = np.full((2, 2, 2, 3, 3), 0.05)
    lost[0, 0], lost[1, 0] = (np.array(one)[:, None] for one in (trained, second or trained))
    data = {"enters": ((*axes, "layer", "part"), lost), "writes": ((*axes, "layer", "what"), lost[..., :2])}
    data |= {"ways": ((*axes, "way"), np.full((2, 2, 2, 3), 0.3)), "moved": (axes, np.full((2, 2, 2), 0.4))}
    data |= dict.fromkeys(("f", "random"), ((*axes, "k"), np.full((2, 2, 2, len(findings_word.KEPT)), 0.5)))
    data |= {"pairs": ("set", [8, 8]), "edges": ("set", [160, 160])}
    names = {"k": findings_word.KEPT, "part": findings_word.PARTS, "what": findings_word.WRITES}
    names |= {"way": findings_word.WAYS, "of": findings_word.OF, "step": findings_word.AT, "layer": range(3)}
    return xarray.Dataset(data, coords={**SETS, **{name: list(values) for name, values in names.items()}})


PLANTED = {
    "worlds": worlds(0.99),
    "circuits": circuits(layers([0.1, 0.1, 0.7, 0.8]), RISING),
    "flow": flow(0.0),
    "back": back(0.1, 0.05),
    "word": word([0.02, 0.3, 0.4]),
}
CHANCE = {
    "worlds": worlds(0.6),
    "circuits": circuits(layers([0.4, 0.3, 0.4, 0.3]), 0 * RISING),
    "flow": flow(0.4),
    "back": back(0.0, -0.1),
    "word": word([0.02, 0.03, 0.04]),
}


def test_planted_numbers_are_said():
    said = " ".join(sentences(PLANTED))
    assert "rank above nearly all others" in said and "help when they come earlier**" in said
    assert "all others is 0.990/0.990 by exact scores" in said and f"the {measured.EDGES[-1]} best" in said
    assert "passes through the words of the question**: by picture" in said
    assert "layer 1 (30/30 at step 3, 30/30 at step 10) and layer 2 (40/40" in said


def test_numbers_by_chance_are_not():
    said = " ".join(sentences(CHANCE))
    assert "are not all found" in said and "none of the sizes tried" in said
    assert "of the question can not be said" in said and "earlier can not be said" in said
    assert "becomes a thing can not be said" in said


@pytest.mark.parametrize(
    ("name", "absent"),
    [("worlds", "above nearly all"), ("flow", "passes through"), ("back", "earlier**:"), ("word", "above all")],
)
def test_what_one_set_alone_shows_is_not_said(name, absent):
    mixed = xarray.concat([PLANTED[name].isel(set=0), CHANCE[name].isel(set=1)], "set")
    assert absent not in " ".join(sentences({**PLANTED, name: mixed}))


def test_the_page_has_every_table_and_picture(tmp_path):
    figures = draw_all(PLANTED, tmp_path, "circuits")
    made = page(PLANTED, About("zoo:emoji-llava", 240, 0, "circuits.md", {"worlds": 1.0}), figures)
    assert all(
        part in made
        for part in (
            "## Planted circuits",
            "## A word in a drawing",
            "| 2: values |",
            "### What the two forms share",
            "| scene → last |",
            "| in front of 0 |",
        )
    )
    assert made.count("![") == 3 and all((tmp_path / f"circuits-{name}.png").exists() for name in figures)
    assert "nan" not in made


def test_pairs_of_scenes_exchange_their_things_and_line_up_in_both_forms():
    import cutaway

    model = cutaway.load("zoo:emoji-llava")
    for told in (False, True):
        one, other = measured.exchanged(model, 3, 0, told=told)
        kinds = [side.inputs.tokens["text"].kind for side in (one, other)]
        assert (kinds[0] == kinds[1]).all()
        values = one.target(model.run(one.inputs)), one.target(model.run(other.inputs))
        assert (values[0] > 0).all() and (values[1] < 0).all()


def test_one_name_among_the_words_is_all_that_two_drawings_differ_in():
    import cutaway
    from cutaway.model.targets import numbers

    model = cutaway.load(findings_word.DRAWER)
    one, other, target = findings_word.exchanged(model, 2, 0, 3)
    apart = (one.tensors["encoder_hidden_states"] != other.tensors["encoder_hidden_states"]).any(-1)
    assert all(one.tensors[name] is value for name, value in other.tensors.items() if name != "encoder_hidden_states")
    assert all(len(set(a.split()) ^ set(b.split())) == 2 for a, b in zip(one.drawn, other.drawn, strict=True))
    assert not apart[:, :2].any() and apart[:, 2].all()  # begin, article, name
    values = [numbers(target, model.run(given)) for given in (one, other)]
    assert np.allclose(values[0], 1, atol=1e-4) and np.allclose(values[1], -1, atol=1e-4)
