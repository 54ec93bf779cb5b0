"""Steps are the scheduler's, guidance rows have names: in loops of any kind, with guidance of any kind."""

import diffusers
import pytest
import torch

import cutaway
from cutaway import Add, Patch, Scale
from cutaway.errors import EditError, InputError, SiteError
from cutaway.model.engine import joined
from cutaway.model.steps import steps_of
from cutaway.zoo import tiny
from world import opened

SITE = "denoiser.1.cross.out"
SCHEDULERS = [
    "DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "PNDMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "LCMScheduler",
]  # fmt: skip


def zeroed(seen):
    """A hook that notes which rows a site's output has at zero."""
    return lambda module, args, output: seen.append((output.flatten(1).abs().amax(1) == 0).tolist())


def drawing(model, edits, **options):
    """Rows that an edit has zeroed, call by call, in the user's own pipeline call."""
    seen = []
    handle = model.engine.seats[SITE].module.register_forward_hook(zeroed(seen))
    try:
        with model.edited(edits) as pipeline:
            asked = {"prompt": "a red dog", "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
            pipeline(**(asked | {"height": 32, "width": 32, "generator": torch.Generator().manual_seed(0)} | options))
    finally:
        handle.remove()
    return seen


def other(kind, **changes):
    """Another pipeline of the parts of tiny:sd, some of them changed."""
    plain = cutaway.load("tiny:sd").module
    return cutaway.load(kind(**{**plain.components, **changes}, requires_safety_checker=False))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_call_is_a_step_and_negative_steps_count_from_the_end(scheduler):
    model = cutaway.load("tiny:sd")
    plan = getattr(diffusers, scheduler)
    model.module.scheduler = plan.from_config({**model.module.scheduler.config, "skip_prk_steps": True})
    calls = drawing(model, [Scale(SITE, 0.0)], num_inference_steps=4)
    last = len(calls) - 1
    for step, want in ((0, 0), (last, last), (-1, last), (-last - 1, 0)):
        seen = drawing(model, [Scale(SITE, 0.0, step=step)], num_inference_steps=4)
        assert [any(rows) for rows in seen] == [at == want for at in range(last + 1)]
    seen = drawing(model, [Scale(SITE, 0.0, step=slice(-2, None))], num_inference_steps=4)
    assert [any(rows) for rows in seen] == [at >= last - 1 for at in range(last + 1)]
    inputs = model.inputs(prompt="a red dog", steps=4, size=(32, 32))
    assert len(model.run(inputs, record=SITE, output="latent")[SITE]) == last + 1


def test_a_step_that_never_comes_is_an_error():
    with pytest.raises(EditError, match="never acted"):
        drawing(cutaway.load("tiny:sd"), [Scale(SITE, 0.0, step=-3)])


def test_a_second_loop_over_the_same_timesteps_counts_anew():
    model = opened("sd")
    pipeline, seen = model.module, []
    pipeline.scheduler.set_timesteps(3)
    latent, words = torch.zeros(1, 4, 16, 16).double(), torch.zeros(1, 4, 32).double()
    handle = model.engine.seats[SITE].module.register_forward_hook(zeroed(seen))
    pipeline._guidance_scale = 0.0
    with model.edited(Scale(SITE, 0.0, step=1)), torch.no_grad():
        for _ in range(2):
            for time in pipeline.scheduler.timesteps:
                pipeline.unet(latent, time, encoder_hidden_states=words)
    handle.remove()
    assert [rows[0] for rows in seen] == [False, True, False] * 2


@pytest.mark.parametrize(
    ("choice", "want"),
    [("uncond", [True, False, False]), ("cond", [False, True, False]), ("perturbed", [False, False, True])],
)
def test_perturbed_attention_has_a_third_row(choice, want):
    layers = {"pag_applied_layers": ["mid"]}
    model = other(diffusers.StableDiffusionPAGPipeline, **layers)
    assert drawing(model, [Scale(SITE, 0.0, guidance=choice)]) == [want, want]


@pytest.mark.parametrize(
    ("choice", "want"),
    [("cond", [True, False, False]), ("image", [False, True, False]), ("uncond", [False, False, True])],
)
def test_a_picture_that_guides_has_a_row_of_its_own(choice, want):
    plain = cutaway.load("tiny:sd").module
    config = {name: value for name, value in plain.unet.config.items() if not name.startswith("_")}
    unet = diffusers.UNet2DConditionModel(**{**config, "in_channels": 8})
    model = other(diffusers.StableDiffusionInstructPix2PixPipeline, unet=unet)
    seen = []
    handle = model.engine.seats[SITE].module.register_forward_hook(zeroed(seen))
    with model.edited([Scale(SITE, 0.0, guidance=choice)]) as pipeline:
        pipeline("a red dog", image=tiny.picture(0, size=(32, 32)), num_inference_steps=2, output_type="latent")
    handle.remove()
    assert seen == [want, want]


@pytest.mark.parametrize(
    ("choice", "rows", "after"), [("cond", [False, True], [True]), ("uncond", [True, False], [False])]
)
def test_guidance_may_end_midway(choice, rows, after):
    def end(pipeline, step, time, given):
        if step == 1:
            pipeline._guidance_scale = 0.0
            given["prompt_embeds"] = given["prompt_embeds"][-1:]
        return given

    options = {"callback_on_step_end": end, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    seen = drawing(cutaway.load("tiny:sd"), [Scale(SITE, 0.0, guidance=choice)], num_inference_steps=4, **options)
    assert seen == [rows, rows, after, after]


def test_guidance_computed_apart_is_of_the_same_step():
    """Flux with a negative prompt calls its denoiser twice a step, with the prompt first."""
    model, site, seen = opened("flux"), "denoiser.0.image.attn.out", []
    seat = model.engine.seats[site]

    def note(module, args, output):
        seen.append(bool((output[0] if isinstance(output, tuple) else output).abs().amax() == 0))

    handle = seat.module.register_forward_hook(note)
    with model.edited(Scale(site, 0.0, step=1, guidance="uncond")) as pipeline:
        pipeline("a red dog", negative_prompt="a cat", true_cfg_scale=3.0, num_inference_steps=2, height=32, width=32,
                 output_type="latent", max_sequence_length=16)  # fmt: skip
    handle.remove()
    assert seen == [False, False, False, True]


def test_a_row_that_nothing_names_is_not_guessed():
    model = opened("sd")
    pipeline = model.module
    pipeline.scheduler.set_timesteps(2)
    pipeline._guidance_scale = 3.0  # two rows, it says; the call below has three
    latents, words = torch.zeros(3, 4, 16, 16).double(), torch.zeros(3, 4, 32).double()
    held = model.edited(Add(SITE, 1.0, guidance="cond"))
    with pytest.raises(EditError, match="nothing says which guidance rows"), torch.no_grad(), held:
        pipeline.unet(latents, 1, encoder_hidden_states=words)


def test_without_guidance_there_is_no_row_without_the_prompt():
    model = opened("sd")
    inputs = model.inputs(prompt="a red dog", steps=2, guidance=1.0, size=(32, 32))
    with pytest.raises(EditError, match="no guidance row 'uncond' ran"):
        model.run(inputs, edits=Scale(SITE, 0.0, guidance="uncond"), output="latent")
    with pytest.raises(EditError, match="no guidance row 'unconditional' ran"):
        model.run(inputs, edits=Scale(SITE, 0.0, guidance="unconditional"), output="latent")


def test_a_recording_over_changing_guidance_is_refused():
    model = opened("sd")
    both, one = torch.zeros(2, 1, 4), torch.zeros(1, 1, 4)
    for fired in ([(0, both), (1, one)], [(0, one), (0, one)]):
        with pytest.raises(SiteError, match="other guidance rows"):
            joined(model.sites.one(SITE), fired)


@pytest.mark.parametrize(
    ("choice", "want"),
    [
        (torch.tensor(1), [1]), (torch.tensor([0, 2]), [0, 2]), ([True, False, True], [0, 2]),
        (torch.tensor([False, False, True]), [2]), (slice(None, None, -2), [0, 2]), ([], []),
    ],
)  # fmt: skip
def test_steps_are_numbers_or_masks(choice, want):
    assert sorted(steps_of(choice, 3)) == want


@pytest.mark.parametrize("choice", ["1", 1.5, [True, False]])
def test_what_is_no_step_is_an_error(choice):
    with pytest.raises(EditError, match="step="):
        steps_of(choice, 3)


def test_a_run_of_fewer_steps_has_nothing_for_the_later_ones():
    model = cutaway.load("tiny:sd")
    short, long = (model.inputs(prompt="a red dog", steps=steps, size=(32, 32)) for steps in (2, 3))
    donor = model.run(short, record=SITE, output="latent")
    with pytest.raises(EditError, match="brings nothing for step 2"):
        model.run(long, edits=Patch(SITE, donor), output="latent")
    model.run(long, edits=Patch(SITE, donor, step=[0, 1]), output="latent")


def test_in_a_loop_of_ones_own_no_row_is_named():
    """The pipeline's flags are those of an earlier call there, or of none."""
    model = cutaway.load("tiny:sd")
    model.module("a red dog", num_inference_steps=1, guidance_scale=3.0, height=32, width=32, output_type="latent")
    model.module.scheduler.set_timesteps(2)
    latents, words = torch.zeros(2, 4, 16, 16), torch.zeros(2, 4, 32)
    held = model.edited(Add(SITE, 1.0, guidance="cond"))
    with pytest.raises(EditError, match="nothing says which guidance rows"), torch.no_grad(), held:
        model.module.unet(latents, 1, encoder_hidden_states=words)
    with torch.no_grad(), model.edited(Scale(SITE, 0.0, batch=1)):
        model.module.unet(latents, 1, encoder_hidden_states=words)


def test_a_patch_from_a_run_without_guidance_says_which_row_it_is():
    model = opened("sd")
    plain, guided = (model.inputs(prompt="a red dog", steps=1, guidance=g, size=(32, 32)) for g in (1.0, 3.0))
    donor = model.run(plain, record=SITE, output="latent")
    with pytest.raises(EditError, match="drawn without guidance"):
        model.run(guided, edits=Patch(SITE, donor), output="latent")
    base = model.run(guided, record=SITE, output="latent")[SITE]
    made = model.run(guided, edits=Patch(SITE, donor, guidance="cond"), record=SITE, output="latent")[SITE]
    assert torch.equal(made[:, 0], base[:, 0]) and torch.equal(made[:, 1], donor[SITE][:, 0])


READ = {
    "sd": ("denoiser.1.cross.pattern", "denoiser.1.cross.q", "denoiser.1.cross.out", "text.1.resid_post"),
    "sd3": ("denoiser.0.attn.pattern", "denoiser.0.attn.scores", "denoiser.0.image.resid_post"),
}


@pytest.mark.parametrize("name", READ)
def test_one_guidance_row_is_read_as_it_stands_among_all(name):
    model = opened(name)
    inputs = model.inputs(prompt=["a red dog", "a cat"], steps=2, guidance=3.0, seed=0)
    for scale in ((), (Scale(READ[name][0], 0.5),)):  # written patterns are read behind what was written
        whole = model.run(inputs, record=READ[name], edits=scale, output="latent")
        for row in ("uncond", "cond"):
            one = model.run(inputs, record=READ[name], edits=scale, guidance=row, output="latent")
            assert one.guidance == dict.fromkeys(READ[name], (row,))
            assert torch.equal(one.outputs.images, whole.outputs.images)
            for site in READ[name]:
                axis = one.sites[site].axes.index("guidance")
                at = whole.guidance[site].index(row)
                assert one[site].shape[axis] == 1 and torch.equal(one[site], whole[site].narrow(axis, at, 1))


def test_a_guidance_row_that_does_not_run_is_no_row_to_read():
    model = opened("sd")
    alone = model.inputs(prompt="a red dog", steps=1, guidance=1, seed=0)
    with pytest.raises(SiteError, match="no guidance row 'uncond' ran"):
        model.run(alone, record=SITE, guidance="uncond")
    assert model.run(alone, record=SITE, guidance="cond", output="latent")[SITE].shape[1] == 1
    with pytest.raises(InputError, match="No recorded site has a guidance row"):
        opened("clip").run(opened("clip").inputs(text=["a dog"]), record="text.0.mlp.out", guidance="cond")
