"""Edits while text is written: the library's own `generate`, positions absolute, the prompt's end at -1."""

import pytest
import torch

from cutaway import Ablate, Add, Knockout, Patch, Scale, Where
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
