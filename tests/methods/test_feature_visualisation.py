"""Pictures made for units: a planted template comes back, spectra are kept, and an untrained model is led less."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import cutaway
from cutaway import data, questions
from cutaway.errors import MethodError
from cutaway.methods.feature_visualisation import Visions, feature_visualisation
from cutaway.methods.feature_visualisation.aims import activation, units_of
from cutaway.methods.feature_visualisation.ascent import Eye
from cutaway.methods.feature_visualisation.declared import METHODS
from cutaway.methods.feature_visualisation.paint import Paint, shaken
from cutaway.methods.feature_visualisation.spectrum import Spectrum
from cutaway.methods.result import load
from cutaway.methods.shown import applied
from cutaway.methods.sparse_autoencoders.beginning import untrained
from cutaway.model.targets import numbers, similarity
from cutaway.zoo import tiny
from world import fresh, noise, opened, red_unit

SCENES = list(data.scenes("test", 12))
STILL = {"jitter": 0.0, "zoom": 0.0, "noise": 0.0}
UNIT = 5


def made(model, inputs=None, **more) -> Visions:
    inputs = model.inputs(image=tiny.picture()) if inputs is None else inputs
    return feature_visualisation(model, inputs, **{"steps": 8, "pictures": SCENES, "progress": False, **more})


@pytest.fixture(scope="module")
def planted():
    """A CLIP one unit of whose first state is how much a patch is like a template, and the template."""
    model, template = fresh("clip"), noise(3, 8, 8)
    with torch.no_grad():
        embeddings = model.module.vision_model.embeddings
        side = embeddings.patch_embedding.weight.shape[-1]
        embeddings.position_embedding.weight[:, UNIT] = 0
        embeddings.patch_embedding.weight[UNIT] = template[:, :side, :side]
    return model, template[:, :side, :side]


@pytest.fixture(scope="module")
def spectrum():
    return Spectrum.of(Eye(opened("clip"), opened("clip").inputs(image=tiny.picture())).seen(SCENES))


@pytest.mark.checks("feature_visualisation", "truth")
@pytest.mark.parametrize("by", ["pixel", "fourier"])
def test_the_best_picture_of_a_linear_unit_is_its_template_in_every_patch_and_as_large_as_it_can_be(planted, by):
    model, template = planted
    inputs, contrast = model.inputs(image=tiny.picture()), 0.1
    more = {"by": by, "contrast": contrast, "steps": 150, "rate": 0.1, **STILL}
    found = made(model, inputs, site="vision.embed", units=[UNIT], **more)
    mean, spread = Eye(model, inputs).scale()
    along = template / spread  # a picture in [0, 1] is divided by its spread
    across = 32 // template.shape[-1]
    best = along.repeat(1, across, across)
    seen = torch.from_numpy(found["picture"].values[0] / 255 - 0.5).movedim(-1, 0)
    cosine = float((seen * best).sum() / seen.norm() / best.norm())
    assert cosine > 0.99  # bytes are rounded
    bound = contrast * best.numel() ** 0.5 * float(best.norm()) / across**2
    grey = float(((0.5 - mean) / spread * template).sum())
    assert bound * 0.995 < float(found["value"][0]) - grey < bound * 1.0001
    assert float(found["value"][0]) > float(found["best"][0])


def test_an_ascent_follows_the_gradient_of_the_whole_way_from_the_number_to_the_free_numbers(planted, spectrum):
    model, _ = planted
    eye = Eye(model, model.inputs(image=tiny.picture()))
    aim = units_of(model, "vision.1.mlp.post", [3], "patches")
    for by in ("pixel", "fourier", "maco"):
        paint = Paint(by, spectrum)
        free = [one.detach().double() for one in paint.begin(1, torch.Generator().manual_seed(0))]
        step = [noise(*one.shape, seed=1) for one in free]

        def number(size, paint=paint, free=free, step=step):
            moved = tuple(one + size * way for one, way in zip(free, step, strict=True))
            return numbers(aim, eye.run(paint(moved), [aim.reads_at], grad=True))

        at = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(number(at).sum(), at)
        between = float((number(torch.tensor(1e-5)) - number(torch.tensor(-1e-5))).detach()) / 2e-5
        assert abs(float(slope) - between) < 1e-5 * abs(between) + 1e-9, by


@pytest.mark.checks("feature_visualisation", "truth")
def test_a_picture_by_phases_has_the_spectrum_of_the_data_set_and_the_phases_of_what_it_began_with(spectrum):
    paint, dice = Paint("maco", spectrum), torch.Generator().manual_seed(0)
    waves = torch.fft.rfft2(paint.phased(*paint.begin(2, dice)), norm="ortho").abs()
    assert torch.allclose(waves.flatten(2)[..., 1:], spectrum.size.expand_as(waves).flatten(2)[..., 1:], atol=1e-4)
    assert bool((waves[..., 0, 0] <= spectrum.size[:, 0, 0] + 1e-4).all())
    scene = torch.from_numpy(data.pixels(replace(SCENES[0], canvas=(32, 32)))).movedim(-1, 0)[None] / 255
    kept = paint.phased(*paint.begin(1, dice, scene)).detach()
    both = [torch.fft.rfft2(one, norm="ortho") for one in (kept, spectrum.apart(scene))]
    turned = (both[0] / both[0].abs() * (both[1] / both[1].abs()).conj()).real
    assert float(turned[both[1].abs() > 1e-2].min()) > 0.99
    assert torch.allclose(spectrum.together(spectrum.apart(scene)), scene, atol=1e-4)


@pytest.mark.parametrize("by", ["pixel", "fourier"])
def test_a_picture_to_begin_with_is_the_first_one(spectrum, by):
    scene = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    paint = Paint(by, spectrum)
    assert torch.allclose(paint(paint.begin(1, torch.Generator(), scene)), scene, atol=1e-3)


@pytest.mark.parametrize("by", ["pixel", "fourier", "maco"])
def test_pictures_with_odd_sides_have_their_own_size(by):
    paint = Paint(by, Spectrum.of(torch.rand(3, 3, 9, 7)))
    assert paint(paint.begin(2, torch.Generator())).shape == (2, 3, 9, 7)


def test_pictures_are_moved_by_whole_pixels_as_told_and_left_alone_where_nothing_moves_them():
    pictures = torch.rand(2, 3, 16, 16)
    assert shaken(pictures, torch.Generator()) is pictures
    moved = shaken(pictures, torch.Generator().manual_seed(1), jitter=2.0, zoom=0.1, noise=0.01)
    assert moved.shape == pictures.shape and not torch.allclose(moved, pictures, atol=0.05)


@pytest.mark.checks("feature_visualisation", "baseline")
def test_pictures_by_chance_with_the_same_spectrum_stay_below_what_is_made_and_the_best_there_is():
    found = made(red_unit(), site="vision.embed", units=[UNIT], steps=40, by="fourier")
    z = found.scores().isel(unit=0)
    assert float(z["made"]) > float(z["best"]) > float(z["random"])
    assert found["picture"].values[0, ..., 0].mean() > found["picture"].values[0, ..., 1:].mean() + 30  # it is red


@pytest.mark.checks("feature_visualisation", "floor")
def test_units_of_an_untrained_model_rise_as_well_but_less():
    question = questions.asked("zoo:emoji-clip", image=data.render(SCENES[0]), text=["a fox", "a cat"])
    declared = METHODS[0]
    question = replace(question, crowd=SCENES)
    page = applied(question, [replace(declared, reported=tuple(
        replace(one, options={**one.options, "steps": 10}) for one in declared.reported
    ))])  # fmt: skip
    found = page.made("unit_visions")
    z = found.scores()
    assert float(z["made"].median()) > 2 and 1 < float(z["floor"].median()) < float(z["made"].median())
    number, units = declared.show(page)
    assert all(f"{abs(float(z[name].median())):.3f}" in units.seen for name in ("made", "best", "random", "floor"))
    assert "spreads above the mean" in number.seen and "before training" in units.seen
    assert len(units.pictures) == 12 and units.captions[2].endswith("made for the model before training")


def test_each_row_goes_its_own_way(planted):
    model, _ = planted
    both = made(model, site="vision.1.mlp.post", units=[3, 9], by="maco", **STILL)
    again = made(model, site="vision.1.mlp.post", units="3,9", by="maco", **STILL)
    assert np.array_equal(both["picture"].values, again["picture"].values)
    assert bool((both["value"] > both["begun"]).all()) and both["path"].dims == ("step", "unit")
    other = made(model, site="vision.1.mlp.post", units=[3, 9], by="maco", seed=1, **STILL)
    assert not np.array_equal(both["picture"].values, other["picture"].values)
    assert made(model, site="vision.1.mlp.post", units=[3], looks=2).data.sizes["unit"] == 1


@pytest.mark.parametrize("looks", [1, 2])
def test_a_picture_does_not_depend_on_those_that_are_made_beside_it(looks):
    model, how = opened("clip"), {"site": "vision.1.mlp.post", "steps": 3, "looks": looks}
    among, alone = made(model, units=[7, 3, 9], **how), made(model, units=[3], **how)
    assert np.allclose(among["value"][1], alone["value"][0], atol=1e-4)
    apart = np.abs(among["picture"].values.astype(int) - alone["picture"].values)
    assert apart[1].max() <= 2 < apart[0].mean()
    ways, place = noise(3, 32), {**how, "site": "vision.1.resid_post"}
    every, one = made(model, directions=ways, **place), made(model, directions=ways[1:2], **place)
    assert np.allclose(every["value"][1], one["value"][0], atol=1e-4)


def test_heads_directions_places_and_features_are_read_as_they_are_defined(planted):
    model, _ = planted
    dictionary = untrained("topk", "vision.1.resid_post", 32, width=64, k=40)
    model = model.with_dictionaries(dictionary)
    eye = Eye(model, model.inputs(image=tiny.picture()))
    pictures = eye.seen(SCENES[:3])
    run = eye.run(pictures, ["vision.1.attn.z", "vision.1.resid_post", "vision.1.resid_post.features"])
    z, state, features = (run[site][:, 1:] for site in run)
    head = units_of(model, "vision.1.attn.z", [1], "patches")
    assert torch.allclose(eye.numbers(pictures, head)[:, 0].double(), z[:, :, 1].norm(dim=-1).mean(1))
    ways = noise(2, 32)
    along = units_of(model, "vision.1.resid_post", None, "peak", ways)
    assert torch.allclose(eye.numbers(pictures, along).double(), (state @ ways.T).amax(1), atol=1e-5)
    own = units_of(model, "vision.1.resid_post.features", [4, 7], "patches")
    assert torch.allclose(eye.numbers(pictures, own), features[..., [4, 7]].mean(1).float(), atol=1e-5)
    sloped = replace(own, sloped=True)
    assert float(torch.relu(eye.numbers(pictures, sloped)).min()) >= 0
    first = units_of(model, "vision.1.resid_post", [2], "class")
    assert torch.allclose(eye.numbers(pictures, first)[:, 0].double(), run["vision.1.resid_post"][:, 0, 2])
    found = made(model, site="vision.1.resid_post.features", units=[int(features.mean((0, 1)).argmax())])
    assert float(found["value"][0]) > float(found["begun"][0])


def test_a_number_rises_in_every_family_that_sees_pictures_and_a_facet_beside_it():
    for name, text in (("clip", ["a dog", "a cat"]), ("llava", "what is this")):
        question = questions.asked(f"tiny:{name}", image=tiny.picture(), text=text)
        found = made(question.model, question.inputs, target=question.target)
        assert float(found["value"][0]) > float(found["begun"][0])
    clip = questions.asked("tiny:clip", image=tiny.picture(), text=["a dog", "a cat"])
    more = {"site": "vision.1.mlp.post", "units": [3, 4], "facet": similarity(1), "steps": 16, **STILL}
    plain, faceted = (made(clip.model, clip.inputs, facet_weight=w, **more)["facet"].mean() for w in (0.0, 3.0))
    assert float(faceted) > float(plain)


def test_a_result_is_kept_and_what_can_not_be_made_says_why(tmp_path):
    model = opened("clip")
    found = made(model, site="vision.1.mlp.post", units=[1], steps=2)
    assert isinstance(load(found.save(tmp_path / "made.nc")), Visions) and found.plot().get_yticklabels()
    assert list(found.summary().columns[:2]) == ["unit", "value"]
    refused = [
        ({"site": "vision.1.mlp.post", "units": [999]}, "no unit 999"), ({}, "nothing is to become large"),
        ({"site": "vision.1.mlp.post", "units": "a"}, "no units"), ({"site": "vision.1.mlp.post"}, "no unit is named"),
        ({"site": "vision.1.mlp.post", "units": [1], "contrast": 0.1}, "contrast"),
        ({"site": "vision.1.attn.pattern", "units": [1]}, "pairs of positions"),
    ]  # fmt: skip
    for given, said in refused:
        with pytest.raises(MethodError, match=f"(?i){said}"):
            made(model, **{"steps": 1, **given})
    with pytest.raises(MethodError, match="one whole picture"):
        made(model, model.inputs(text="a dog"), target=similarity(0))
    assert activation("a.b", (1, 2)).rows(0, 1).units == (1,)
    declared = METHODS[0]
    assert "picture" in declared.why_not(questions.asked("tiny:llama", text="a dog"))
    alone = questions.asked("tiny:clip", image=tiny.picture())
    assert declared.why_not(alone) == "it needs a text beside the picture: --text TEXT (`text=`)"
    matched = questions.asked("tiny:clip", image=tiny.picture(), text="a dog")
    assert not list(declared.entries(matched))  # a report makes none without the model before training
    pieces = questions.asked("tiny:qwen2-vl", image=tiny.picture(), text="what is this")
    assert declared.why_not(pieces).startswith("it needs one picture that the model is given as a whole")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_climbs_where_gradients_are_off(mode):
    model, how = opened("clip"), {"site": "vision.1.mlp.post", "units": [3], "steps": 1}
    plain = made(model, **how)
    with mode():
        found = made(model, **how)
    assert (found["picture"].values == plain["picture"].values).all()


def test_odd_wishes_are_refused_and_a_data_set_without_spread_has_no_z():
    model, how = opened("clip"), {"site": "vision.1.mlp.post", "steps": 1}
    same = made(model, **how, units=[3], pictures=[tiny.picture()] * 2)
    assert np.isnan(same.scores()["made"].values).all()
    for odd, said in (
        ({"directions": noise(2, 7)}, "shape"), ({"units": [99]}, "No unit 99"), ({"many": -1}, "-1 units"),
        ({"units": [1], "pictures": []}, "No pictures"),
        ({"site": "", "target": lambda run: torch.zeros(len(run.inputs.tensors["pixel_values"]))}, "not depend on"),
    ):  # fmt: skip
        with pytest.raises(MethodError, match=said):
            made(model, **{**how, **odd})


def test_a_processor_that_leaves_pictures_as_they_are_is_followed():
    model = cutaway.load("tiny:clip")
    model.engine.tools.images.do_normalize = False
    inputs = model.inputs(image=tiny.picture())
    eye = Eye(model, inputs)
    shown = eye.seen([tiny.picture()])
    assert torch.allclose(shown, inputs.tensors["pixel_values"])
    assert torch.allclose(eye.run(shown).inputs.tensors["pixel_values"], shown)
