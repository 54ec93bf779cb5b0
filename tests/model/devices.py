"""A model whose layers lie on two devices gives the numbers of the same model on one.

The devices are those of `second.py`. Backward passes know only the first of them, so that there the other is the CPU.
"""

from functools import cache

import numpy as np
import pytest
import torch
from torch.nn.functional import embedding, linear

import cutaway
import second
from cutaway import Ablate, Add, Bend, Knockout, Patch, Project, Scale, Set, Where, targets
from cutaway.data import scene_at
from cutaway.methods.causal_tracing.activation_patching import activation_patching
from cutaway.methods.logit_lens.attention_lens import attention_lens
from cutaway.methods.logit_lens.logit_lens import logit_lens
from cutaway.methods.logit_lens.tuned_lens import tuned_lens
from cutaway.methods.logit_lens.word_lens import word_lens
from cutaway.methods.representation_decomposition.logit_decomposition import logit_decomposition
from cutaway.methods.representation_decomposition.representation_decomposition import representation_decomposition
from cutaway.methods.task_vectors.heads import function_vector
from cutaway.model.fingerprint import fingerprint
from cutaway.model.load import device_of
from cutaway.model.weights import readout
from cutaway.questions.bank import text_bank
from world import ROUNDING, clean, fresh, given, noise, opened, outcome, tiny

dispatch_model = pytest.importorskip("accelerate").dispatch_model
pytestmark = pytest.mark.filterwarnings("ignore:The following device_map keys:UserWarning")  # weights by their names
second.install()

HERE, THERE, FAR = "cpu", "other:0", "other:1"
# Where the early layers of each tower lie, where the late ones, and where inputs enter and outputs leave. What lies on
# the CPU and enters elsewhere is brought when it runs.
PLACED = {
    "CPU, device": (HERE, THERE, HERE),
    "device, CPU": (THERE, HERE, HERE),
    "two devices": (THERE, FAR, THERE),
    "offloaded": (THERE, HERE, THERE),
}
EVERYWHERE = pytest.mark.parametrize("how", PLACED)
STRICT = pytest.mark.parametrize("how", ["two devices"])  # where nothing may be on the CPU
BACKWARD = pytest.mark.parametrize("how", ["CPU, device", "device, CPU"])
DIFFERENCE = targets.logit_diff("dog", "cat")
TEXTS = ["a red dog on the left", "a blue cat on the right"]
OTHERS = ["a red cat on the left", "a blue dog on the right"]
SITES = ["text.*.resid_pre", "text.*.resid_post", "text.*.mlp.post", "text.*.attn.k", "text.*.attn.pattern"]


@pytest.fixture(autouse=True)
def _no_streams(monkeypatch):
    """There is nothing to wait for."""
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *_: None)


@cache
def spread(name, how):
    """A tiny model in float64 whose parts lie on two devices, as accelerate's `device_map` puts them."""
    early, late, main = PLACED[how]
    model = fresh(name)
    dispatch_model(model.module, placed(model, early, late), main_device=main, skip_keys="past_key_values")
    return cutaway.load(model.module, processor=model.processor)


def placed(model, early, late):
    """Each part without blocks in it with the half of its tower that it is next to; what is shared with the first."""
    blocks = {
        id(block): 2 * i >= len(tower.blocks) for tower in model.towers.values() for i, block in enumerate(tower.blocks)
    }
    found, shared = {}, set()

    def place(name, module, is_late):
        inside = [below for below in module.modules() if id(below) in blocks]
        if inside and id(module) not in blocks:
            own = [*module._parameters.items(), *module._buffers.items()]
            found.update({f"{name}.{key}".strip("."): early for key, weight in own if weight is not None})
            is_late = False
            for key, below in module.named_children():
                place(f"{name}.{key}".strip("."), below, is_late)
                is_late |= any(id(one) in blocks for one in below.modules())
            return
        weights = {id(weight) for weight in module.parameters()}
        is_late = blocks.get(id(module), is_late) and not weights & shared
        shared.update(weights)
        if any(True for _ in (*module.parameters(), *module.buffers())):
            found[name] = late if is_late else early

    place("", model.module, False)
    return found


@cache
def written(how=""):
    """A model of words, on one device or two, a batch for it, and another run of it to take values from."""
    model = spread("llama", how) if how else opened("llama")
    return model, model.inputs(text=TEXTS), model.run(model.inputs(text=OTHERS), record=SITES)


def far(one, other):
    """The largest difference of two tensors, wherever they lie."""
    assert one.shape == other.shape and one.dtype == other.dtype
    return float((one.detach().cpu() - other.detach().cpu()).abs().max())


# --- the device itself ------------------------------------------------------------------------------------------------

CPU, ONE, TWO = (torch.arange(12.0, dtype=torch.float64).view(3, 4).to(where) for where in (HERE, THERE, FAR))
FIRST = torch.zeros(1, dtype=torch.long)
MIXED = {
    "sum": lambda: ONE + CPU, "sum, turned": lambda: CPU + ONE, "two devices": lambda: ONE * TWO,
    "number of another device": lambda: ONE * TWO.sum(), "number of a device": lambda: CPU * ONE.sum(),
    "product": lambda: ONE @ CPU.T, "einsum": lambda: torch.einsum("ij,kj->ik", ONE, CPU),
    "linear": lambda: linear(CPU, ONE),
    "in place": lambda: ONE.clone().add_(CPU), "into": lambda: CPU.clone().add_(ONE),
    "cat": lambda: torch.cat([ONE, CPU]), "stack": lambda: torch.stack([ONE.sum(), CPU.sum()]),
    "where": lambda: torch.where(CPU > 0, ONE, ONE), "mask": lambda: ONE.masked_fill(CPU > 0, 0.0),
    "choice": lambda: ONE.index_select(0, FIRST), "gather": lambda: ONE.gather(0, FIRST[None]),
    "places": lambda: CPU[FIRST.to(THERE)], "places of another": lambda: ONE[FIRST.to(FAR)],
    "words": lambda: embedding(FIRST, ONE), "equal": lambda: torch.equal(ONE, CPU),
    "value": lambda: ONE.clone().index_put_((FIRST,), CPU[:1]),
}  # fmt: skip


@pytest.mark.parametrize("what", MIXED)
def test_tensors_of_two_devices_do_not_mix(what):
    with pytest.raises(RuntimeError, match=r"on the same device|tensors? on (the )?different devices"):
        MIXED[what]()


def test_what_real_devices_allow_is_allowed():
    assert (ONE * CPU.sum()).device == ONE[FIRST].device == torch.device(THERE)
    assert torch.equal(ONE.to(FAR).cpu(), CPU) and type(ONE) is torch.Tensor and device_of(FAR) == torch.device(FAR)
    assert type(torch.nn.Linear(2, 2).to(THERE).weight) is torch.nn.Parameter
    with pytest.raises(TypeError, match="can't convert other:0 device type tensor to numpy"):
        ONE.numpy()


def test_views_versions_and_gradients_are_those_of_tensors():
    def computed(where):
        x = noise(2, 5, 8).to(where).requires_grad_()
        y = torch.nn.functional.layer_norm(x, (8,)) * 1
        y[:, 1:3, ::2] = x[:, 2:4, ::2] * 2  # into a view of a view
        heads = y.view(2, 5, 2, 4).transpose(1, 2)
        attended = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        torch.cat([attended.flatten(1), x.flatten(1)], 1).softmax(-1).pow(2).sum().backward()
        return x.grad

    assert far(computed(HERE), computed(THERE)) < ROUNDING
    base = ONE.clone()
    base[1:, 2].add_(1)
    assert base._version == base[0]._version == 1 and base[1:, 2].storage_offset() == 6


# --- reading and writing ----------------------------------------------------------------------------------------------


@EVERYWHERE
@pytest.mark.parametrize("name", ["llama", "llava", "clip"])
def test_every_site_is_read_where_it_lies(name, how):
    model = spread(name, how)
    run = model.run(given(name).to(model.device), record=list(model.sites))
    assert max(far(run[site], clean(name)[site]) for site in run) < ROUNDING
    assert far(outcome(run), outcome(clean(name))) < ROUNDING
    lie = {str(run[site].device) for site in run}
    assert lie == ({THERE} if how == "offloaded" else set(PLACED[how][:2]))
    kept = model.run(given(name).to(model.device), record="*.resid_post", keep="cpu")
    assert {str(kept[site].device) for site in kept} == {HERE}


def edits(layer, other):
    """Every kind of edit at a layer, values from another run among them."""
    at, d = f"text.{layer}", noise(32)
    return [
        Set(f"{at}.mlp.out", d, token=-1), Add(f"{at}.resid_mid", d, token=Where("text")),
        Scale(f"{at}.attn.z", 2.0, head=1),
        Bend(f"{at}.resid_post", d, 0.5), Scale(f"{at}.mlp.norm.scale", 1.5),
         Ablate(f"{at}.mlp.post", "mean", other),
        Ablate(f"{at}.attn.v", head=1), Ablate(f"{at}.resid_post", "resample", other),
        Patch(f"{at}.resid_pre", other, token=2), Patch(f"{at}.attn.k", other, head=0),
        Patch(f"{at}.attn.pattern", other),
        Project(f"{at}.resid_post", d), Knockout(f"{at}.attn", query=-1, key=1),
    ]  # fmt: skip


@STRICT
def test_edits_act_in_both_halves_and_take_values_from_anywhere(how):
    model, inputs, other = written(how)
    plain, same, values = written()
    for layer, source in ((0, other), (2, values)):  # recorded on two devices, and on one
        wanted = [plain.run(same, edits=edit).logits for edit in edits(layer, values)]
        made = [model.run(inputs, edits=edit).logits for edit in edits(layer, source)]
        assert max(map(far, made, wanted)) < ROUNDING
    whole = Patch("text.*.resid_post", other)
    assert (
        far(model.run(inputs, edits=whole).logits, plain.run(same, edits=Patch("text.*.resid_post", values)).logits)
        == 0
    )


@STRICT
@pytest.mark.parametrize("layer", [0, 2])
def test_positions_may_lie_on_any_device(how, layer):
    model, inputs, _ = written(how)
    wanted = written()[0].run(written()[1], edits=Set(f"text.{layer}.mlp.out", 1.0, token=[1, 2])).logits
    for token in (torch.tensor([1, 2]), torch.arange(7) % 5 % 3 * (torch.arange(7) < 3) > 0):
        for where in (HERE, THERE, FAR):
            edit = Set(f"text.{layer}.mlp.out", torch.ones(32).to(where), token=token.to(where))
            assert far(model.run(inputs, edits=edit).logits, wanted) < ROUNDING


@EVERYWHERE
def test_layers_of_two_devices_are_stacked(how):
    model, inputs, other = written(how)
    assert far(other.stack("text.*.resid_post"), written()[2].stack("text.*.resid_post")) < ROUNDING
    norm = model.run(inputs, edits=Scale("text.norm.scale", 2.0)).logits
    assert far(norm, written()[0].run(written()[1], edits=Scale("text.norm.scale", 2.0)).logits) < ROUNDING


@STRICT
def test_targets_and_padded_rows(how):
    model, plain = spread("llama", how), opened("llama")
    texts, change = [TEXTS[0], "a cat"], [Add("text.2.resid_mid", noise(32), token=-1)]
    runs = [m.run(m.inputs(text=texts), record="*.resid_post", edits=change) for m in (model, plain)]
    asked = (
        DIFFERENCE,
        targets.logit(["dog", "cat"]),
        targets.log_prob("dog", 1),
        targets.distance(runs[1].logits + 1),
    )
    assert max(far(target(runs[0]), target(runs[1])) for target in asked) < ROUNDING
    moved = [
        m.run(m.inputs(text=texts), edits=Patch("*.resid_post", run, token=1))
        for m, run in zip((model, plain), runs, strict=True)
    ]
    assert far(moved[0].logits, moved[1].logits) < ROUNDING
    ended = [
        targets.answer()(m.run(m.inputs(text=["a red", "the cat is"], answer=["dog", "red"]))) for m in (model, plain)
    ]
    assert far(*ended) < ROUNDING
    model, plain = spread("clip", how), opened("clip")
    pairs = [m.run(m.inputs(image=tiny.picture(), text=TEXTS)) for m in (model, plain)]
    assert far(targets.margin(0, 1)(pairs[0]), targets.margin(0, 1)(pairs[1])) < ROUNDING


# --- many runs --------------------------------------------------------------------------------------------------------


@STRICT
def test_sweeps_are_planned_alike_and_give_the_same(how, tmp_path):
    found = []
    for model, inputs, source in (written(), written(how)):
        stream, keys = (Patch(f"text.*.{part}", source) for part in ("resid_post", "attn.k"))
        grids = [model.grid(one, token=[1, 3]) for one in (stream, keys)] + [
            model.grid(Ablate("text.*.attn.z"), head=[1])
        ]
        found.append([model.sweep(inputs, cells, DIFFERENCE, progress=False) for cells in grids])
    for one, other in zip(*found, strict=True):
        assert np.allclose(one.values, other.values, 0, ROUNDING) and repr(one.plan.chunks) == repr(other.plan.chunks)
    file = tmp_path / "values"  # what was begun on one device goes on with two
    ran = [m.sweep(x, grids[-1], DIFFERENCE, progress=False, resume=file).ran for m, x, _ in (written(), written(how))]
    assert ran == [3, 0]


@STRICT
def test_text_is_written_with_a_cache_on_both(how):
    model, plain = spread("llama", how), opened("llama")
    change = [Scale("text.2.mlp.out", 0.0, token=-1), Add("text.0.resid_post", noise(32))]
    for texts in (TEXTS, [TEXTS[0], "a cat"]):
        made = [
            m.generate(m.inputs(text=texts), edits=change, max_new_tokens=4, do_sample=False) for m in (model, plain)
        ]
        assert torch.equal(made[0].ids.cpu(), made[1].ids) and torch.equal(made[0].mask.cpu(), made[1].mask)


@BACKWARD
def test_gradients_cross_from_one_to_the_other(how):
    (model, inputs, other), (plain, same, values) = written(how), written()
    sites = ["text.*.resid_post", "text.*.attn.pattern", "text.norm.scale"]
    for chosen, own, theirs in ((sites, {}, {}), (sites[0], {"baseline": other}, {"baseline": values})):
        path = 2 * len(own)
        made = model.gradients(inputs, DIFFERENCE, chosen, path=path, **own)
        wanted = plain.gradients(same, DIFFERENCE, chosen, path=path, **theirs)
        assert max(far(made[site], wanted[site]) for site in wanted) < ROUNDING
        assert max(far(made.attribution(site), wanted.attribution(site)) for site in wanted) < ROUNDING
        assert all(abs(made.gaps[site] - wanted.gaps[site]) < ROUNDING for site in wanted.gaps)


# --- methods ----------------------------------------------------------------------------------------------------------

PICTURES = [scene_at("test", i) for i in range(3)]
METHODS = {
    "logit_lens": ("clip", lambda m: logit_lens(m, PICTURES, text_bank(m, ["a dog", "a cat"]), progress=False)),
    "decomposition": ("clip", lambda m: representation_decomposition(m, PICTURES, by_token=True, progress=False)),
    "of texts": ("clip", lambda m: representation_decomposition(m, TEXTS, tower="text", progress=False)),
    "patching": ("llava", lambda m: activation_patching(m, *seen(m), **HEADS)),
    "ablation": ("llava", lambda m: activation_patching(m, *seen(m), **HEADS, how="mean")),
    "word_lens": ("llava", lambda m: word_lens(m, seen(m)[0], ["dog", "cat"], progress=False)),
    "attention_lens": ("llava", lambda m: attention_lens(m, seen(m)[0], ["dog"], progress=False)),
    "logits": ("llava", lambda m: logit_decomposition(m, seen(m)[0], DIFFERENCE, depth=3, by_neuron=True)),
}
HEADS = {"target": DIFFERENCE, "sites": "text.*.attn.z", "over": "head", "progress": False}


def seen(model):
    return [model.inputs(image=tiny.picture(seed=seed), text="what is on the left") for seed in (0, 1)]


@cache
def alone(method):
    """What a method finds on one device."""
    name, run = METHODS[method]
    return run(opened(name))


@STRICT
@pytest.mark.parametrize("method", METHODS)
def test_methods_find_the_same(method, how):
    name, run = METHODS[method]
    found, wanted = run(spread(name, how)).data, alone(method).data
    assert set(found) == set(wanted)
    for part in wanted:
        one, other = found[part].values, wanted[part].values
        same = np.allclose(one, other, 0, 1e-10, equal_nan=True) if one.dtype.kind == "f" else (one == other).all()
        assert same, part


@STRICT
def test_the_end_of_a_tower_reads_states_of_any_device(how):
    model, plain = spread("clip", how), opened("clip")
    ends, state = [readout(m, "vision") for m in (model, plain)], noise(2, 32)
    assert max(far(ends[0](state.to(where)), ends[1](state)) for where in (HERE, THERE, FAR)) < ROUNDING


@EVERYWHERE
def test_a_model_is_known_by_its_content_wherever_it_lies(how):
    assert fingerprint(spread("llama", how)) == fingerprint(opened("llama"))


@STRICT
def test_heads_of_both_halves_make_one_vector(how):
    models, heads = (spread("llama", how), opened("llama")), [("text.0.attn.z", 1), ("text.2.attn.z", 0)]
    found = [function_vector(m, ["a dog : red"], m.inputs(text="a dog :"), [45], progress=False) for m in models]
    assert far(*(one.vector(m, heads) for one, m in zip(found, models, strict=True))) < ROUNDING


@BACKWARD
def test_a_lens_is_fitted_on_both(how):
    made = [
        tuned_lens(m, [m.inputs(text=TEXTS)], steps=2, progress=False) for m in (spread("llama", how), opened("llama"))
    ]
    assert max(far(made[0].tensors[name], made[1].tensors[name]) for name in made[1].tensors) < 1e-9
