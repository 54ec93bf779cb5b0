"""What pipelines draw from, how steps are counted, which rows come out: the same contract for each kind of pipeline."""

from functools import cache

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import cutaway
from cutaway import Add, Patch, Scale, Set, Where
from cutaway.errors import InputError, SiteError
from cutaway.model.drawing import alone, as_asked
from cutaway.model.schedule import Schedule
from cutaway.model.steps import chosen_steps, drawn_steps
from cutaway.zoo import tiny
from world import PT, asked, gap, identical, library_call, noise, opened, state

PICTURE = tiny.picture(0, size=(32, 32))
MASK = np.zeros((32, 32), bool)
MASK[:16] = True
PROMPTS = ["a red dog", "a blue cat"]
UNET, JOINT = "denoiser.1.cross.out", "denoiser.0.image.resid_post"
SITE = {"sd": UNET, "sd3": JOINT}


@cache
def other(kind, base="sd", **changes):
    """Another pipeline of the parts of a tiny one, in float64, some of them changed."""
    parts = {**cutaway.load(f"tiny:{base}", dtype="float64").module.components, **changes}
    extra = {"requires_safety_checker": False} if "safety_checker" in parts else {}
    return cutaway.load(getattr(diffusers, kind)(**{k: v for k, v in parts.items() if k != "image_encoder"}, **extra))


def scheduled(name, scheduler, **changes):
    """A tiny pipeline with another scheduler."""
    model = cutaway.load(f"tiny:{name}", dtype="float64")
    model.module.scheduler = getattr(diffusers, scheduler).from_config(model.module.scheduler.config, **changes)
    return model


@cache
def beginning(kind):
    """A pipeline that begins with a picture, and what it is given."""
    if kind == "sd img2img":
        return other("StableDiffusionImg2ImgPipeline"), {"image": PICTURE, "strength": 0.5}
    if kind == "sd inpaint":
        return other("StableDiffusionInpaintPipeline"), {"image": PICTURE, "mask": MASK, "strength": 0.5}
    return other("StableDiffusion3Img2ImgPipeline", "sd3"), {"image": PICTURE, "strength": 0.5, "size": (32, 32)}


BEGINNINGS = ["sd img2img", "sd inpaint", "sd3 img2img"]


# --- several pictures a prompt ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "guidance"), [("sd", 3.0), ("sd", 1.0), ("sd3", 3.0)])
def test_pictures_of_a_prompt_are_rows_of_their_own_and_edited_as_one(name, guidance):
    model, site = opened(name), SITE[name]
    inputs = model.inputs(prompt=PROMPTS, pictures=2, steps=1, guidance=guidance, size=(32, 32))
    run = model.run(inputs, record=[site, "text.final"], **PT)
    labels = run.labelled(site)
    assert labels["prompt"].values.tolist() == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    assert labels["picture"].values.tolist() == [0, 1, 0, 1]
    assert run.labelled("text.final")["prompt"].values.tolist() == PROMPTS
    assert gap(run[site][0, -1, 0], run[site][0, -1, 1]) > 1e-3  # noise of its own for each
    edited = model.run(inputs, record=site, edits=Add(site, 1.0, batch=1), **PT)
    moved = (edited[site] - run[site])[0].abs().flatten(2).amax(2)
    assert (moved[:, :2] == 0).all() and torch.allclose(moved[:, 2:], torch.ones_like(moved[:, 2:]))


def test_what_is_patched_comes_from_the_same_picture_or_is_the_same_for_all():
    model = opened("sd")
    here, there = (model.inputs(prompt=p, pictures=3, steps=1, guidance=3.0, size=(32, 32)) for p in PROMPTS)
    donor = model.run(there, record=UNET, **PT)
    patched = model.run(here, record=UNET, edits=Patch(UNET, donor), **PT)
    assert torch.equal(patched[UNET], donor[UNET])
    one = model.run(model.inputs(prompt=PROMPTS[1], steps=1, guidance=3.0, size=(32, 32)), record=UNET, **PT)
    spread = model.run(here, record=UNET, edits=Patch(UNET, one), **PT)[UNET]
    assert all(torch.equal(spread[:, :, row], one[UNET][:, :, 0]) for row in range(3))
    value = noise(3, *donor[UNET].shape[3:])
    told = model.run(here, record=UNET, edits=Set(UNET, value, guidance="cond"), **PT)[UNET]
    assert torch.equal(told[0, 1], value)


def test_one_evaluation_has_the_rows_of_the_drawing():
    model = opened("sd")
    call = {"prompt": PROMPTS, "pictures": 2, "steps": 2, "guidance": 3.0, "size": (32, 32)}
    drawn = model.run(model.inputs(**call), record="denoiser.out", **PT)
    inputs = model.inputs(**call, step=1)
    once = model.run(inputs, record="denoiser.out")
    assert gap(once["denoiser.out"][0, 0], drawn["denoiser.out"][1, 1]) < 1e-10
    assert once.labelled("denoiser.out")["picture"].values.tolist() == [0, 1, 0, 1]
    noised = model.inputs(**call, step=1, image=[PICTURE, tiny.picture(1, size=(32, 32))])
    assert noised.call.truth is not None and len(noised.call.truth) == 4
    cells = [Scale(UNET, 0.5, batch=1), Scale(UNET, 0.0)]
    swept = model.sweep(inputs, cells, lambda run: run.outputs.sample.flatten(1).pow(2).mean(1), progress=False)
    alone = [model.run(inputs, edits=edit).outputs.sample.flatten(1).pow(2).mean(1).numpy() for edit in cells]
    assert np.allclose(swept.values, alone, rtol=0, atol=1e-10)
    assert swept.values["prompt"].values.tolist()[0] == PROMPTS[0] and swept.values["picture"].values[1] == 1


# --- steps ------------------------------------------------------------------------------------------------------------


TWICE = [
    ("sd", "HeunDiscreteScheduler"), ("sd", "KDPM2DiscreteScheduler"), ("sd3", "FlowMatchHeunDiscreteScheduler"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, in a scheduler
@pytest.mark.parametrize(("name", "scheduler"), TWICE)
def test_a_scheduler_that_calls_twice_has_a_step_for_each_call(name, scheduler):
    """2 n - 1 steps of a drawing in n: nothing of the two calls is mixed."""
    model, site = scheduled(name, scheduler), SITE[name]
    inputs = model.inputs(prompt=PROMPTS[0], steps=3, guidance=3.0, size=(32, 32))
    run = model.run(inputs, record=[site, "denoiser.out"], **PT)
    assert len(run[site]) == 5 and model.estimate(inputs, site).shapes[site] == tuple(run[site].shape)
    for step, at in ((3, 3), (-1, 4)):
        made = model.run(inputs, record=site, edits=Add(site, 1.0, step=step), **PT)[site]
        changed = [bool((made[i] != run[site][i]).any()) for i in range(5)]
        assert changed == [i >= at for i in range(5)]
        assert torch.allclose(made[at], run[site][at] + 1.0)
    for step in (2, 4):
        once = model.inputs(prompt=PROMPTS[0], steps=3, guidance=3.0, size=(32, 32), step=step)
        assert once.call.steps == 5
        assert gap(model.run(once, record="denoiser.out")["denoiser.out"][0, 0], run["denoiser.out"][step, -1]) < 1e-10
    with pytest.raises(InputError, match=r"(?i)no step 5.*0 to 4"):
        model.inputs(prompt=PROMPTS[0], steps=3, step=5, size=(32, 32))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_between_two_noise_levels_there_are_no_latents_of_ones_own():
    model = scheduled("sd", "KDPM2DiscreteScheduler")
    call = {"prompt": PROMPTS[0], "steps": 2, "size": (32, 32), "image": PICTURE}
    assert model.inputs(**call, step=2).call.steps == 3
    with pytest.raises(InputError, match="between two of its noise levels"):
        model.inputs(**call, step=1)


def test_guidance_apart_at_a_timestep_that_is_listed_twice():
    """Four calls at two places of one timestep: the scheduler's count parts them."""
    scheduler = diffusers.HeunDiscreteScheduler()
    scheduler.set_timesteps(3)
    clock, seen = Schedule(type("P", (), {"scheduler": scheduler, "components": {}})()), []
    for at, time in enumerate(scheduler.timesteps):
        scheduler._step_index = at
        for _ in range(2):
            clock.tick(time)
            seen.append((clock.step, clock.calls))
    assert seen == [(step, call) for step in range(5) for call in (1, 2)]


@pytest.mark.parametrize(
    ("scheduler", "strength", "count"),
    [("DDIMScheduler", 0.5, 2), ("HeunDiscreteScheduler", 0.75, 5), ("PNDMScheduler", 0.5, 3)],
)
def test_a_drawing_that_begins_midway_begins_at_step_0(scheduler, strength, count):
    """In a list with a timestep twice it may begin at either of the two places."""
    plain = cutaway.load("tiny:sd").module.scheduler.config
    made = getattr(diffusers, scheduler).from_config({**plain, "skip_prk_steps": True})
    model = other("StableDiffusionImg2ImgPipeline", scheduler=made)
    inputs = model.inputs(prompt=PROMPTS[0], image=PICTURE, strength=strength, steps=4, guidance=3.0)
    run = model.run(inputs, record=UNET, **PT)
    assert len(run[UNET]) == count == drawn_steps(model.module, inputs)
    assert model.estimate(inputs, UNET).shapes[UNET] == tuple(run[UNET].shape)
    for step, at in ((0, 0), (-1, count - 1)):
        edited = model.run(inputs, record=UNET, edits=Add(UNET, 1.0, step=step), **PT)[UNET]
        assert [bool((edited[i] != run[UNET][i]).any()) for i in range(count)] == [i >= at for i in range(count)]
    assert model.inputs(prompt=PROMPTS[0], image=PICTURE, strength=strength, steps=4, step=1).call.steps == count


@pytest.mark.parametrize("name", ["timesteps", "sigmas"])
def test_a_list_of_the_users_own_says_how_many_steps_there_are(name):
    model = scheduled("sd", "EulerDiscreteScheduler")
    inputs = model.inputs(prompt=PROMPTS[0], steps=5, guidance=1.0, size=(32, 32))
    inputs.tensors[name] = {"timesteps": [900, 500, 100], "sigmas": [9.0, 3.0, 1.0, 0.0]}[name]
    assert len(model.run(inputs, record=UNET, **PT)[UNET]) == 3 == drawn_steps(model.module, inputs)
    assert chosen_steps(model.module, 2, inputs) == {0, 2}


# --- guidance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guidance", "names"), [(3.0, ["uncond", "cond", "perturbed"]), (1.0, ["cond", "perturbed"])])
def test_readings_name_their_guidance_rows(guidance, names):
    """Two rows are not always those without and with the prompt."""
    model = other("StableDiffusionPAGPipeline")
    inputs = model.inputs(prompt=PROMPTS, pictures=2, steps=1, guidance=guidance, size=(32, 32))
    run = model.run(inputs, record=UNET, **PT)
    assert run.labelled(UNET)["guidance"].values.tolist() == names
    assert run[UNET].shape[1:3] == (len(names), 4)
    told = model.run(inputs, record=UNET, edits=Scale(UNET, 0.0, guidance="perturbed", batch=0), **PT)[UNET]
    assert (told[0].abs().flatten(2).amax(2) == 0).tolist() == [[False] * 4] * (len(names) - 1) + [
        [True] * 2 + [False] * 2
    ]
    once = model.inputs(prompt=PROMPTS, pictures=2, steps=1, guidance=guidance, size=(32, 32), step=0)
    assert gap(model.run(once, record=UNET)[UNET][0, 0], run[UNET][0, names.index("cond")]) < 1e-10


def test_where_guidance_ends_midway_each_reading_says_what_it_holds():
    model, seen = opened("sd"), []

    def end(pipeline, step, time, given):
        pipeline._guidance_scale = 0.0
        return {"prompt_embeds": given["prompt_embeds"][-1:]}

    inputs = model.inputs(prompt=PROMPTS[0], steps=2, guidance=3.0, size=(32, 32))
    inputs.tensors["callback_on_step_end"] = end
    inputs.tensors["callback_on_step_end_tensor_inputs"] = ["prompt_embeds"]
    model.run(inputs, record=UNET, into=lambda found: seen.append((found.step, found.guidance)), **PT)
    assert seen == [(0, ("uncond", "cond")), (1, ("cond",))]
    with pytest.raises(SiteError, match=r"(?s)other guidance rows.*into="):
        model.run(inputs, record=UNET, **PT)


# --- pictures to begin with -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_picture_to_begin_with(kind):
    """Each row has its own picture, also where it is drawn several times."""
    model, given = beginning(kind)
    site = SITE[kind.split()[0]]
    pair = {**given, "image": [PICTURE, tiny.picture(1, size=(32, 32))]}
    inputs = model.inputs(prompt=PROMPTS, pictures=2, steps=4, guidance=3.0, **pair)
    assert [one is inputs.tensors["image"][0] for one in inputs.tensors["image"]] == [True, True, False, False]
    run = model.run(inputs, record=[site, "denoiser.out"], **PT)
    assert run[site].shape[:3] == (2, 2, 4)
    once = model.run(
        model.inputs(prompt=PROMPTS, pictures=2, steps=4, guidance=3.0, step=1, **pair), record="denoiser.out"
    )
    assert gap(once["denoiser.out"][0, 0], run["denoiser.out"][1, 1]) < 1e-10
    edited = model.run(inputs, record=site, edits=Add(site, 1.0, batch=1, step=1), **PT)[site]
    moved = (edited - run[site]).abs().flatten(3).amax(3)
    assert (moved[0] == 0).all() and (moved[1, :, :2] == 0).all() and (moved[1, :, 2:] > 0.99).all()


def test_a_mask_keeps_what_it_hides():
    """A pipeline of a text UNet blends the hidden half back at every step."""
    model, given = beginning("sd inpaint")
    inputs = model.inputs(prompt=PROMPTS[0], steps=2, guidance=1.0, **{**given, "strength": 1.0})
    run = model.run(inputs, output="latent")
    shifted = model.run(inputs, edits=Add("denoiser.out", 1.0), output="latent")
    change = (run.outputs.images - shifted.outputs.images).abs().amax((0, 1))
    assert (change[:8] > 0).all() and (change[8:] == 0).all()
    told = model.inputs(
        prompt=PROMPTS[0], steps=2, guidance=1.0, **{**given, "mask": MASK.astype(int), "strength": 1.0}
    )
    assert np.array_equal(told.tensors["mask_image"][0], inputs.tensors["mask_image"][0])


def test_a_picture_of_another_size_is_scaled_when_a_size_is_said():
    model, _ = beginning("sd img2img")
    with pytest.raises(InputError, match=r"multiples of 8.*size=\(40, 48\)"):
        model.inputs(prompt="a dog", image=tiny.picture(0, size=(50, 43)))
    inputs = model.inputs(prompt="a dog", image=tiny.picture(0, size=(50, 43)), size=(40, 48), steps=2)
    assert inputs.tensors["image"][0].size == (48, 40) and inputs.latent == (20, 24)
    for wrong in ({"strength": 0.0}, {"strength": 0.3}, {"image": [PICTURE] * 3}, {"image": None}):
        with pytest.raises(InputError, match=r"(?i)strength|of `image=`|needs `image=`"):
            model.inputs(**{"prompt": "a dog", "image": PICTURE, "steps": 2, **wrong})


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_drawing_is_asked_again_as_it_was(kind):
    """Three prompts under its options are three rows of the same picture and grid, as many steps, and no guidance."""
    model, given = beginning(kind)
    pair = {**given, "image": [PICTURE, tiny.picture(1, size=(32, 32))]}
    inputs = model.inputs(prompt=PROMPTS, negative="a car", pictures=2, steps=5, guidance=3.0, seed=7, **pair)
    again = model.inputs(**as_asked(inputs))
    assert again.drawn == inputs.drawn and again.latent == inputs.latent and again.copies == inputs.copies
    assert again.tensors == inputs.tensors
    others = model.inputs(**alone(inputs, ["a car", "a tree", "a dog"]))
    assert others.tensors["guidance_scale"] == 1 and drawn_steps(model.module, others) == drawn_steps(
        model.module, inputs
    )
    assert others.drawn == ("a car", "a tree", "a dog") and others.tensors["image"] == inputs.tensors["image"][:1] * 3
    run = model.run(inputs, record=SITE[kind.split()[0]], **PT)
    steps = len(run[SITE[kind.split()[0]]])
    assert chosen_steps(model.module, 2, inputs) == {0, steps - 1}  # 5 of strength 0.5: SD draws 2, SD3 3


def test_a_negative_prompt_of_flux_is_guided_against():
    """Its `guidance_scale` is a number that the denoiser is told; another one weighs the negative prompt."""
    model = opened("flux")
    asked = {"prompt": PROMPTS[0], "steps": 2, "size": (32, 32)}
    plain, against = model.inputs(**asked, guidance=2.0), model.inputs(**asked, negative="a cat", guidance=2.0)
    assert plain.tensors["guidance_scale"] == 2 and "true_cfg_scale" not in plain.tensors
    assert against.tensors["true_cfg_scale"] == 2 and "guidance_scale" not in against.tensors
    rows = []
    run = model.run(against, record=JOINT, into=lambda found: rows.append((found.step, *found.guidance)), **PT)
    assert rows == [(0, "cond"), (0, "uncond"), (1, "cond"), (1, "uncond")]
    assert identical(run.outputs, library_call(model, against))
    whole, apart = model.run(against, record=JOINT, **PT), {}
    model.run(
        against, record=JOINT, into=lambda found: apart.update({(found.step, *found.guidance): found.value}), **PT
    )
    assert whole.guidance[JOINT] == ("uncond", "cond")
    for step in range(2):
        for place, row in enumerate(("uncond", "cond")):
            assert torch.equal(whole[JOINT][step, place], apart[step, row][0])
    weak = model.run(model.inputs(**asked, negative="a cat", guidance=1.1), **PT)
    assert gap(weak.outputs.images, run.outputs.images) > 1e-3


# --- without words ----------------------------------------------------------------------------------------------------


def test_each_pipeline_says_what_it_takes():
    for name, wrong, told in (
        ("ddpm", {"prompt": "a dog"}, r"DDPMPipeline takes no `prompt=`.*Available: `pictures=`, `seed=`, `steps=`"),
        ("dit", {"prompt": "a dog"}, r"DiTPipeline takes no `prompt=`.*Available: `label=`, `guidance=`"),
        ("dit", {}, r"DiTPipeline needs `label=`"),
        ("dit", {"label": 1000}, r"(?i)no class 1000.*0 to 999"),
        ("dit", {"label": 1, "size": (32, 32)}, r"takes no `size=`"),
        ("ddpm", {"guidance": 2.0}, r"takes no `guidance=`"),
        ("sd", {"prompt": "a dog", "label": 3}, r"takes no `label=`.*`prompt=`"),
        ("sd", {"prompt": "a dog", "mask": MASK}, r"takes no `mask=`"),
        ("sd", {"prompt": "a dog", "pictures": 0}, r"at least one"),
    ):
        with pytest.raises(InputError, match=told):
            opened(name).inputs(**wrong)


def test_classes_are_rows_and_the_row_without_a_class_comes_second():
    model = opened("dit")
    inputs = model.inputs(label=[3, 5], pictures=2, steps=1, guidance=3.0)
    base = model.run(inputs, record=["denoiser.0.resid_post", "denoiser.out"], **PT)
    labels = base.labelled("denoiser.out")
    assert labels["guidance"].values.tolist() == ["cond", "uncond"]
    assert labels["prompt"].values.tolist() == ["3", "3", "5", "5"] and labels["picture"].values.tolist() == [
        0,
        1,
        0,
        1,
    ]
    site = "denoiser.0.resid_post"
    made = model.run(inputs, record=site, edits=Add(site, 1.0, guidance="uncond", batch=1), **PT)[site]
    moved = (made - base[site])[0].abs().flatten(2).amax(2) > 0
    assert moved.tolist() == [[False] * 4, [False, False, True, True]]
    plain = model.run(model.inputs(label=[3, 5], pictures=2, steps=1, guidance=1.0), record="denoiser.out", **PT)
    assert gap(plain["denoiser.out"][:, 0], base["denoiser.out"][:, 0]) < 1e-10


def test_pictures_of_noise_alone_are_rows():
    model = opened("ddpm")
    inputs = model.inputs(pictures=3, steps=2)
    site = "denoiser.2.attn.out"
    base, made = (model.run(inputs, record=site, edits=e, **PT)[site] for e in ([], Add(site, 1.0, batch=2, step=0)))
    assert ((made - base)[0].abs().flatten(2).amax(2) > 0).tolist() == [[False, False, True]]
    tokens = inputs.map_for(model.sites.one("denoiser.2.attn.pattern"), "query", 64)
    assert len(tokens) == 64 and int(tokens.row.max()) == int(tokens.col.max()) == 7


def test_what_knows_no_latents_gives_none():
    for name in ("ddpm", "dit"):
        with pytest.raises(InputError, match="gives no latents"):
            opened(name).run(opened(name).inputs(**asked(name, 1.0), steps=1), output="latent")


def test_a_layer_in_which_guidance_rows_run_apart_is_refused():
    """Perturbed guidance computes its rows one after the other there: its own rows are not cut out of a part."""
    model = other("StableDiffusionPAGPipeline")
    mid = next(site for site in model.sites["denoiser.*.attn.z"] if site.label.startswith("mid_block"))
    before = state(model)
    for guidance in (1.0, 3.0):
        inputs = model.inputs(prompt=PROMPTS, steps=1, guidance=guidance, size=(32, 32))
        with pytest.raises(SiteError, match=r"apart in this layer.*pag_scale=0"):
            model.run(inputs, record=mid, **PT)
    assert state(model) == before


def test_consistency_models_and_their_classes():
    config = {k: v for k, v in opened("ddpm").module.unet.config.items() if not k.startswith("_")}
    unet = diffusers.UNet2DModel(**{**config, "num_class_embeds": 10}).double().eval()
    pipeline = diffusers.ConsistencyModelPipeline(unet=unet, scheduler=diffusers.CMStochasticIterativeScheduler())
    model = cutaway.load(pipeline)
    with pytest.raises(InputError, match="needs `label=`"):
        model.inputs(steps=2)
    inputs = model.inputs(label=[1, 2], pictures=2, steps=2)
    run = model.run(inputs, record="denoiser.2.attn.z", **PT)
    assert run["denoiser.2.attn.z"].shape[:3] == (2, 1, 4) and run.outputs.images.shape == (4, 3, 16, 16)
    assert identical(run.outputs, library_call(model, inputs))


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "grid"), [("sd", (16, 24)), ("sd3", (8, 12)), ("flux", (8, 12))])
def test_rows_and_columns_of_a_picture_that_is_not_square(name, grid):
    """An edit of a row of the picture's positions moves that row of what the denoiser gives."""
    model = opened(name)
    inputs = model.inputs(prompt="a red dog", steps=1, step=0, guidance=1.0, size=(32, 48))
    assert inputs.latent == grid
    tokens = inputs.tokens["denoiser"]
    assert (int(tokens.row.max()) + 1, int(tokens.col.max()) + 1) == grid
    last = max(site.layer for site in model.sites["denoiser.*.resid_post"] if not site.dead and site.stream != "text")
    site = UNET.replace("cross.out", "resid_post") if name == "sd" else f"denoiser.{last}.image.resid_post"
    where = Where("image", row=2)
    base, made = (model.run(inputs, record=[site, "denoiser.out"], edits=e) for e in ([], Add(site, 1.0, token=where)))
    moved = (made[site] - base[site])[0, 0, 0].abs().sum(-1) > 0
    assert moved.nonzero().flatten().tolist() == [*range(2 * grid[1], 3 * grid[1])]
    if name == "sd3":
        out = (made["denoiser.out"] - base["denoiser.out"])[0, 0, 0].abs().amax(0)
        assert out.amax(1).nonzero().flatten().tolist() == [4, 5]  # two places of the latents a position


# --- sweeps -----------------------------------------------------------------------------------------------------------


def drawings():
    """Drawings of which several are run as one, and one that is not: noise, guidance, copies, pictures of their own."""
    call = {"prompt": PROMPTS, "steps": 2, "guidance": 3.0}
    yield (
        "noise at every step",
        lambda: (scheduled("sd", "EulerAncestralDiscreteScheduler"), {**call, "size": (32, 32)}),
    )
    yield "pictures", lambda: (opened("sd3"), {**call, "pictures": 2, "negative": "red", "size": (32, 48)})
    yield "two calls", lambda: (scheduled("sd", "HeunDiscreteScheduler"), {**call, "size": (32, 32)})
    yield "a picture", lambda: (beginning("sd img2img")[0], {**call, **beginning("sd img2img")[1], "pictures": 2})
    yield "a mask", lambda: (beginning("sd inpaint")[0], {**call, **beginning("sd inpaint")[1]})
    yield "noise alone", lambda: (opened("ddpm"), {"pictures": 2, "steps": 2})
    yield "classes", lambda: (opened("dit"), {"label": [3, 5], "pictures": 2, "steps": 2, "guidance": 1.0})
    yield "guided classes", lambda: (opened("dit"), {"label": [3, 5], "steps": 2, "guidance": 3.0})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("made", [pytest.param(make, id=name) for name, make in drawings()])
def test_cells_share_a_drawing_and_equal_single_runs(made, request):
    """Each cell from the noise that it has alone, at its own step, row and guidance row."""
    model, asks = made()
    inputs = model.inputs(**asks)
    sites = [str(site) for site in model.sites if site.tower == "denoiser" and not site.dead]
    some = [site for site in sites if site.endswith(("attn.out", "resid_post", "res.out"))]
    rows = len(inputs.drawn) - 1
    cells = [Scale(some[0], 0.3), Scale(some[-1], 0.3, step=-1), Add(some[1], 0.5, step=-1, batch=rows)]
    cells += [Scale(some[-1], 0.0, guidance="cond"), Scale("vae.latent", 0.5)][: 2 if "vae" in model.towers else 1]
    cells += [Scale("text.final", 0.5, guidance="cond")] if "text" in model.towers else []

    def target(run):
        return run.outputs.images.flatten(1).pow(2).mean(1)

    swept = model.sweep(inputs, cells, target, progress=False)
    alone = np.array([target(model.run(inputs, edits=edit, **PT)).numpy() for edit in cells])
    assert np.allclose(swept.values, alone, rtol=0, atol=1e-10)
    assert (np.abs(swept.change).max("row") > 1e-6).sum() > 1
    ways = {chunk.way for chunk in swept.plan.chunks}
    if request.node.callspec.id == "guided classes":
        assert ways == {"single"} and "noise for its guidance rows" in swept.plan.reasons[0]
    else:
        assert ways == {"whole"} and len(swept.plan.chunks) < len(cells)


# --- the contract -----------------------------------------------------------------------------------------------------


def kinds():
    """Every kind of pipeline, with what it is given."""
    call = {"steps": 2, "guidance": 3.0}
    yield "sd pictures", lambda: (opened("sd"), {"prompt": PROMPTS, "pictures": 2, "size": (32, 48), **call})
    yield "sd3 pictures", lambda: (opened("sd3"), {"prompt": PROMPTS, "pictures": 2, "size": (32, 48), **call})
    yield "flux pictures", lambda: (opened("flux"), {"prompt": PROMPTS, "pictures": 2, "size": (32, 48), **call})
    yield (
        "sd heun",
        lambda: (scheduled("sd", "HeunDiscreteScheduler"), {"prompt": PROMPTS[0], "size": (32, 32), **call}),
    )
    yield "sd pag", lambda: (other("StableDiffusionPAGPipeline"), {"prompt": PROMPTS[0], "size": (32, 32), **call})
    for kind in BEGINNINGS:
        yield kind, lambda kind=kind: (beginning(kind)[0], {"prompt": PROMPTS, **beginning(kind)[1], **call})
    for name in ("dit", "ddpm"):
        yield name, lambda name=name: (opened(name), {**asked(name, 3.0), "pictures": 2, "steps": 2})


@pytest.mark.parametrize("made", [pytest.param(make, id=name) for name, make in kinds()])
def test_nothing_of_a_pipeline_changes_but_what_is_edited(made):
    """Plain bit for bit with all recorded, the same noise under an edit, restored to the last attribute."""
    model, asks = made()
    inputs = model.inputs(**asks)
    sites = [
        site for site in model.sites if site.tower == "denoiser" and site.part not in ("attn.scores", "cross.scores")
    ]
    library_call(model, inputs)
    before = state(model)
    plain, run = library_call(model, inputs), model.run(inputs, record=[s for s in sites if readable(model, s)], **PT)
    assert identical(plain, run.outputs)
    first = next(iter(run))
    edited = model.run(inputs, record=first, edits=Scale("denoiser.out", 0.5, step=-1), **PT)
    assert torch.equal(edited[first][0], run[first][0])  # what enters is the same
    assert not identical(edited.outputs, run.outputs)
    assert identical(library_call(model, inputs), plain) and state(model) == before


def readable(model, site):
    """Perturbed guidance puts processors of its own into the layers it perturbs, for the length of a call."""
    applied = getattr(model.module, "pag_applied_layers", [])
    return not applied or not site.part.startswith("attn.") or site.part in ("attn.out", "attn.norm.scale")


def test_the_picture_itself_is_as_it_was():
    before = PICTURE.copy()
    model, given = beginning("sd img2img")
    model.run(model.inputs(prompt="a dog", steps=2, **given), **PT)
    assert isinstance(PICTURE, Image.Image) and np.array_equal(PICTURE, before)
