"""Edits while text is written: the library's own `generate`, positions absolute, the prompt's end at -1."""

import pytest
import torch

import cutaway
from cutaway import Ablate, Add, Knockout, Patch, Scale, Where
from cutaway.errors import InputError
from cutaway.zoo import tiny
from world import given, opened

WRITERS = ["llama", "gpt2", "opt", "mamba", "llava", "qwen2-vl", "paligemma", "blip2", "whisper", "bart"]
GREEDY = {"max_new_tokens": 5, "do_sample": False}


def plain(name, **options):
    with torch.no_grad():
        return opened(name).module.generate(**given(name).tensors, **GREEDY, **options)


@pytest.mark.parametrize("name", WRITERS)
def test_an_identity_edit_writes_what_the_plain_library_writes(name):
    edits = [Scale(site, 1.0) for site in ("*.resid_post", "*.attn.z", "*.mlp.out") if matches(name, site)]
    assert torch.equal(opened(name).generate(given(name), edits=edits, **GREEDY).ids, plain(name))


def matches(name, pattern):
    from fnmatch import fnmatch

    live = [site for site in opened(name).sites if fnmatch(str(site), pattern)]
    return bool(live) and not any(site.dead for site in live)


@pytest.mark.parametrize("name", ["llama", "llava", "whisper"])
def test_an_identity_patch_of_the_prompt_leaves_the_new_tokens_alone(name):
    model = opened(name)
    donor = model.run(given(name), record=["text.1.attn.z", "text.1.resid_post"])
    edits = [Patch(site, donor) for site in ("text.1.attn.z", "text.1.resid_post")]
    assert torch.equal(model.generate(given(name), edits=edits, **GREEDY).ids, plain(name))


def scores(name, edits, **options):
    """The logits of each step of greedy writing under edits."""
    with opened(name).edited(edits, given(name)) as module, torch.no_grad():
        asked = {**GREEDY, "output_logits": True, "return_dict_in_generate": True, **options}
        out = module.generate(**given(name).tensors, **asked)
    return torch.stack(out.logits)


def test_an_edit_at_a_later_position_acts_when_that_position_is_written_and_not_before():
    length = given("llama").tensors["input_ids"].shape[1]
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    base, edited = scores("llama", []), scores("llama", Add("text.1.resid_post", vector, token=length + 1))
    assert torch.equal(base[:2], edited[:2])
    assert (base[2] - edited[2]).abs().max() > 1e-3


def test_a_negative_position_is_the_end_of_the_prompt_in_every_step():
    vector = torch.ones(32, dtype=torch.float64) * 3
    length = given("llama").tensors["input_ids"].shape[1]
    by_end = scores("llama", Add("text.2.resid_post", vector, token=-1))
    by_number = scores("llama", Add("text.2.resid_post", vector, token=length - 1))
    assert torch.equal(by_end, by_number)
    without_inputs = opened("llama").edited(Add("text.2.resid_post", vector, token=-1))
    with without_inputs as module, torch.no_grad():
        ids = module.generate(**given("llama").tensors, **GREEDY, output_logits=True, return_dict_in_generate=True)
    assert torch.equal(torch.stack(ids.logits), by_end)


def test_steering_every_position_changes_what_is_written():
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 20
    assert not torch.equal(
        opened("llama").generate(given("llama"), edits=Add("text.0.resid_post", vector), **GREEDY).ids, plain("llama")
    )


def test_selection_by_meaning_holds_while_text_is_written():
    base = scores("llava", [])
    assert (scores("llava", Ablate("text.0.resid_pre", token=Where("image"))) - base)[0].abs().max() > 1e-3
    where = given("llava").tokens["text"].where("image")[0].nonzero().flatten()
    assert torch.equal(
        scores("llava", Ablate("text.0.resid_pre", token=Where("image"))),
        scores("llava", Ablate("text.0.resid_pre", token=where)),
    )


def test_cutting_the_last_tokens_view_of_the_picture_acts_in_the_first_step():
    cut = [Knockout("text.*.attn", query=-1, key=Where("image"))]
    assert (scores("llava", cut) - scores("llava", []))[0].abs().max() > 1e-3


def test_beams_are_edited_all_alike():
    model, inputs = opened("llama"), given("llama")
    options = {"num_beams": 3, **GREEDY}
    identity = [Scale("text.*.attn.q", 1.0), Scale("text.*.resid_post", 1.0, token=slice(0, 3))]
    with torch.no_grad():
        by_library = model.module.generate(**inputs.tensors, **options)
    assert torch.equal(model.generate(inputs, edits=identity, **options).ids, by_library)


def test_the_new_text_comes_without_the_prompt():
    written = opened("llama").generate(given("llama"), **GREEDY)
    assert len(written.texts) == 1
    assert len(written.texts[0].split()) <= GREEDY["max_new_tokens"]


@pytest.mark.parametrize("part", ["attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern", "attn.z", "resid_mid"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "llava", "bart"])
def test_an_edit_acts_alike_with_and_without_the_cache(name, part):
    """Without it every step runs the whole text again, so that absolute positions are plain positions."""
    words = {"attn.scores": {"query": [3, 6], "key": 1}, "attn.pattern": {"query": [3, 6], "key": 1}}
    where = words.get(part, {"token": [1, 6]})
    edit = Scale(f"text.1.{part}", 0.5, **where)
    cached, again = scores(name, edit), scores(name, edit, use_cache=False)
    assert (scores(name, []) - cached).abs().max() > 1e-6
    assert (cached - again).abs().max() < 1e-4


# --- padded batches ---------------------------------------------------------------------------------------------------

TEXTS = ["a red dog", "a photo of a big red bird"]
IN_ONE_STREAM = [name for name, spec in tiny.TINY.items() if spec.family in ("decoder", "generative")]


def model_of(name):  # in float64 its eager attention gives NaN where a query sees nothing but padding
    return cutaway.load("tiny:gemma2") if name == "gemma2" else opened(name)


def about(name, rows):
    return {"image": [tiny.picture(k) for k in rows]} if tiny.TINY[name].family == "generative" else {}


@pytest.mark.parametrize(("side", "options"), [("left", {}), ("right", {"num_beams": 2, "num_return_sequences": 2})])
@pytest.mark.parametrize("name", IN_ONE_STREAM)
def test_a_row_of_a_padded_batch_is_written_on_as_its_prompt_alone(name, side, options, monkeypatch):
    model, short = model_of(name), {**GREEDY, "max_new_tokens": 3, **options}
    monkeypatch.setattr(model.tokenizer, "padding_side", side)
    edits = [Ablate("text.1.resid_post", token=Where(text="red"))]
    made = model.generate(model.inputs(text=TEXTS, **about(name, range(2))), edits=edits, **short)
    alone = [
        model.generate(model.inputs(text=text, **about(name, [row])), edits=edits, **short)
        for row, text in enumerate(TEXTS)
    ]
    assert list(made.texts) == [text for one in alone for text in one.texts]
    each = len(made.ids) // 2
    for row in range(len(made.ids)):
        one = alone[row // each]
        assert torch.equal(made.ids[row][made.mask[row].bool()], one.ids[row % each][one.mask[row % each].bool()])
        assert (made.inputs.tokens["text"].kind[row // each, -1]) != "pad"


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "qwen2", "mamba", "llava"])
def test_what_was_written_may_be_read_again(name):
    model = opened(name)
    made = model.generate(model.inputs(text=TEXTS, **about(name, range(2))), **GREEDY)
    again = model.run(model.inputs(input_ids=made.ids, attention_mask=made.mask, **about(name, range(2)))).logits
    for row, text in enumerate(TEXTS):
        one = model.generate(model.inputs(text=text, **about(name, [row])), **GREEDY)
        alone = model.run(model.inputs(input_ids=one.ids[:, one.mask[0].bool()], **about(name, [row]))).logits[0]
        assert torch.allclose(again[row][made.mask[row].bool()], alone, atol=1e-5)
    if name == "gpt2":
        with pytest.raises(InputError, match="both the start and the padding"):
            model.inputs(input_ids=made.ids)
    else:
        assert torch.equal(
            model.inputs(input_ids=made.ids, **about(name, range(2))).tensors["attention_mask"], made.mask
        )


def test_a_row_that_ends_early_is_masked_behind_its_end():
    model = opened("llama")
    free = model.generate(model.inputs(text=TEXTS), **GREEDY)
    first = free.ids[0, -5:].tolist()
    made = model.generate(model.inputs(text=TEXTS), eos_token_id=first[2], **GREEDY)
    length = first.index(first[2]) + 1
    assert made.mask[0].tolist()[-5:] == [1] * length + [0] * (5 - length)
    assert made.mask[1].all()


def test_prepared_embeddings_with_padding_behind_are_written_on_as_well():
    model = opened("llama")
    inputs = model.inputs(text=TEXTS)
    embeds = model.module.get_input_embeddings()(inputs.tensors["input_ids"]).detach()
    given = model.inputs(inputs_embeds=embeds, attention_mask=inputs.tensors["attention_mask"])
    made = model.generate(given, **GREEDY)
    assert made.texts == model.generate(inputs, **GREEDY).texts
    assert made.ids.shape == made.mask.shape == (2, GREEDY["max_new_tokens"])


def test_nan_after_padding_is_an_error_and_not_a_text():
    model = opened("llama", attn="eager")
    with pytest.raises(InputError, match=r"NaN after padding.*sdpa"):
        model.generate(model.inputs(text=TEXTS), **GREEDY)


# --- what comes back, and what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "llava", "blip2", "bart", "t5"])
def test_ids_are_the_ids_whatever_the_library_returns(name):
    model = opened(name)
    inputs = model.inputs(text=TEXTS, **about(name, range(2)))
    plain_ids = model.generate(inputs, **GREEDY)
    made = model.generate(inputs, return_dict_in_generate=True, output_scores=True, **GREEDY)
    assert torch.equal(made.ids, plain_ids.ids) and made.texts == plain_ids.texts
    assert len(made.outputs.scores) == GREEDY["max_new_tokens"]
    assert torch.equal(plain_ids.outputs, plain_ids.ids)


def test_a_beginning_of_the_decoder_is_not_new_text():
    made = opened("bart").generate(given("bart"), **GREEDY)
    length = given("bart").tensors["decoder_input_ids"].shape[1]
    assert made.ids.shape[1] > length
    assert list(made.texts) == opened("bart").tokenizer.batch_decode(made.ids[:, length:], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens=` cannot be 0"), ({"max_new_tokens": 1.5}, "whole number"),
        ({"max_new_tokens": "a"}, "whole number"), ({"num_beams": 0}, "`num_beams=`"),
        ({"max_length": 3}, "max_length"),
        ({"num_return_sequences": 3, "do_sample": False}, "num_return_sequences"), ({"words": 1}, "words"),
        ({"temperature": -1.0, "do_sample": True, "max_new_tokens": 2}, "temperature"),
        ({"input_ids": torch.ones(1, 2).long()}, "in the inputs already"),
    ],
)  # fmt: skip
def test_options_that_are_none_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        opened("llama").generate(given("llama"), **options)


def test_writing_past_the_last_position_is_refused():
    model = opened("gpt2")
    with pytest.raises(InputError, match="within 256 positions"):
        model.generate(model.inputs(input_ids=torch.full((1, 255), 20)), max_new_tokens=3, do_sample=False)
