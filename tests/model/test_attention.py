"""The inside of attention where it is not plain: processors, padding, cut queries, half precision, adapters."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    IPAdapterAttnProcessor2_0,
    SlicedAttnProcessor,
)
from peft import LoraConfig, get_peft_model
from torch import Tensor

import cutaway
from cutaway import Ablate, Knockout, Patch, Scale, Set
from cutaway.errors import SiteError
from cutaway.model.attention import AttentionTap, tapped
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.targets import outcome
from cutaway.model.weights import readout
from cutaway.zoo import tiny
from world import PT, fresh, gap, given, identical, library_call, moved, noise, opened

# --- processors of diffusers ------------------------------------------------------------------------------------------

PROCESSORS = {
    "classic": lambda pipe: pipe.unet.set_attn_processor(AttnProcessor()),
    "one head at a time": lambda pipe: pipe.unet.set_attn_processor(SlicedAttnProcessor(1)),
    "slicing": lambda pipe: pipe.enable_attention_slicing(),
    "fused projections": lambda pipe: pipe.unet.fuse_qkv_projections(),
}


READ = [f"denoiser.1.{part}" for part in ("attn.pattern", "cross.q", "cross.v", "cross.scores", "cross.pattern")]
WRITTEN = [
    Knockout("denoiser.1.cross", key=2), Scale("denoiser.1.attn.k", 2.0), Set("denoiser.3.cross.pattern", 0.1),
    Scale("denoiser.5.*.pattern", 1.0),
]  # fmt: skip


@cache
def with_kernel():
    """A run that reads and one that writes, with the processor of today."""
    return tuple(opened("sd").run(given("sd"), **how, **PT) for how in ({"record": READ}, {"edits": WRITTEN}))


@pytest.mark.parametrize("how", PROCESSORS)
def test_whatever_processor_computes_it_attention_is_read_and_written(how):
    model, inputs = fresh("sd"), given("sd")
    PROCESSORS[how](model.module)
    run, (true, edited) = model.run(inputs, record=READ, **PT), with_kernel()
    assert identical(run.outputs, library_call(model, inputs))  # reading changes no digit
    assert all(gap(run[name], true[name]) < 1e-10 for name in READ)
    assert moved(model.run(inputs, edits=WRITTEN, **PT), edited) < 1e-9


def read(module, call, *kinds, **writes):
    """What a tap reads of one attention module, and what the call returns, with some kinds multiplied."""
    seen: dict[str, Tensor] = {}
    tap = AttentionTap(
        set(writes),
        set(kinds),
        lambda kind, tensor, _: tensor * writes[kind],
        lambda kind, tensor, _: seen.update({kind: tensor}),
    )
    with torch.no_grad(), tapped(module, tap):
        return call(module), seen


def test_of_an_image_prompt_the_site_is_the_attention_to_the_text():
    torch.manual_seed(0)
    x, words, picture = noise(2, 6, 8), noise(2, 5, 8), noise(2, 3, 8)
    module = Attention(8, 8, heads=2, dim_head=4, processor=IPAdapterAttnProcessor2_0(8, 8, scale=0.5)).double()

    def prompted(module):
        return module(x, encoder_hidden_states=(words, [picture]))

    with torch.no_grad():
        before = prompted(module)
        heads = (words, picture)
        maps = ((module.to_k, module.to_v), (module.processor.to_k_ip[0], module.processor.to_v_ip[0]))
        q, k, v, k_ip, v_ip = (
            y.unflatten(-1, (2, 4)).transpose(1, 2)
            for y in (module.to_q(x), *(m(states) for states, pair in zip(heads, maps, strict=True) for m in pair))
        )
    out, seen = read(module, prompted, "pattern", "q")
    assert torch.equal(out, before) and gap(seen["pattern"], (q @ k.mT / 2).softmax(-1)) < 1e-12
    for writes in ({"pattern": 0.0}, {"q": 3.0}):
        q_now = q * writes.get("q", 1.0)
        z = (q_now @ k.mT / 2).softmax(-1) * writes.get("pattern", 1.0) @ v
        z = z + 0.5 * (q_now @ k_ip.mT / 2).softmax(-1) @ v_ip
        with torch.no_grad():
            wanted = module.to_out[0](z.transpose(1, 2).flatten(2))
        assert gap(read(module, prompted, **writes)[0], wanted) < 1e-12
    assert "processor" in module._modules and "processor" not in vars(module)


class ByItself:
    """Computes attention with its own arithmetic."""

    def __call__(self, attn, hidden_states, **_):
        return hidden_states.softmax(-1)


class Twice:
    """Attends two times."""

    def __call__(self, attn, hidden_states, **_):
        x = hidden_states[:, None]
        return (F.scaled_dot_product_attention(x, x, x) + F.scaled_dot_product_attention(x, x, x))[:, 0]


def test_a_processor_that_cannot_be_read_is_named_with_a_way_out():
    for processor in (ByItself(), Twice()):
        module = Attention(8, heads=2, dim_head=4, processor=processor).double()
        with pytest.raises(SiteError, match=rf"{type(processor).__name__}.*set_attn_processor\(AttnProcessor2_0"):
            read(module, lambda module: module(noise(1, 3, 8)), "pattern")
        assert module.processor is processor


# --- padding, and queries without keys --------------------------------------------------------------------------------

ENGLISH = ["a red dog", "the yellow cat on the left"]
PADDED = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "smollm3", "gpt2", "opt", "bert", "clip",
          "siglip", "llava", "paligemma", "blip2", "whisper", "bart"]  # fmt: skip


def padded(model: Model, name: str, side: str) -> Inputs:
    """Two rows of different length, padded on one side; the model's tokenizer is left as it was."""
    before, model.tokenizer.padding_side = model.tokenizer.padding_side, side
    try:
        if name == "bart":
            ids = model.tokenizer(ENGLISH, return_tensors="pt", padding=True)
            decoder = {f"decoder_{key}": value[:, :5] for key, value in ids.items() if key != "token_type_ids"}
            return model.inputs(**ids, **decoder)
        sound = {"audio": [noise(8000, seed=row).numpy() for row in range(2)]} if name == "whisper" else {}
        picture = [tiny.picture(0), tiny.picture(1)] if "image" in tiny.TINY[name].modalities else None
        return model.inputs(image=picture, text=ENGLISH, **sound)
    finally:
        model.tokenizer.padding_side = before


@cache
def padding_model(name: str) -> Model:
    """In float64, but for Gemma 2, whose softmax in float32 makes no number of a row masked in float64."""
    return cutaway.load("tiny:gemma2") if name == "gemma2" else opened(name)


def heads_first(x: Tensor, heads: int) -> Tensor:
    """(batch, position, head, d) as (batch, head, position, d), key/value heads repeated."""
    return x.transpose(1, 2).repeat_interleave(heads // x.shape[2], 1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", PADDED)
def test_padding_and_cut_queries(name, side):
    """The pattern makes z, padded queries included; written back it changes nothing; cut queries keep to their keys."""
    model = padding_model(name)
    inputs = padded(model, name, side)
    places = [str(site).removesuffix(".scores") for site in model.sites["*.0.*.scores"]]
    run = model.run(inputs, record=[f"{at}.{part}" for at in places for part in ("scores", "pattern", "v", "z")])
    for at in places:
        scores, pattern = run[f"{at}.scores"], run[f"{at}.pattern"]
        z = pattern @ heads_first(run[f"{at}.v"], pattern.shape[1])
        assert gap(z.transpose(1, 2), run[f"{at}.z"]) < 1e-6, at
        for edit in (Scale(f"{at}.pattern", 1.0), Scale(f"{at}.scores", 1.0), Patch(f"{at}.scores", run)):
            assert moved(model.run(inputs, edits=edit), run) < 1e-5, edit
        cut = model.run(inputs, edits=Knockout(at), record=[f"{at}.pattern"])[f"{at}.pattern"]
        seen = scores > torch.finfo(scores.dtype).min
        alone = ~seen.any(-1, keepdim=True)
        even = torch.where(alone, pattern, seen / seen.sum(-1, keepdim=True).clamp(min=1))
        assert gap(cut, even) < 1e-6, at


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2", "opt", "whisper"])
def test_a_sweep_of_knockouts_over_padded_rows_is_the_plain_loop(name, side):
    model = padding_model(name)
    inputs = padded(model, name, side)
    cells = [Knockout(f"text.{layer}.attn", query=q, key=range(q + 1)) for layer, q in ((0, 2), (1, 2), (1, 1))]
    cells += [Knockout("text.1.attn", query=2, key=1), Ablate("text.1.mlp.out", token=2)]
    values = model.sweep(inputs, cells, squares, progress=False).values.values
    for found, edit in zip(values, cells, strict=True):
        wanted = squares(model.run(inputs, edits=edit))
        assert gap(torch.from_numpy(found), wanted) < 1e-5 * wanted.max(), edit


def squares(run):
    """Every logit of a row counts, those of its padding too."""
    return run.logits.flatten(1).pow(2).sum(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "attn"), [("llama", None), ("mistral", "eager"), ("gpt2", None), ("clip", None)])
def test_in_half_precision_the_pattern_makes_z_and_cut_queries_keep_to_their_keys(name, attn, dtype):
    model = cutaway.load(f"tiny:{name}", dtype=dtype, attn=attn)
    inputs = padded(model, name, "left")
    parts = [f"text.1.attn.{part}" for part in ("scores", "pattern", "v", "z")]
    large = Scale("text.1.attn.q", 30.0)  # scores that lose their fraction in half precision
    run = model.run(inputs, edits=large, record=parts)
    scores, pattern, value, z = (run[part] for part in parts)
    assert {t.dtype for t in (scores, pattern)} == {dtype} and scores.isfinite().all()
    made = pattern.float() @ heads_first(value, pattern.shape[1]).float()
    room = 16 if attn == "eager" else 2  # whose scores lose their fraction inside the library
    assert gap(made.transpose(1, 2), z.float()) < room * torch.finfo(dtype).eps * value.abs().max()
    cut = model.run(inputs, edits=[large, Knockout("text.1.attn")], record=parts[1])[parts[1]]
    seen = scores > torch.finfo(dtype).min
    even = torch.where(~seen.any(-1, keepdim=True), cut, seen / seen.sum(-1, keepdim=True).clamp(min=1)).float()
    assert gap(cut.float(), even) < 0.01
    back = model.run(inputs, edits=[large, Patch(parts[0], run)], record=parts[1])[parts[1]]
    alone = ~seen.any(-1, keepdim=True)
    assert alone.any() == (name != "clip")  # whose texts are padded behind, where causal queries see words
    assert attn == "eager" or (not (back * alone).any() and not (pattern * alone).any())
    again = model.run(inputs, edits=[large, Scale("text.1.attn.pattern", 1.0)])
    plain = model.run(inputs, edits=large)
    assert moved(again, plain) < 32 * torch.finfo(dtype).eps * outcome(plain).abs().max()


# --- pooling attention ------------------------------------------------------------------------------------------------


def test_an_adapter_on_a_pooling_attention_is_read_as_it_acts():
    module, parts = fresh("siglip").module, ["q", "v", "pattern", "out"]
    config = LoraConfig(r=2, target_modules=["attention"], init_lora_weights=False)
    tuned = get_peft_model(module, config).double().eval()
    model = cutaway.load(tuned, processor=opened("siglip").processor)
    sites, edit = [f"vision.pool.attn.{part}" for part in parts], Scale("vision.pool.attn.pattern", 0.5)
    run, edited = model.run(given("siglip"), record=sites), model.run(given("siglip"), edits=edit)
    with pytest.raises(SiteError, match="merge_and_unload"):
        readout(model, "vision")
    merged = cutaway.load(tuned.merge_and_unload(), processor=model.processor)
    true = merged.run(given("siglip"), record=sites)
    assert all(gap(run[site], true[site]) < 1e-12 for site in sites)
    assert moved(edited, merged.run(given("siglip"), edits=edit)) < 1e-12
    assert moved(edited, run) > 1e-6


def test_a_pooling_attention_under_a_mask_is_refused():
    module = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.ones(1, 3, 8)
    with pytest.raises(SiteError, match="under a mask"):
        read(module, lambda module: module(x, x, x, attn_mask=torch.ones(3, 3)), "pattern")
