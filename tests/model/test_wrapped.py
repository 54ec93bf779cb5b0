"""Models that others have wrapped, compiled, checkpointed, offloaded or put into training give the plain numbers."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import cutaway
from cutaway import Ablate, Scale, targets
from cutaway.errors import LoadError
from cutaway.model.weights import head_weights, readout
from cutaway.model.wrapped import at_rest
from cutaway.zoo import tiny
from world import clean, fresh, gap, given, identical, moved, opened

LOGIT = targets.logit("cat")
EDIT = [Scale("text.1.mlp.out", 0.0)]


def adapted(name="llama", **options):
    """A PEFT model with a random adapter, in float64 and eval mode."""
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **options)
    return get_peft_model(fresh(name).module, config).double().eval()


# --- what is opened ---------------------------------------------------------------------------------------------------

WRAPPERS = {
    "parallel": nn.DataParallel,
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "both": lambda module: nn.DataParallel(torch.compile(module, backend="eager")),
}


@pytest.mark.parametrize("how", WRAPPERS)
def test_of_a_wrapper_the_model_inside_is_opened(how):
    inner = fresh("llama").module
    model = cutaway.load(WRAPPERS[how](inner), processor=opened("llama").processor)
    assert model.module is inner and list(model.sites) == list(opened("llama").sites)
    run = model.run(model.inputs(text="a red dog on the left"), record=list(model.sites))
    assert identical(run.outputs, clean("llama").outputs)
    assert "LlamaForCausalLM" in repr(model)


@pytest.mark.parametrize("options", [{}, {"task_type": "CAUSAL_LM"}])
def test_of_a_peft_model_the_adapted_one_is_opened(options):
    wrapper = adapted(**options)
    model = cutaway.load(wrapper, processor=opened("llama").processor)
    inputs = model.inputs(text="a red dog")
    with torch.no_grad():
        assert identical(model.run(inputs, record="*.resid_post").outputs, wrapper(**inputs.tensors))
    with wrapper.disable_adapter():
        assert identical(model.run(inputs).outputs, opened("llama").run(inputs).outputs)
    assert set(map(str, model.sites)) == set(map(str, opened("llama").sites))


def test_wrappers_that_do_more_than_call_the_model_are_refused():
    learned = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(LoadError, match=r"PROMPT_TUNING.*in front of every input.*get_base_model"):
        cutaway.load(get_peft_model(fresh("llama").module, learned))
    with pytest.raises(LoadError, match="from a certain word on"):
        cutaway.load(adapted(task_type="CAUSAL_LM", alora_invocation_tokens=[3]))


# --- compiled ---------------------------------------------------------------------------------------------------------


def whole(module):
    module.compile(backend="eager")


def one_layer(module):
    module.model.layers[1].compile(backend="eager")


def forward(module):
    layer = module.model.layers[1]
    layer.forward = torch.compile(layer.forward, backend="eager")


def replaced(module):
    module.model.layers[1] = torch.compile(module.model.layers[1], backend="eager")


@pytest.mark.parametrize("compiled", [whole, one_layer, forward, replaced])
def test_a_compiled_model_that_has_run_is_read_and_edited(compiled):
    torch._dynamo.reset()
    model, inputs = fresh("llama"), given("llama")
    compiled(model.module)
    model = cutaway.load(model.module, processor=model.processor)
    with torch.no_grad():
        before = model.module(**inputs.tensors)
    site = "text.1.attn.pattern"
    assert gap(model.run(inputs, record=site)[site], clean("llama")[site]) == 0
    edited = opened("llama").run(inputs, edits=EDIT)
    assert gap(model.run(inputs, edits=EDIT).logits, edited.logits) == 0
    with model.edited(EDIT) as module, torch.no_grad():
        assert gap(module(**inputs.tensors).logits, edited.logits) == 0
    with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile"):  # what was compiled is still in use
        assert gap(model.module(**inputs.tensors).logits, before.logits) == 0


# --- gradients --------------------------------------------------------------------------------------------------------


def gradient(model, inputs, edits):
    weight = model.module.get_input_embeddings().weight
    weight.grad = None
    LOGIT(model.run(inputs, edits=edits, grad=True)).sum().backward()
    return weight.grad.clone()


@pytest.mark.parametrize("how", ["reentrant", "not reentrant", "torch"])
def test_gradients_under_edits_are_those_without_checkpoints(how):
    model, inputs = fresh("llama"), given("llama")
    edits = [Scale("text.0.mlp.out", 0.0), Scale("text.1.attn.z", 3.0)]
    wanted = gradient(model, inputs, edits)
    layers = model.module.model.layers
    if how == "torch":
        for i, layer in enumerate(layers):
            layers[i] = checkpoint_wrapper(layer)
        model = cutaway.load(model.module, processor=model.processor)
    else:
        model.module.train()
        model.module.gradient_checkpointing_enable({"use_reentrant": how == "reentrant"})
        if how == "reentrant":
            model.module.enable_input_require_grads()
    assert gap(gradient(model, inputs, edits), wanted) < 1e-12
    assert how == "torch" or all(layer.gradient_checkpointing and layer.training for layer in layers)
    assert how != "torch" or "checkpoint" in str(layers[0].checkpoint_fn)


def test_a_users_own_backward_after_the_block_is_under_the_edits():
    model = fresh("sd")
    unet, x = model.module.unet, torch.randn(1, 4, 8, 8, dtype=torch.float64)
    words = torch.randn(1, 5, unet.config.cross_attention_dim, dtype=torch.float64)

    def found():
        unet.zero_grad()
        with model.edited([Scale("denoiser.1.cross.z", 3.0)]):
            made = unet(x, 1, encoder_hidden_states=words).sample
        made.sum().backward()
        return unet.conv_in.weight.grad.clone()

    wanted = found()
    unet.train()
    unet.enable_gradient_checkpointing()
    assert gap(found(), wanted) < 1e-12
    assert unet.is_gradient_checkpointing and unet.training


# --- mode -------------------------------------------------------------------------------------------------------------


def dropping(name):
    """A model in training mode whose dropout drops half, but for one layer that its owner keeps in eval mode."""
    model = fresh(name)
    for module in model.module.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.module.train()
    model.towers["text"].blocks[0].eval()
    return model


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_runs_repeat_in_training_mode_and_leave_it_as_it_was(name):
    model, inputs = dropping(name), given(name)
    modes = [module.training for module in model.module.modules()]
    assert identical(model.run(inputs, record=list(model.sites)).outputs, clean(name).outputs)
    values = model.sweep(inputs, [Ablate("text.1.mlp.out")], everything, progress=False).values
    assert gap(torch.from_numpy(values.values), everything(clean_edited(name))[None]) < 1e-9
    if name == "gpt2":
        options = {"max_new_tokens": 3, "do_sample": False}
        assert torch.equal(model.generate(inputs, **options).ids, opened(name).generate(inputs, **options).ids)
    with pytest.raises(cutaway.errors.EditError):
        model.run(inputs, edits=Scale("text.0.mlp.out", torch.ones(7)))
    assert modes == [module.training for module in model.module.modules()] and any(modes) and not all(modes)


def everything(run):
    return targets.outcome(run).flatten(1).pow(2).sum(1)


def clean_edited(name):
    return opened(name).run(given(name), edits=Ablate("text.1.mlp.out"))


def test_in_a_loop_of_the_users_own_their_mode_holds():
    model = dropping("gpt2")
    with model.edited(EDIT) as module:
        assert module.training and not model.towers["text"].blocks[0].training
        model.run(given("gpt2"))
        assert module.training


def test_rest_ends_when_the_block_raises():
    module = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    rest = at_rest([module])
    rest.__enter__()
    assert not any(part.training for part in module.modules())
    assert rest.__exit__(KeyError, KeyError(), None) is False
    assert all(part.training for part in module.modules())


# --- offloaded --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip", "llama", "gpt2", "dinov2", "siglip"])
def test_offloaded_weights_are_brought_where_they_are_needed(name):
    plain, model = opened(name), fresh(name)
    if name == "siglip":  # the library reads the weights of this class without calling what holds them
        cpu_offload(model.module, torch.device("cpu"), preload_module_classes=["MultiheadAttention"])
    else:
        cpu_offload(model.module, torch.device("cpu"))
    assert next(model.module.parameters()).is_meta and model.device.type == "cpu"
    run = model.run(given(name), record=list(model.sites))
    assert all(gap(run[site], clean(name)[site]) == 0 for site in run.activations)
    tower = "text" if name in ("llama", "gpt2") else "vision"
    for norm in (f"{tower}.1.attn.norm.scale", *([f"{tower}.pool.attn.q"] if name == "siglip" else [])):
        edit = [Scale(norm, 2.0)]
        assert moved(model.run(given(name), edits=edit), plain.run(given(name), edits=edit)) == 0
    assert gap(head_weights(model, tower, 1)[0], head_weights(plain, tower, 1)[0]) == 0
    if tower == "vision":
        assert gap(readout(model, tower).matrices, readout(plain, tower).matrices) == 0
    edit = [Ablate(f"{tower}.1.mlp.out")]
    one, other = (m.sweep(given(name), edit, everything, progress=False).values.values for m in (model, plain))
    assert gap(torch.from_numpy(one), torch.from_numpy(other)) == 0
    assert next(model.module.parameters()).is_meta


def test_a_model_without_weights_is_listed_and_says_so_when_it_is_run():
    model = fresh("clip")
    empty = cutaway.load(copy.deepcopy(model.module).to("meta"), processor=model.processor)
    assert len(empty.sites) == len(model.sites)
    with pytest.raises(LoadError, match="only their shapes"):
        empty.inputs(image=tiny.picture(), text="a dog")
