"""A model that does not fit into the memory it may have is run from the disk, and gives the same numbers."""

import numpy as np
import pytest
from torch import nn

import cutaway
from cutaway import Ablate, Patch, Scale, targets
from cutaway.model.fingerprint import fingerprint
from world import ROUNDING, clean, fresh, gap, given, moved

pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore:The following device_map keys:UserWarning")  # weights by their names
SHARE = 0.6  # of the weights may be in memory
NAMES = ["llama", "clip", "llava"]


def size(module: nn.Module, kept: bool = False) -> int:
    """Bytes of all weights, or of those in memory."""
    return sum(one.numel() * one.element_size() for one in module.parameters() if not (kept and one.is_meta))


@pytest.fixture(scope="module", params=NAMES)
def offloaded(request, tmp_path_factory):
    """A folder's model opened in less memory than its weights take."""
    plain, folder = fresh(request.param), tmp_path_factory.mktemp(request.param)
    plain.module.save_pretrained(folder)
    limit = int(SHARE * size(plain.module))
    model = cutaway.load(
        str(folder), processor=plain.processor, dtype="float64", device_map="auto", max_memory={"cpu": limit}
    )
    assert 0 < size(model.module, kept=True) <= limit < size(plain.module)
    yield request.param, plain, model
    assert size(model.module, kept=True) <= limit


def test_every_site_is_read_as_in_memory(offloaded):
    name, _, model = offloaded
    run = model.run(given(name), record=list(model.sites))
    assert all(gap(run[site], clean(name)[site]) < ROUNDING for site in run.activations)
    assert fingerprint(model) == fingerprint(offloaded[1])


def test_edits_and_sweeps_give_the_same_numbers(offloaded):
    name, plain, model = offloaded
    tower = "vision" if name == "clip" else "text"
    edit = [Scale(f"{tower}.2.mlp.out", 0.0, token=1), Ablate(f"{tower}.0.attn.z", head=1)]
    assert moved(model.run(given(name), edits=edit), plain.run(given(name), edits=edit)) < ROUNDING
    target = targets.similarity() if name == "clip" else targets.logit("cat")
    read = plain.run(given(name), record=f"{tower}.*.resid_post")
    source = {site: value.flip(1) for site, value in read.activations.items()}
    cells = plain.grid(Patch(f"{tower}.*.resid_post", source), token=[1, 2])
    one, other = (some.sweep(given(name), cells, target, progress=False) for some in (model, plain))
    assert np.allclose(one.values, other.values, 0, ROUNDING) and repr(one.plan.chunks) == repr(other.plan.chunks)


def test_gradients_are_the_same(offloaded):
    name, plain, model = offloaded
    if name != "llama":
        return
    one, other = (some.gradients(given(name), targets.logit("cat"), "text.*.resid_post") for some in (model, plain))
    assert all(gap(one[site], other[site]) < ROUNDING for site in other)
