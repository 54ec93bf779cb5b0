"""The last layer is the model's own answer; padding does not count; what is planted is read, and chance is not."""

import sys

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

import cutaway
from cutaway.errors import MethodError, SiteError, StoreError, TargetError
from cutaway.methods.logit_lens import TunedLens, WordLens, tuned_lens, word_lens
from cutaway.methods.logit_lens.heard import as_long, sites_of
from cutaway.methods.result import load
from cutaway.methods.table import method
from cutaway.model.edits import Add, Scale, Set
from cutaway.model.tokens import Where
from cutaway.model.voice import speaking, voice
from cutaway.model.weights import readout
from cutaway.questions.question import ask
from cutaway.store.fitted import Origin
from cutaway.zoo import tiny
from cutaway.zoo.tiny_text import tokenizer
from world import KNOWN, PIPELINES, fresh, gap, given, noise, opened

SPEAKING = [name for name in KNOWN if name not in PIPELINES and speaking(opened(name).engine)]
TEXTS = ["a red dog on the left", "a cat"]


def lens(model, inputs, words=("dog", "cat"), **options) -> WordLens:
    return word_lens(model, inputs, words, progress=False, **options)


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def same(one, other, **at) -> bool:
    """Whether two results hold the same numbers (at some place)."""
    pairs = ((one[name].isel(at, missing_dims="ignore"), other[name]) for name in one.data if "random" not in name)
    return all(
        np.allclose(a, b, atol=1e-9, equal_nan=True) if a.dtype.kind == "f" else (a.values == b.values).all()
        for a, b in pairs
    )


# --- the models' own answer -------------------------------------------------------------------------------------------


def check_last_layer(model, inputs):
    run, found = model.run(inputs), lens(model, inputs, [30, 31, 32])
    last, said = found.data.isel(layer=-1), run.logits.double().log_softmax(-1)
    near = 1e-12 if run.logits.dtype == torch.float64 else 1e-6  # Mamba gives float32 whatever it computes in
    assert gap(tensor(last["word_logit"]), run.logits[..., 30:33]) < near
    assert gap(tensor(last["word_probability"]), said[..., 30:33].exp()) < near
    assert gap(tensor(last["entropy"]), -(said.exp() * said).sum(-1)) < 100 * near
    assert abs(last["kl"]).max() < near and (found["kl"].isel(layer=0) > 1e-5).all()
    assert (tensor(last["top_id"])[..., 0] == run.logits.argmax(-1)).all()
    order = run.logits.argsort(-1, descending=True).argsort(-1) + 1
    assert (tensor(last["word_rank"]) == order[..., 30:33]).all()
    return found


@pytest.mark.parametrize("name", SPEAKING)
def test_the_last_layer_is_the_models_own_answer(name):
    model = opened(name)
    check_last_layer(model, given(name))
    if "text.norm.scale" in model.sites:
        end, state = voice(model.engine, "text"), noise(3, 32)
        plain = readout(model, "text")(state)  # without what is behind the unembedding
        assert gap(end(state), end.cap * torch.tanh(plain / end.cap) if end.cap else plain) < 1e-5


@pytest.mark.parametrize("name", ["gemma2", "paligemma", "bart"])
def test_what_a_class_does_behind_its_unembedding_is_part_of_it(name):
    """A bound that is felt, a bias that is not zero."""
    model = fresh(name)
    plain = lens(model, given(name), [30, 31, 32])["word_logit"]
    if name == "bart":
        model.module.final_logits_bias += noise(*model.module.final_logits_bias.shape)
    else:
        model.module.config.get_text_config().final_logit_softcapping = 0.5
        assert abs(check_last_layer(model, given(name))["word_logit"]).max() < 0.5
    assert abs(check_last_layer(model, given(name))["word_logit"] - plain).max() > 0.01


def test_a_state_goes_through_the_projection_before_the_unembedding():
    config = OPTConfig(**{**tiny.TINY["opt"].config, "word_embed_proj_dim": 16, "init_std": 0.3})
    model = cutaway.load(OPTForCausalLM(config).double(), processor=tokenizer("opt"))
    assert model.sites.one("text.out").sizes["d_model"] == 16
    check_last_layer(model, model.inputs(text=TEXTS[0]))


def test_every_layer_is_read_with_the_models_own_modules():
    model, inputs = opened("llama"), given("llama")
    found = lens(model, inputs)
    with torch.no_grad():
        hidden = model.module(**inputs.tensors, output_hidden_states=True).hidden_states[:-1]  # the last is normed
        said = torch.stack([model.module.lm_head(model.module.model.norm(x)) for x in hidden], 1).log_softmax(-1)
    assert found["layer"].values.tolist() == [-1, 0, 1, 2]
    assert gap(tensor(found["top_probability"].isel(layer=slice(-1))), said.exp().topk(5).values) < 1e-9
    final = model.run(inputs).logits.log_softmax(-1)[:, None]
    assert gap(tensor(found["kl"].isel(layer=slice(-1))), (final.exp() * (final - said)).sum(-1)) < 1e-9
    assert found["top"].values[0, 0, 0, 0] == model.tokenizer.decode([int(found["top_id"][0, 0, 0, 0])])


def test_positions_are_each_rows_own():
    """Filled up on the left, on the right, or alone: the same numbers, nothing behind the end of the shorter row."""
    model = fresh("llama")
    alone = [lens(model, model.inputs(text=[text])) for text in TEXTS]
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        both = lens(model, model.inputs(text=TEXTS))
        assert both.lengths == [alone[0].lengths[0], alone[1].lengths[0]] == [7, 3]
        assert same(both, alone[0], prompt=[0])
        assert same(both, alone[1], prompt=[1], token=slice(3))
        rest = both.data.isel(prompt=1, token=slice(3, None))
        assert (rest["top"] == "").all() and (rest["word_rank"] == -1).all() and rest["settles"].isnull().all()
        assert rest["kl"].isnull().all() and (rest["token_text"] == "").all()
        one, other = both.by_layer(prompt=1), alone[1].by_layer()
        assert (one["word"] == other["word"]).all() and np.allclose(one["kl"], other["kl"], atol=1e-12)


def test_logits_that_are_no_numbers_are_named():
    """In float64 the library's Gemma 2 lets its padding, which is NaN, into the rows."""
    model = opened("gemma2")
    with pytest.raises(MethodError, match=r"own logits are NaN in row 1.*padding in 1 of 2 rows"):
        lens(model, model.inputs(text=TEXTS))


def test_it_is_read_a_few_positions_at_a_time(monkeypatch):
    whole = lens(opened("llava"), given("llava"))
    monkeypatch.setattr(sys.modules[word_lens.__module__], "CHUNK", 700)
    assert same(lens(opened("llava"), given("llava")), whole)


# --- what is planted, and what is not -------------------------------------------------------------------------------


@pytest.mark.checks("word_lens", "truth")
def test_a_planted_word_is_read_at_its_patch_and_its_layer():
    """What reads as a word is written at one patch: there it is the first, at the layers behind, and nowhere else."""
    model, inputs = opened("llava"), given("llava")
    word = model.tokenizer.convert_tokens_to_ids("dog")
    direction = readout(model, "text").matrix[word]
    with model.edited(Set("text.1.resid_post", 50 * direction, token=Where("image", row=2, col=3)), inputs):
        found = lens(model, inputs, ["dog"])
    ranks = found.on_grid("word_rank").sel(word="dog")
    assert ranks.dims == ("layer", "row", "col") and ranks.shape == (4, 4, 4)
    where = np.argwhere(ranks.sel(layer=1).values == 1).tolist()
    assert where == [[2, 3]] and (ranks.sel(layer=0) > 1).all()
    assert found.on_grid("top").sel(layer=1, rank=1).values[2, 3] == "dog"
    assert found.on_grid("word_settles").values[0, 2, 3] == 1


def test_pictures_are_told_apart():
    model = opened("llava-next")
    made = model.inputs(image=[tiny.picture(0), tiny.picture(1)], text=TEXTS)
    found = lens(model, made)
    for prompt, image in enumerate(found["image"].max("token").values):
        here = made.tokens["text"].grid(torch.from_numpy(np.arange(made.tokens["text"].batch * 1.0))[:, None].expand(
            made.tokens["text"].kind.shape), image=int(image))  # fmt: skip
        assert found.on_grid("kl", prompt).isel(layer=0).shape == tuple(here.shape)
    with pytest.raises(MethodError, match="no picture to lie on"):
        found.on_grid("random_kl")
    with pytest.raises(MethodError, match="no picture to lie on"):
        lens(opened("llama"), given("llama")).on_grid()


def test_where_a_word_settles():
    found = lens(opened("llama"), given("llama"), [int(opened("llama").run(given("llama")).logits[0, -1].argmax()), 30])
    first, layers = found["top_id"].values[0, :, :, 0], found["layer"].values
    for token in range(first.shape[1]):
        least = min(i for i in range(len(layers)) if (first[i:, token] == first[-1, token]).all())
        assert found["settles"].values[0, token] == layers[least]
    assert found["word_settles"].values[0, -1, 0] == found["settles"].values[0, -1]
    assert np.isnan(found["word_settles"].values[0, -1, 1])


@pytest.mark.checks("word_lens", "baseline", "floor")
def test_chance_is_that_of_random_directions_and_an_untrained_model_is_no_better():
    """A random direction puts a word anywhere; so do the states of random weights, at their first layers."""
    found = lens(opened("llava"), given("llava"), ["dog", "cat", "red", "left", "two", "big"], draws=256)
    middle = opened("llava").module.lm_head.out_features / 2
    assert abs(found["random_rank"] - middle).max() < 0.25 * middle
    assert abs(found["word_rank"].mean(("prompt", "token", "word")) - middle).max() < 0.3 * middle
    assert (found["random_kl"] > found["kl"].isel(layer=-1).max()).all() and "entropy of" in found.note()
    again = lens(opened("llava"), given("llava"), ["dog"], draws=256)
    assert again["random_kl"].equals(found["random_kl"])
    assert not lens(opened("llava"), given("llava"), seed=1)["random_kl"].equals(found["random_kl"])


def test_a_random_state_in_half_precision_is_as_long_as_one_whose_length_it_can_not_hold():
    like, noisy = (12000 * noise(4, 64)).half(), noise(4, 64, seed=1)
    made = as_long(noisy, like)
    assert made.dtype == like.dtype and made.isfinite().all()
    assert (made.double().norm(dim=-1) / like.double().norm(dim=-1) - 1).abs().max() < 1e-3


# --- keeping, refusing ----------------------------------------------------------------------------------------------


def test_it_keeps_and_draws_itself(tmp_path):
    found = lens(opened("llava"), given("llava"))
    back = load(found.save(tmp_path / "lens.nc"))
    assert isinstance(back, WordLens) and same(back, found) and back.words == ["dog", "cat"]
    assert (back.on_grid("top").values == found.on_grid("top").values).all()
    drawn = found.plot()
    shown = [text.get_text() for text in drawn.texts]
    kinds = found["token_kind"].values[0]
    assert len(shown) == 4 * (kinds != "image").sum() and shown[-1] == found["top"].values[0, -1, -1, 0][:9]
    table = found.summary()
    assert [*table] == ["layer", "word", "probability", "entropy", "kl", "rank of dog", "rank of cat"]
    assert "rank of dog" in found.to_html()
    assert "word_rank" not in lens(opened("llama"), given("llama"), ()).data


def test_what_cannot_be_read_in_words_is_refused():
    for name in ("clip", "bert", "t5"):
        with pytest.raises(SiteError, match="writes no words"):
            lens(opened(name), opened(name).inputs(text=TEXTS[0]))
    with pytest.raises(SiteError, match="writes no words"):
        lens(opened("llava"), given("llava"), tower="vision")
    model = opened("llama")
    with pytest.raises(TargetError, match="not one token"):
        lens(model, given("llama"), ["hippopotamus"])
    with pytest.raises(MethodError, match="No token 9999"):
        lens(model, given("llama"), [9999])
    with pytest.raises(MethodError, match="No 0 first words"):
        lens(model, given("llama"), top=0)


def test_logits_that_do_not_follow_from_the_last_layer_are_refused():
    model, inputs = fresh("llama"), given("llama")
    with model.edited(Scale("text.final", 0.5)), pytest.raises(MethodError, match="does not give its logits"):
        lens(model, inputs)
    with model.edited(Add("text.1.resid_post", torch.ones(32, dtype=torch.float64))):  # before the end: part of the run
        lens(model, inputs)
    hook = model.module.lm_head.register_forward_hook(lambda _, __, out: out + torch.arange(out.shape[-1]))
    with pytest.raises(MethodError, match="they differ by"):
        lens(model, inputs)
    hook.remove()
    with pytest.raises(MethodError, match="Logits of shape"):
        lens(model, model.inputs(input_ids=inputs.tensors["input_ids"], logits_to_keep=1))


# --- tuned ------------------------------------------------------------------------------------------------------------


def sentences(count: int, seed: int) -> list[str]:
    words = sorted(word for word in opened("llama").tokenizer.get_vocab() if word.isalpha())  # the order is by chance
    dice = np.random.default_rng(seed)
    return [" ".join(dice.choice(words, 8)) for _ in range(count)]


@pytest.fixture(scope="module")
def tuned() -> TunedLens:
    return tuned_lens(opened("llama"), sentences(32, 0), steps=20, rate=1e-2, progress=False)


def test_a_tuned_lens_is_nearer_to_the_end_on_texts_it_has_not_seen(tuned, tmp_path):
    model = opened("llama")
    held = model.inputs(text=sentences(16, 1))
    plain, better = lens(model, held), lens(model, held, tuned=tuned)
    assert (better["kl"].mean(("prompt", "token")) < 0.8 * plain["kl"].mean(("prompt", "token")))[:-1].all()
    assert (better["kl"].isel(layer=-1) == plain["kl"].isel(layer=-1)).all()
    assert np.allclose(better["kl"].mean(("prompt", "token"))[:-1], tuned.config["kl"], rtol=0.5)
    back = TunedLens.load(tuned.save(tmp_path / "tuned"))
    assert same(lens(model, held, tuned=back), better)
    with pytest.raises(StoreError, match="tuned_lens was fitted on 'tiny:llama'"):
        lens(opened("mistral"), given("mistral"), tuned=back)


def test_it_begins_as_the_logit_lens_and_is_the_same_from_the_same_seed():
    model, texts = opened("llama"), sentences(6, 2)
    size = {"change": (3, 32, 32), "bias": (3, 32)}
    nothing = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in size.items()}
    start = TunedLens(nothing, {}, Origin.of(model, *sites_of(model, "text")[:-1]))
    assert same(lens(model, given("llama"), tuned=start), lens(model, given("llama")))
    one, other = (tuned_lens(model, texts, steps=4, batch=4, progress=False) for _ in range(2))
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in size)
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_it_is_what_plain_torch_fits():
    """Three steps by autograd through `kl_div`, Adam and the model's own modules, whose norm is in single precision."""
    model, inputs = opened("llama"), given("llama")
    found = tuned_lens(model, [inputs], steps=3, rate=1e-2, progress=False)
    sites = sites_of(model, "text")
    run = model.run(inputs, record=sites)
    final = run.logits.flatten(0, 1).log_softmax(-1)
    states = [run[site].flatten(0, 1) for site in sites[:-1]]
    size = states[0].shape[-1]
    made = [torch.zeros(*shape, dtype=final.dtype, requires_grad=True) for shape in [(size, size), (size,)] * 3]
    adam = torch.optim.Adam(made, lr=1e-2)
    for step in range(3):
        adam.param_groups[0]["lr"] = 1e-2 * (1 - step / 3)
        losses = []
        for state, change, bias in zip(states, made[::2], made[1::2], strict=True):
            said = model.module.lm_head(model.module.model.norm(state + state @ change.T + bias)).log_softmax(-1)
            losses.append(torch.nn.functional.kl_div(said, final, reduction="batchmean", log_target=True))
        for one, slope in zip(made, torch.autograd.grad(sum(losses), made), strict=True):
            one.grad = slope
        adam.step()
    assert torch.allclose(found.tensors["change"], torch.stack(made[::2]).detach(), rtol=0, atol=1e-5)
    assert torch.allclose(found.tensors["bias"], torch.stack(made[1::2]).detach(), rtol=0, atol=1e-5)
    assert found.config["kl"] == pytest.approx([loss.item() for loss in losses], rel=1e-6)


def test_it_learns_from_pictures_and_from_streams_that_are_long_enough():
    model = opened("llava")
    stream = (model.inputs(image=tiny.picture(i), text="what is this") for i in range(3))
    assert tuned_lens(model, stream, steps=3, progress=False).tensors["bias"].abs().max() > 0
    with pytest.raises(MethodError, match="gave 1 batches, and 3 steps"):
        tuned_lens(model, iter([given("llava")]), steps=3, progress=False)
    with pytest.raises(MethodError, match="0 steps"):
        tuned_lens(model, TEXTS, steps=0, progress=False)
    with pytest.raises(SiteError, match="writes no words"):
        tuned_lens(opened("clip"), TEXTS, progress=False)
    with pytest.raises(SiteError, match=r"'vision' writes no words.*Available: text.*tower=\"text\""):
        tuned_lens(model, TEXTS, tower="vision", progress=False)


# --- as a declared method ---------------------------------------------------------------------------------------------


def test_a_question_names_the_tokens_that_the_model_chose_itself():
    """What it finds first need not be a word that is one token where it follows another: it goes by its number."""
    model = opened("llava")
    made = method("word-lens").apply(ask(model, tiny.picture(), "what is this"), top=2)
    assert made.question.voice == "text" and all(isinstance(token, int) for token in made.question.tokens)
    assert (made.result["word_rank"].values[0, -1, -1] == [1, 2]).all() and made.result.data.sizes["rank"] == 2
    assert "word_lens(question.model, question.inputs, question.tokens, tower=question.voice, top=2)" in made.code()
    assert ask(model, tiny.picture(), "what is this", "dog", "cat").tokens == ("dog", "cat")


def test_tokens_go_by_their_numbers_where_nothing_spells_them():
    model = cutaway.load(opened("llama").module)
    found = lens(model, model.inputs(input_ids=given("llama").tensors["input_ids"]), [7])
    assert found.words == ["token 7"] and str(found["top"].values[0, 0, 0, 0]).startswith("token ")
