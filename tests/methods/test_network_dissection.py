"""Network dissection finds a unit that was made to mark a concept, counts in pixels, and is modest about noise."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway import data, store
from cutaway.data import Background, Label, Scene, Thing
from cutaway.errors import InputError, MethodError
from cutaway.methods.network_dissection import Dissection, network_dissection
from cutaway.methods.network_dissection.concept_masks import concepts_in, lettered, masks_of, shown
from cutaway.methods.network_dissection.declared import METHODS
from cutaway.methods.network_dissection.unit_maps import Posed, unit_maps, unit_site
from cutaway.methods.result import load
from cutaway.methods.shown import applied
from cutaway.model.edits import Set
from cutaway.model.tokens import Where
from cutaway.questions.question import Question
from cutaway.store.quantiles import Quantiles
from world import fresh, noise, opened, red_unit

SCENES = list(data.scenes("test", 40))
GROUNDS = [Scene(background=Background("plain", (colour,))) for _ in range(6) for colour in ("blue", "red", "white")]
UNIT = 5


def dissected(model, scenes, **more) -> Dissection:
    given = {"written": 0, "least": 2, "shuffles": 4, "directions": 32, "batch": 9, "progress": False}
    return network_dissection(model, scenes, **{**given, **more})


@pytest.mark.checks("network_dissection", "truth")
def test_a_unit_that_is_the_mask_of_a_concept_has_an_iou_of_one():
    found = dissected(red_unit(), GROUNDS, site="vision.embed", shares=(1 / 3,))
    marked = found["iou"].isel(share=0).sel(unit=UNIT, concept="red ground")
    assert float(marked) == 1 and abs(float(found["marked"].sel(unit=UNIT)[0]) - 1 / 3) < 1e-6
    best = found.best().set_index("unit").loc[UNIT]
    assert best["concept"] == "red ground" and best["labelled"]
    assert float(found["ceiling"].sel(concept="red ground")) == 1


def told(name, scenes):
    """A model in which unit 5 is told the share of each patch that a concept covers, and what that is."""
    model = fresh("clip")
    concepts = concepts_in(scenes, least=2)
    (share,) = (concepts.shares(scenes, 4, 4)[..., at] for at, label in enumerate(concepts.labels) if label == name)
    values = torch.from_numpy(share).double().flatten(1)
    return model, Set("vision.1.mlp.post", values, unit=UNIT, token=Where("image")), float(share.mean())


@pytest.mark.checks("network_dissection", "baseline")
def test_directions_by_chance_and_shuffled_pictures_mark_less_than_a_unit_that_is_told():
    model, edit, size = told("food-drink", SCENES)
    with model.edited(edit, model.inputs(image=[data.render(one) for one in SCENES])):
        found = dissected(model, SCENES, batch=40, shares=(size,))
    own = found["iou"].isel(share=0).sel(concept="food-drink")
    assert int(own.argmax("unit")) == UNIT and float(own.max()) > 0.95 * float(
        found["ceiling"].sel(concept="food-drink")
    )
    groups = {"kind_of": "group"}
    assert float(own.max()) > max(float(found[name].sel(groups).max()) for name in ("random", "null")) + 0.05
    assert found.best().set_index("unit").loc[UNIT, "beyond"]


@pytest.mark.checks("network_dissection", "floor")
def test_an_untrained_model_labels_units_too():
    """What the floor is for: even random weights tell colours apart, so a label alone says nothing of training."""
    found = dissected(opened("clip"), SCENES, shuffles=8, batch=20)
    shares = found.shares().set_index(["share", "kind"]).loc[(0.02, "any")]
    assert shares["labelled"] > 0.5 and abs(shares["labelled"] - shares["labelled_random"]) < 0.25


def test_the_iou_is_that_of_pixels():
    model, scenes = opened("clip"), lettered(SCENES[:6], 2)
    found = dissected(model, scenes, least=1, shuffles=2, shares=(0.1,))
    (maps,) = unit_maps(model, scenes, unit_site(model, ""), Posed(), batch=6, progress=False)
    threshold = found["threshold"].isel(share=0).values
    marks = (maps.values.float().numpy() > threshold).repeat(16, 1).repeat(16, 2)  # 4 patches of 64 pixels
    for at, name in enumerate(concepts_in(scenes, least=1).names):
        mask = np.zeros((6, 64, 64))
        for scene, one in zip(scenes, mask, strict=True):
            one += sum((value for other, value in masks_of(scene) if other == name), np.zeros((64, 64)))
        both = (marks * mask[..., None]).sum((0, 1, 2))
        by_hand = both / (marks.sum((0, 1, 2)) + mask.sum() - both)
        np.testing.assert_allclose(found["iou"].values[0, :, at], by_hand, rtol=1e-4, atol=1e-7)
    assert float((found["ceiling"] - found["iou"].max(("share", "unit"))).min()) > -0.02


def test_masks_are_those_of_the_renderer():
    thing = Thing("dog face", place=(0.5, 0.3), tint="red")
    scene = Scene(background=Background("texture", ("red", "blue"), 1), things=(thing,), label=Label("cat"))
    found = dict(masks_of(scene))
    assert {name for name, _ in masks_of(scene)} == {*shown(scene)}
    np.testing.assert_allclose(found["part", "thing"] + found["part", "background"] + found["writing", "plate"], 1)
    both = found["ground colour", "red"] + found["ground colour", "blue"]
    np.testing.assert_allclose(both, found["part", "background"])
    np.testing.assert_allclose(found["colour", "red"], found["part", "thing"])
    ink = found["writing", "letters"]
    assert 0 < ink.sum() < found["writing", "plate"].sum() / 2 and (data.pixels(scene)[ink > 0] < 96).all()


@pytest.mark.parametrize(
    ("name", "site"),
    [("clip", "vision.1.resid_post"), ("clip", "vision.0.attn.z"), ("llava", ""), ("sd", ""),
     ("sd", "denoiser.0.res.out"), ("sd3", "")],
)  # fmt: skip
def test_every_family_and_kind_of_unit(name, site):
    found = dissected(cutaway.load(f"tiny:{name}"), SCENES[:5], site=site, least=1, shuffles=1, shares=(0.1,))
    assert found["iou"].notnull().all() and 0 < float(found["iou"].max()) <= 1


def test_a_store_gives_what_a_run_gives(tmp_path):
    model, scenes = cutaway.load("tiny:clip"), SCENES[:12]
    held = store.harvest(model, scenes, "vision.1.mlp.post", tmp_path / "held", progress=False)
    one, other = (dissected(model, scenes, site="vision.1.mlp.post", held=rows) for rows in (None, held))
    np.testing.assert_allclose(one["iou"].values, other["iou"].values, atol=1e-6)
    with pytest.raises(MethodError, match="written=0"):
        dissected(model, scenes, held=held, written=4)


def test_thresholds_have_the_share_that_they_say():
    values = noise(3000, 4)
    values[:, 1] = values[:, 1].relu()
    values[:, 2] -= 7
    values[:, 3] = 0
    one, other = Quantiles(), Quantiles()
    for part in values.split(700):
        one.add(part)
        other = Quantiles().add(part).merge(other)
    for share in (0.005, 0.1, 0.6):
        tail = one.tail(share)
        assert torch.equal(tail.threshold, other.tail(share).threshold)
        assert (
            torch.equal((values.float() > tail.threshold).float().mean(0), tail.share) and (tail.share <= share).all()
        )
        exact = values[:, [0, 2]].quantile(1 - share, dim=0, interpolation="higher")
        gap = (tail.threshold[[0, 2]] - exact) / exact.abs()
        assert (gap > -1 / 16).all() and (gap < 1 / 32).all()
    with pytest.raises(InputError, match="NaN"):
        one.add(torch.tensor([[torch.nan, 0, 0, 0]]))


def test_a_page_shows_it_and_files_keep_it(tmp_path):
    question = Question(model=cutaway.load("tiny:clip"), crowd=[*data.scenes("test", 512)][:24] * 22)
    page = applied(question, METHODS)
    curve, table, matrix = METHODS[0].show(page)
    assert "99th percentile" in curve.seen and len(table.cells) == 24 and matrix.values.shape[0] == 24
    assert "network_dissection(question.model, question.scenes)" in curve.code
    found = page.made("dissection")
    back = load(found.save(tmp_path / "dissection.nc"))
    assert isinstance(back, Dissection) and back.best().equals(found.best())


def test_what_has_no_masks_is_refused():
    with pytest.raises(MethodError, match="scenes of EmojiWorld"):
        dissected(opened("clip"), [data.render(scene) for scene in SCENES[:3]])
    with pytest.raises(MethodError, match="pairs of positions"):
        dissected(opened("clip"), SCENES[:3], site="vision.0.attn.pattern", least=1)
    with pytest.raises(MethodError, match="what concepts are about"):
        concepts_in(SCENES, kinds=("smell",))
    pictures = Question(model=opened("clip"), crowd=[data.render(SCENES[0])])
    assert "--pictures emojiworld" in METHODS[0].why_not(pictures)
