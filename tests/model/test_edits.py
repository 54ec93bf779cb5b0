"""Edits against numpy indexing, algebra that must hold, and values that survive pickling."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from cutaway import Ablate, Add, Bend, Knockout, Patch, Project, Scale, Set, Site, Where
from cutaway.errors import EditError
from cutaway.model.region import Frame, write
from world import given, noise, opened

AXES = ("batch", "token", "head", "d_head")
SITE = Site("text", 1, "attn.z", None, AXES, {"head": 4, "d_head": 3})
SHAPE = (2, 5, 4, 3)
quick = settings(max_examples=150, deadline=None)


def chosen(size):
    """A selector of one axis: nothing, a number, a list, a slice."""
    number = st.integers(-size, size - 1)
    several = st.lists(number, min_size=1, max_size=size, unique_by=lambda i: i % size)
    spans = st.builds(slice, st.integers(0, size - 1), st.none()) | st.builds(slice, st.none(), st.integers(1, size))
    return st.none() | number | several | spans


selectors = st.fixed_dictionaries({"batch": chosen(2), "token": chosen(5), "head": chosen(4), "unit": chosen(3)})


def mesh(picked):
    """The same selection as numpy open-mesh positions, and the axes that a number drops."""
    positions, dropped = [], []
    for size, name in zip(SHAPE, ("batch", "token", "head", "unit"), strict=True):
        at = np.arange(size)[slice(None) if picked[name] is None else picked[name]]
        dropped.append(at.ndim == 0)
        positions.append(np.atleast_1d(at))
    return np.ix_(*positions), tuple(i for i, gone in enumerate(dropped) if gone)


def content(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@quick
@drawn(selectors)
def test_a_value_lands_where_numpy_would_put_it(picked):
    where, dropped = mesh(picked)
    seen, expected = content(), content().numpy().copy()
    part = content(1).numpy()[where]
    value = torch.from_numpy(np.squeeze(part, dropped))
    assert write(seen, SITE, Set(SITE, value, **picked), Frame())
    expected[where] = part
    assert np.array_equal(seen.numpy(), expected)


@quick
@drawn(selectors)
def test_a_patch_takes_the_same_part_of_the_other_run(picked):
    where, _ = mesh(picked)
    seen, expected, donor = content(), content().numpy().copy(), content(1)
    write(seen, SITE, Patch(SITE, donor, **picked), Frame())
    expected[where] = donor.numpy()[where]
    assert np.array_equal(seen.numpy(), expected)


@quick
@drawn(selectors, st.integers(0, 4), st.integers(1, 5))
def test_a_window_of_the_token_axis_gets_its_share_and_nothing_else(picked, start, length):
    """Whole tensor edited at once, or window by window as in generation: the same."""
    whole = content()
    write(whole, SITE, Patch(SITE, content(1), **picked), Frame(total={"token": 5}))
    cut = content()
    stop = min(5, start + length)
    for a, b in ((0, start), (start, stop), (stop, 5)):
        if a < b:
            frame = Frame(offset={"token": a}, total={"token": 5}, open_ended=True)
            write(cut[:, a:b], SITE, Patch(SITE, content(1), **picked), frame)
    assert torch.equal(whole, cut)


@quick
@drawn(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=2, max_size=2))
def test_a_mask_may_differ_from_row_to_row(rows):
    mask, seen, expected = torch.tensor(rows), content(), content()
    write(seen, SITE, Patch(SITE, content(1), token=mask), Frame())
    expected[mask] = content(1)[mask]
    assert torch.equal(seen, expected)


@quick
@drawn(st.integers(1, 3), st.integers(0, 99))
def test_projections_are_idempotent_and_add_up_to_the_whole(count, seed):
    directions = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = content()
    out, onto = (Project(SITE, directions, keep).apply(x, None) for keep in ("out", "onto"))
    assert torch.allclose(out + onto, x)
    assert torch.allclose(Project(SITE, directions).apply(out, None), out)
    assert (out @ directions.T).abs().max() < 1e-9


@quick
@drawn(st.floats(-5, 5), st.integers(0, 99))
def test_bending_keeps_the_length_and_turns_in_the_plane_of_both(scale, seed):
    vector, x = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), content()
    bent, sum_ = Bend(SITE, vector, scale).apply(x, vector), Add(SITE, vector, scale).apply(x, vector)
    assert torch.allclose(bent.norm(dim=-1), x.norm(dim=-1))
    assert torch.allclose(bent / bent.norm(dim=-1, keepdim=True), sum_ / sum_.norm(dim=-1, keepdim=True))


def test_bending_at_its_ends():
    x = content()
    assert torch.equal(Bend(SITE, torch.ones(3), 0.0).apply(x, torch.ones(3)), x)
    gone = Bend(SITE, x, -1.0).apply(x, x)
    assert not gone.any()  # the sum has no direction
    with pytest.raises(EditError, match="whole states"):
        Bend(SITE, torch.ones(3), unit=1)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 12000.0), (torch.bfloat16, 1.0)])
def test_a_bend_in_half_precision_keeps_the_length_as_well_as_the_state_can_hold_it(dtype, size):
    """Of states whose length half precision can not hold, and of a ratio of lengths that it would round."""
    x, vector = (size * noise(5, 32)).to(dtype), (size * noise(32, seed=1)).to(dtype)
    bent = Bend(SITE, vector, 1.5).apply(x, vector)
    assert bent.dtype == dtype and bent.isfinite().all()
    assert (bent.double().norm(dim=-1) / x.double().norm(dim=-1) - 1).abs().max() < torch.finfo(dtype).eps / 4


def test_means_and_shuffles_of_a_reference():
    reference, seen = content(1), content()
    write(seen, SITE, Ablate(SITE, "mean", reference, over=("batch", "token"), head=2), Frame())
    assert torch.allclose(seen[:, :, 2], reference[:, :, 2].mean((0, 1)).expand(2, 5, 3))
    assert torch.equal(seen[:, :, :2], content()[:, :, :2])
    many = torch.arange(6.0)[:, None, None, None].expand(6, *SHAPE[1:])
    moved = Ablate(SITE, "resample", many, seed=3).full(SITE)[:, 0, 0, 0]
    assert sorted(moved.tolist()) == list(range(6)) and (moved != torch.arange(6.0)).all()
    assert torch.equal(moved, Ablate(SITE, "resample", many, seed=3).full(SITE)[:, 0, 0, 0])


def test_a_mean_over_an_axis_the_site_lacks_is_refused():
    with pytest.raises(EditError, match="average over"):
        Ablate(SITE, "mean", content(), over=("layer",)).full(SITE)


EDITS = [
    Set(SITE, 0.0, head=1), Add(SITE, torch.ones(3), scale=2.0, token=-1), Scale("text.*.mlp.out", 0.5),
    Bend(SITE, torch.ones(3), 2.0),
    Patch(SITE, content(), token=Where("image", row=3)), Ablate(SITE), Ablate(SITE, "mean", content(), over=("batch",)),
    Project(SITE, torch.ones(2, 3), "onto"), Knockout("text.5.attn", query=-1, key=[1, 2], head=0),
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: type(edit).__name__)
def test_an_edit_is_one_line_and_survives_pickling(edit):
    again = pickle.loads(pickle.dumps(edit))
    assert repr(again) == repr(edit) and "\n" not in repr(edit) and len(repr(edit)) < 160
    assert again.pattern == edit.pattern
    if not isinstance(edit, Knockout | Scale):
        a, b = content(), content()
        frame = Frame(tokens=lambda *_: None) if isinstance(edit.token, Where) else Frame()
        if not isinstance(edit.token, Where):
            write(a, SITE, edit, frame), write(b, SITE, again, frame)
            assert torch.equal(a, b)


def test_a_knocked_out_edge_has_no_weight_and_the_rest_still_sums_to_one():
    model, site = opened("llama"), "text.1.attn.pattern"
    run = model.run(given("llama"), record=site, edits=Knockout("text.1.attn", query=3, key=[0, 2], head=1))
    base = model.run(given("llama"), record=site)
    row = run[site][0, 1, 3]
    assert row[[0, 2]].tolist() == [0.0, 0.0]
    kept = base[site][0, 1, 3].clone()
    kept[[0, 2]] = 0.0
    assert torch.allclose(row, kept / kept.sum())
    others = torch.ones(run[site].shape[1:3], dtype=torch.bool)
    others[1, 3] = False
    assert torch.allclose(run[site][0][others], base[site][0][others])


def test_grouped_query_heads_are_selected_by_their_own_number():
    model, site = opened("llama"), "text.1.attn.v"
    run = model.run(given("llama"), record=[site, "text.1.attn.z"], edits=Ablate(site, head=1))
    assert not run[site][:, :, 1].any() and run[site][:, :, 0].any()
    assert not run["text.1.attn.z"][:, :, 2:].any() and run["text.1.attn.z"][:, :, :2].any()  # heads 2, 3 share it


def test_ablating_every_head_is_ablating_what_they_write():
    model = opened("gpt2")
    heads = [Ablate("text.1.attn.z", head=h) for h in range(4)]
    bias = model.engine.seats["text.1.attn.z"].module.bias
    assert torch.allclose(
        model.run(given("gpt2"), edits=heads).logits,
        model.run(given("gpt2"), edits=Set("text.1.attn.out", bias)).logits,
    )
