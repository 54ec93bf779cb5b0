"""The page of findings is whole, its measures are right on planted data, and kept sections are not measured again."""

from pathlib import Path

import numpy as np
import pytest
import xarray
from rich.console import Console

from cutaway.errors import InputError
from cutaway.methods.representation_decomposition import Decomposition
from cutaway.methods.result import Provenance
from cutaway.report import findings, findings_claims, findings_heads, findings_layers, findings_scenes
from cutaway.report.findings_page import About, page
from report.findings_numbers import EFFECTS, head_numbers, planted
from world import opened

ABOUT = About("zoo:planted", 64, 0, "page.md", {"heads": 1.0})
FIGURES = {name: f"img/{name}.png" for name in ("known", "heads", "cost", "direct", "layers")}


def test_the_page_is_whole():
    text = page(planted(), ABOUT, FIGURES)
    for title in ("explain", "Which heads carry what", "Which layers write the category", "named heads needed",
                  "Where it is read", "What this cannot tell"):  # fmt: skip
        assert title in text
    assert "cutaway findings zoo:planted --out page.md --n 64 --seed 0" in text
    assert "nan" not in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 10
    assert all(len({line.count("|") for line in block.splitlines()}) == 1 for block in tables)


def test_five_sentences_and_three_pictures_come_first():
    front, _, behind = page(planted(), ABOUT, FIGURES).partition("## ")
    assert [line[:2] for line in front.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3.", "4.", "5."]
    assert front.count("![") == 3 and "|" not in front and behind.count("![") == 2


# --- measures ---------------------------------------------------------------------------------------------------------


def test_the_share_of_a_planted_factor_is_one_and_of_another_none():
    draw, groups = np.random.default_rng(0), np.arange(120) % 3
    terms = draw.standard_normal((120, 2, 2, 5))
    terms[:, 1, 0] = draw.standard_normal((3, 5))[groups]
    parts = Decomposition(
        xarray.Dataset({"heads": (("item", "layer", "head", "joint"), terms)}), Provenance("planted", "nobody, 2026")
    )
    data = findings_heads.variance_shares([parts], groups, 0)
    assert float(data["share"][1, 0]) == pytest.approx(1)
    rest = findings_heads.beyond(data).values
    rest[1, 0] = 0
    assert rest.max() < 0.05
    assert float(data["p"][1, 0]) < 0.01 and float(data["p"].where(data["p"] > 0.01).min()) > 0.05
    assert float(data["shuffled"].max()) == pytest.approx(2 / 119, abs=0.01)


def test_one_false_head_in_twenty_families(monkeypatch):
    """Of noise, some head is beyond its own 97.5 % point nearly always; beyond them all in about 5 % of cases."""
    monkeypatch.setattr(findings_heads, "SHUFFLES", 40)
    draw, alone, together = np.random.default_rng(0), 0, 0
    for seed in range(60):
        terms = draw.standard_normal((40, 3, 4, 3))
        parts = Decomposition(
            xarray.Dataset({"heads": (("item", "layer", "head", "joint"), terms)}), Provenance("n", "n")
        )
        data = findings_heads.variance_shares([parts], np.arange(40) % 3, seed)
        alone += bool((data["share"] > data["shuffled_high"]).any())
        together += bool((data["p"] < 0.05).any())
    assert together <= 8 < alone


def test_random_sets_are_different_and_of_all_heads():
    drawn = findings_layers.random_sets(6, 4, np.random.default_rng(0))
    assert len({tuple(one) for one in drawn}) == len(drawn) == findings_layers.RANDOM_SETS
    assert all(len(set(one)) == findings_layers.SET for one in drawn)
    assert {place for one in drawn for place in one} == {(layer, head) for layer in range(6) for head in range(4)}
    assert len(findings_layers.random_sets(1, 4, np.random.default_rng(0))) == 4
    assert len(findings_claims.FACTORS) / (1 + findings_layers.RANDOM_SETS) < findings_claims.LEVEL


def test_the_named_heads_of_a_factor():
    found = head_numbers(0.8)
    assert findings_layers.named_heads(found, "place") == [(3, 1), (4, 1), (5, 1)]
    assert findings_layers.named_heads(found.assign(named=0 * found["named"]), "place") == []
    found["variance"] = found["variance"].where(found["layer"] != 4, 0.01)
    assert findings_layers.named_heads(found, "place") == [(2, 1), (3, 1), (5, 1)]


def test_costs_are_those_of_the_choices():
    clean, worse = np.array([[1.0, 1.0], [1.0, -0.5]] * 4), np.array([[1.0, -1.0], [1.0, -0.5]] * 4)
    data = findings_layers.costs(clean, np.stack([worse, clean, clean, clean, clean, worse]), 0)
    assert np.allclose(data["drop"], [0.25, 0, 0, 0]) and np.allclose(data["random_drop"], [0, 0.25])
    assert np.allclose(data["margin"], [0.8, 0, 0, 0]) and np.allclose(data["random_margin"], [0, 0.8])
    assert (data["drop_low"] <= data["drop"] + 1e-9).all() and (data["margin"] <= data["margin_high"] + 1e-9).all()


# --- the whole way ----------------------------------------------------------------------------------------------------


def once(step):
    """The section measured once a set of scenes: here the floor is the model itself."""
    found = {}

    def measured(of, n, seed, told, **_):
        if seed not in found:
            found[seed] = step(of, n, seed, told)
        return found[seed]

    return measured


def test_it_is_written_and_kept_and_claims_nothing_of_an_untrained_model(tmp_path, monkeypatch):
    for module, name, few in ((findings_layers, "RANDOM_SETS", 3), (findings_layers, "ERASURES", 2),
                              (findings_heads, "SHUFFLES", 40), (findings_heads, "DRAWS", 2)):  # fmt: skip
        monkeypatch.setattr(module, name, few)
    for module, name in ((findings_scenes, "known"), (findings_heads, "heads"), (findings_heads, "direct"),
                         (findings_layers, "layers")):  # fmt: skip
        monkeypatch.setattr(module, name, once(getattr(module, name)))
    model, work = opened("clip"), tmp_path / "work"
    out = findings.write(model, model, tmp_path / "page.md", 48, 0, work=work, console=Console(quiet=True))
    first = out.read_text()
    assert not [effect for effect in EFFECTS if effect in first]
    assert {path.name for path in (tmp_path / "img").iterdir()} == {f"page-{n}.png" for n in FIGURES}
    assert max(path.stat().st_size for path in (tmp_path / "img").iterdir()) < 120_000
    assert len(list(work.glob("*.nc"))) == 18
    assert str(tmp_path) not in first
    monkeypatch.setattr(findings_heads, "heads", lambda *rest: pytest.fail("measured again"))
    again = findings.write(model, model, tmp_path / "page.md", 48, 0, work=work, console=Console(quiet=True))
    assert again.read_text() == first


@pytest.mark.parametrize(
    ("name", "out", "n"),
    [("tiny:clip", "page.md", 64), ("zoo:emoji-clip", "page.html", 64), ("zoo:emoji-clip", "p.md", 3),
     ("zoo:emoji-clip@untrained", "page.md", 64), ("zoo:emoji-llava", "page.md", 3),
     ("zoo:emoji-sd", "page.md", 3), ("zoo:emoji-mmdit", "page.md", 64), ("zoo:emoji-sd@untrained", "page.md", 64)],
)  # fmt: skip
def test_what_it_refuses(name, out, n, tmp_path: Path):
    with pytest.raises(InputError):
        findings.write_findings(name, tmp_path / out, n)
