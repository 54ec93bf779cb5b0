"""Findings about features: a unit is judged where it was not chosen, and the page says what its tables say."""

import re
from dataclasses import replace

import numpy as np
import pytest
import xarray
from rich.console import Console
from sklearn.metrics import roc_auc_score

import cutaway
from cutaway.report import findings
from cutaway.report.findings_featured import missed, page, sentences, units, wins
from cutaway.report.findings_features import FEATURES, NEURONS, PROBE, UNITS, aurocs, best, coverage
from cutaway.report.findings_page import About

CONCEPTS = ("colour: red", "colour: blue", "group: animals", "ground: plain")


def test_aurocs_are_those_of_the_library():
    dice = np.random.default_rng(0)
    values, shows = dice.integers(0, 5, (60, 7)).astype(float), dice.random((60, 3)) < 0.4
    want = [[roc_auc_score(shows[:, c], values[:, u]) for c in range(3)] for u in range(7)]
    assert np.allclose(aurocs(values, shows), want)


def test_a_unit_is_judged_on_scenes_that_did_not_choose_it():
    dice = np.random.default_rng(1)
    shows = dice.random((400, 2)) < 0.5
    values = dice.random((400, 50))
    values[::2, 7] = shows[::2, 0]  # lucky where it is chosen
    values[:, 9] = shows[:, 1]
    found = best(values, shows, 0)
    assert found["chosen"].values.tolist() == [7, 9]
    assert abs(float(found["auroc"][0]) - 0.5) < 0.1 and float(found["auroc"][1]) == 1.0
    assert np.allclose(found["shuffled"], 0.5, atol=0.05)


def made(features, neurons, probe):
    """Two sets of four concepts."""
    values = {FEATURES: features, NEURONS: neurons, PROBE: probe}
    laid = np.array([[values.get(kind, [0.6] * 4)] * 2 for kind in UNITS]).transpose(1, 0, 2)
    laid[1] += 0.001
    return xarray.Dataset(
        {"auroc": (("set", "units", "concept"), laid), "shuffled": (("set", "units", "concept"), laid * 0 + 0.5),
         "width": (("set", "units"), np.full((2, len(UNITS)), 8)),
         "on": (("set", "units"), np.full((2, len(UNITS)), 2.0))},
        {"units": list(UNITS), "concept": list(CONCEPTS), "set": [0, 1]},
    )  # fmt: skip


def test_the_page_says_what_was_measured():
    one = made([0.9, 0.7, 0.8, 0.6], [0.7, 0.72, 0.9, 0.6], [0.95, 0.95, 0.95, 0.95])
    found = {"emoji-clip-sae": one, "emoji-clip-sae_floor": one.isel(units=slice(1, None))}
    assert wins(one) == ["colour: red"] and wins(one, NEURONS, FEATURES) == ["group: animals"]
    assert missed(one) == ["colour: blue", "ground: plain"]
    said = sentences(found)
    assert "over 4 concepts" in said[0]
    apart = one.copy(deep=True)
    apart["auroc"][1, :, 2] = np.nan  # a concept that one set is too small for is in no mean, and is not counted
    assert "0.733 / 0.734" in (alone := sentences({"emoji-clip-sae": apart}))[0] and "over 3 concepts" in alone[0]
    assert "0.750 / 0.751" in said[0] and "for 1 concepts, behind for 1; the best untrained feature" in said[0]
    assert "zoo:emoji-clip: 2" in said[-1]
    text = page(found, About("zoo:emoji-clip", 96, 0, "page.md", {"a": 60.0}), {"units": "img/units.png"})
    row = next(line for line in text.splitlines() if line.startswith("| features |"))
    assert re.search(r"\| 0\.80 / 0\.80 \| 0\.80 / 0\.80 \| 0\.60 / 0\.60 \| 0\.750 / 0\.751 \|", row)
    assert "ahead of the best neuron in both sets: red (colour)." in text and "blue (colour) and plain (ground)" in text
    assert len(units(found).axes) == 1


def test_a_kept_section_is_of_the_same_dictionaries(tmp_path):
    """The weights of a dictionary are no code and no part of the model: other ones are measured anew."""
    model, weights, calls = cutaway.load("tiny:clip"), ["a"], []

    def step(*_):
        calls.append(weights[0])
        return xarray.Dataset({"auroc": ("concept", [0.5])})

    asked = replace(findings.FEATURES, steps=lambda *_: {"one": (model, step)}, beside=lambda: tuple(weights))
    for now in ("a", "a", "b"):
        weights[0] = now
        findings.measure(model, model, 48, 0, tmp_path, Console(quiet=True), asked)
    assert calls == ["a", "a", "b", "b"]  # two sets of scenes each
    assert len(findings.FEATURES.beside()) == len({*findings.FEATURES.beside()}) == 3


@pytest.mark.parametrize("trained", [True, False])
def test_it_is_measured_on_a_model(trained):
    model = cutaway.load("zoo:emoji-clip" if trained else "zoo:emoji-clip@untrained")
    found = coverage(model, 96, 0, lambda _: None, name="emoji-clip-sae", trained=trained)
    assert list(found["units"].values) == list(UNITS if trained else UNITS[1:])
    assert bool(((found["auroc"] >= 0) & (found["auroc"] <= 1)).all())
    if trained:
        assert abs(float(found["on"].sel(units=FEATURES)) - 8) < 2
