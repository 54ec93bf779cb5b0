"""In a padded batch, on either side, a position, a target, a label and a sweep mean each row's own tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch

import cutaway
from cutaway import Ablate, Add, Knockout, Patch, Scale, Set, Where, targets
from cutaway.errors import EditError, SiteError, TargetError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.zoo import tiny
from world import gap, noise

SHORT, LONG = "a red dog", "a photo of a big blue bird"
DECODERS = [name for name in tiny.names() if tiny.TINY[name].family == "decoder"]
VISION = ["llava", "llava-next", "paligemma", "blip2"]
ATTENDING = [name for name in DECODERS if name != "mamba"]
SIDES = ["left", "right"]
SINGLE = 1e-5  # where the library computes in float32 inside
VECTOR = 2 * noise(32)
CAT = targets.logit("cat")

decoders = pytest.mark.parametrize("name", DECODERS)
attending = pytest.mark.parametrize("name", ATTENDING)
sides = pytest.mark.parametrize("side", SIDES)


@cache
def opened(name: str) -> Model:
    """In float64, but for Gemma 2: there the library takes the softmax of a padded row, all of it hidden, to NaN."""
    return cutaway.load(f"tiny:{name}", dtype="float32" if name == "gemma2" else "float64")


@contextmanager
def padding(model: Model, side: str) -> Iterator[None]:
    before, model.tokenizer.padding_side = model.tokenizer.padding_side, side
    try:
        yield
    finally:
        model.tokenizer.padding_side = before


@cache
def both(name: str, side: str, texts: tuple[str, ...] = (SHORT, LONG)) -> Inputs:
    model = opened(name)
    pictures = [tiny.picture(k) for k in range(len(texts))] if name in VISION else None
    with padding(model, side):
        return model.inputs(image=pictures, text=list(texts))


@cache
def alone(name: str, row: int, texts: tuple[str, ...] = (SHORT, LONG)) -> Inputs:
    return opened(name).inputs(image=tiny.picture(row) if name in VISION else None, text=texts[row])


def agree(name: str, side: str, edits=(), target=CAT, apart=None):
    """The target over a padded batch is that of each prompt by itself."""
    model = opened(name)
    got = target(model.run(both(name, side), edits=edits))
    each = [(apart or (lambda row: edits))(row) for row in (0, 1)]
    want = torch.cat([target(model.run(alone(name, row), edits=each[row])) for row in (0, 1)])
    assert gap(got, want) < SINGLE
    return got


@sides
@pytest.mark.parametrize("name", [*DECODERS, *VISION])
def test_a_target_reads_each_row_at_its_own_position(name, side):
    agree(name, side)
    if name not in VISION:
        agree(name, side, target=targets.logit_diff("cat", "dog", position=2))


@sides
@pytest.mark.parametrize("name", [*DECODERS, *VISION])
def test_an_edit_at_the_end_is_at_the_end_of_each_row(name, side):
    edited = agree(name, side, [Add("text.1.resid_post", VECTOR, token=-1)])
    assert gap(edited, agree(name, side)) > 1e-3


@sides
@decoders
def test_a_position_counts_along_the_row(name, side):
    agree(name, side, [Add("text.0.resid_post", VECTOR, token=[0, -2])])


@sides
@pytest.mark.parametrize("token", [1, slice(1, 3), range(2), torch.tensor([2, 0]), slice(-2, None)])
def test_any_selector_of_positions_counts_along_the_row(side, token):
    agree("llama", side, [Add("text.0.resid_post", VECTOR, token=token)])


@sides
@attending
def test_queries_and_keys_count_along_the_row(name, side):
    cut = [Knockout("text.*.attn", query=-1, key=0), Scale("text.1.attn.pattern", 0.5, query=[1, -1], key=1)]
    agree(name, side, [*cut, Scale("text.0.attn.k", 0.5, token=1), Add("text.1.attn.z", 1.0, token=-1, head=1)])


@sides
@decoders
def test_words_and_masks_lie_over_the_padded_rows(name, side):
    model, edit = opened(name), Add("text.0.resid_post", VECTOR, token=Where(text="a"))
    agree(name, side, [edit])
    mask = both(name, side).tokens["text"].where(text="a")
    by_mask = model.run(both(name, side), edits=Add("text.0.resid_post", VECTOR, token=mask))
    assert torch.equal(by_mask.logits, model.run(both(name, side), edits=edit).logits)


@sides
@pytest.mark.parametrize("given", SIDES)
@pytest.mark.parametrize("name", ["llama", "mamba", "llava", "gpt2"])
@pytest.mark.parametrize("token", [None, -1, [0, 2]])
def test_a_patch_from_a_padded_run_goes_row_by_row(name, given, side, token):
    """Other prompts of the same lengths, padded on either side, or one by one."""
    model, site = opened(name), "text.1.resid_post"
    words = ("a big cat", "a picture of a small red fish")
    donor = model.run(both(name, given, words), record=site)
    patches = [Patch(site, model.run(alone(name, row, words), record=site), token=token) for row in (0, 1)]
    agree(name, side, [Patch(site, donor, token=token)], apart=lambda row: [patches[row]])


@sides
def test_a_patch_between_rows_of_different_length_is_refused(side):
    model, site = opened("llama"), "text.1.resid_post"
    donor = model.run(both("llama", side, (LONG, SHORT)), record=site)
    with pytest.raises(EditError, match="row 0 has 4 positions here and 8 in the other run"):
        model.run(both("llama", side), edits=Patch(site, donor, token=-1))
    even = model.run(model.inputs(text=["a red dog", "a big cat"]), record=site)
    with pytest.raises(EditError, match="row 1 has 8 positions here and 4"):
        model.run(both("llama", side), edits=Patch(site, even))
    model.run(both("llama", side), edits=Patch(site, even, batch=0))


@sides
def test_a_mean_leaves_padding_out(side):
    model, site = opened("llama"), "text.1.mlp.out"
    each = [model.run(alone("llama", row), record=site)[site][0] for row in (0, 1)]
    run = model.run(both("llama", side), record=site)
    everywhere = torch.cat(each).mean(0)
    third = (each[0][2] + each[1][2]) / 2
    agree("llama", side, [Ablate(site, "mean", run, over=("batch", "token"), token=1)],
          apart=lambda row: [Set(site, everywhere, token=1)])  # fmt: skip
    agree("llama", side, [Ablate(site, "mean", run, token=2)], apart=lambda row: [Set(site, third, token=2)])


@sides
@pytest.mark.parametrize("name", [*DECODERS, "llava"])
def test_a_sweep_over_a_padded_batch_is_the_plain_loop(name, side):
    model, inputs = opened(name), both(name, side)
    cells = model.grid(Ablate("text.*.resid_post" if name == "mamba" else "text.*.mlp.out"), token=[0, 2, -1])
    swept = model.sweep(inputs, cells, CAT, progress=False).values.values.reshape(len(cells), -1)
    for row in (0, 1):
        loop = [CAT(model.run(alone(name, row), edits=list(edits))).item() for edits in cells.edits]
        assert abs(swept[:, row] - loop).max() < SINGLE


@sides
@decoders
def test_what_is_kept_of_some_positions_is_each_rows_own(name, side):
    model, site = opened(name), "text.1.resid_post"
    kept = model.run(both(name, side), record=site, tokens=[-1, 0])[site]
    want = torch.cat([model.run(alone(name, row), record=site, tokens=[-1, 0])[site] for row in (0, 1)])
    assert gap(kept, want) < SINGLE
    with pytest.raises(SiteError, match="different numbers of positions"):
        model.run(both(name, side), record=site, tokens=slice(0, 6))


@sides
def test_labels_of_a_row_are_its_own(side):
    made = opened("llama").run(both("llama", side), record="text.1.resid_post").labelled("text.1.resid_post")
    own = [made["token_text"].values[row][made["token_kind"].values[row] == "text"] for row in (0, 1)]
    assert [" ".join(words) for words in own] == [SHORT, LONG]


@sides
@pytest.mark.parametrize("name", [*DECODERS, "paligemma", "llava", "bert"])
def test_edits_held_around_a_plain_call_find_the_rows_without_inputs(name, side):
    model, edit = opened(name), [Add("text.1.resid_post", VECTOR, token=-1)]
    if name == "bert":
        edit = [Add("text.1.resid_post", VECTOR, token=1)]
    inputs = both(name, side)
    want = model.run(inputs, edits=edit).logits
    with model.edited(edit) as module, torch.no_grad():
        got = module(**inputs.tensors).logits
    assert torch.equal(got, want)


@sides
def test_a_position_that_a_row_does_not_have_is_an_error(side):
    model, inputs = opened("llama"), both("llama", side)
    with pytest.raises(EditError, match="token 6 is out of range in row 0"):
        model.run(inputs, edits=Add("text.1.resid_post", 1.0, token=6))
    model.run(inputs, edits=Add("text.1.resid_post", 1.0, token=6, batch=1))
    with pytest.raises((TargetError, EditError), match="position 6 is out of range in row 0"):
        targets.logit("cat", position=6)(model.run(inputs))
