"""Profiles of units: exemplars, counts, descriptions and steering, against the same numbers taken by hand."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway import Set, Where
from cutaway.data import render, scene_at
from cutaway.errors import MethodError
from cutaway.methods.network_dissection.concept_masks import concepts_in
from cutaway.methods.network_dissection.similarities import similarities
from cutaway.methods.neuron_descriptions.steering import POINTS
from cutaway.methods.neuron_descriptions.unit_profiles import unit_profiles
from cutaway.methods.neuron_descriptions.unit_views import units_view
from cutaway.questions.bank import text_bank
from cutaway.questions.rows import embedded
from cutaway.views.known import from_json
from toys import toy

SITE = "vision.1.resid_post"


@pytest.fixture(scope="module")
def model():
    plain = cutaway.load("tiny:clip")
    return plain.with_dictionaries(toy(plain, SITE, dtype=torch.float32))


@pytest.fixture(scope="module")
def scenes():
    return [scene_at("test", at) for at in range(40)]


@pytest.fixture(scope="module")
def found(model, scenes):
    bank = text_bank(model, ["a dog", "a cat", "on a red background", "a red ball"], progress=False)
    return unit_profiles(model, scenes, bank=bank, top=3, words=2, steer=4, batch=16, progress=False)


@pytest.mark.checks("unit_profiles", "truth")
def test_they_are_the_numbers_of_the_runs(model, scenes, found):
    run = model.run(model.inputs(image=[render(scene) for scene in scenes]), record=f"{SITE}.features")
    patches = run[f"{SITE}.features"][:, 1:]  # behind the class token
    best = patches.amax(1)
    values, items = best.topk(3, dim=0)
    assert np.allclose(found["value"].values, values.T.numpy(), atol=1e-5)
    assert np.array_equal(found["item"].values, items.T.numpy())
    assert np.allclose(found["density"].values, (patches > 0).float().mean((0, 1)).numpy(), atol=1e-6)
    for unit in range(12):
        side = int(patches.shape[1] ** 0.5)
        laid = patches[items[0, unit], :, unit].reshape(side, side)
        assert np.allclose(found["map"].values[unit, 0], laid.numpy(), atol=1e-5)
        on = patches[..., unit][patches[..., unit] > 0]
        assert int(found["counts"].values[unit].sum()) == len(on)
        if len(on):
            assert abs(float(found["mean"][unit]) - float(on.mean())) < 1e-5


@pytest.mark.checks("unit_profiles", "baseline")
def test_a_description_is_the_concept_that_correlates_most_beside_shuffled_pictures(scenes, found, model):
    known = concepts_in(scenes)
    shows = known.present(scenes).astype(float)
    shows = shows[:, shows.std(0) > 0]
    run = model.run(model.inputs(image=[render(scene) for scene in scenes]), record=f"{SITE}.features")
    best = run[f"{SITE}.features"][:, 1:].amax(1).numpy()
    alive = best.std(0) > 0
    r = np.corrcoef(np.concatenate([best[:, alive], shows], 1).T)[: alive.sum(), alive.sum() :]
    assert np.allclose(found["correlation"].values[alive], r.max(1), atol=1e-4)
    for unit in np.flatnonzero(alive)[:6]:
        at = known.labels.index(str(found["concept"].values[unit]))
        scored = similarities(best[:, [unit]], known.present(scenes)[:, [at]])
        for name in ("pearson", "auprc", "iou"):
            assert float(found["scores"].sel(score=name)[unit]) == pytest.approx(float(scored[name][0, 0]), abs=1e-4)
    again = shows[torch.randperm(len(scenes), generator=torch.Generator().manual_seed(0)).numpy()]
    null = np.corrcoef(np.concatenate([best[:, alive], again], 1).T)[: alive.sum(), alive.sum() :]
    most = np.zeros(best.shape[1])
    most[alive] = null.max(1)
    assert abs(float(found["bound"]) - np.quantile(most, 0.99)) < 1e-4


@pytest.mark.checks("unit_profiles", "floor")
def test_before_training_descriptions_are_as_many_but_not_as_good():
    """Colours are in the pixels: random neurons follow them too. So a description alone says nothing of training."""
    some = [scene_at("test", at) for at in range(96)]
    trained = cutaway.load("zoo:emoji-clip", dictionary="zoo:emoji-clip-sae")
    before = cutaway.load("zoo:emoji-clip@untrained")
    after, floor = (
        unit_profiles(model, some, site=site, top=1, steer=0, progress=False)
        for model, site in ((trained, ""), (before, "vision.4.mlp.post"))
    )
    named = [float((one["correlation"] > one["bound"]).mean()) for one in (after, floor)]
    best = [float(one["correlation"].quantile(0.98)) for one in (after, floor)]
    assert named[1] > named[0] and best[0] > best[1] + 0.05


def test_what_setting_a_unit_does_is_what_the_edit_does(model, scenes, found):
    units = np.flatnonzero(np.isfinite(found["effect"].values[:, 0]))
    assert len(units) == 4 and found["chance"].shape == (3, len(POINTS))
    unit, dice = int(units[0]), torch.Generator().manual_seed(0)
    some = torch.randperm(len(scenes), generator=dice)[:8]
    inputs = model.inputs(image=[render(scenes[int(at)]) for at in some])
    text = embedded(model, [str(found["text"].values[unit, 0])], "text", progress=False)[0]

    def said(edits):
        joint = model.run(inputs, edits=edits, record="vision.joint")["vision.joint"].float()
        return torch.cosine_similarity(joint, text[None].float(), dim=1).mean()

    edit = Set(f"{SITE}.features", 2 * float(found["largest"][unit]), unit=unit, token=Where("image"))
    assert abs(float(said(edit) - said(())) - float(found["effect"].values[unit, 3])) < 1e-5


def test_the_view_holds_them(found, scenes):
    view = units_view(found, scenes)
    assert from_json(view.to_json()) == view
    alive = int((found["largest"].values > 0).sum())
    assert len(view.units) == alive and view.maps is not None
    assert len(view.maps) == sum(len(one.pictures) for one in view.units)
    first = view.units[0]
    laid = view.maps[: len(first.pictures)]
    assert np.allclose(laid.max((1, 2)), first.values, atol=1e-5)
    table = found.table()
    assert len(table) == alive and table["correlation"].is_monotonic_decreasing


def test_rows_without_a_truth_are_refused(model):
    with pytest.raises(MethodError, match="scenes of EmojiWorld"):
        unit_profiles(model, [])
    with pytest.raises(MethodError, match="Nothing to keep"):
        unit_profiles(model, [scene_at("test", at) for at in range(9)], top=0)


def test_scenes_that_nothing_tells_apart_are_refused(model, scenes):
    for few in (scenes[:3], scenes[:7]):
        with pytest.raises(MethodError, match="nothing to tell"):
            unit_profiles(model, few, top=2, steer=0, progress=False)
