"""Gradients at every live site of every architecture, against central differences of edits at the same site."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from cutaway import Add
from world import KNOWN, PIPELINES, given, noise, opened, tensors

STEP = 1e-5
CALL = {"prompt": "a red dog", "steps": 2, "guidance": 1.0, "size": (32, 32)}


class Wide(TorchFunctionMode):
    """Where a library computes in float32 inside a float64 model, it stays in float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            return args[0].double() if args[0].dtype == torch.float64 else func(*args)
        wide = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return func(*(torch.float64 if value is torch.float32 else value for value in args), **wide)


def inputs_of(name):
    return opened(name).inputs(**CALL, step=1) if name in PIPELINES else given(name)


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
    with Wide():
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
