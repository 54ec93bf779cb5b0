"""Weights by site: what heads write and how towers are read equals what the module does."""

from copy import deepcopy

import peft
import pytest
import torch
from torch import nn

import cutaway
from cutaway import Scale, Set
from cutaway.errors import SiteError
from cutaway.methods.representation_decomposition import representation_decomposition
from cutaway.model.denoiser_end import denoiser_end
from cutaway.model.linear import linear_map, norm_weights
from cutaway.model.texts import writes
from cutaway.model.weights import connector_weights, head_weights, mlp_weights, norms_behind, readout, value_weights
from cutaway.zoo import tiny
from world import KNOWN, PIPELINES, clean, fresh, gap, given, moved, noise, opened

HEADS = [("clip", "vision"), ("clip", "text"), ("siglip", "vision"), ("dinov2", "vision"), ("vit", "vision"),
         ("llama", "text"), ("gpt2", "text"), ("bert", "text")]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "tower"),
    [*((name, "text") for name in ("llama", "qwen2", "gpt2", "phi3", "opt", "whisper", "clip")),
     *((name, "vision") for name in ("clip", "siglip", "vit", "dinov2", "dinov2-registers"))],
)  # fmt: skip
def test_values_come_from_the_residual(name, tower):
    """Alone or behind queries and keys, with biases or without, and with fewer heads than queries have."""
    weight, bias = value_weights(opened(name), tower, 1)
    x, scale, v = (clean(name)[f"{tower}.1.{part}"] for part in ("resid_pre", "attn.norm.scale", "attn.v"))
    assert gap(torch.einsum("btd,hed->bthe", x / scale[..., None], weight) + bias, v) < 1e-6  # norms in float32 inside


def test_a_block_whose_values_are_not_in_the_table_says_so():
    with pytest.raises(SiteError, match="which projection of BertLayer makes"):
        value_weights(opened("bert"), "text", 0)


def test_heads_of_cross_attention_add_up_too():
    weight, bias = head_weights(opened("whisper"), "text", 1, "cross")
    z, out = (clean("whisper")[f"text.1.cross.{part}"] for part in ("z", "out"))
    assert gap(torch.einsum("bthe,hed->btd", z, weight) + bias, out) < 1e-12


@pytest.mark.parametrize(("name", "tower"), HEADS)
def test_heads_add_up_to_what_attention_writes(name, tower):
    weight, bias = head_weights(opened(name), tower, 1)
    z, out = (clean(name)[f"{tower}.1.attn.{part}"] for part in ("z", "out"))
    assert weight.shape == (*z.shape[2:], out.shape[-1])
    assert gap(torch.einsum("bthe,hed->btd", z, weight) + bias, out) < 1e-12


@pytest.mark.parametrize(("name", "tower"), [("clip", "vision"), ("clip", "text"), ("siglip", "text")])
def test_the_last_state_is_read_as_the_model_reads_it(name, tower):
    end, run = readout(opened(name), tower), clean(name)
    state = run[f"{tower}.2.resid_post"]
    mine = end(state)[torch.arange(len(state)), end.positions(given(name))]
    assert end.space == f"{tower}.joint"
    assert gap(mine, run[f"{tower}.joint"]) < 1e-12


def test_a_classifier_is_read_in_its_classes_and_a_bare_tower_behind_its_norm():
    assert readout(opened("vit"), "vision").space == "vision.logits"
    end = readout(opened("dinov2"), "vision")
    assert end.space == "vision.final" and torch.equal(end.weight[0], torch.eye(32, dtype=torch.float64))


@pytest.mark.parametrize("of", [lambda model: model, lambda model: model.engine], ids=["model", "engine"])
def test_units_and_connectors_write_what_their_weights_say(of):
    model, run = opened("llava"), clean("llava")
    matrix, bias = mlp_weights(of(model), "text", 1)
    assert gap(run["text.1.mlp.post"] @ matrix.T + bias, run["text.1.mlp.out"]) < 1e-12
    matrix, bias = connector_weights(of(model), "post")
    assert gap(run["connector.post"] @ matrix.T + bias, run["connector.out"]) < 1e-12
    assert not norms_behind(of(model), "text") and norms_behind(of(opened("opt-postnorm")), "text")


def test_the_weights_are_the_models_own_and_not_copies():
    model = fresh("clip")
    end, x = readout(model, "vision"), noise(3, 32)
    before = end(x)
    assert gap(end.scale(x), end.scale(x + 5)) < 1e-12  # LayerNorm takes the mean out
    with torch.no_grad():
        model.module.visual_projection.weight.mul_(2)
    assert gap(end(x), 2 * before) < 1e-12 and not end.weight.requires_grad


def test_towers_that_are_read_otherwise_are_refused():
    with pytest.raises(SiteError, match="read at all positions"):
        readout(opened("siglip"), "vision").positions(given("siglip"))
    with pytest.raises(SiteError, match="not known at which position"):
        readout(opened("bert"), "text")
    with pytest.raises(SiteError, match="No tower 'audio'"):
        readout(opened("clip"), "audio")
    with pytest.raises(SiteError, match="not linear"):
        head_weights(opened("gemma2"), "text", 0)


def test_a_clip_text_is_read_where_the_library_reads_it():
    """At the end token; at the highest id where the config gives the end the id 2."""
    for eos in (None, 2):
        module, processor = tiny.build("clip", dtype=torch.float64)
        if eos is not None:
            module.config.text_config.eos_token_id = module.text_model.config.eos_token_id = eos
            module.text_model.eos_token_id = eos
        model = cutaway.load(module, processor=processor)
        inputs = model.inputs(text=["a red dog", "the yellow cat on the left"])
        run = model.run(inputs, record=["text.2.resid_post", "text.joint"])
        end = readout(model, "text")
        state = run["text.2.resid_post"][torch.arange(2), end.positions(inputs)]
        assert torch.allclose(end(state), run["text.joint"], atol=1e-10)


# --- weights that adapters, packing and quantisation changed ---------------------------------------------------------

OUT = {"llama": "o_proj", "gpt2": "c_proj", "dinov2": "o_proj", "clip": "out_proj", "bert": "dense", "siglip": "fc2"}


def lora(name, **options):
    return peft.LoraConfig(
        r=3, target_modules=[OUT[name]], init_lora_weights=False, fan_in_fan_out=name == "gpt2", **options
    )


def randomised(module, words):
    """Weights that an adapter starts at zero or one, drawn at random."""
    for name, weight in module.named_parameters():
        if any(word in name for word in words):
            weight.data = noise(*weight.shape).mul(0.3).add(weight)
    return module


ADAPTERS = {
    "lora": lora,
    "dora": lambda name: lora(name, use_dora=True),
    "with a bias of its own": lambda name: lora(name, lora_bias=True),
    "rank-stabilised, dropped out": lambda name: lora(name, use_rslora=True, lora_dropout=0.5),
    "ia3": lambda name: peft.IA3Config(target_modules=[OUT[name]], feedforward_modules=[], init_ia3_weights=False),
    "loha": lambda name: peft.LoHaConfig(r=3, target_modules=[OUT[name]], init_weights=False),
    "oft": lambda name: peft.OFTConfig(oft_block_size=4, target_modules=[OUT[name]], init_weights=False),
}


def tuned(name, config):
    """A tiny model with an adapter, in training mode as trainers leave it, opened."""
    torch.manual_seed(0)
    model = fresh(name)
    wrapper = randomised(peft.get_peft_model(model.module, config).double(), ["ia3", "lora_B", "oft_R"])
    return cutaway.load(wrapper.train(), processor=model.processor), wrapper


def check_heads(model, name, layer=1):
    """The heads of a layer add up to what its attention writes."""
    tower = HEADS_IN[name]
    weight, bias = head_weights(model, tower, layer)
    run = model.run(given(name), record=[f"{tower}.{layer}.attn.{part}" for part in ("z", "out")])
    z, out = run.activations.values()
    assert gap(torch.einsum("bthe,hed->btd", z, weight) + bias, out) < 1e-10
    return out


HEADS_IN = {name: tower for name, tower in HEADS if (name, tower) != ("clip", "text")}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gpt2", "lora"), ("gpt2", "with a bias of its own"), ("llama", "lora"), *(("dinov2", kind) for kind in ADAPTERS)],
)
def test_heads_write_through_the_adapter_that_acts(name, kind):
    model, _ = tuned(name, ADAPTERS[kind](name))
    tower = HEADS_IN[name]
    assert gap(check_heads(model, name), clean(name)[f"{tower}.1.attn.out"]) > 1e-3
    assert model.module.training


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_weights_follow_the_adapter_on_off_merged_and_with_others(name):
    model, wrapper = tuned(name, lora(name))
    one = check_heads(model, name)
    with wrapper.disable_adapter():
        assert gap(check_heads(model, name), clean(name)[f"{HEADS_IN[name]}.1.attn.out"]) == 0
    wrapper.add_adapter("other", lora(name))
    wrapper.double().base_model.set_adapter(["default", "other"])
    two = check_heads(model, name)
    assert gap(one, two) > 1e-3
    wrapper.merge_adapter()
    assert gap(check_heads(model, name), two) < 1e-9


@pytest.mark.parametrize(
    ("name", "target"),
    [("clip", "out_proj|fc2|visual_projection"), ("siglip", "fc1|fc2|v_proj"), ("vit", "classifier|o_proj")],
)
def test_a_fine_tuned_tower_is_decomposed_exactly(name, target):
    config = peft.LoraConfig(r=3, target_modules=rf".*\.({target})|{target}", init_lora_weights=False)
    model, _ = tuned(name, config)
    made = representation_decomposition(model, [tiny.picture(0), tiny.picture(1)], progress=False)
    assert float(made["error"].max()) < 1e-10


NORMS = {"clip": ["layer_norm1", "post_layernorm"], "llama": ["input_layernorm"]}


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
@pytest.mark.parametrize(("name", "kind"), [("clip", "tuned"), ("clip", "saved"), ("llama", "saved")])
def test_a_norm_under_an_adapter_is_read_and_written_as_it_acts(name, kind):
    saved = kind == "saved"
    config = lora(name, modules_to_save=NORMS[name]) if saved else peft.LNTuningConfig(target_modules=NORMS[name])
    model, _ = tuned(name, config)
    randomised(model.module, ["modules_to_save", "ln_tuning_layers"])
    before, site = f"{HEADS_IN[name]}.1.resid_pre", f"{HEADS_IN[name]}.1.attn.norm.scale"
    norm = model.engine.seat(site).module
    gain, bias = norm_weights(norm)
    run = model.run(given(name), record=[before, site])
    x, scale = run[before], run[site]
    x = x - x.mean(-1, keepdim=True) if name == "clip" else x
    assert gap(gain * (x / scale[..., None]) + bias, norm(run[before])) < 1e-6
    edited = model.run(given(name), edits=Scale(site, 2.0))
    handle = norm.register_forward_hook(lambda module, args, output: (output + bias) / 2)
    assert moved(edited, model.run(given(name))) < 1e-6
    handle.remove()
    assert moved(edited, run) > 1e-3


def test_half_precision_keeps_the_digits_of_small_weights_beside_a_large_bias():
    for dtype in (torch.float16, torch.bfloat16):
        model = cutaway.load("tiny:clip", dtype=dtype)
        for module in model.module.modules():
            if hasattr(module, "out_proj"):
                module.out_proj.bias.data.fill_(3.0)
        plain, _ = head_weights(model, "vision", 1)
        config = peft.LoraConfig(r=3, target_modules=["out_proj"])  # of no effect: its second matrix is zero
        wrapper = peft.get_peft_model(model.module, config, autocast_adapter_dtype=False).to(dtype)
        found, bias = head_weights(cutaway.load(wrapper, processor=model.processor), "vision", 1)
        assert found.dtype == dtype and bool((bias == 3).all())
        assert gap(found, plain) < 4 * torch.finfo(dtype).eps * plain.abs().max()


class Packed(nn.Linear):
    """Keeps its matrix as bytes, two numbers in one, as layers of 4 bits do; the input keeps its digits."""

    def __init__(self, plain):
        super().__init__(plain.in_features, plain.out_features)
        self.bias = plain.bias
        levels = (plain.weight.data * 20).round().clamp(-8, 7).add(8).to(torch.uint8).flatten()
        self.weight = nn.Parameter((levels[::2] * 16 + levels[1::2])[:, None], requires_grad=False)

    def forward(self, x):
        levels = torch.stack([self.weight[:, 0] // 16, self.weight[:, 0] % 16], 1).flatten()
        matrix = (levels.to(x.dtype) - 8) / 20
        return nn.functional.linear(x, matrix.view(self.out_features, -1), self.bias)


class Rounded(nn.Module):
    """Rounds what enters to 8 bits of its own size, as dynamically quantised layers do; its weight is a method."""

    def __init__(self, plain):
        super().__init__()
        self.in_features, self.out_features, self.plain = plain.in_features, plain.out_features, [plain]

    def weight(self):
        return self.plain[0].weight

    def forward(self, x):
        step = x.abs().max() / 127 + 1e-30
        return self.plain[0]((x / step).round() * step)


def changed(kind):
    """A CLIP with other output projections in its vision tower."""
    module = deepcopy(opened("clip").module)
    for layer in module.vision_model.encoder.layers:
        layer.self_attn.out_proj = kind(layer.self_attn.out_proj)
    return cutaway.load(module, processor=opened("clip").processor)


def test_packed_weights_are_unpacked():
    model = changed(Packed)
    check_heads(model, "clip")
    made = representation_decomposition(model, [tiny.picture(0), tiny.picture(1)], progress=False)
    assert float(made["error"].max()) < 1e-10


def test_a_layer_that_rounds_its_input_is_refused_by_name():
    model = changed(Rounded)
    with pytest.raises(SiteError, match=r"Rounded gives 0\.\d% .*before it was quantised"):
        head_weights(model, "vision", 0)
    run = model.run(given("clip"), record=[f"vision.0.{part}" for part in ("resid_pre", "attn.out", "resid_mid")])
    before, added, after = run.activations.values()
    assert gap(before + added, after) < 1e-12


def test_what_lies_on_a_layer_is_asked_in_pieces_and_hooks_are_no_part_of_it(monkeypatch):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Bent(nn.Linear):
        def forward(self, x):
            return super().forward(x).relu()

    doubled = Doubled(5, 3).double()
    doubled.register_forward_hook(lambda *_: pytest.fail("a hook ran"))
    monkeypatch.setattr("cutaway.model.linear.CHUNK", 16)
    matrix, bias = linear_map(doubled, "it", torch.float64)
    assert gap(matrix, 2 * doubled.weight) < 1e-12 and gap(bias, 2 * doubled.bias) < 1e-12
    with pytest.raises(SiteError, match=r"no linear map.*Bent"):
        linear_map(Bent(5, 3), "it")


SPEAKING = [name for name in KNOWN if name not in PIPELINES and writes(opened(name).module)]
DECODERS = [name for name in SPEAKING if "text.norm.scale" in opened(name).sites and name != "opt-postnorm"]


@pytest.mark.parametrize("name", [*DECODERS, "whisper"])
def test_a_decoder_is_read_at_its_last_token_through_the_unembedding(name):
    """The last state read gives the logits: of two prompts of different length, each at its own end."""
    model = opened(name)
    read, inputs = readout(model, "text"), given(name)
    if name not in ("whisper", "gemma2"):  # of the latter padding is NaN in float64
        picture = {"image": [tiny.picture(0), tiny.picture(1)]} if "image" in tiny.TINY[name].modalities else {}
        inputs = model.inputs(**picture, text=["a red dog on the left", "a cat"])
    last = f"text.{len(model.towers['text'].blocks) - 1}.resid_post"
    run = model.run(inputs, record=[last, "text.logits"])
    at, rows = read.positions(inputs), torch.arange(len(run[last]))
    assert at[0] == run[last].shape[1] - 1 and read.space == "text.logits" and read.at == "last"
    assert gap(read(run[last][rows, at]), run["text.logits"][rows, at].double()) < 1e-5  # norms in float32 inside
    if name in ("gpt2", "opt", "blip2"):
        assert gap(read(run[last][rows, at]), run["text.logits"][rows, at]) < 1e-12


# --- the end of a denoiser --------------------------------------------------------------------------------------------

JOINED = [name for name in PIPELINES if "denoiser.norm.condition" in opened(name).sites]


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_the_last_state_of_a_denoiser_is_read_as_the_model_reads_it(name, size):
    """At every step, for every prompt, on pictures that are not square: the readout is the denoiser's own output."""
    model = opened(name)
    end, last = denoiser_end(model), f"denoiser.{len(model.towers['denoiser'].blocks) - 1}.image.resid_post"
    seen = []
    for step in (0, 2):
        prompts = ["a red dog", "a cat"]
        inputs = model.inputs(prompt=prompts, steps=3, step=step, seed=1, size=size, guidance=1.0)
        run = model.run(inputs, record=[last, "denoiser.out", "denoiser.final", "denoiser.norm.scale", *end.sites])
        assert gap(end.laid(end(run[last], run), run), run["denoiser.out"]) < 1e-10
        assert gap(end.laid(end(run[last], run), run)[0, 0], run.outputs.sample) < 1e-10
        assert gap(end.scale(run[last]), run["denoiser.norm.scale"]) < 1e-10
        assert gap(run["denoiser.final"] @ end.weight.T + end.offset, end(run[last], run)) < 1e-10
        seen.append(end.matrices(run))
    assert gap(*seen) > 1e-3  # another timestep, another matrix


@pytest.mark.parametrize("name", JOINED)
def test_given_timestep_and_scale_the_output_of_a_denoiser_is_a_sum(name):
    """What the last block adds is, through the matrix of its row, what the output loses without it, scale held."""
    model = opened(name)
    end, layer = denoiser_end(model), len(model.towers["denoiser"].blocks) - 1
    ends = [f"denoiser.{layer}.image.{part}" for part in ("resid_pre", "resid_post")]
    inputs = model.inputs(prompt="a red dog", steps=3, step=1, seed=1, size=(32, 32), guidance=1.0)
    run = model.run(inputs, record=[*ends, "denoiser.out", "denoiser.norm.scale", *end.sites])
    added = (run[ends[1]] - run[ends[0]]) / run["denoiser.norm.scale"][..., None]
    held = [Set(ends[1], run[ends[0]][0]), Set("denoiser.norm.scale", run["denoiser.norm.scale"][0])]
    without = model.run(inputs, record="denoiser.out", edits=held)["denoiser.out"]
    term = end.laid(added @ end.matrices(run).transpose(-1, -2), run)
    assert gap(run["denoiser.out"] - without, term) < 1e-10


def test_both_rows_of_guidance_are_read_at_every_step_of_a_drawing():
    model = opened("sd3")
    end, last = denoiser_end(model), "denoiser.1.image.resid_post"
    inputs = model.inputs(prompt="a red dog", steps=2, guidance=3.0, size=(32, 32))
    run = model.run(inputs, record=[last, "denoiser.out", *end.sites], output="latent")
    assert run["denoiser.out"].shape[:2] == (2, 2)
    assert gap(end.laid(end(run[last], run), run), run["denoiser.out"]) < 1e-10


@pytest.mark.parametrize("name", [name for name in PIPELINES if name not in JOINED])
def test_another_denoiser_says_why_it_has_no_such_end(name):
    model = opened(name)
    with pytest.raises(SiteError) as caught:
        denoiser_end(model)
    said, kind = caught.value, type(model.towers["denoiser"].module).__name__
    why = {"UNet": ("not linear in any state", "skips")}.get(kind[:4], ("not known how", "no such end"))
    assert why[0] in said.failed and kind in said.failed and why[1] in said.exists
    assert "SD3Transformer2DModel" in said.expected and "model.gradients" in said.do
    for name in ("sd", "sd3"):
        with pytest.raises(SiteError, match="denoiser_end"):
            readout(opened(name), "denoiser")
    with pytest.raises(SiteError, match="No tower 'denoiser'"):
        denoiser_end(opened("clip"))
