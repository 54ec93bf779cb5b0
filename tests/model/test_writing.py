"""While text is written: positions are absolute in every kind of cache, and without one."""

from contextlib import contextmanager

import pytest
import torch
import transformers

import cutaway
from cutaway import Ablate, Add, Knockout, Scale
from cutaway.errors import EditError
from world import given, noise, opened

VECTOR = 3 * noise(32)
CACHES = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "looking up": {"prompt_lookup_num_tokens": 3},
}
TEXT = "a red dog a red dog a red"
GROWING = ["llama", "mistral", "gemma2", "gpt2", "qwen2", "opt", "phi3", "smollm3"]


def greedy(model, inputs, edits, **options):
    return model.generate(inputs, edits=edits, max_new_tokens=6, do_sample=False, **options).ids


def windowed(name):
    """A model whose sliding window is shorter than the prompt, in every layer that has one."""
    model = cutaway.load(f"tiny:{name}", dtype="float64")
    for module in model.module.modules():
        if getattr(module, "sliding_window", None):
            module.sliding_window = 6
        if getattr(getattr(module, "config", None), "sliding_window", None):
            module.config.sliding_window = 6
    return model


def edits_of(length, attention=True):
    later = [Add("text.1.resid_post", VECTOR, token=[length, length + 2])]
    ends = [Add("text.1.resid_post", VECTOR, token=-1)]
    keys = [Scale("text.0.attn.k", -1.0, token=length - 2), Scale("text.0.attn.v", 3.0, token=length + 1)]
    edges = [Knockout("text.*.attn", query=[length, length + 3], key=range(length - 3, length))]
    return [later, ends, *([keys, edges] if attention else [])]


@pytest.mark.parametrize("name", GROWING)
def test_edits_act_at_the_same_positions_in_every_cache(name):
    model = opened(name)
    inputs = model.inputs(text=TEXT)
    for edits in edits_of(inputs.tensors["input_ids"].shape[1]):
        want = greedy(model, inputs, edits, use_cache=False)
        for kind, options in CACHES.items():
            assert torch.equal(greedy(model, inputs, edits, **options), want), kind


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_a_sliding_window_moves_on_and_positions_stay(name, kind):
    model = windowed(name)
    inputs = model.inputs(text=TEXT)
    for edits in edits_of(inputs.tensors["input_ids"].shape[1]):
        want = greedy(model, inputs, edits, use_cache=False)
        assert torch.equal(greedy(model, inputs, edits, **CACHES[kind]), want)


def test_a_state_space_model_counts_the_positions_it_has_seen():
    model = opened("mamba")
    inputs = model.inputs(text=TEXT)
    for edits in edits_of(inputs.tensors["input_ids"].shape[1], attention=False):
        want = greedy(model, inputs, edits, use_cache=False)
        assert torch.equal(greedy(model, inputs, edits), want)
        assert not torch.equal(want, greedy(model, inputs, []))


def test_a_state_that_came_from_elsewhere_is_no_known_position():
    model = opened("mamba")
    ids = model.inputs(text=TEXT).tensors["input_ids"]
    with torch.no_grad():
        cache = model.module(ids, use_cache=True).cache_params
        with (
            pytest.raises(EditError, match="not known how many positions"),
            model.edited(Add("text.1.resid_post", VECTOR, token=12)) as module,
        ):
            module(ids[:, :1], cache_params=cache)


@pytest.mark.parametrize("name", ["llama", "mamba", "gpt2"])
def test_the_end_of_the_prompt_is_known_without_inputs_and_without_a_cache(name):
    model = opened(name)
    inputs = model.inputs(text=TEXT)
    edit = [Add("text.1.resid_post", VECTOR, token=-1)]
    for options in ({}, {"use_cache": False}):
        with model.edited(edit) as module:
            got = module.generate(**inputs.tensors, max_new_tokens=6, do_sample=False, **options)
            again = module.generate(**model.inputs(text="a blue cat").tensors, max_new_tokens=2, do_sample=False)
        assert torch.equal(got, model.generate(inputs, edits=edit, max_new_tokens=6, do_sample=False).ids)
        short = model.generate(model.inputs(text="a blue cat"), edits=edit, max_new_tokens=2, do_sample=False).ids
        assert torch.equal(again, short)


@pytest.mark.parametrize(
    "name", ["qwen2-vl", "qwen2.5-vl", "paligemma", "llava", "llava-next", "blip2", "bart", "whisper"]
)
def test_negative_positions_need_no_inputs(name):
    model, inputs = opened(name), given(name)
    edit = [Add("text.1.resid_post", VECTOR, token=-1)]
    want = model.run(inputs, edits=edit).logits
    with model.edited(edit) as module, torch.no_grad():
        assert torch.equal(module(**inputs.tensors).logits, want)


def test_logits_are_edited_at_the_position_they_stand_for():
    """While text is written the library computes the logits of the last position only."""
    model = opened("llama")
    inputs = model.inputs(text=TEXT)
    length = inputs.tensors["input_ids"].shape[1]
    ban = [Ablate("text.logits", token=length - 1)]
    plain, banned = greedy(model, inputs, []), greedy(model, inputs, ban)
    assert banned[0, length] == 0 != plain[0, length]  # all logits alike: the first id
    assert torch.equal(banned, greedy(model, inputs, ban, use_cache=False))


@pytest.mark.parametrize("token", [-1, [-2, -1], slice(-2, None), slice(5, 7), slice(6, None)])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_cache_that_ran_before_is_part_of_the_prompt(name, token):
    model = opened(name)
    ids = model.inputs(text=TEXT).tensors["input_ids"]
    edit, whole = Add("text.1.resid_post", VECTOR, token=token), torch.zeros(ids.shape[1])
    whole[token] = 1
    with torch.no_grad():
        found = []
        for edits in ([edit], [Add("text.1.resid_post", whole[None, 5:, None] * VECTOR)]):
            cache = transformers.DynamicCache()
            model.module(ids[:, :5], past_key_values=cache, use_cache=True)
            with model.edited(edits) if edits[0] is edit else hooked(model, edits[0].vector):
                found.append(model.module(ids[:, 5:], past_key_values=cache, use_cache=True).logits)
    assert torch.equal(*found)


@contextmanager
def hooked(model, added):
    """A plain hook that adds to what the second block gives."""

    def hook(module, args, output):
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    handle = model.towers["text"].blocks[1].register_forward_hook(hook)
    yield
    handle.remove()


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_slices_go_on_behind_the_prompt(options):
    model = opened("llama")
    inputs = model.inputs(text=TEXT)
    n = inputs.tensors["input_ids"].shape[1]
    for token, same in (
        (slice(n, n + 2), [n, n + 1]), (slice(n, None), range(n, n + 7)), (slice(-2, None), range(n - 2, n + 7)),
        (slice(1, -2), range(1, n - 2)), (slice(None, None, -1), range(n)),
    ):  # fmt: skip
        got, want = (
            greedy(model, inputs, [Add("text.1.resid_post", VECTOR, token=t)], **options) for t in (token, same)
        )
        assert torch.equal(got, want), token


def test_slices_of_padded_rows_go_on_behind_each_of_them():
    model = opened("llama")
    texts = ["a dog", TEXT]
    for token in (slice(-2, None), slice(2, None)):
        edits = [Add("text.1.resid_post", VECTOR, token=token)]
        made = model.generate(model.inputs(text=texts), edits=edits, max_new_tokens=5, do_sample=False)
        alone = [
            model.generate(model.inputs(text=text), edits=edits, max_new_tokens=5, do_sample=False) for text in texts
        ]
        assert all(torch.equal(made.ids[row, -5:], one.ids[0, -5:]) for row, one in enumerate(alone))


def test_a_value_for_the_prompt_from_a_place_on_is_for_the_prompt():
    model = opened("llama")
    inputs = model.inputs(text=TEXT)
    n = inputs.tensors["input_ids"].shape[1]
    value = VECTOR * torch.arange(n - 2)[:, None]
    got, want = (
        greedy(model, inputs, [Add("text.1.resid_post", value, token=token)])
        for token in (slice(2, None), list(range(2, n)))
    )
    assert torch.equal(got, want)
