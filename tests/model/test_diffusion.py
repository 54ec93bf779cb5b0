"""Steps and guidance are axes; edits hold inside a user's own pipeline call."""

import pytest
import torch

from cutaway import Add, Knockout, Patch, Scale, Where
from world import PT, given, identical, library_call, opened

SITE = "denoiser.1.resid_post"


def draw(name, edits, **options):
    return opened(name).run(given(name), edits=edits, record=SITE, **PT, **options)


def test_activations_have_a_step_and_a_guidance_axis():
    run = draw("sd", [])
    assert run.sites[SITE].axes[:3] == ("step", "guidance", "batch")
    assert run[SITE].shape[:3] == (2, 2, 1)
    assert list(run.labelled(SITE)["guidance"].values) == ["uncond", "cond"]


@pytest.mark.parametrize(("choice", "other"), [("uncond", 1), ("cond", 0)])
def test_a_guidance_selector_touches_its_row_only(choice, other):
    base, edited = draw("sd", []), draw("sd", Add(SITE, 1.0, guidance=choice))
    gap = (edited[SITE] - base[SITE])[0]
    assert (gap[other] == 0).all() and torch.allclose(gap[1 - other], torch.ones_like(gap[0]))


def test_a_step_selector_touches_its_step_and_what_follows():
    base, edited = draw("sd", []), draw("sd", Add(SITE, 1.0, step=1))
    assert torch.equal(edited[SITE][0], base[SITE][0])
    assert torch.allclose(edited[SITE][1], base[SITE][1] + 1.0)
    assert not identical(base.outputs, edited.outputs)


def test_the_empty_prompt_is_the_row_called_uncond():
    model = opened("sd")
    empty = model.inputs(prompt=".", negative=".", steps=1, guidance=3.0, size=(32, 32))
    rows = model.run(empty, record="denoiser.1.cross.k", **PT)["denoiser.1.cross.k"][0]
    assert torch.equal(rows[0], rows[1])  # the same prompt in both rows
    two = model.inputs(prompt="a dog", negative=".", steps=1, guidance=3.0, size=(32, 32))
    guided = model.run(two, record="denoiser.1.cross.k", **PT)["denoiser.1.cross.k"][0]
    assert torch.allclose(guided[0], rows[0], atol=1e-12) and not torch.allclose(guided[1], rows[0])


def test_edits_hold_inside_a_pipeline_call_of_the_users_own_and_end_with_the_block():
    model = opened("sd")
    before = library_call(model, given("sd"))
    with model.edited(Add(SITE, 1.0)):
        inside = library_call(model, given("sd"))
    assert identical(inside, draw("sd", Add(SITE, 1.0)).outputs)
    assert not identical(inside, before)
    assert identical(library_call(model, given("sd")), before)


def test_the_step_count_starts_again_with_every_pipeline_call():
    model = opened("sd")
    with model.edited(Add(SITE, 1.0, step=0)):
        first, second = library_call(model, given("sd")), library_call(model, given("sd"))
    assert identical(first, second)
    assert identical(first, draw("sd", Add(SITE, 1.0, step=0)).outputs)


def test_two_prompts_are_two_rows_and_each_can_be_edited_alone():
    model = opened("sd")
    inputs = model.inputs(prompt=["a dog", "a red cat"], steps=1, guidance=3.0, size=(32, 32))
    base = model.run(inputs, record=SITE, **PT)
    edited = model.run(inputs, record=SITE, edits=Add(SITE, 1.0, batch=1), **PT)
    gap = (edited[SITE] - base[SITE])[0]
    assert gap.shape[1] == 2 and (gap[:, 0] == 0).all() and torch.allclose(gap[:, 1], torch.ones_like(gap[:, 1]))


def test_cross_attention_keys_are_the_words_of_the_prompt():
    model, site = opened("sd"), "denoiser.1.cross.pattern"
    run = model.run(given("sd"), record=site, **PT)
    words = [word.strip() for word in run.labelled(site)["key_text"].values]
    assert words[1:4] == ["a", "red", "dog"]
    cut = model.run(given("sd"), record=site, edits=Knockout("denoiser.1.cross", key=Where(text="dog")), **PT)
    assert (cut[site][..., words.index("dog")] == 0).all() and (run[site][..., words.index("dog")] > 0).all()


def test_every_resolution_of_a_unet_has_its_own_grid():
    model = opened("sd")
    run = model.run(given("sd"), record="denoiser.*.attn.pattern", **PT)
    sides = set()
    for site, tensor in run.activations.items():
        tokens = given("sd").map_for(run.sites[site], "query", tensor.shape[-1])
        assert len(tokens) == tensor.shape[-1]
        sides.add(int(tokens.row.max()) + 1)
    assert len(sides) == 2


def test_an_edit_of_a_patch_of_the_latent_picture_stays_in_its_place():
    base, edited = draw("sd", []), draw("sd", Add(SITE, 1.0, token=Where("image", row=2), step=0))
    moved = (edited[SITE] - base[SITE])[0, 0, 0].abs().sum(-1).nonzero().flatten().tolist()
    side = int(given("sd").latent[1])
    assert moved == list(range(2 * side, 3 * side))


def test_prompt_encoders_carry_guidance_and_can_be_patched_from_another_prompt():
    model, site = opened("sd"), "text.final"
    other = model.inputs(prompt="a blue cat", steps=2, guidance=3.0, size=(32, 32))
    donor = model.run(other, record=site, **PT)
    assert donor[site].shape[0] == 2
    patched = model.run(given("sd"), edits=Patch(site, donor), **PT)
    assert identical(patched.outputs, donor.outputs)
    only = model.run(given("sd"), edits=Patch(site, donor, guidance="uncond"), **PT)
    assert identical(only.outputs, model.run(given("sd"), **PT).outputs)  # the same empty prompt


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_the_streams_of_joint_attention_are_edited_apart(name):
    model = opened(name)
    sites = ["denoiser.0.image.resid_post", "denoiser.0.text.resid_post"]
    base = model.run(given(name), record=sites, **PT)
    edited = model.run(given(name), record=sites, edits=Add(sites[1], 1.0, step=0), **PT)
    assert torch.equal(edited[sites[0]][0], base[sites[0]][0])
    assert torch.allclose(edited[sites[1]][0], base[sites[1]][0] + 1.0)
    identity = [Scale(site, 1.0) for site in sites]
    assert identical(model.run(given(name), edits=identity, **PT).outputs, base.outputs)
