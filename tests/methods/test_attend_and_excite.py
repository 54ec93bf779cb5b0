"""Attend-and-Excite: its gradient, its moves by hand, the drawing as it is without them, and what it refuses."""

import pytest
import torch
from diffusers import StableDiffusionPAGPipeline

import cutaway
from cutaway import questions
from cutaway.errors import InputError, MethodError
from cutaway.methods import attend_and_excite
from cutaway.methods.cross_attention.attend_and_excite import neglected
from cutaway.methods.table import method
from cutaway.model.midway import draw_midway
from cutaway.zoo.emoji_judge import judge
from cutaway.zoo.judging import look

PROMPTS = ["a red dog", "a dog on a cat"]
WORDS = [["dog", "red"], ["cat"]]
LATENT = "denoiser.latent"


def looked(model, midway, latent, aim):
    """L of each row, of the denoiser at that step on these latents."""
    name = "sample" if "sample" in midway.inputs.tensors else "hidden_states"
    given = {**midway.inputs.tensors, name: midway.scale * latent}
    run = model.run(type(midway.inputs)(**{**vars(midway.inputs), "tensors": given}), record=patterns(model))
    return aim(run)


def perturbed():
    parts = {**cutaway.load("tiny:sd").module.components, "requires_safety_checker": False}
    return cutaway.load(StableDiffusionPAGPipeline(**parts))


def patterns(model):
    part = "attn.pattern" if "sd3" in model.name else "cross.pattern"
    return [site for site in model.sites if site.tower == "denoiser" and site.part == part]


@pytest.mark.checks("attend_and_excite", "truth")
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_the_latents_are_moved_along_the_gradient_that_differences_give(name):
    model = cutaway.load(f"tiny:{name}", dtype="float64")
    inputs = model.inputs(prompt=PROMPTS, seed=3, steps=2)
    aim, held = neglected(tuple(map(tuple, WORDS))), {}

    def by_hand(midway):
        slope = model.gradients(midway.inputs, aim, [LATENT, *patterns(model)])[LATENT][0, 0] * midway.scale
        dice = torch.Generator().manual_seed(1)
        way = torch.randn(midway.latent.shape, generator=dice, dtype=torch.float64)
        up, down = (looked(model, midway, midway.latent + sign * 1e-6 * way, aim) for sign in (1, -1))
        held["differences"], held["slope"] = (up - down) / 2e-6, (slope * way).flatten(1).sum(1)
        return midway.latent - 4.0 * slope

    drawn = draw_midway(model, inputs, [1], by_hand).images
    assert (held["differences"] - held["slope"]).abs().max() < 1e-6 * held["slope"].abs().max() + 1e-9
    found = attend_and_excite(model, inputs, WORDS, eta=4.0, steps=[1], progress=False)
    assert (found["drawn"].sel(side="excited").values == levels(drawn)).all()
    assert (found["moved"] > 0).all()


def levels(drawn):
    return (drawn.clamp(0, 1).movedim(1, -1) * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("name", ["sd", "sd3", "perturbed"])
def test_without_eta_it_is_the_drawing_as_it_is(name):
    """Also where the pipeline holds processors of perturbed guidance, which know no batch of the prompt alone."""
    model = cutaway.load(f"tiny:{name}") if name != "perturbed" else perturbed()
    inputs = model.inputs(prompt=PROMPTS, seed=3, steps=2, size=(32, 32))
    plain = model.run(inputs, output="pt").outputs.images
    seen = []
    assert torch.equal(draw_midway(model, inputs, [0, 1], lambda midway: seen.append(midway.step)).images, plain)
    assert seen == [0, 1]
    found = attend_and_excite(model, inputs, WORDS, eta=0.0, steps=[0, 1], progress=False)
    assert (found["drawn"].values == levels(plain)).all() and not found["moved"].any()


def test_latents_given_back_as_they_are_are_the_same_drawing():
    model = cutaway.load("tiny:sdxl", dtype="float64")  # its noise is not its first latents, nor what is denoised
    inputs = model.inputs(prompt="a dog", seed=3, steps=2)
    drawn = draw_midway(model, inputs, [0, 1], lambda midway: midway.latent).images
    assert (drawn - model.run(inputs, output="pt").outputs.images).abs().max() < 1e-9


def test_guidance_that_a_user_ends_midway_ends(sd):
    """A callback of the user's own runs before the look at the latents, and may hold other tensors."""

    def end(pipeline, step, time, held):
        pipeline._guidance_scale = 0.0
        return {"prompt_embeds": held["prompt_embeds"][-1:]}

    inputs, seen = sd.inputs(prompt="a red dog", seed=3, steps=3), []
    inputs.tensors.update(callback_on_step_end=end, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    drawn = draw_midway(sd, inputs, [0, 1, 2], lambda midway: seen.append(sd.module._guidance_scale)).images
    assert seen == [5.0, 0.0, 0.0] and torch.equal(drawn, sd.run(inputs, output="pt").outputs.images)


@pytest.mark.checks("attend_and_excite", "baseline")
def test_a_move_by_chance_is_as_long_and_does_less(sd):
    inputs = sd.inputs(prompt=PROMPTS, seed=3, steps=2)
    aim, found = neglected(tuple(map(tuple, WORDS))), {}

    def change(midway):
        slope = sd.gradients(midway.inputs, aim, [LATENT, *patterns(sd)])[LATENT][0, 0]
        noise = torch.randn(slope.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        noise = (
            noise
            * slope.flatten(1).norm(dim=1)[:, None, None, None]
            / noise.flatten(1).norm(dim=1)[:, None, None, None]
        )
        before = looked(sd, midway, midway.latent, aim)
        found["fall"] = [before - looked(sd, midway, midway.latent - move, aim) for move in (slope, noise)]

    draw_midway(sd, inputs, [1], change)
    assert (found["fall"][0] > 5 * found["fall"][1].abs()).all()
    made = attend_and_excite(sd, inputs, WORDS, eta=50.0, steps=[0], progress=False)
    plain, excited, random = (
        made["drawn"].sel(side=side).values.astype(int) for side in ("plain", "excited", "random")
    )
    assert (excited != plain).any() and (random != plain).any() and (excited != random).any()


@pytest.mark.checks("attend_and_excite", "floor")
def test_before_training_no_move_brings_a_thing():
    """Of one prompt in a few steps; what moves do to drawings of a trained model is measured in benchmarks."""
    prompt, names = "a fox and an owl on a green background", ["fox", "owl"]
    most = {}
    for name in ("zoo:emoji-sd", "zoo:emoji-sd@untrained"):
        model = cutaway.load(name)
        inputs = model.inputs(prompt=prompt, seed=0, steps=5, guidance=3.0)
        found = attend_and_excite(model, inputs, names, eta=100.0, steps=[0], progress=False)
        drawn = torch.from_numpy(found["drawn"].isel(picture=0).values).movedim(-1, 1).float() / 127.5 - 1
        with torch.no_grad():
            seen = look(judge(), drawn)
        most[name] = torch.stack([seen.there(one) for one in names]).amax(0)
    assert most["zoo:emoji-sd"][1] > 0.5 > most["zoo:emoji-sd@untrained"].max()


def test_what_cannot_be_asked_says_so(sd):
    inputs = sd.inputs(prompt="a red dog", seed=0, steps=2)
    with pytest.raises(MethodError, match="'horse' is not a word"):
        attend_and_excite(sd, inputs, "horse", progress=False)
    with pytest.raises(MethodError, match="moved at"):
        attend_and_excite(sd, inputs, "dog", steps=[2], progress=False)
    with pytest.raises(MethodError, match="2 lists of words for 1"):
        attend_and_excite(sd, inputs, [["dog"], ["red"]], progress=False)
    with pytest.raises(MethodError, match="attend to words"):
        attend_and_excite(sd, inputs, "dog", layers=[99], progress=False)
    with pytest.raises(InputError, match="cannot be changed between its steps"):
        attend_and_excite(sd, sd.inputs(prompt="a red dog", seed=0, steps=2, step=0), "dog", steps=[0], progress=False)


def test_it_answers_a_question():
    declared = method("attend-and-excite")
    made = declared.apply(questions.asked("tiny:sd", prompt="a red dog", step=1), steps=[0])
    assert made.result.provenance.options["words"] == [["red", "dog"]]
    assert "attend_and_excite(question.model, question.drawing, words=['red', 'dog']" in made.code()
