"""The page of findings claims what was planted; nothing of noise, of one set alone, or of what the floor shows too."""

from dataclasses import fields

import numpy as np
import pytest

from cutaway.report import findings_claims, findings_heads
from cutaway.report.findings_claims import (
    Claims,
    claims,
    first_text,
    holm,
    last_half,
    rank_correlation,
    rank_p,
    spared,
)
from cutaway.report.findings_page import About, page
from cutaway.report.findings_scenes import FACTORS
from report.findings_numbers import EFFECTS, known_numbers, noise, planted, sets

ABOUT = About("zoo:planted", 64, 0, "page.md", {"heads": 1.0})
FIGURES = {name: f"img/{name}.png" for name in ("known", "heads", "cost", "direct", "layers")}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(findings_heads, "SHUFFLES", 60)
    monkeypatch.setattr(findings_claims, "SHUFFLES", 400)


def said(found) -> list[str]:
    text = page(found, ABOUT, FIGURES)
    return [effect for effect in EFFECTS if effect in text]


def test_all_that_is_planted_is_claimed_and_said():
    made = claims(planted())
    assert made.made() == [field.name for field in fields(Claims)]
    for name in ("known", "texts", "moved", "needed", "choices", "read", "erased"):
        assert getattr(made, name) == list(FACTORS), name
    assert made.carried == {factor: [f"{layer}.{f}" for layer in range(6)] for f, factor in enumerate(FACTORS)}
    assert made.late == {"heads": 1} and made.used == dict.fromkeys(FACTORS, 0)
    assert said(planted()) == list(EFFECTS)


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_never_an_effect(seed):
    """Neither in a model that knows nothing nor in one that knows the answers and does nothing else of note."""
    found = noise(seed)
    assert said(found) == []
    knowing = found | {name: planted()[name] for name in ("known", "known_floor")}
    assert said(knowing) == ["It tells pictures apart", "Better than chance and than the floor on"]


def test_what_one_set_alone_shows_is_not_said():
    effect, none = planted(), noise(3)
    for whole in (lambda name: sets(effect[name].isel(set=0), none[name].isel(set=1)),
                  lambda name: sets(none[name].isel(set=0), effect[name].isel(set=1))):  # fmt: skip
        mixed = dict(effect)
        for name in ("known", "heads", "ablation"):
            mixed[name] = whole(name)
        made = claims(mixed)
        assert not (made.known or made.carried or made.texts or made.moved or made.needed or made.choices)


def test_what_the_floor_shows_too_is_not_said():
    same = planted()
    same |= {f"{name}_floor": same[name] for name in ("known", "heads", "direct", "layers")}
    assert claims(same).made() == [] and said(same) == []


def test_an_unknown_factor_is_marked_and_nothing_is_said_of_its_use():
    found = planted() | {"known": sets(*[known_numbers([0.9, 0.9, 0.9, 0.5])] * 2)}
    made, text = claims(found), page(found, ABOUT, FIGURES)
    assert made.known == ["background", "place", "category"]
    assert "artist" not in {*made.moved, *made.needed, *made.choices, *made.used, *made.erased}
    assert "Not so on artist" in text and "| artist † | 50 [42, 58] / 50 [42, 58] |" in text
    assert "but not in the artist (50/50)" in text


def test_a_factor_for_which_no_text_names_a_head_is_said_to_have_none():
    found = planted()
    one, named = found["ablation"], found["ablation"]["ablated"] != "artist"
    of_heads = [name for name in one.data_vars if "ablated" in one[name].dims and name != "heads"]
    found["ablation"] = one.assign(one[of_heads].where(named)).assign(heads=one["heads"].where(named, "none"))
    text = page(found, ABOUT, FIGURES)
    assert claims(found).needed == ["background", "place", "category"]
    assert "no text names a head for the artist" in text and "| artist | none | none |" in text and "nan" not in text


def test_numbers_of_the_sentences_are_those_of_the_tables():
    text = page(planted(), ABOUT, FIGURES)
    assert "90/90 for the background, 90/90 for the place" in text and "before training 50/50 to 50/50" in text
    assert "it names 90/90 (among 48 names), 27/27 without what the heads of the last layer of 6 add" in text
    assert "those of the first 4 layers are not missed" in text
    assert "6 with the place" in text
    assert "50/50 of 100 on the place" in text and "by 50/50 % for the background" in text
    assert (
        "80/80 % for the background, before 20/20 %" in text and "without random directions for the background" in text
    )
    assert "MLPs: those of the first 6 layers are not missed; no number of last layers takes half" in text


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_holm():
    assert np.allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert np.allclose(holm(np.array([[0.9, 0.6], [0.02, 0.03]])), [[1, 1], [0.04, 0.04]])
    with_none = holm(np.array([0.02, np.nan, 0.01]))
    assert np.allclose(with_none[[0, 2]], [0.04, 0.03]) and np.isnan(with_none[1])


def test_ranks_among_draws():
    assert rank_p(np.array([1.0]), np.zeros((1, 19)))[0] == pytest.approx(0.05)
    assert rank_p(np.array([0.0]), np.zeros((1, 19)))[0] == 1
    assert np.isnan(rank_p(np.array([np.nan]), np.zeros((1, 19)))[0])


def test_rank_correlation_has_a_chance():
    order = np.arange(24.0)
    assert rank_correlation(order, order)[0] == pytest.approx(1) and rank_correlation(order, order)[1] < 0.01
    assert rank_correlation(order, -order)[1] > 0.99
    assert np.isnan(rank_correlation(order, 0 * order)[0])


def test_first_texts_are_held_against_one_topic_for_all():
    one = planted()["heads"].isel(set=0)
    told = first_text(one)
    assert (told.same, told.size, told.constant) == (24, 24, 6) and told.p < 0.001
    mostly = one["topic"].where(one["head"] != 3, "background")
    assert first_text(one.assign(topic=mostly)).same == 18
    assert first_text(one.assign(topic=one["topic"].where(False, "background"))).p == 1


def test_layers_are_spared_or_missed():
    found = planted()
    assert spared(found, "heads") == 4 and spared(found, "MLPs") == 6
    assert last_half(found, "heads") == 1 and last_half(found, "MLPs") is None
    found["direct"]["random_low"] = 0 * found["direct"]["random_low"]  # random heads do as well
    assert last_half(found, "heads") is None
