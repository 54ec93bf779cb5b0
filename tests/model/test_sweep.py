"""A sweep gives what the plain loop gives, on every architecture, and leaves nothing behind."""

import random
import threading
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import cutaway
import world
from cutaway import Ablate, Add, Bend, Knockout, Patch, Project, Scale, Set, targets
from cutaway.errors import EditError, InputError, TargetError
from cutaway.model.cells import aligned
from cutaway.model.edits import Edit
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.prefix import prefix_attention
from cutaway.model.replay import Replay
from cutaway.model.sites import Site
from cutaway.model.sweep import Chunks
from cutaway.model.targets import outcome
from cutaway.zoo import tiny
from world import KNOWN, PIPELINES, TEXT, Accurate, gap, noise, opened, state

each = pytest.mark.parametrize("name", [name for name in KNOWN if name not in PIPELINES])


def everything(run):
    """All numbers of an outcome, one row an input: the strictest target there is."""
    found = outcome(run).double().flatten(1).nan_to_num(nan=7.0, posinf=9.0, neginf=-9.0)
    return found.sum(1) + (found**2).sum(1)


def random_edit(site: Site, draw: random.Random, source) -> Edit:
    """Some edit at a site, with some selectors on its axes."""
    shape = dict(zip(site.axes, source[str(site)].shape, strict=True))
    selectors = {}
    if "head" in shape and draw.random() < 0.5:
        selectors["head"] = draw.randrange(shape["head"])
    for axis in ("token", "query"):
        if axis in shape and draw.random() < 0.8:
            selectors[axis] = draw.choice([draw.randrange(shape[axis]), -1, slice(shape[axis] // 2, None)])
    kinds = [
        lambda: Scale(site, 0.3, **selectors),
        lambda: Set(site, 0.5, **selectors),
        lambda: Ablate(site, **selectors),
        lambda: Add(site, 0.7, scale=2.0, **selectors),
        lambda: Patch(site, source[str(site)].flip(-1) * 0.5, **selectors),
    ]
    if site.axes[-1] in ("d_model", "d_head"):
        kinds.append(lambda: Project(site, noise(2, shape[site.axes[-1]]), **selectors))
        kinds.append(lambda: Bend(site, noise(shape[site.axes[-1]]), 2.0, **selectors))
    if site.part.endswith("scale"):
        kinds = kinds[:1]  # a norm of 0 makes every position that is multiplied with 0 anywhere no number
    if site.part.endswith(".scores"):
        return Knockout(str(site).removesuffix(".scores"), **selectors)
    return draw.choice(kinds)()


def check(model: Model, inputs, cells, name, target=everything, mode=Accurate, tolerance=1e-10, **options) -> None:
    """Each cell equals a run of its own to 1e-10 of its size."""
    with mode():
        swept = model.sweep(inputs, cells, target, progress=False, **options)
        for i, edit in enumerate(cells):
            plain = target(model.run(inputs, edits=edit)).double()
            found = torch.from_numpy(swept.values.values[i])
            scale = max(1.0, plain.abs().max().item())
            assert gap(found, plain) <= tolerance * scale, (name, edit, found, plain, swept.plan)


def some_inputs(name: str, data: st.DataObject) -> Inputs:
    """Inputs of any length, for one row or several of that length."""
    model, modalities = opened(name), tiny.TINY[name].modalities
    length = data.draw(st.integers(2, 9), "words")
    packed = "vision" in model.towers and model.towers["vision"].packed
    rows = 1 if packed else data.draw(st.integers(1, 3), "rows")
    texts = st.lists(st.sampled_from(TEXT.split()), min_size=length, max_size=length).map(" ".join)

    def one(row: int) -> Inputs:
        said = data.draw(texts) if "text" in modalities else None
        if name == "bart":
            ids = model.tokenizer([said], return_tensors="pt")
            return model.inputs(**ids, decoder_input_ids=ids["input_ids"].flip(1)[:, :length])
        sound = {"audio": noise(8000, seed=row).numpy()} if "audio" in modalities else {}
        return model.inputs(image=tiny.picture(row) if "image" in modalities else None, text=said, **sound)

    return one(0) if rows == 1 else Inputs.stack([one(row) for row in range(rows)])


@each
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(data=st.data())
def test_equals_the_plain_loop(name, data):
    """Any edits at any sites, for prompts of any length, one row or several, with little memory or much."""
    model, inputs = opened(name), some_inputs(name, data)
    draw = random.Random(data.draw(st.integers(0, 10_000), "seed"))
    source = model.run(inputs, record=list(model.sites))
    live = [site for site in model.sites if not site.dead and not site.part.endswith(".pattern")]
    chosen = draw.sample(live, min(len(live), data.draw(st.integers(1, 10), "cells")))
    before = state(model)
    memory = data.draw(st.sampled_from([1, 20_000, 2**30]), "memory")
    check(model, inputs, [random_edit(site, draw, source) for site in chosen], name, memory=memory)
    assert state(model) == before


DECODERS = "llama mistral qwen2 qwen3 gemma gemma2 phi3 smollm3 gpt2 opt opt-postnorm"
WAYS = {
    **{name: {"vision": "tower", "text": "tower"} for name in ("clip", "siglip")},
    **{name: {"vision": "tower"} for name in ("vit", "dinov2", "dinov2-registers")},
    **{name: {"text": "tower"} for name in ("bert", "mamba")},
    **{name: {"text": "suffix"} for name in DECODERS.split()},
    **{name: {"vision": "whole", "text": "suffix"} for name in ("llava", "llava-next", "blip2")},
    **{name: {"vision": "single", "text": "suffix"} for name in ("qwen2-vl", "qwen2.5-vl")},
    "paligemma": {"vision": "whole", "text": "tower"},  # its prompt sees itself both ways: nothing to resume from
    "whisper": {"audio": "whole", "text": "suffix"},
    "bart": {"encoder": "whole", "text": "suffix"},
}


@each
def test_each_architecture_is_swept_the_best_way_that_fits_it(name):
    """At the last position, after the last block but one, of every tower that has blocks."""
    model, inputs, found = opened(name), world.given(name), {}
    for tower in WAYS[name]:
        layer = max(0, model.sites.towers()[tower] - 2)
        swept = model.sweep(inputs, [Scale(f"{tower}.{layer}.resid_post", 0.5, token=-1)], everything, progress=False)
        found[tower] = swept.plan.chunks[0].way
    assert found == WAYS[name]


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_with_float32_inside_it_equals_the_plain_loop_to_a_hundred_thousandth(name):
    model, draw = opened(name), random.Random(1)
    live = [site for site in model.sites if not site.dead and not site.part.endswith(".pattern")]
    cells = [random_edit(site, draw, world.clean(name)) for site in draw.sample(live, 10)]
    check(model, world.given(name), cells, name, mode=nullcontext, tolerance=1e-5)


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen2.5-vl"])
def test_positions_in_three_parts_are_not_the_batch(name):
    """The first layer's attention, two cells in one forward: rows multiply where the tower is entered."""
    model, inputs = opened(name), world.given(name)
    cells = [Add("text.0.attn.q", 0.7, head=1, token=-1), Set("text.0.attn.k", 0.5, token=slice(4, None))]
    check(model, inputs, cells, name)


@pytest.mark.parametrize("name", [name for name in WAYS if "text" in WAYS[name]])
def test_a_batch_as_long_as_any_other_axis_is_told_from_it(name):
    """Three rows for three layers and three parts of positions, and as many rows as tokens."""
    model, length = opened(name), len(some_rows(name, 1).tokens["text"])
    cells = [Scale("text.0.resid_post", 0.5, token=length - 1), Add("text.1.resid_post", 0.7, token=length - 2),
             Scale("text.embed", 0.5)]  # fmt: skip
    for rows in {3, length} if length <= 8 else {3}:
        check(model, some_rows(name, rows), cells, name)


def some_rows(name: str, rows: int) -> Inputs:
    """Different inputs of two words, as many as `rows`."""
    model, modalities = opened(name), tiny.TINY[name].modalities

    def one(row: int) -> Inputs:
        said = " ".join(TEXT.split()[row % 5 : row % 5 + 2])
        if name == "bart":
            ids = model.tokenizer([said], return_tensors="pt")
            return model.inputs(**ids, decoder_input_ids=ids["input_ids"].flip(1)[:, :3])
        sound = {"audio": noise(8000, seed=row).numpy()} if "audio" in modalities else {}
        return model.inputs(image=tiny.picture(row) if "image" in modalities else None, text=said, **sound)

    return Inputs.stack([one(row) for row in range(rows)])


@pytest.mark.parametrize("name", ["llama", "qwen2-vl", "whisper"])
def test_positions_and_masks_that_all_rows_share_stay_one(name):
    """Given by the caller, with as many rows as tokens, or three."""
    model, made = opened(name), some_rows(name, 3)
    length = len(made.tokens["text"])
    words = "decoder_" if name == "whisper" else ""
    one = torch.arange(length)[None]
    shared: dict[str, torch.Tensor] = {f"{words}position_ids": one.expand(3, 3, -1) if "qwen" in name else one}
    if name == "llama":
        shared["attention_mask"] = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    inputs = replace(made, tensors={**made.tensors, **shared})
    check(
        model, inputs, [Scale("text.0.resid_post", 0.5, token=t) for t in (0, 1, 2)] + [Scale("text.embed", 0.5)], name
    )


def test_an_argument_whose_rows_are_not_known_is_not_multiplied(monkeypatch):
    model, inputs = opened("llama"), some_rows("llama", 3)
    monkeypatch.setattr("cutaway.model.replay.ROWS", frozenset({"input_ids"}))
    cells = [Scale("text.1.resid_post", 0.5, token=t) for t in (1, 2)]
    plan = model.sweep(inputs, cells, everything, progress=False).plan
    assert {chunk.way for chunk in plan.chunks} == {"single"} and "takes attention_mask, whose rows" in repr(plan)
    check(model, inputs, cells, "llama")


@pytest.mark.parametrize("name", ["llama", "gpt2", "whisper", "bart"])
def test_attention_edited_around_a_sweep_is_edited_in_all_its_rows(name):
    model, inputs = opened(name), world.given(name)
    cells = [Scale("text.0.mlp.out", 0.5, token=-1), Scale("text.0.attn.out", 0.5, token=-2)]
    held = [Knockout("text.1.attn", query=-1, key=1), Scale("text.2.attn.k", 2.0)]
    held += [Scale("text.1.cross.q", 2.0), Scale("text.2.cross.v", 2.0)] if "text.1.cross.q" in model.sites else []
    with model.edited(held):
        check(model, inputs, cells, name)


def test_words_that_are_embedded_before_their_tower_reach_all_of_it():
    model, inputs = opened("blip2"), world.given("blip2")
    check(model, inputs, [Scale("text.embed", 0.5), Scale("text.1.attn.z", 0.5)], "blip2")


@pytest.mark.parametrize("name", PIPELINES)
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(data=st.data())
def test_equals_the_plain_loop_in_a_pipeline(name, data):
    """Any edits at any sites of the denoiser, at one step or at all."""
    model, inputs = opened(name), world.given(name)
    draw = random.Random(data.draw(st.integers(0, 10_000), "seed"))
    live = [
        site
        for site in model.sites
        if not site.dead and site.tower == "denoiser" and not site.part.endswith((".scores", ".pattern", "norm.scale"))
    ]
    cells: list[Edit] = []
    for site in draw.sample(live, data.draw(st.integers(1, 4), "cells")):
        head = {"head": 0} if site.head_axis == "head" and draw.random() < 0.5 else {}
        where = {"step": draw.choice([None, 0, 1]), **head}
        kinds = [Scale(site, 0.3, **where), Set(site, 0.5, **where), Add(site, 0.7, **where), Ablate(site, **where)]
        cells.append(draw.choice(kinds))
    before, bar = state(model), getattr(model.module, "_progress_bar_config", None)
    with Accurate():
        swept = model.sweep(inputs, cells, everything, progress=False)
        for i, edit in enumerate(cells):
            plain = everything(model.run(inputs, edits=edit, output="pt"))
            found = torch.from_numpy(swept.values.values[i])
            assert gap(found, plain) <= 1e-10 * max(1.0, plain.abs().max().item()), (edit, found, plain)
    assert state(model) == before and swept.plan.least <= swept.plan.plain
    assert getattr(model.module, "_progress_bar_config", None) == bar  # its own bar is as it was


def patching(name: str = "llama", text: str = TEXT, other: str = "a blue cat on the right"):
    """A grid of residual patches between two prompts of one length."""
    model = opened(name)
    inputs = model.inputs(text=text)
    source = model.run(model.inputs(text=other), record="text.*.resid_post")
    return model, inputs, model.grid(Patch("text.*.resid_post", source), token=range(1, len(inputs.tokens["text"])))


def test_maps_of_every_size_of_a_unet_are_patched():
    """The smaller maps inside a UNet have fewer positions than its latents; a run of the same sizes fits."""
    model = opened("sd")
    here, there = (model.inputs(prompt=prompt, step=1, steps=3) for prompt in ("a red dog", "a cat"))
    donor = model.run(there, record="denoiser.*.resid_post")
    small = min(donor, key=lambda name: donor[name].shape[donor.sites[name].axes.index("token")])
    assert donor[small].shape[donor.sites[small].axes.index("token")] < len(here.tokens["denoiser"])
    target = targets.distance(outcome(model.run(there)))
    edits = [Patch(small, donor, token=at) for at in (0, 5)]
    swept = model.sweep(here, [[edit] for edit in edits], target, progress=False).values.values[:, 0]
    assert list(swept) == pytest.approx([float(target(model.run(here, edits=[edit]))) for edit in edits], rel=1e-10)


def test_a_grid_comes_back_labelled():
    model, inputs, cells = patching()
    swept = model.sweep(inputs, cells, targets.logit_diff("dog", "cat"), progress=False)
    assert swept.values.dims == ("site", "token", "row") and swept.values.shape[:2] == cells.sizes
    assert list(swept.values["layer"].values) == [0, 1, 2]
    one = model.run(inputs, edits=cells.edits[-1])
    last = swept.values.sel(site="text.2.resid_post", token=cells.coords["token"][-1])
    assert float(last[0]) == pytest.approx(float(targets.logit_diff("dog", "cat")(one)), abs=1e-10)
    assert swept.change.shape == swept.values.shape and "suffix" in repr(swept)
    assert swept.plan.flops < swept.plan.plain and swept.plan.least <= swept.plan.flops
    said = repr(swept)
    assert "counted, not timed" in said and "measured: " in said and "plain loop over all cells" in said
    assert 0 < swept.clean_seconds < swept.seconds and swept.ran == len(cells)


def test_only_the_last_logits_are_computed():
    model, inputs, cells = patching()
    shapes = []
    handle = model.module.lm_head.register_forward_hook(lambda m, a, out: shapes.append(out.shape[1]))
    try:
        model.sweep(inputs, cells, targets.logit("dog"), progress=False)
    finally:
        handle.remove()
    assert set(shapes) == {1}


@pytest.mark.parametrize("name", [name for name in WAYS if "text" in WAYS[name] and name not in ("clip", "siglip")])
def test_the_last_mlp_works_for_the_logits_that_are_read(name):
    """Edits everywhere around it, and on it, give the logits of a plain run; elsewhere nothing is computed."""
    model, inputs = opened(name), world.given(name)
    source, draw = world.clean(name), random.Random(5)
    last = model.sites.towers()["text"] - 1
    live = [s for s in model.sites if s.tower == "text" and not s.dead and not s.part.endswith(".pattern")]
    chosen = [s for s in live if s.layer == last] + draw.sample([s for s in live if s.layer != last], 4)
    cells, before = [random_edit(site, draw, source) for site in chosen], state(model)
    check(model, inputs, cells, name, targets.logit_diff(5, 9))
    assert state(model) == before


def test_edited_logits_keep_their_positions():
    """Were only the last logits computed, a selector would count from another start."""
    model, inputs, _ = patching()
    source = model.run(inputs, record="text.logits")
    cells = [Scale("text.logits", 0.5, token=p) for p in (0, 1, -1)] + [
        Patch("text.logits", source),
        Set("text.logits", 1),
    ]
    check(model, inputs, cells, "llama", targets.logit("dog"))


def test_a_target_of_ones_own_sees_all_positions():
    class everywhere(targets.logit):  # noqa: N801, as targets are called
        def __call__(self, run):
            return run.logits.mean((1, 2))

    model, inputs, cells = patching()
    check(model, inputs, [edit for (edit,) in cells.edits[:6]], "llama", everywhere("dog"))


def test_a_plain_sweep_needs_what_it_runs():
    model = opened("siglip2")
    inputs = model.inputs(image=tiny.picture(), text=TEXT)
    path = next(str(site) for site in model.sites["raw.*"] if str(site).endswith("mlp.fc1"))
    plan = model.sweep(inputs, [Scale(path, 0.5)], everything, progress=False).plan
    assert plan.least == plan.forward


def test_the_last_mlp_sees_one_position():
    model, inputs, cells = patching()
    seen: list[tuple[int, ...]] = []
    mlp = model.towers["text"].blocks[-1].mlp
    handle = mlp.gate_proj.register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape[1:2])))
    try:
        model.sweep(inputs, cells, targets.logit("dog"), progress=False)
        assert set(seen[1:]) == {(1,)}  # the first is the clean run
        with model.edited(Scale("text.2.mlp.pre", 0.5, token=1)):
            seen.clear()
            model.sweep(inputs, cells, targets.logit("dog"), progress=False)
            assert max(seen)[0] > 1  # an edit that is held may sit on any position
    finally:
        handle.remove()


@pytest.mark.parametrize("change", ["half", "a position", "in place", "on entering", "nothing"])
def test_hooks_of_others_act_once_and_where_they_would_alone(change):
    model, told = opened("gpt2"), []
    inputs, noise = model.inputs(text="a red dog a cat"), torch.linspace(-3, 3, 32).double()

    def at_two(x):
        return torch.cat([x[:, :2], x[:, 2:3] + noise, x[:, 3:]], 1)

    def hook(module, args, output):
        if change == "in place":
            output[:, 2] += noise
        return {"half": output * 0.5, "a position": at_two(output)}.get(change)

    block = model.towers["text"].blocks[0]
    handle = (
        block.register_forward_pre_hook(lambda module, args: (at_two(args[0]), *args[1:]))
        if change == "on entering"
        else block.register_forward_hook(hook)
    )
    try:
        cells, target = model.grid(Scale("text.*.mlp.out", 0.5), token=[1, 2, 4]), targets.logit("cat")
        made = model.sweep(inputs, cells, target, progress=False, told=told.append)
        want = [target(model.run(inputs, edits=list(edits))).item() for edits in cells.edits]
    finally:
        handle.remove()
    assert abs(made.values.values.flatten() - want).max() < 1e-9
    assert any("a hook of yours changes" in reason for reason in told[0].reasons) == (change != "nothing")


def test_what_the_edit_cannot_reach_is_not_run_again():
    model = opened("llava")
    inputs = world.given("llava")
    calls = {"vision": 0, "block": 0}
    handles = [
        model.towers["vision"].module.embeddings.register_forward_hook(
            lambda *_: calls.update(vision=calls["vision"] + 1)
        ),
        model.towers["text"]
        .blocks[0]
        .self_attn.register_forward_hook(lambda *_: calls.update(block=calls["block"] + 1)),
    ]
    try:
        model.sweep(inputs, model.grid(Ablate("text.1.mlp.out"), token=[-1, -2]), everything, progress=False)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == {"vision": 1, "block": 1}  # the clean run


def test_an_interrupt_leaves_nothing_behind_and_can_be_resumed(tmp_path, monkeypatch):
    model, inputs, cells = patching()
    before, file, chunks = state(model), tmp_path / "made" / "sweep", []
    plain, run = Chunks.save, Replay.run

    def interrupted(store, values):
        plain(store, values)
        if np.isfinite(values[:, 0]).sum() == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Chunks, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.sweep(inputs, cells, everything, progress=False, resume=file, memory=1)
    assert state(model) == before
    monkeypatch.setattr(Chunks, "save", plain)
    monkeypatch.setattr(Replay, "run", lambda replay, chunk: chunks.append(chunk) or run(replay, chunk))
    whole = model.sweep(inputs, cells, everything, progress=False)
    chunks.clear()
    resumed = model.sweep(inputs, cells, everything, progress=False, resume=file, memory=1)
    assert gap(torch.from_numpy(resumed.values.values), torch.from_numpy(whole.values.values)) < 1e-10
    assert len(chunks) == len(cells) - 10
    again = model.sweep(inputs, cells, everything, progress=False, resume=file)
    assert (again.values == resumed.values).all() and len(chunks) == len(cells) - 10
    assert resumed.ran == len(cells) - 10 and again.ran == 0 and "for 0 cells, the others were kept" in repr(again)


def test_kept_values_are_given_for_the_same_sweep_only(tmp_path):
    """Another target, input or edit, weights changed in place, another dtype, edits held around: all are others."""
    model, inputs, cells = patching()
    file, options = tmp_path / "sweep", {"progress": False, "resume": tmp_path / "sweep"}
    reference = noise(1, 7, 242)
    model.sweep(inputs, cells, targets.logit("dog"), **options)
    kept = file.read_bytes()
    for other in (targets.logit("cat"), targets.distance(reference), lambda run: run.logits[:, -1, 5]):
        with pytest.raises(InputError, match="another sweep"):
            model.sweep(inputs, cells, other, **options)
    with pytest.raises(InputError, match="another sweep"):
        model.sweep(model.inputs(text="a red cat on the left"), cells, targets.logit("dog"), **options)
    with pytest.raises(InputError, match="another sweep"), model.edited(Scale("text.0.attn.out", 0.0)):
        model.sweep(inputs, cells, targets.logit("dog"), **options)
    for changed in (world.fresh("llama"), cutaway.load("tiny:llama", dtype="bfloat16")):
        with torch.no_grad():
            changed.module.lm_head.weight[3, 3] += 1
        with pytest.raises(InputError, match="another sweep"):
            changed.sweep(changed.inputs(text=TEXT), cells, targets.logit("dog"), **options)
    assert file.read_bytes() == kept
    again = world.fresh("llama").sweep(inputs, cells, targets.logit("dog"), **options)
    assert (again.values == model.sweep(inputs, cells, targets.logit("dog"), progress=False).values).all()


def own(at: int, weights: torch.Tensor):
    """A target of one's own, made anew at each call."""
    return lambda run: run.logits[:, -1, at] * weights.sum()


def test_a_target_of_ones_own_is_known_by_what_it_computes(tmp_path):
    model, inputs, cells = patching()
    options = {"progress": False, "resume": tmp_path / "sweep"}
    first = model.sweep(inputs, cells, own(5, torch.ones(2)), **options)
    assert (model.sweep(inputs, cells, own(5, torch.ones(2)), **options).values == first.values).all()
    for other in (own(6, torch.ones(2)), own(5, torch.ones(3)), own(5, torch.ones(2).double())):
        with pytest.raises(InputError, match="another sweep"):
            model.sweep(inputs, cells, other, **options)
    lock = threading.Lock()
    with pytest.raises(InputError, match=r"`resume=` needs a target .* whose content is known, and a '_thread.lock'"):
        model.sweep(inputs, cells, lambda run: run.logits[:, -1, lock.locked()], **options)


def test_files_that_hold_no_sweep_are_named(tmp_path):
    model, inputs, cells = patching()
    damaged, other = tmp_path / "damaged", tmp_path / "other"
    damaged.write_bytes(b"no values at all")
    save_file({"weights": torch.ones(3)}, other)
    for file, said in ((damaged, "'.*damaged' cannot be read"), (other, "'.*other' cannot be read"),
                       (tmp_path, "is a folder"), (damaged / "sweep", "no folder can be made")):  # fmt: skip
        with pytest.raises(InputError, match=f"(?i){said}.*give another file"):
            model.sweep(inputs, cells, everything, progress=False, resume=file)
    assert damaged.read_bytes() == b"no values at all"


def test_an_error_leaves_nothing_behind():
    model, inputs, _ = patching()
    before = state(model)
    with pytest.raises(EditError, match="does not fit"):
        model.sweep(inputs, [Set("text.1.resid_post", torch.ones(7), token=3)], everything, progress=False)
    with pytest.raises(EditError, match="out of range"):
        model.sweep(inputs, [Scale("text.1.attn.z", 0.0, token=99)], everything, progress=False)
    assert state(model) == before


def test_prompts_of_different_length_are_refused_and_can_be_aligned():
    model, inputs, _ = patching()
    longer = model.inputs(text=TEXT + " and a dog")
    source = model.run(longer, record="text.*.resid_post")
    cells = model.grid(Patch("text.*.resid_post", source), token=[2])
    with pytest.raises(EditError, match="equal length") as caught:
        model.sweep(inputs, cells, everything, progress=False)
    assert "aligned(run, positions)" in str(caught.value)
    length = len(inputs.tokens["text"])
    moved = aligned(source, range(1, length + 1))
    swept = model.sweep(inputs, model.grid(Patch("text.*.resid_post", moved), token=[2]), everything, progress=False)
    plain = model.run(inputs, edits=Set("text.1.resid_post", source["text.1.resid_post"][:, 3], token=2))
    assert float(swept.values[1, 0, 0]) == pytest.approx(float(everything(plain)), abs=1e-9)


def test_what_is_unknown_is_run_the_plain_way_and_said_aloud():
    model = opened("siglip2")
    inputs = model.inputs(image=tiny.picture(), text=TEXT)
    path = next(str(site) for site in model.sites["raw.*"] if str(site).endswith("mlp.fc1"))
    swept = model.sweep(inputs, [Scale(path, 0.5)], everything, progress=False)
    assert "plain" in repr(swept.plan) and swept.plan.chunks[0].way == "plain"
    assert float(swept.values[0, 0]) == pytest.approx(float(everything(model.run(inputs, edits=Scale(path, 0.5)))))


def test_several_edits_in_one_cell():
    model, inputs, _ = patching()
    both = [Scale("text.1.attn.z", 0.0, head=0), Add("text.2.mlp.out", 0.5, token=-1)]
    swept = model.sweep(inputs, [both], everything, progress=False)
    assert float(swept.values[0, 0]) == pytest.approx(float(everything(model.run(inputs, edits=both))), abs=1e-9)


def test_a_grid_refuses_what_it_cannot_lay_out():
    model, inputs, _ = patching()
    with pytest.raises(EditError, match="No axis of a grid"):
        model.grid(Ablate("text.*.mlp.out"), layer=[1])
    with pytest.raises(EditError, match="already"):
        model.grid(Ablate("text.*.mlp.out", token=1), token=[1])
    with pytest.raises(TargetError, match="no number a row"):
        model.sweep(inputs, model.grid(Ablate("text.*.mlp.out")), lambda run: run.logits[:, -1], progress=False)
    with pytest.raises(InputError, match="no cells"):
        model.sweep(inputs, [], everything)


def test_prefix_attention_is_attention():
    """Rows over one shared prefix equal rows over copies of it: grouped heads, capped scores, both kinds of mask."""
    q, k, v = noise(6, 4, 3, 8), noise(6, 2, 3, 8, seed=1), noise(6, 2, 3, 8, seed=2)
    past_k, past_v = noise(2, 2, 5, 8, seed=3), noise(2, 2, 5, 8, seed=4)
    keys, values = (
        torch.cat([p.repeat(3, 1, 1, 1), x], 2).repeat_interleave(2, 1) for p, x in ((past_k, k), (past_v, v))
    )
    seen = torch.ones(3, 8, dtype=torch.bool).tril(5)[None, None]
    for mask in (None, seen, torch.zeros(6, 1, 3, 8, dtype=torch.float64).masked_fill(~seen, -torch.inf)):
        for cap in (None, 2.0):
            scores = q @ keys.mT * 0.3
            scores = scores if cap is None else torch.tanh(scores / cap) * cap
            expected = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values
            found = prefix_attention(q, (k, v), past_k, past_v, mask=mask, scale=0.3, softcap=cap)
            assert gap(found, expected) < 1e-12


def test_a_cell_without_an_edit_is_the_clean_run():
    model = opened("gpt2")
    made = model.sweep(
        model.inputs(text=TEXT), [[], [Scale("text.1.mlp.out", 0.0)]], targets.logit("dog"), progress=False
    )
    assert made.values[0].item() == pytest.approx(made.clean.item(), abs=1e-12) and made.values[1] != made.clean
