"""Sounds: samples of any type, nothing cut, and the decoder begins as the plain library begins it."""

import numpy as np
import pytest
import torch

from cutaway import Add
from cutaway.errors import InputError
from world import fresh, opened

WAVE = np.sin(np.arange(8000) / 9).astype(np.float32) / 2
START, NOTIMES = 14, 15


def features(source):
    return opened("whisper").inputs(audio=source).tensors["input_features"]


@pytest.mark.parametrize(
    "source",
    [
        WAVE.astype(np.float64), torch.from_numpy(WAVE), torch.from_numpy(WAVE).requires_grad_(),
        (WAVE * 2**15).astype(np.int16), (WAVE.astype(np.float64) * 2**31).astype(np.int32),
        torch.from_numpy((WAVE * 2**15).astype(np.int16)), torch.from_numpy(WAVE).to(torch.bfloat16),
    ],
)  # fmt: skip
def test_samples_of_any_type_are_the_same_sound(source):
    assert (features(source) - features(WAVE)).abs().mean() < 0.1  # bfloat16 keeps three digits


def test_several_sounds_are_rows_and_a_sound_may_have_several_texts():
    model = opened("whisper")
    assert features((WAVE, WAVE[:5000])).shape[0] == features([WAVE, WAVE]).shape[0] == 2
    made = model.inputs(audio=WAVE, text=["a red dog", "a"])
    assert made.tensors["input_features"].shape[0] == 2
    assert made.tensors["decoder_attention_mask"].sum(1).tolist() == [4, 2]
    assert made.tokens["text"].kind[1].tolist() == ["bos", "text", "pad", "pad"]
    out = model.run(made).logits
    assert torch.allclose(out[1, 1], model.run(model.inputs(audio=WAVE, text="a")).logits[0, 1])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (np.zeros(8000, np.uint8), "uint8"), (np.full(8000, np.nan), "not finite"),
        (np.zeros((8000, 2)), "one channel"),
        ("a.wav", "str"), ([0.1, 0.2], "float"), (np.zeros(80_000, np.float32), r"5.0 s long.*at most 2.0 s"),
    ],
)  # fmt: skip
def test_what_is_no_sound_or_too_long_is_refused(source, says):
    with pytest.raises(InputError, match=says):
        features(source)


def test_prepared_tensors_stand_beside_a_sound_that_does_not_make_them():
    model, ids = opened("whisper"), torch.tensor([[START, NOTIMES]])
    assert torch.equal(model.inputs(audio=WAVE, decoder_input_ids=ids).tensors["decoder_input_ids"], ids)
    assert "attention_mask" in model.inputs(audio=WAVE, attention_mask=torch.ones(1, 200)).tensors
    for bad in ({"text": "a", "decoder_input_ids": ids}, {"input_features": features(WAVE)}):
        with pytest.raises(InputError, match="came together with"):
            model.inputs(audio=WAVE, **bad)


def test_a_text_that_brings_the_start_token_is_not_given_another():
    made = opened("whisper").inputs(audio=WAVE, text="<|startoftranscript|> <|notimestamps|> a")
    assert made.tensors["decoder_input_ids"][0, :2].tolist() == [START, NOTIMES]


def multilingual():
    model = fresh("whisper")
    words, config = model.tokenizer.get_vocab(), model.module.generation_config
    config.is_multilingual = True
    config.lang_to_id = {"<|en|>": words["a"], "<|fr|>": words["the"]}
    config.task_to_id = {"transcribe": words["cat"], "translate": words["dog"]}
    return model


@pytest.mark.parametrize(
    "options",
    [
        {}, {"language": "fr"}, {"language": "fr", "task": "translate"}, {"return_timestamps": True},
        {"num_beams": 2, "num_return_sequences": 2}, {"return_dict_in_generate": True}, {"return_segments": True},
        {"force_unique_generate_call": True},
    ],
)  # fmt: skip
def test_the_decoder_begins_and_ends_as_in_the_plain_library(options):
    model, seen = multilingual(), []
    inputs = model.inputs(audio=WAVE)
    model.towers["text"].module.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    with torch.no_grad():
        want = model.module.generate(inputs.tensors["input_features"], max_new_tokens=3, **options)
    theirs = list(seen)
    seen.clear()
    made = model.generate(inputs, max_new_tokens=3, **options)
    assert seen == theirs
    assert torch.equal(made.ids, want if isinstance(want, torch.Tensor) else want["sequences"])
    assert type(made.outputs) is type(want)
    assert made.ids.shape == made.mask.shape
    assert all(len(text.split()) <= 6 for text in made.texts)


def test_what_says_twice_how_the_decoder_begins_is_refused():
    model = opened("whisper")
    with pytest.raises(InputError, match="`language=` says how the decoder begins"):
        model.generate(model.inputs(audio=WAVE, text="a"), language="fr")
    with pytest.raises(InputError, match="different lengths"):
        model.generate(model.inputs(audio=[WAVE, WAVE], text=["a", "a dog"]))


def test_a_negative_position_is_the_end_of_what_the_decoder_begins_with():
    model, vector = multilingual(), torch.ones(32, dtype=torch.float64) * 3
    options = {"max_new_tokens": 3, "language": "fr"}
    ends = [Add("text.1.resid_post", vector, token=position) for position in (-1, 3)]
    first, second = (model.generate(model.inputs(audio=WAVE), edits=edit, **options) for edit in ends)
    assert torch.equal(first.ids, second.ids)


def test_a_long_sound_is_written_down_from_prepared_features():
    model = opened("whisper")
    wave = np.random.default_rng(0).standard_normal(80_000).astype(np.float32)
    options = {"truncation": False, "padding": "longest", "return_attention_mask": True, "return_tensors": "pt"}
    long = model.engine.tools.sounds([wave], sampling_rate=16_000, **options)
    inputs = model.inputs(input_features=long["input_features"].double(), attention_mask=long["attention_mask"])
    options = {"max_new_tokens": 4, "return_timestamps": True}
    with torch.no_grad():
        want = model.module.generate(**inputs.tensors, **options)
    assert torch.equal(model.generate(inputs, **options).ids, want)
