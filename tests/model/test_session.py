"""Sessions inside one another, under inference mode, with gradients; what cannot be kept."""

import pytest
import torch

from cutaway import Add, Knockout, Scale, Set
from cutaway.errors import EditError, InputError, SiteError
from cutaway.model.targets import outcome
from world import PT, given, identical, library_call, opened, state

SITE = "text.1.mlp.out"


def run(name="llama", **options):
    return opened(name).run(given(name), **options)


def test_the_edits_of_an_enclosing_block_come_first():
    with opened("llama").edited(Set(SITE, 2.0)):
        inside = run(record=SITE, edits=Add(SITE, 1.0))
    assert inside[SITE].unique().tolist() == [3.0]
    assert inside.edits == ("Set('text.1.mlp.out', 2.0)", "Add('text.1.mlp.out', 1.0, 1.0)")


@pytest.mark.parametrize("part", ["q", "scores", "pattern", "z", "norm.scale"])
@pytest.mark.parametrize("name", ["llama", "clip", "sd", "siglip"])
def test_blocks_within_blocks_are_one_list_of_edits(name, part):
    block = {"clip": "vision.1", "sd": "denoiser.1"}.get(name, "text.1")
    model, site = opened(name), f"{block}.attn.{part}"
    options = PT if name == "sd" else {}
    edits = [Scale(site, 0.5), Add(site, 0.1), Scale(site, 2.0)]
    together = run(name, record=site, edits=edits, **options)
    before = state(model)
    with model.edited(edits[0]), model.edited(edits[1]):
        apart = run(name, record=site, edits=edits[2], **options)
    assert identical(apart.outputs, together.outputs)
    assert torch.equal(apart[site], together[site])
    assert state(model) == before


def test_after_an_inner_run_the_outer_block_still_holds_and_then_ends():
    model, edit = opened("llama"), Knockout("text.1.attn", query=3, key=0)
    plain, edited = run(), run(edits=edit)
    with model.edited(edit) as module, torch.no_grad():
        run(record="text.1.attn.pattern")
        with pytest.raises(SiteError):
            run(record="vision.0.resid_post")
        assert identical(module(**given("llama").tensors), edited.outputs)
    assert not identical(plain.outputs, edited.outputs)
    assert identical(run().outputs, plain.outputs)


def test_an_outer_edit_need_not_act_in_an_inner_run_but_must_act_once():
    model = opened("clip")
    pictures = model.inputs(pixel_values=given("clip").tensors["pixel_values"])
    with model.edited(Scale("text.1.mlp.out", 2.0)):
        model.run(pictures)
        run("clip")
    with pytest.raises(EditError, match="never acted"), model.edited(Scale("text.1.mlp.out", 2.0)):
        model.run(pictures)


def test_the_steps_of_a_pipeline_are_counted_anew_in_each_inner_run():
    model, site = opened("sd"), "denoiser.1.resid_post"
    edit = Add(site, 1.0, step=1)
    alone = run("sd", edits=edit, record=site, **PT)
    with model.edited(edit):
        inner = [run("sd", record=site, **PT) for _ in range(2)]
    assert all(torch.equal(one[site], alone[site]) for one in inner)


def test_the_encodings_of_a_prompt_are_counted_anew_in_each_pipeline_call():
    model, edit = opened("sd"), Scale("text.final", 0.5, guidance="cond")
    with model.edited(edit):
        first, second = (library_call(model, given("sd")) for _ in range(2))
    assert identical(first, second)
    assert identical(first, run("sd", edits=edit, **PT).outputs)


@pytest.mark.parametrize("site", ["text.1.resid_pre", "text.1.resid_post", "text.1.attn.z"])
def test_hooks_that_were_there_before_see_the_edit(site):
    model, seen = opened("llama"), []
    seat = model.engine.seats[site]
    if seat.kind == "in":
        handle = seat.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].unique().tolist()))
    else:
        handle = seat.module.register_forward_hook(lambda _, args, output: seen.append(output.unique().tolist()))
    run(edits=Set(site, 3.0))
    handle.remove()
    assert seen == [[3.0]]


def test_the_scan_of_a_state_space_block_sees_a_write_as_its_projections_do():
    edited = run("mamba", record="text.1.mixer.y", edits=Set("text.1.mixer.conv", 0.0))
    assert not edited["text.1.mixer.y"].any()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_any_gradient_mode_around_a_run_gives_the_same(mode):
    edits = [Scale("text.0.resid_mid", 0.5), Scale("text.1.attn.pattern", 0.5)]
    with mode():
        inside = run(record="text.2.*", edits=edits)
    outside = run(record="text.2.*", edits=edits)
    assert identical(inside.outputs, outside.outputs)
    assert not any(tensor.requires_grad for tensor in inside.activations.values())


@pytest.mark.parametrize(
    ("name", "site"),
    [("gpt2", "text.1.resid_mid"), ("opt", "text.1.resid_mid"), ("bart", "text.1.cross.resid_pre"),
     ("clip", "vision.0.attn.q"), ("clip", "vision.1.attn.pattern"), ("bert", "text.0.attn.norm.scale"),
     ("blip2", "connector.0.cross.resid_pre"), ("siglip", "vision.pool.attn.v"), ("whisper", "audio.1.mlp.pre")],
)  # fmt: skip
def test_the_gradient_at_a_site_is_the_slope_of_an_edit_there(name, site):
    """Central differences; every kind of seat, in place (`resid_mid`) and not."""
    value = run(name, record=site)[site]
    direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def height(amount, **options):
        made = outcome(run(name, edits=Set(site, value + amount * direction), **options))
        return (made * torch.linspace(-1, 1, made.numel(), dtype=made.dtype).view_as(made)).sum()

    amount = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(height(amount, grad=True), amount)
    small = 1e-5
    assert slope.item() == pytest.approx((height(small) - height(-small)).item() / (2 * small), rel=1e-5)


def test_a_pipeline_refuses_gradients():
    with pytest.raises(InputError, match="without gradients"):
        run("sd", record="denoiser.1.resid_post", grad=True)


@pytest.mark.parametrize(
    ("choice", "says"), [({"heads": [3]}, r"heads \[3\] of 'text.1.attn.k'"), ({"tokens": [99]}, r"tokens \[99\]")]
)
def test_positions_that_are_not_there_cannot_be_kept(choice, says):
    with pytest.raises(SiteError, match=says):
        run(record="text.1.attn.k", **choice)
