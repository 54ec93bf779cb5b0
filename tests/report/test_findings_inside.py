"""Direct effects beside ablation, looks that are cut, probes by position: planted, on noise, and on a trained model."""

import numpy as np
import pytest

import cutaway
from cutaway.model.edits import Ablate
from cutaway.report import findings_looks, findings_spots
from cutaway.report.findings_asked import posed, sided
from cutaway.report.findings_inside import arrives, fetches, ranks, reads_from
from cutaway.report.findings_writes import ablated, agreement, of_kind
from cutaway.zoo.trained import trained
from report.inside_numbers import inside, looks


def test_equal_ranks_are_one_and_unrelated_ones_are_chance():
    draw = np.random.default_rng(0)
    direct = draw.standard_normal((40, 6, 4))
    same, other, noise = (agreement(direct, lost, 0) for lost in (direct**3, -direct, draw.standard_normal((40, 6, 4))))
    assert same["rho"] == pytest.approx(1) and same["first"] == 1 and same["rho_mean"] <= 1 + 1e-9
    assert other["rho"] == pytest.approx(-1) and other["first"] == 1
    assert noise["permuted_low"] < noise["rho"] < noise["permuted_high"] and noise["rho_low"] < 0.05
    assert abs(same["stranger"]) < 0.1 and same["first_chance"] == 1 / 24
    assert agreement(direct, 0 * direct, 0)["rho"] == 0


def test_the_head_that_looks_is_found_and_no_other():
    found = looks(True, 0)
    assert (found["chosen"].sel(look="names at the scene") == "3.2").all()
    assert (found["chosen"].sel(look="last at the names") == "4.0, 4.1").all()
    assert (found["own_lost"] > 0.95).all() and (abs(found["alone_lost"]) < 0.05).all()
    first = found.sel(look="names at the scene")
    assert (abs(first["head_lost"].sel(layer=3, head=2) - 1) < 0.05).all() and (first["random_lost_high"] < 0.05).all()
    assert (found["layer_lost"].argmax("layer").sel(look="last at the names") == 4).all()


SAYS = {
    fetches: ("**Head 3.2 fetches where things are**", "**It cannot be said which heads"),
    arrives: ("**The answer travels to the end**", "**It cannot be said where"),
    ranks: ("**What a head writes directly tells only in part", "**It cannot be said that direct effects"),
}


def test_planted_effects_are_said():
    found = inside()
    said = {say: say(found) for say in SAYS}
    assert all(text.startswith(SAYS[say][0]) for say, text in said.items()), said
    assert "Told in words, the same" in said[fetches]
    assert "the patch of the thing named first after layer 2, at its name after layer 3" in said[arrives]
    assert reads_from(found, "last", "answer") == 4 and reads_from(found, "last", "group") is None
    assert ranks(inside(alike=0.7, before=0.5)).startswith("**Heads that write more directly cost more")


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_not_said(seed):
    found = inside(alike=0, before=0, knows=False, travels=False, seed=seed)
    said = {say: say(found) for say in SAYS}
    assert all(text.startswith(SAYS[say][1]) for say, text in said.items()), said


def test_sets_that_choose_other_heads_name_none():
    found = inside()
    found["looks"] = found["looks"].assign(chosen=found["looks"]["chosen"].copy())
    found["looks"]["chosen"][{"set": 1}] = "2.1"
    assert fetches(found).startswith("**It cannot be said which heads") and "3.2; 2.1" in fetches(found)


# --- on the trained model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    if not trained("emoji-llava").here:
        pytest.skip("zoo:emoji-llava is not in this checkout")
    return cutaway.load("zoo:emoji-llava")


def test_questions_know_where_things_are_named_and_seen(model):
    for told in (False, True):
        asked = sided(model, 4, 0, told=told)
        tokens = asked.inputs.tokens["text"]
        for row, scene in enumerate(asked.scenes):
            names = tokens.text[row][asked.named[row].numpy()].tolist()
            assert sorted(names) == sorted(thing.concept for thing in scene.things)
            assert tokens.text[row][asked.last[row].numpy()].tolist() == ["<|assistant|>"]
            assert not (asked.context[row] & asked.named[row]).any() and asked.context[row].sum() > 8
    shown = posed(model, "presence", 4, 0)
    assert [one.answer for one in shown.questions] == [{"yes": "no", "no": "yes"}[rival] for rival in shown.rivals]
    assert (shown.on_things.any(1).numpy() == [bool(one.things) for one in shown.questions]).all()
    assert not (shown.on_things & ~shown.context).any()
    first = findings_spots.places(sided(model, 4, 0), "first name", [0] * 4)
    assert (first == [int(np.flatnonzero(row)[0]) for row in sided(model, 4, 0).named.numpy()]).all()


def test_ablations_are_those_of_single_runs_and_the_sum_is_whole(model):
    asked = posed(model, "side", 4, 0)
    lost = ablated(asked)
    assert lost["heads"].shape == (2, 4, 6, 6) and lost["MLPs"].shape == (2, 4, 6)
    clean = asked.target(model.run(asked.inputs))
    for edit, found in (
        (Ablate("text.4.attn.z", head=3, token=-1), lost["heads"][1, :, 4, 3]),
        (Ablate("text.5.mlp.out", token=-1), lost["MLPs"][1, :, 5]),
    ):
        alone = clean - asked.target(model.run(asked.inputs, edits=edit))
        assert np.allclose(alone.numpy(), found, atol=1e-4)
    made = of_kind(asked, 0)
    assert float(made["error"]) < 1e-3
    assert float(made["read"].sum()) == pytest.approx(float(made["direct"].sum()), abs=1e-4)


def test_looks_that_are_cut_are_cut_in_the_model(model):
    asked = sided(model, 4, 0)
    whole, alone = findings_looks.cut(asked, findings_looks.LOOKS[0], [3, [(3, 2)]])
    clean = findings_looks.untouched(asked)
    assert clean.mean() > 5 and whole.mean() < 0.3 * clean.mean() and abs(alone - whole).max() < 0.5
    assert findings_looks.shape(asked) == (6, 6)
