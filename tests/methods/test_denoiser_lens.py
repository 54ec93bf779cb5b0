"""What blocks of a denoiser say at its end: the last is the prediction, an early one what the library's end gives."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway import questions
from cutaway.errors import MethodError, SiteError
from cutaway.methods import denoiser_lens
from cutaway.methods.shown import applied
from cutaway.methods.table import method
from cutaway.model.edits import Scale
from cutaway.zoo.emoji_judge import judge
from cutaway.zoo.judging import look

PROMPTS = ["a red dog", "a dog on a cat"]


@pytest.fixture(scope="module")
def sd3():
    return cutaway.load("tiny:sd3", dtype="float64")


def drawing(model, **more):
    return model.inputs(**{"prompt": PROMPTS, "seed": 3, "steps": 2, "size": (16, 24), "guidance": 3.0, **more})


@pytest.mark.checks("denoiser_lens", "truth")
def test_the_last_block_is_the_prediction_and_an_earlier_one_the_librarys_own_end(sd3):
    """By hand: the denoiser's last norm and matrix called on what left the first block, guidance, the scheduler."""
    inputs, denoiser = drawing(sd3), sd3.module.transformer
    found = denoiser_lens(sd3, inputs, steps=0, progress=False)
    assert found["far"].sel(layer=1).max() < 1e-12 and (found["far"].sel(layer=[-1, 0]) > 0.1).all()
    times = []  # what the timestep makes, as the last norm is given it
    hook = denoiser.norm_out.register_forward_pre_hook(lambda _, given: times.append(given[1]))
    names = ("denoiser.0.image.resid_post", "denoiser.latent", "denoiser.out")
    run = sd3.run(inputs, record=names)
    hook.remove()
    state, latent, out = (run[name][1] for name in names)
    with torch.no_grad():
        said = denoiser.proj_out(denoiser.norm_out(state.flatten(0, 1), times[1])).unflatten(0, (2, 2))
    said = said.unflatten(2, (4, 6)).unflatten(-1, (2, 2, -1))
    laid = torch.einsum("gbhwpqc->gbchpwq", said).flatten(-4, -3).flatten(-2, -1)
    apart = [one[0] + 3.0 * (one[1] - one[0]) for one in (laid, out)]
    off = (apart[0] - apart[1]).square().flatten(1).sum(1).sqrt() / apart[1].square().flatten(1).sum(1).sqrt()
    assert np.allclose(found["far"].sel(layer=0, step=1), off, atol=1e-12)
    assert np.allclose((found["away"] ** 2).mean(("row", "col")) ** 0.5, found["far"])
    clean = latent[1, :1] - sd3.module.scheduler.sigmas[1] * apart[0][:1]
    vae, processor = sd3.module.vae, sd3.module.image_processor
    with torch.no_grad():
        made = vae.decode(clean / vae.config.scaling_factor + vae.config.shift_factor).sample
    hand = (processor.postprocess(made, output_type="np")[0] * 255).round()
    assert (found["forming"].sel(layer=0, step=1) == hand).all()
    assert np.abs(found["forming"].sel(layer=1, step=1).astype(int) - found["drawn"][0]).max() <= 1


@pytest.mark.parametrize("more", [{"guidance": 1.0}, {"pictures": 2}, {"steps": 3}])
def test_every_row_is_read_as_if_alone(sd3, more):
    both, one = (denoiser_lens(sd3, drawing(sd3, **given), steps=[1], progress=False)
                 for given in (more, {**more, "prompt": PROMPTS[:1]}))  # fmt: skip
    assert np.allclose(both["far"].isel(picture=0), one["far"].isel(picture=0), atol=1e-12)
    assert both["step"].values.tolist() == [1] and both["far"].sel(layer=1).max() < 1e-12


@pytest.mark.checks("denoiser_lens", "baseline")
def test_states_of_other_patches_say_something_else(sd3):
    found, again = (denoiser_lens(sd3, drawing(sd3), seed=1, progress=False) for _ in range(2))
    assert (found["random"] == again["random"]).all() and (found["random"].sel(layer=1) > 0.1).all()
    other = denoiser_lens(sd3, drawing(sd3), seed=2, progress=False)
    assert (other["far"] == found["far"]).all() and (other["random"] != found["random"]).any()


@pytest.mark.checks("denoiser_lens", "floor")
def test_a_trained_denoiser_shows_the_thing_before_its_last_block_and_one_before_training_never():
    """The judge on what the fifth of eight blocks would draw at step 3 of 6; `far` falls before training as well."""
    there, far = [], []
    for name in ("zoo:emoji-mmdit", "zoo:emoji-mmdit@untrained"):
        model = cutaway.load(name)
        inputs = model.inputs(prompt="a fox on a green background", seed=0, steps=6, guidance=3.0, length=0)
        found = denoiser_lens(model, inputs, steps=[3], progress=False)
        frames = torch.from_numpy(found["forming"].sel(layer=[4, 7], step=3).values).float().movedim(-1, 1)
        there.append(look(judge(), frames / 127.5 - 1).there("fox").tolist())
        far.append(found["far"].isel(step=0, picture=0))
    assert min(there[0]) > 0.5 and max(there[1]) < 0.1, there
    assert float(far[1].sel(layer=4)) < 0.8 * float(far[1].sel(layer=-1))  # so nearness alone is no finding


def test_what_cannot_be_read_says_so(sd, sd3):
    with pytest.raises(SiteError, match="not linear in any state"):
        denoiser_lens(sd, sd.inputs(prompt="a dog", steps=1), progress=False)
    with sd3.edited(Scale("denoiser.out", 2.0)), pytest.raises(MethodError, match="from what it gives"):
        denoiser_lens(sd3, drawing(sd3), progress=False)
    assert "not linear" in method("denoiser-lens").why_not(questions.asked("tiny:sd", prompt="a dog", step=1))


def test_it_is_shown(sd3):
    question = questions.asked("tiny:sd3", prompt="a red dog", step=1)
    page = applied(question, [method("denoiser-lens")])
    matrix, gallery = method("denoiser-lens").show(page)
    assert (
        matrix.values.shape == (3, len(matrix.column_axis.labels))
        and len(gallery.pictures) == 3 * matrix.values.shape[1]
    )
    assert next(iter(method("denoiser-lens").tell(page))).startswith("What enters")
