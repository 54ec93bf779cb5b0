"""The page of findings follows from its numbers: planted ones give the right sentences, kept ones are not redone."""

from pathlib import Path

import numpy as np
import pytest
import xarray
from rich.console import Console

from cutaway.errors import InputError
from cutaway.methods.representation_decomposition import Decomposition
from cutaway.methods.result import Provenance
from cutaway.report import findings
from cutaway.report import findings_measures as measures
from cutaway.report.findings_page import About, known_factors, page
from world import opened

ABOUT = About("zoo:planted", 64, 0, "page.md", {"heads": 1.0})
FIGURES = {"heads": "img/h.png", "direct": "img/d.png", "ablation": "img/a.png", "layers": "img/l.png"}
AXES = ("factor", "layer", "head")


def head_numbers(own: float) -> xarray.Dataset:
    """Head l.f carries factor f by `own`, in every layer; texts and patching say the same."""
    share = np.zeros((4, 2, 4)) + 0.02
    for f in range(4):
        share[f, :, f] = own * np.array([0.9, 1.0])
    plain = {
        "share": share, "shuffled": np.full_like(share, 0.02), "shuffled_high": np.full_like(share, 0.05),
        "named": share, "recovery": share, "low": share, "high": share, "random": 0 * share, "random_high": 0 * share,
    }  # fmt: skip
    topics = np.array([[measures.TOPICS[factor] for factor in measures.FACTORS]] * 2)
    data = xarray.Dataset({name: (AXES, value) for name, value in plain.items()})
    for name in ("variance", "fit", "random_fit"):
        data[name] = (AXES[1:], np.ones((2, 4)))
    data["text"] = data["topic"] = (AXES[1:], topics)
    data["used"] = ("factor", [8] * 4)
    return data.assign_coords(factor=list(measures.FACTORS)).assign_attrs(items=64, pairs=8)


def ablation_numbers(hurts: bool) -> xarray.Dataset:
    drop = np.eye(4) * 0.5 if hurts else np.zeros((4, 4))
    both = ("ablated", "factor")
    data = xarray.Dataset(dict.fromkeys(("drop", "low", "high", "margin", "margin_low", "margin_high"), (both, drop)))
    for name in ("random", "random_margin"):
        data[name] = ((*both, "draw"), np.full((4, 4, 20), 0.1))
    data["heads"] = ("ablated", ["1.0", "1.1", "1.2", "1.3"])
    names = list(measures.FACTORS)
    return data.assign_coords(factor=names, ablated=names).assign_attrs(pairs=8, draws=20, reference=64)


def layer_numbers(rise: float) -> xarray.Dataset:
    curve = np.tile(np.linspace(0.2, 0.2 + rise, 6), (4, 1))
    names = ("read", "read_low", "read_high", "selectivity", "used", "used_low", "used_high", "used_random")
    data = xarray.Dataset(dict.fromkeys(names, (("factor", "layer"), curve)))
    data["majority"] = ("factor", [0.2] * 4)
    data["kept"] = (("factor", "layer", "split"), np.full((4, 6, 2), 0.3))
    data["kept_random"] = (("factor", "layer", "split"), np.full((4, 6, 2), 0.98))
    return data.assign_coords(factor=list(measures.FACTORS), layer=range(6)).assign_attrs(items=64, pairs=8)


def direct_numbers() -> xarray.Dataset:
    """The heads of the last two of six layers write it all, and no MLP does."""
    first, last = [0.9] * 5 + [0.3, 0.1], [0.9, 0.3] + [0.1] * 5
    heads = [first, last, np.linspace(0.9, 0.1, 7)]
    accuracy = np.array([heads, np.full((3, 7), 0.9)])
    data = xarray.Dataset({"accuracy": (("what", "order", "layers"), accuracy), "majority": ("what", [0.1, 0.1])})
    data["random_low"] = data["random_high"] = data["accuracy"].isel(order=2)
    named = data.assign_coords(what=["heads", "MLPs"], order=["first", "last", "random"], layers=range(7))
    return named.assign_attrs(items=64)


def known_numbers(right: list[float]) -> xarray.Dataset:
    low, high = np.array(right) - 0.08, np.array(right) + 0.08
    numbers = {"right": right, "margin": right, "low": low, "high": high}
    data = xarray.Dataset({name: ("factor", values) for name, values in numbers.items()})
    return data.assign_coords(factor=list(measures.FACTORS)).assign_attrs(choices=100)


def planted(right=(0.9, 0.9, 0.9, 0.5), own=0.8, hurts=True) -> dict[str, xarray.Dataset]:
    return {
        "known": known_numbers(list(right)), "known_floor": known_numbers([0.5] * 4), "heads": head_numbers(own),
        "heads_floor": head_numbers(0.0), "ablation": ablation_numbers(hurts), "layers": layer_numbers(0.6),
        "layers_floor": layer_numbers(0.0), "direct": direct_numbers(),
    }  # fmt: skip


def test_sentences_follow_the_numbers():
    good, bad = (page(planted(hurts=hurts), ABOUT, FIGURES) for hurts in (True, False))
    assert known_factors(planted()) == ["background", "place", "category"]
    assert "Better than chance on background, place and category." in good
    assert "artist †" in good
    assert "for 8 of 8 heads (100 % of the variance" in good
    assert "loses 50 % of its margin on place, more than random heads (p = 0.048, 20 other sets)" in good
    assert "which random heads may do as well" in bad
    assert "more than random heads" not in bad
    assert "Background: the best probe is 60 percentage points above the floor's" in good
    assert "leaves 30 % of the margin, random directions 98 %" in good
    assert (
        "half of the rise in reading has come by layer 3 and half of the rise in recovery has come by layer 3" in good
    )
    assert "Artist: the best probe" not in good
    assert "Heads: those of the first 4 layers are not missed; more than half goes with the last layer" in good
    assert "MLPs: those of the first 6 layers are not missed; no number takes half" in good


def test_a_model_that_knows_nothing_is_said_to():
    text = page(planted(right=(0.5,) * 4, own=0.0), ABOUT, FIGURES)
    assert "No factor is told apart better than chance." in text
    assert "| background † | 0 of 8 |" in text
    assert "the best probe is" not in text


def test_the_page_is_whole():
    text = page(planted(), ABOUT, FIGURES)
    for title in (
        "explain",
        "Which heads carry what",
        "Which layers write the category",
        "named heads needed",
        "Where it is read",
        "What this cannot tell",
    ):
        assert title in text
    assert "cutaway findings zoo:planted --out page.md --n 64 --seed 0" in text
    assert "nan" not in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 7
    assert all(len({line.count("|") for line in block.splitlines()}) == 1 for block in tables)


# --- measures ---------------------------------------------------------------------------------------------------------


def test_the_share_of_a_planted_factor_is_one_and_of_another_none():
    draw, groups = np.random.default_rng(0), np.arange(120) % 3
    terms = draw.standard_normal((120, 2, 2, 5))
    terms[:, 1, 0] = draw.standard_normal((3, 5))[groups]
    parts = Decomposition(
        xarray.Dataset({"heads": (("item", "layer", "head", "joint"), terms)}), Provenance("planted", "nobody, 2026")
    )
    data = measures.variance_shares(parts, groups, 0)
    assert float(data["share"][1, 0]) == pytest.approx(1)
    rest = measures.beyond(data).values
    rest[1, 0] = 0
    assert rest.max() < 0.05
    assert measures.carried(data)[1, 0]
    assert float(data["shuffled"].max()) == pytest.approx(2 / 119, abs=0.01)


def test_random_sets_are_different_and_of_the_same_layers():
    few = measures.others([(1, 0), (1, 1), (1, 2)], 4, np.random.default_rng(0), 20)
    assert len(few) == 3 and all(set(one) != {(1, 0), (1, 1), (1, 2)} for one in few)
    sets = measures.others([(1, 0), (1, 2), (3, 3)], 4, np.random.default_rng(0), 20)
    assert all(sorted(layer for layer, _ in one) == [1, 1, 3] for one in sets)
    assert all(not {(1, 0), (1, 2), (3, 3)} & set(one) for one in sets)
    assert len({tuple(one) for one in sets}) == len(sets) == 3  # heads 1 and 3 of layer 1, three heads of layer 3


def test_the_named_heads_of_a_factor():
    found = head_numbers(0.8)
    assert measures.named_heads(found, "place") == [(0, 1), (1, 1)]
    found["topic"] = found["topic"].where(found["topic"] != "place", "concept")
    assert measures.named_heads(found, "place") == [(1, 1)]


def test_agreement_has_a_chance():
    order = np.arange(24.0)
    assert measures.agreement(order, order, 0)[0] == pytest.approx(1)
    assert measures.agreement(order, order, 0)[1] < 0.001
    assert measures.agreement(order, -order, 0)[1] > 0.99
    assert np.isnan(measures.agreement(order, 0 * order, 0)[0])


def test_costs_are_those_of_the_choices():
    clean, worse = np.array([[1.0, 1.0], [1.0, -1.0]] * 4), np.array([[1.0, -1.0], [1.0, -1.0]] * 4)
    data = measures._costs(clean, [worse, clean], 0)
    assert float(data["drop"]) == pytest.approx(0.25)
    assert float(data["random"][0]) == 0
    assert np.isnan(data["random"][1:]).all()
    assert float(data["margin"]) == pytest.approx(1)


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_it_is_written_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "DRAWS", 2)
    monkeypatch.setattr(measures, "SPLITS", 1)
    monkeypatch.setattr(measures, "SHUFFLES", 5)
    model, work = opened("clip"), tmp_path / "work"
    out = findings.write(model, model, tmp_path / "page.md", 48, 0, work=work, console=Console(quiet=True))
    first = out.read_text()
    assert {path.name for path in (tmp_path / "img").iterdir()} == {f"page-{n}.png" for n in FIGURES}
    assert len(list(work.glob("*.nc"))) == 8
    assert str(tmp_path) not in first
    monkeypatch.setattr(measures, "heads", None)  # would fail if it were called again
    again = findings.write(model, model, tmp_path / "page.md", 48, 0, work=work, console=Console(quiet=True))
    assert again.read_text() == first


@pytest.mark.parametrize(
    ("name", "out", "n"),
    [("tiny:clip", "page.md", 64), ("zoo:emoji-clip", "page.html", 64), ("zoo:emoji-clip", "p.md", 3)],
)
def test_what_it_refuses(name, out, n, tmp_path: Path):
    with pytest.raises(InputError):
        findings.write_findings(name, tmp_path / out, n)
