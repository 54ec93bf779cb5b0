"""Drawings led by a unit: the number rises more than by chance, an untouched one is the plain drawing, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import cutaway
from cutaway import questions
from cutaway.errors import InputError, MethodError
from cutaway.methods.feature_visualisation.aims import units_of
from cutaway.methods.feature_visualisation.ascent import Eye
from cutaway.methods.feature_visualisation.declared import METHODS
from cutaway.methods.feature_visualisation.drawing_visualisation import Riser, drawing_visualisation
from cutaway.methods.method import Applied
from cutaway.methods.shown import Page
from cutaway.model.denoise import LATENT
from cutaway.model.midway import draw_midway
from cutaway.model.targets import similarity
from cutaway.zoo import tiny
from world import noise, opened


def sites(model):
    return [str(site) for site in model.sites if site.part == "mlp.post" and site.tower == "denoiser"]


@pytest.fixture(scope="module")
def inputs(sd):
    return sd.inputs(prompt="a red dog", steps=3, seed=1, pictures=2)


@pytest.mark.checks("drawing_visualisation", "truth")
def test_the_gradient_is_that_of_the_number_with_respect_to_the_latents_and_nothing_moves_nothing(sd, inputs):
    site = sites(sd)[0]
    clip = opened("clip")
    eye = Eye(clip, clip.inputs(image=tiny.picture()))
    risers = [
        Riser(sd, units_of(sd, site, [3], "all")), Riser(sd, units_of(clip, "vision.1.mlp.post", [3], "patches"), eye)
    ]  # fmt: skip
    checked = []

    def change(midway):
        name = next(one for one in LATENT if one in midway.inputs.tensors)
        for riser in risers:
            way = noise(*midway.latent.shape, seed=2).to(midway.latent)
            found = []
            for size in (1e-4, -1e-4):
                given = {**midway.inputs.tensors, name: midway.inputs.tensors[name] + midway.scale * size * way}
                there = replace(midway.inputs, tensors=given)
                found.append(riser(replace(midway, latent=midway.latent + size * way, inputs=there))[0].sum())
            checked.append((float((riser(midway)[1] * way).sum()), float(found[0] - found[1]) / 2e-4))

    draw_midway(sd, inputs, [1], change)
    for slope, between in checked:
        assert abs(slope - between) < 1e-4 * abs(between) + 1e-7
    still = drawing_visualisation(sd, inputs, site=site, units=[3], strength=0.0, progress=False)
    plain = sd.run(inputs, output="pt").outputs.images.clamp(0, 1)
    shown = (plain.movedim(1, -1) * 255).round().to(torch.uint8).numpy()
    assert any(np.array_equal(one, still["picture"].values[0, 1]) for one in shown)


@pytest.mark.checks("drawing_visualisation", "baseline")
def test_a_led_drawing_has_more_of_the_unit_than_one_moved_as_far_by_chance(sd, inputs):
    found = drawing_visualisation(sd, inputs, site=sites(sd)[0], units=[3], step=2, strength=0.2, progress=False)
    value = found["value"].mean("draw")
    assert bool((value.sel(side="led") > value.sel(side="plain")).all())
    assert bool((value.sel(side="led") > value.sel(side="random")).all())
    assert found["path"].sizes == {"unit": 1, "side": 3, "step": 3, "draw": 2}
    assert list(found.summary().columns) == ["unit", "plain", "led", "random"] and "best of 2" in found.note()
    assert found.plot().get_yticklabels()


@pytest.mark.checks("drawing_visualisation", "floor")
def test_an_untrained_denoiser_can_be_led_as_well():
    """So that a number rises says nothing of training: what is drawn does."""
    model = cutaway.load("zoo:emoji-sd@untrained")
    drawing = model.inputs(prompt="a fox", steps=3, guidance=1.0)
    found = drawing_visualisation(model, drawing, many=1, step=2, progress=False)["value"].isel(unit=0, draw=0)
    assert float(found.sel(side="led")) > float(found.sel(side="plain"))


def test_a_model_that_sees_leads_a_drawing(sd, inputs):
    clip = opened("clip")
    shown = clip.inputs(image=tiny.picture(), text="a dog")
    found = drawing_visualisation(sd, inputs, eye=clip, shown=shown, aims=[similarity(0)], progress=False)
    value = found["value"].mean("draw").isel(unit=0)
    assert float(value.sel(side="led")) > float(value.sel(side="plain"))
    with pytest.raises(MethodError, match="to become large"):
        drawing_visualisation(sd, inputs, eye=clip, shown=shown, progress=False)
    with pytest.raises(MethodError, match="3 steps"):
        drawing_visualisation(sd, inputs, step=9, progress=False)
    with pytest.raises(InputError, match="between its steps"):
        drawing_visualisation(sd, sd.inputs(prompt="a dog", steps=4, step=1), site=sites(sd)[0], units=[1], step=0)


def test_a_page_shows_the_three_sides():
    question = questions.asked("tiny:sd", prompt="a dog")
    declared = next(one for one in METHODS if one.name == "drawing_visualisation")
    (entry, applies) = next(iter(declared.entries(question)))
    made: Applied = applies.apply(question, **{**entry.options, "many": 1, "step": 1})
    (view,) = declared.show(Page(question, {entry.name: made}))
    assert len(view.pictures) == 3 and "moved as far by chance" in view.seen
