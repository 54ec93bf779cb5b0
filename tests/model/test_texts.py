"""Texts as ids: a row of a padded batch is read as its text alone, on whichever side the padding lies."""

import pytest
import torch

import cutaway
from cutaway import Ablate, targets
from cutaway.errors import InputError
from cutaway.model.texts import a_text, padding
from cutaway.zoo import tiny
from world import fresh, opened

TEXTS = ["a red dog", "a photo of a big blue bird"]
READERS = [
    name
    for name, spec in tiny.TINY.items()
    if not spec.parts and "text" in spec.modalities and "audio" not in spec.modalities and name != "siglip2"
]
ABSOLUTE = ["gpt2", "opt", "opt-postnorm"]
FLOAT32 = {"gemma2": "float32"}  # in float64 its eager attention gives NaN where a query sees nothing but padding


def model_of(name):
    return cutaway.load(f"tiny:{name}", dtype=FLOAT32[name]) if name in FLOAT32 else opened(name)


def pictures(name, rows):
    sizes = [(48, 40), (64, 40)]
    return {"image": [tiny.picture(k, sizes[k]) for k in rows]} if tiny.TINY[name].family == "generative" else {}


def plain(model, inputs):
    """What the library gives for its own call, row by row and position by position."""
    with torch.no_grad():
        out = inputs.call(model.module, inputs.tensors)
    return next(getattr(out, key) for key in ("logits", "last_hidden_state") if getattr(out, key, None) is not None)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", READERS)
def test_a_row_of_a_padded_batch_is_read_as_its_text_alone(name, side, monkeypatch):
    model = model_of(name)
    monkeypatch.setattr(model.tokenizer, "padding_side", side)
    inputs = model.inputs(text=TEXTS, **pictures(name, range(2)))
    both, mask = plain(model, inputs), inputs.tensors.get("attention_mask", torch.ones(2, 1))
    for row, text in enumerate(TEXTS):
        alone = plain(model, model.inputs(text=text, **pictures(name, [row])))[0]
        own = both[row][mask[row].bool()] if both.shape[1] == mask.shape[1] else both[row]
        assert torch.allclose(own, alone, atol=1e-4 if name in FLOAT32 else 1e-6), text
    kinds = inputs.tokens["text" if "text" in inputs.tokens else "encoder"].kind if inputs.tokens else None
    if kinds is not None and kinds.shape == mask.shape:
        assert ((kinds == "pad") == (mask.numpy() == 0)).all()


@pytest.mark.parametrize("name", ABSOLUTE)
def test_prepared_ids_with_padding_in_front_get_the_positions_they_need(name):
    model = opened(name)
    ids = model.tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
    out = model.run(model.inputs(**ids)).logits
    for row, text in enumerate(TEXTS):
        assert torch.allclose(out[row, -1], model.run(model.inputs(text=text)).logits[0, -1])


def test_a_sweep_reads_a_batch_with_padding_in_front_as_single_runs_do(monkeypatch):
    model, target = opened("gpt2"), targets.logit("cat")
    monkeypatch.setattr(model.tokenizer, "padding_side", "left")
    inputs, cells = model.inputs(text=TEXTS), model.grid(Ablate("text.*.mlp.out"), token=[1, 2])
    swept = model.sweep(inputs, cells, target, progress=False).values.values.reshape(len(cells), -1)
    for edits, got in zip(cells.edits, swept, strict=True):
        assert torch.allclose(torch.tensor(got), target(model.run(inputs, edits=list(edits))))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "clip", "bart", "t5", "llava", "qwen2-vl"])
def test_without_a_padding_token_any_token_pads_under_the_mask(name):
    model = fresh(name)
    wanted = model.inputs(text=TEXTS, **pictures(name, range(2)))
    model.tokenizer.pad_token = None
    inputs = model.inputs(text=TEXTS, **pictures(name, range(2)))
    hidden = inputs.tensors["attention_mask"] == 0
    assert torch.equal(hidden, wanted.tensors["attention_mask"] == 0) and hidden.any()
    if name in ("clip", "llama", "bert"):
        assert ((inputs.tokens["text"].kind == "pad") == hidden.numpy()).all()
    assert model.tokenizer.pad_token is None
    got, want = plain(model, inputs)[0], plain(model, wanted)[0]
    own = ~hidden[0] if len(got) == len(hidden[0]) else slice(None)  # a decoder has positions of its own
    assert torch.allclose(got[own], want[own], atol=1e-9)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("clip", 2), ("siglip", 16), ("bert", 2), ("llama", 1), ("opt", 1), ("llava", 1), ("bart", 2), ("t5", 1)],
)
@pytest.mark.parametrize("text", ["", " "])
def test_the_empty_text_is_what_the_tokenizer_puts_around_a_text(name, tokens, text):
    assert opened(name).inputs(text=text).tensors["input_ids"].shape == (1, tokens)
    assert opened(name).inputs(text=[text, "a dog"]).tensors["input_ids"].shape[0] == 2


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "qwen2-vl"])
@pytest.mark.parametrize("texts", ["", ["a dog", ""]])
def test_a_text_without_any_token_is_refused(name, texts):
    with pytest.raises(InputError, match=r"no token.*by hand"):
        opened(name).inputs(text=texts)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llama", "<s> a red dog"), ("opt", "</s> a red dog"), ("clip", "<|startoftext|> a red dog <|endoftext|>"),
        ("bert", "[CLS] a red dog [SEP]"), ("bart", "<s> a red dog </s>"), ("t5", "a red dog </s>"),
        ("llava", "<s> a red dog"), ("gpt2", "a red dog"),
    ],
)  # fmt: skip
def test_a_start_or_end_that_the_text_brings_stands_there_once(name, text):
    model = opened(name)
    once = model.inputs(text=["a red dog"] * 2).tensors["input_ids"][0]
    assert model.inputs(text=[text, "a"]).tensors["input_ids"][0].tolist() == once.tolist()
    twice = "<|endoftext|><|endoftext|> a" if name == "gpt2" else f"{text} a {text}"
    ids = model.inputs(text=twice).tensors["input_ids"][0].tolist()
    assert ids == model.tokenizer(twice)["input_ids"][(name not in ("gpt2", "t5")) :][: len(ids)]


@pytest.mark.parametrize(
    ("row", "pad", "bos", "eos", "hidden"),
    [
        ([5, 6, 0, 0], 0, 1, 2, [0, 0, 1, 1]),  # padding of its own
        ([0, 0, 1, 5], 0, 1, 2, [1, 1, 0, 0]),
        ([5, 2, 2, 2], 2, 1, 2, [0, 0, 1, 1]),  # the end is the padding too: the first one ends the text
        ([2, 2, 5, 6], 2, 1, 2, [1, 1, 0, 0]),
        ([3, 3, 5, 3], 3, 3, 3, [1, 0, 0, 0]),  # the start as well: the last one begins it
        ([3, 5, 6, 7], 3, 3, 3, [0, 0, 0, 0]),
        ([3, 3, 3, 3], 3, 3, 3, [0, 1, 1, 1]),
        ([0, 0, 0, 0], 0, 1, 2, [0, 1, 1, 1]),
        ([5, 0, 6, 7], 0, 1, 2, [0, 0, 0, 0]),
        ([5, 6, 7, 2], None, None, 2, [0, 0, 0, 0]),
    ],
)
def test_padding_lies_at_the_ends_of_a_row(row, pad, bos, eos, hidden):
    assert padding(torch.tensor([row]), pad, bos, eos).int().tolist() == [hidden]


@pytest.mark.parametrize("name", ["llama", "bert", "opt", "t5", "bart"])
def test_prepared_ids_without_a_mask_do_not_attend_to_their_padding(name):
    model = opened(name)
    ids = model.tokenizer(TEXTS, padding=True, padding_side="right", return_tensors="pt")
    extra = {"decoder_input_ids": ids["input_ids"][:, :2]} if name in ("t5", "bart") else {}
    given, wanted = model.inputs(input_ids=ids["input_ids"], **extra), model.inputs(text=TEXTS)
    assert torch.equal(given.tensors["attention_mask"], wanted.tensors["attention_mask"])


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_a_contrastive_model_reads_either_side_alone(name):
    model = opened(name)
    inputs = model.inputs(text="a dog")
    assert str(inputs.call) == "get_text_features" and "input_ids" in inputs.tensors
    model.run(inputs)


@pytest.mark.parametrize("source", [3, {"a": 1}, b"a dog", None])
def test_what_is_no_text_is_refused(source):
    with pytest.raises(InputError, match="A text cannot be of type"):
        a_text(source)
