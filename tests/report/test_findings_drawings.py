"""The page of models that draw: sentences are of the numbers, noise is not an effect, and it is measured on both."""

import numpy as np
import pytest
from rich.console import Console

import cutaway
from cutaway.report import findings, findings_drawn, findings_strips
from cutaway.report.findings_drawings import carried, enters, exchanged, lies, page, sentences, stays
from cutaway.report.findings_page import About
from cutaway.zoo.trained import trained
from report.drawn_numbers import drawn
from world import opened

ABOUT = About("zoo:planted", 48, 0, "page.md", {"maps": 1.0})
FIGURES = {name: f"img/{name}.png" for name in ("strip", "places", "changes")}
SAYS = {
    lies: ("**A thing lies where its word is looked for", "**It cannot be said that both"),
    stays: ("**In emoji-sd and emoji-mmdit a thing is still drawn", "**It cannot be said that a thing is still"),
    carried: ("**A background is read off the states of the padding", "**What carries a background is not"),
    enters: ("**In the UNet background and thing", "**At which grid"),
    exchanged: ("**Solving the linear maps", "**That a word can be given"),
}


def test_the_page_is_whole():
    text = page(drawn(), ABOUT, FIGURES)
    front, _, behind = text.partition("## ")
    assert [line[:2] for line in front.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3.", "4.", "5."]
    assert front.count("![") == 3 and "nan" not in text
    assert "cutaway findings zoo:planted --out page.md --n 48 --seed 0" in behind


def test_planted_effects_are_said():
    said = {say: say(drawn()) for say in SAYS}
    assert all(text.startswith(SAYS[say][0]) for say, text in said.items()), said
    assert "the word behind it is looked for there too" in said[lies] and "70/70" in said[lies]
    assert "there too" not in lies(drawn(behind=0.15)) and lies(drawn(behind=0.15)).startswith(SAYS[lies][0])


def test_of_a_thing_and_a_background_the_one_that_is_sure_is_said():
    assert enters(drawn(grids=(-1, 0))).startswith("**In the UNet a background comes in at 16 × 16; at which grid a th")


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_not_said(seed):
    found = drawn(own=0.2, behind=0.2, left=0.1, word=0.4, padding=0.4, new=0, grids=(-1, -1), noise=0.02, seed=seed)
    assert all(say(found).startswith(begins[1]) for say, begins in SAYS.items()), sentences(found)


def test_what_one_set_or_one_model_alone_shows_is_not_said():
    for end, sure in (("", "emoji-mmdit"), ("_joint", "emoji-sd")):
        found, none = drawn(), drawn(own=0.2, behind=0.2, left=0.1, padding=0.1, new=0)
        for name in (f"maps{end}", f"places{end}", f"edits{end}"):
            found[name] = found[name].copy(deep=True)
            for key in found[name].data_vars:
                found[name][key][{"set": 1}] = none[name][key][{"set": 1}]
        for say in (lies, carried, exchanged):
            assert say(found).startswith(SAYS[say][1]), say(found)
        assert stays(found).startswith(f"**In {sure} a thing is still drawn") and "; of emoji" in stays(found)


def test_figures_are_drawn(tmp_path):
    made = findings_strips.draw_all(drawn(), tmp_path, "page")
    assert made == {name: f"{tmp_path.name}/page-{name}.png" for name in FIGURES}
    assert all(0 < path.stat().st_size < 150_000 for path in tmp_path.iterdir())


def test_the_page_has_these_sections_of_both(tmp_path, monkeypatch):
    """Each section is measured once a set and kept; what is planted is not measured."""
    whole, made = drawn(), []

    def given(name):
        def measure(of, n, seed, told, drawer=None):
            made.append(name)
            end = "_joint" if "sd3" in of.name else ""
            return whole[f"{name}{end}{'_floor' if drawer else ''}" if name != "layers" else name].isel(
                set=seed, drop=True
            )

        return measure

    for name in ("maps", "places", "lens", "edits", "shown", "layers"):
        monkeypatch.setattr(findings_drawn, name, given(name))
    monkeypatch.setattr(findings, "load", lambda name: opened("sd3"))
    for _ in range(2):
        out = findings.write(opened("sd"), opened("sd"), tmp_path / "page.md", 48, 0, findings.DRAW, work=tmp_path,
                             console=Console(quiet=True))  # fmt: skip
    assert "\n1. **" in out.read_text(encoding="utf-8") and len(made) == 26 == len(list(tmp_path.glob("*.nc")))


def test_it_is_measured_on_a_trained_model(monkeypatch):
    """On the fewest prompts: shares are shares, intervals hold their middle, what is hidden is drawn anew."""
    if not trained("emoji-sd").here:
        pytest.skip("zoo:emoji-sd is not in this checkout")
    monkeypatch.setattr(findings_drawn, "STEPS", 4)
    model = cutaway.load("zoo:emoji-sd")
    made = findings_drawn.maps(model, 48, 0, lambda _: None)
    assert list(made["map"].values) == list(findings_drawn.MAPS)
    assert (made["iou_low"] <= made["iou"]).all() and (made["iou"] <= made["iou_high"]).all()
    assert float(made["left"].sel(things=1, hidden="all words")) < float(made["left"].sel(things=1, hidden="nothing"))
    monkeypatch.setattr(findings_drawn, "EXAMPLES", 1)
    seen = findings_drawn.shown(model, 48, 0, lambda _: None)
    assert seen["drawn"].shape == seen["edited"].shape == (1, 64, 64, 3) and np.isfinite(seen["behind"]).all()
    assert (seen["drawn"] != seen["edited"]).any() and (seen["drawn"] != seen["without"]).any()
