"""Gradients at every live site of every architecture, against central differences of edits at the same site."""

import pytest
import torch

from cutaway import Add, Scale, targets
from cutaway.errors import InputError, SiteError, TargetError
from cutaway.zoo import tiny
from world import KNOWN, PIPELINES, Accurate, asked, given, noise, opened, tensors

STEP = 1e-5
CALL = {"prompt": "a red dog", "steps": 2, "guidance": 1.0, "size": (32, 32)}


def inputs_of(name):
    return opened(name).inputs(**asked(name, 1.0), steps=2, step=1) if name in PIPELINES else given(name)


def target(run):
    """Every number of the outcome, weighed by chance: a gradient that misses one of them is wrong."""
    found = [t for t in tensors(run.outputs) if t.is_floating_point()]
    weighed = [(t * noise(*t.shape, seed=i)).sum() for i, t in enumerate(found)]
    return torch.stack(weighed).sum()[None]


@pytest.mark.parametrize("name", KNOWN)
def test_every_site_against_central_differences(name):
    """A small step in a random direction at all sites at once: the change is the sum of all their slopes."""
    model, inputs = opened(name), inputs_of(name)
    sites = [str(site) for site in model.sites if runs(name, site) and not site.dead]
    with Accurate():
        found = model.gradients(inputs, target, sites)
        directions = {
            site: noise(*found[site].shape, seed=i) / (found[site].norm() + 1e-3) for i, site in enumerate(sites)
        }

        def change(some):
            """By two runs, and by the gradients."""
            there = {
                site: directions[site][0] if "step" in found.sites[site].axes else directions[site] for site in some
            }
            ends = [
                target(model.run(inputs, edits=[Add(site, there[site], scale) for site in some])).item()
                for scale in (STEP, -STEP)
            ]
            return (ends[0] - ends[1]) / (2 * STEP), sum((directions[site] * found[site]).sum().item() for site in some)

        by_runs, by_slopes = change(sites)
        if abs(by_runs - by_slopes) > 1e-5 * len(sites) ** 0.5:
            apart = {site: change([site]) for site in sites}
            wrong = {site: both for site, both in apart.items() if abs(both[0] - both[1]) > 1e-5}
            pytest.fail(f"{by_runs} by runs, {by_slopes} by slopes; {wrong}")
    assert all(found[site].isfinite().all() for site in sites)
    assert sum(bool(found[site].any()) for site in sites) > 0.8 * len(sites)


def runs(name, site):
    return not (name in PIPELINES and site.tower != "denoiser")


@pytest.mark.parametrize("name", ["clip", "llava", "gpt2"])
def test_what_is_recorded_with_a_graph_is_on_it(name):
    """The gradient by `torch.autograd` at a recorded tensor is that of `model.gradients`, also of frozen weights."""
    model, inputs = opened(name), given(name)
    sites = [str(s) for s in model.sites if s.part in ("attn.z", "attn.pattern", "mlp.norm.scale") and not s.dead]
    run = model.run(inputs, record=sites, grad=True)
    plain = torch.autograd.grad(target(run).sum(), [run[site] for site in sites])
    frozen = [p for p in model.module.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        found = model.gradients(inputs, target, sites)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    assert all(torch.allclose(slope, found[site], rtol=0, atol=1e-12) for site, slope in zip(sites, plain, strict=True))
    clean = model.run(inputs, record=sites)
    assert all(torch.allclose(clean[site], run[site], rtol=0, atol=1e-9) for site in sites)


def test_rows_have_gradients_of_their_own():
    """A padded batch: each row as if alone."""
    model, aim = opened("llama"), targets.logit("dog")
    both = model.gradients(model.inputs(text=["a red dog on the left", "a cat"]), aim, "text.*.mlp.out")
    alone = model.gradients(model.inputs(text="a cat"), aim, "text.*.mlp.out")
    for site in alone:
        count = alone[site].shape[1]
        own = both[site][1][both.inputs.own(both.sites[site], "token")[1]]
        assert own.shape[0] == count and torch.allclose(own, alone[site][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "site"), [("llama", "text.1.mlp.out"), ("clip", "vision.1.attn.z"), ("sd", "denoiser.1.mlp.out")]
)
def test_an_integrated_path_adds_up_to_the_change(name, site):
    """Sum of (x - b) g is target(x) - target(b)."""
    model, inputs = opened(name), inputs_of(name)
    with Accurate():
        found = model.gradients(inputs, target, site, path=40)
        whole = target(model.run(inputs)) - target(model.run(inputs, edits=Scale(site, 0.0)))
    assert torch.allclose(found.attribution(site).sum(), whole.sum(), rtol=1e-3, atol=1e-4)
    start = model.run(inputs, record=site)
    none = model.gradients(inputs, target, site, path=3, baseline=start)
    assert none.attribution(site).abs().max() == 0


def test_a_path_says_what_it_misses():
    """Behind a norm all of the change lies at the very start of a path from zero, between any of its points."""
    model, aim = opened("llama"), targets.logit_diff("dog", "cat")
    inputs = model.inputs(text=["a red dog", "a cat on the left"])
    with Accurate():
        found = model.gradients(inputs, aim, ["text.1.resid_post", "text.1.attn.z"], path=6)
        for site in found:
            change = aim(model.run(inputs)) - aim(model.run(inputs, edits=Scale(site, 0.0)))
            assert found.gaps[site] == pytest.approx(float(change.sum() - found.attribution(site).sum()), abs=1e-9)
    assert abs(found.gaps["text.1.resid_post"]) > 0.1 > 1e-2 > abs(found.gaps["text.1.attn.z"])


def test_a_baseline_counts_without_a_path():
    """Attribution patching: the gradient where it is, times the way from another run."""
    model, site = opened("llama"), "text.1.mlp.out"
    inputs, aim = model.inputs(text="a red dog"), targets.logit("dog")
    other = model.run(model.inputs(text="a red cat"), record=site)
    found, plain = model.gradients(inputs, aim, site, baseline=other), model.gradients(inputs, aim, site)
    assert torch.equal(found.attribution(site), (plain.activations[site] - other[site]) * plain[site])
    assert torch.equal(
        model.gradients(inputs, aim, site, baseline=0.5).baseline[site], torch.full_like(plain[site], 0.5)
    )


def test_inputs_that_were_made_without_a_graph_have_gradients():
    model, aim, site = opened("llava"), targets.logit("dog"), "vision.0.resid_post"
    asked = {"image": tiny.picture(1), "text": "<image> what is this ?"}
    with torch.inference_mode():
        inputs = model.inputs(**asked)
    assert inputs.tensors["pixel_values"].is_inference()
    plain = model.gradients(model.inputs(**asked), aim, site)
    assert torch.equal(model.gradients(inputs, aim, site)[site], plain[site])


def test_edits_stand_around_a_gradient():
    """Behind a head that is cut away its inputs have no slope."""
    model, inputs = opened("gpt2"), given("gpt2")
    found = model.gradients(
        inputs, targets.logit("dog"), "text.1.attn.pattern", edits=Scale("text.1.attn.z", 0.0, head=0)
    )
    slope = found["text.1.attn.pattern"]
    assert slope[:, 0].abs().max() == 0 < slope[:, 1].abs().max()


def test_what_has_no_gradient_says_why():
    model = opened("gpt2")
    name, dead = next((name, str(site)) for name in KNOWN[::-1] for site in opened(name).sites if site.dead)
    with pytest.raises(SiteError, match="Nothing depends on"):
        opened(name).gradients(inputs_of(name), target, dead)
    with pytest.raises(InputError, match="does not depend"):
        model.gradients(given("gpt2"), lambda run: torch.zeros(1), "text.1.mlp.out")
    for odd in (lambda run: run.logits[:, -1], lambda run: run.logits.sum(), lambda run: 1.0):
        with pytest.raises(TargetError, match="no number a row"):
            model.gradients(given("gpt2"), odd, "text.1.mlp.out")
    with pytest.raises(InputError, match="path of -1 points"):
        model.gradients(given("gpt2"), target, "text.1.mlp.out", path=-1)
    with pytest.raises(InputError, match="Leave out"):
        model.run(given("gpt2"), record="text.1.mlp.out", grad=True, dtype=torch.float32)
    with pytest.raises(InputError, match="one evaluation of the denoiser"):
        opened("sd").gradients(given("sd"), target, "denoiser.1.mlp.out")
    found = model.gradients(given("gpt2"), targets.logit("dog"), "text.1.mlp.out")
    with pytest.raises(SiteError, match="No gradient was taken"):
        found["text.0.mlp.out"]
    with pytest.raises(InputError, match="another shape"):
        model.gradients(given("gpt2"), target, "text.1.mlp.out", path=2, baseline={"text.1.mlp.out": torch.zeros(2)})


def test_a_recording_with_a_graph_stops_behind_its_last_site():
    run = opened("gpt2").run(given("gpt2"), record="text.0.mlp.out", grad=True, stop=True)
    assert run.outputs is None and run["text.0.mlp.out"].requires_grad
