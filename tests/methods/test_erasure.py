"""What a probe reads is gone from the running model after `erase`, and random directions leave it in place."""

import itertools

import numpy as np
import pytest
from PIL import Image

from cutaway.errors import MethodError
from cutaway.methods.linear_probing.erasure import Erasure, erase, erasing, unlabelled, varied
from cutaway.methods.linear_probing.probe_data import Pooling, states
from cutaway.methods.result import load
from cutaway.model.targets import similarity
from world import gap, opened

BRIGHT = np.arange(40) % 2
DRAW = np.random.default_rng(0)
PICTURES = [
    Image.fromarray((150 * b + DRAW.integers(0, 100, (32, 32, 3))).astype(np.uint8)) for b in BRIGHT
]  # bright and dark, each with its own grain


def erased(**options) -> Erasure:
    return erase(opened("clip"), PICTURES, BRIGHT, draws=2, progress=False, **options)


@pytest.mark.parametrize("pool", ["pooled", "mean"])
def test_what_was_read_is_gone_and_random_directions_spare_it(pool):
    found = erased(site="vision.2.resid_post", pool=pool, rounds=2)
    score = found["score"].sel(site="vision.2.resid_post")
    assert float(score.sel(condition="clean")) == 1 and float(score.sel(condition="random")) == 1
    assert float(score.sel(condition="erased")) <= 0.7 and float(found["majority"]) == 0.5


def test_the_directions_are_flat_and_the_rest_is_untouched():
    model, at = opened("clip"), opened("clip").sites.one("vision.1.resid_post")
    pooling = Pooling.of(model, "vision", "pooled")
    before = states(model, PICTURES, [at], pooling, progress=False)[str(at)]
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((32, 3)))[0].T
    edits = erasing(at, pooling, basis, before.mean(0))
    after = states(model, PICTURES, [at], pooling, edits=edits, progress=False)[str(at)]
    assert np.allclose(after @ basis.T, before.mean(0) @ basis.T)
    away = np.eye(32) - basis.T @ basis
    assert np.allclose(after @ away, before @ away)
    inputs = model.inputs(image=PICTURES[:2])
    clean, changed = (model.run(inputs, record=at, edits=e)[at] for e in ((), edits))
    assert gap(clean[:, 1:], changed[:, 1:]) == 0 and gap(clean[:, 0], changed[:, 0]) > 0.01


@pytest.mark.parametrize("numbers", [False, True])
def test_random_directions_vary_as_the_data_do_and_not_with_the_label(numbers):
    """Long along the first unit, labelled along the second: draws point along the first, none along the second."""
    draw = np.random.default_rng(0)
    y = draw.standard_normal(200) if numbers else np.arange(200) % 2
    x = 0.1 * draw.standard_normal((200, 8))
    x[:, 0] += 5 * draw.standard_normal(200)
    x[:, 1] += 50 * y
    drawn = np.concatenate(varied(unlabelled(x, y), 1, 50, 0))
    assert np.allclose((drawn**2).sum(1), 1)
    assert (drawn[:, 0] ** 2).mean() > 0.9 and (drawn[:, 1] ** 2).mean() < 0.05
    (basis,) = varied(unlabelled(x, y), 3, 1, 0)
    assert np.allclose(basis @ basis.T, np.eye(3))


def test_a_target_is_measured_under_the_same_edits(tmp_path):
    model = opened("clip")
    on = model.inputs(image=PICTURES[:4], text="a red dog")
    found = erased(site="vision.1.resid_post", target=similarity(text=0), on=on)
    clean = float(similarity(text=0)(model.run(on)).mean())
    assert float(found["target"].sel(condition="clean")) == pytest.approx(clean)
    assert float(abs(found["target"] - clean).sel(condition="erased")) > 0
    assert float(found["target_random"].mean()) == pytest.approx(float(found["target"].sel(condition="random")))
    alone = erased(site="vision.1.resid_post", target=similarity(text=0), on=on, read=())
    assert alone["score"].shape == (3, 0) and np.allclose(alone["target"], found["target"])
    back = load(found.save(tmp_path / "e.nc"))
    assert isinstance(back, Erasure) and back.provenance.options["directions"] == 1 and "<img" in back.to_html()
    assert back["site"].values.tolist() == ["vision.1.resid_post", "vision.2.resid_post", "vision.joint"]


def test_texts_can_be_erased_from_too():
    """The side that a text ends in is read at its end token; without the probe's direction it is a coin's toss."""
    told = itertools.product(("one", "two", "four"), ("red", "blue", "green"), ("dog", "cat"), ("left", "right"))
    texts = [f"{number} {colour} {thing} on the {side}" for number, colour, thing, side in told]
    site = "text.2.resid_post"
    found = erase(opened("clip"), texts, np.arange(len(texts)) % 2, site=site, draws=2, progress=False)
    score = {kind: float(found["score"].sel(condition=kind, site=site)) for kind in ("clean", "erased", "random")}
    assert score["clean"] == score["random"] == 1 and score["erased"] <= 0.6
    assert float(found["score"].sel(condition="erased", site="text.joint")) < 0.9 and float(found["majority"]) <= 0.5


def test_nonsense_is_refused():
    model = opened("clip")
    for options, said in (({"rounds": 0}, "at least one round"), ({"target": similarity()}, "or neither"),
                          ({"site": "vision.1.attn.z"}, "no d_model axis")):  # fmt: skip
        with pytest.raises(MethodError, match=said):
            erased(**{"site": "vision.1.resid_post", **options})
    with pytest.raises(MethodError, match=r"An Inputs can be gone over once.*a list"):
        erase(model, model.inputs(image=PICTURES), BRIGHT, site="vision.1.resid_post")
