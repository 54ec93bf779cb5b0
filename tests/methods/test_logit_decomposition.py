"""The terms add up to the model's own logits at every depth, and mean what they say."""

import numpy as np
import pytest
import torch
import xarray

import cutaway
from cutaway import questions
from cutaway.errors import CutawayError, MethodError, SiteError
from cutaway.methods import logit_decomposition
from cutaway.methods.result import load
from cutaway.methods.table import method
from cutaway.model.edits import Add, Set
from cutaway.model.targets import log_prob, logit, logit_diff
from cutaway.zoo import tiny
from world import TEXT, fresh, given, opened

TARGET = logit_diff("dog", "cat")
EXACT = 1e-12
# RMS and layer norms, biases of q, k and v, norms of q and k, grouped queries, fused and turned projections,
# sliding windows, cross-attention, a bias of the unembedding; pictures by patch, in crops, merged, and by query
WRITERS = ["llava", "llama", "qwen2", "qwen3", "gpt2", "phi3", "opt", "mistral", "gemma", "whisper", "llava-next",
           "qwen2.5-vl", "paligemma", "blip2"]  # fmt: skip
LINES = ["a red dog on the left", "what is this ?", "two birds"]


def missed(parts: xarray.DataArray, axis: str, whole: xarray.DataArray) -> float:
    """The largest gap between parts and their whole, as a share of what is summed."""
    return float(abs(parts.sum(axis) - whole).max() / abs(parts).sum(axis).max())


def read_by_the_words(model) -> torch.Tensor:
    """What the words read of a state of a Llama, but for the scale of its last norm."""
    dog, cat = model.module.lm_head.weight.detach()[model.tokenizer.convert_tokens_to_ids(["dog", "cat"])]
    return (dog - cat) * model.module.model.norm.weight.detach()


def two_pictures():
    """Rows of different length, with pictures of their own."""
    model = opened("llava")
    text = ["<image> what is this ?", "<image> is there a red dog on the left"]
    return model, model.inputs(image=[tiny.picture(1), tiny.picture(2)], text=text)


@pytest.mark.checks("logit_decomposition", "truth")
@pytest.mark.parametrize("name", WRITERS)
def test_every_sum_is_exact(name):
    model, inputs = opened(name), given(name)
    found = logit_decomposition(model, inputs, TARGET, depth=2, by_neuron=True)
    assert np.array_equal(found["total"].values, TARGET(model.run(inputs)).numpy())
    assert missed(found.terms(), "term", found["total"]) < EXACT
    assert missed(found["head_tokens"], "token", found["heads"]) < EXACT
    assert missed(found["written"], "writer", found["head_tokens"]) < EXACT
    assert missed(found["neurons"], "neuron", found["mlps"] - found["mlp_biases"]) < EXACT
    for rounding, size in (("rounding", found.terms()), ("written", found["written"])):
        left = found[rounding].sel(writer="rounding") if rounding == "written" else found[rounding]
        assert float(abs(left).max()) < 1e-6 * float(abs(size).max())  # norms in single precision


def reading(layers):
    """A LLaVA whose connector reads these layers of the vision tower side by side."""
    module, processor = tiny.build("llava", vision_feature_layer=layers)
    return cutaway.load(module.double(), processor=processor)


@pytest.mark.parametrize("layers", [-2, [0, -2], [-1, 1]])
def test_through_the_connector_every_sum_is_exact(layers):
    model = opened("llava") if layers == -2 else reading(layers)
    _, inputs = two_pictures()
    found = logit_decomposition(model, inputs, TARGET, depth=3)
    pictures = inputs.where("image", tower="text").numpy()
    embedded = found["written"].sel(writer="embed").sum(("layer", "head")).where(pictures, 0)
    assert pictures.sum() == 32 and missed(found["seen"], "part", embedded) < EXACT
    assert (found["seen"].values[~pictures] == 0).all() and (found["seen"].values[pictures] != 0).all()
    assert [str(name) for name in found["part"].values[:3]] == ["connector_bias", "patch", "0.head.0"]
    assert ("2.mlp" in found["part"]) == (layers == [-1, 1])  # else no layer that is read is behind the last


def test_a_head_by_hand():
    """One head, in plain torch: what it gives times its columns of o_proj, the gain, the words, over the scale."""
    model, inputs = opened("llama"), given("llama")
    run = model.run(inputs, record=["text.1.attn.z", "text.2.resid_post"])
    own = model.module
    z, x = run["text.1.attn.z"][0, -1, 2], run["text.2.resid_post"][0, -1]
    wrote = own.model.layers[1].self_attn.o_proj.weight.detach()[:, 2 * 8 : 3 * 8] @ z
    scale = (x.pow(2).mean() + own.config.rms_norm_eps).sqrt()
    by_hand = float((read_by_the_words(model) * wrote).sum() / scale)
    found = float(logit_decomposition(model, inputs, TARGET)["heads"][0, 1, 2])
    assert abs(by_hand - found) < 1e-7 * abs(by_hand)  # the library takes the norm, and its gain, in single precision


def test_a_term_is_what_the_logit_loses_without_its_component():
    """Taking the last MLP's output out, and giving the last norm back its scale, takes its term out of the logit."""
    model, inputs = opened("gpt2"), given("gpt2")
    found = logit_decomposition(model, inputs, TARGET)
    run = model.run(inputs, record=["text.2.mlp.out", "text.norm.scale"])
    edits = [Set("text.2.mlp.out", 0.0), Set("text.norm.scale", run["text.norm.scale"])]
    lost = TARGET(model.run(inputs)) - TARGET(model.run(inputs, edits=edits))
    assert abs(float(lost) - float(found["mlps"][0, 2])) < 1e-12


def test_before_the_first_layer_there_is_the_embedding_alone():
    found = logit_decomposition(opened("llama"), given("llama"), TARGET, depth=2)["written"].sel(layer=0)
    others = [name for name in found["writer"].values if name not in ("embed", "rounding")]
    assert float(abs(found.sel(writer=others)).max()) == 0  # a Llama has no biases


def test_what_a_writer_gives_through_a_head_is_what_is_lost_without_it():
    """Without what the first MLP wrote at earlier positions, the last layer's heads bring less: by its part of them."""
    model, inputs = opened("llama"), given("llama")
    found = logit_decomposition(model, inputs, TARGET, depth=2)["written"].sel(layer=2, writer="0.mlp")
    record = ["text.2.attn.pattern", "text.2.attn.norm.scale", "text.norm.scale", "text.0.mlp.out"]
    run = model.run(inputs, record=record)
    removed = -run["text.0.mlp.out"]
    removed[:, -1] = 0
    edits = [*(Set(site, run[site]) for site in record[:2]), Add("text.2.resid_pre", removed)]
    plain, other = (model.run(inputs, edits=more, record="text.2.attn.out") for more in ([], edits))
    lost = (plain["text.2.attn.out"] - other["text.2.attn.out"])[0, -1]
    by_hand = (read_by_the_words(model) * lost).sum() / run["text.norm.scale"][0, -1]
    assert abs(float(by_hand) - float(found.isel(token=slice(-1)).sum())) < 1e-6  # norms in single precision


@pytest.mark.parametrize(
    ("name", "side", "position"), [("llama", "left", -1), ("gpt2", "left", 1), ("llama", "right", -2)]
)
def test_rows_of_any_length_with_words_of_their_own(name, side, position):
    """Each row of a padded batch is as the row alone, with a word and a rival of its own, at any position."""
    model = fresh(name)
    model.tokenizer.padding_side = side
    words, rivals = ["dog", "cat", 30], ["cat", "bird", 31]
    both = logit_decomposition(model, model.inputs(text=LINES), logit_diff(words, rivals, position), depth=2)
    for row, line in enumerate(LINES):
        target = logit_diff(words[row], rivals[row], position)
        alone = logit_decomposition(model, model.inputs(text=line), target, depth=2)
        assert float(abs(both.terms().isel(row=row) - alone.terms().isel(row=0)).max()) < 1e-6
        padding = both["token_kind"][row].values == "pad"
        assert np.abs(both["written"].values[row][:, :, ~padding] - alone["written"].values[0]).max() < 1e-6
        assert (both["written"].values[row][:, :, padding] == 0).all()


def test_a_single_logit_and_half_precision():
    model = cutaway.load("tiny:llama", dtype="bfloat16")
    found = logit_decomposition(model, model.inputs(text=LINES), logit("dog"), by_token=True)
    assert found["heads"].dtype == np.float32 and float(found["error"].max()) < 0.1
    assert missed(logit_decomposition(opened("opt"), given("opt"), logit("dog")).terms(), "term",
                  logit("dog")(opened("opt").run(given("opt"))).numpy()) < EXACT  # fmt: skip


def test_picture_tokens_lie_on_their_grid():
    model, inputs = two_pictures()
    found = logit_decomposition(model, inputs, TARGET, depth=3)
    folded = found.on_grid(image=1)
    assert folded.dims == ("layer", "head", "patch_row", "patch_col") and folded.shape == (3, 4, 4, 4)
    tokens = inputs.tokens["text"].where("image", image=1, row=2, col=3)[1].nonzero().flatten()
    assert np.array_equal(folded.values[:, :, 2, 3], found["head_tokens"].values[1, :, :, int(tokens)])
    assert found.on_grid("seen").dims == ("part", "patch_row", "patch_col")
    entering = found.entering()
    assert abs(entering.sum(axis=1).values - found["total"].values).max() < EXACT
    brought = found["head_tokens"].where(found["token_kind"] == "image", 0).sum(("layer", "head", "token"))
    assert abs(entering["image"].values - brought.values).max() < EXACT
    with pytest.raises(MethodError, match="Picture 2 has no patches"):
        found.on_grid(image=2)
    with pytest.raises(MethodError, match="'heads' is not over tokens"):
        found.on_grid("heads")


@pytest.mark.checks("logit_decomposition", "baseline")
def test_chance_is_the_size_for_random_words():
    model, inputs = opened("llama"), given("llama")
    found = logit_decomposition(model, inputs, TARGET, pairs=400)
    other = logit_decomposition(model, inputs, TARGET, pairs=400, seed=1)
    ratio = found["heads_chance"] / other["heads_chance"]
    assert not np.array_equal(ratio, np.ones_like(ratio)) and float(abs(ratio - 1).max()) < 0.2
    words, rivals = np.random.default_rng(0).choice(150, (2, 100)).tolist()
    each = logit_decomposition(model, model.inputs(text=[TEXT] * 100), logit_diff(words, rivals), pairs=1)
    size = (each["heads"] ** 2).mean("row") ** 0.5
    assert 0.8 < float((found["heads_chance"] / size).mean()) < 1.25
    flat = found.summary()
    assert len(flat) == 12 and flat["logits"].abs().is_monotonic_decreasing
    assert set(found.to_dataframe().columns) == {"row", "term", "logits", "chance"}


@pytest.mark.checks("logit_decomposition", "floor")
def test_an_untrained_floor_stands_at_chance():
    """In a random model no head stands out for a pair of words: most are within three times their size by chance."""
    found = logit_decomposition(opened("llava"), given("llava"), TARGET)
    assert float((abs(found["heads"]) < 3 * found["heads_chance"]).mean()) > 0.9


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gemma2", "Gemma2RMSNorm lies between"), ("opt-postnorm", "post-norm"), ("bart", "post-norm"),
        ("mamba", "MambaBlock has no 'attn.z'"), ("clip", "does not write"), ("vit", "does not write"),
        ("bert", "does not write"),
    ],
)  # fmt: skip
def test_what_is_no_such_sum_is_refused_by_name(name, why):
    with pytest.raises(CutawayError, match=why):
        logit_decomposition(opened(name), given(name), TARGET)


def test_refusals_of_targets_options_and_edits():
    model, inputs = opened("llama"), given("llama")
    with pytest.raises(MethodError, match="no sum over components"):
        logit_decomposition(model, inputs, log_prob("dog"))
    with pytest.raises(MethodError, match="Depth 4"):
        logit_decomposition(model, inputs, TARGET, depth=4)
    with pytest.raises(SiteError, match="Stay at `depth=2`"):
        logit_decomposition(model, inputs, TARGET, depth=3)
    with (
        model.edited(Add("text.1.resid_mid", torch.ones(32))),
        pytest.raises(MethodError, match="miss the model's own"),
    ):
        logit_decomposition(model, inputs, TARGET)


def test_logits_that_are_capped_are_refused(monkeypatch):
    model, inputs = fresh("llama"), given("llama")
    plain = model.module.forward

    def capped(*args, **kwargs):
        made = plain(*args, **kwargs)
        made.logits = 30 * (made.logits / 30).tanh()
        return made

    monkeypatch.setattr(model.module, "forward", capped)
    with pytest.raises(MethodError, match="not capped or scaled"):
        logit_decomposition(model, inputs, TARGET)


def test_it_is_kept_drawn_and_declared(tmp_path):
    asked = questions.ask(opened("llava"), tiny.picture(), "what is this", answer="dog", rival="cat")
    one = method("logit-decomposition")
    assert asked.voice == "text" and one.why_not(asked) == ""
    made = one.apply(asked, by_token=True)
    again = load(made.result.save(tmp_path / "sum.nc"))
    assert type(again) is type(made.result) and np.array_equal(again["heads"], made.result["heads"])
    assert len(made.result.plot().patches) == 6 and "It enters at bos" in again.note()
    assert "logit_decomposition(question.model, question.inputs, question.target, by_token=True)" in made.code()
    matched = questions.match(opened("clip"), tiny.picture(), ["a dog", "a cat"])
    assert matched.voice is None and "a model that writes" in one.why_not(matched)
    spoken = questions.ask(opened("mamba"), None, "what is this", answer="dog", rival="cat")
    assert "MambaBlock has no 'attn.z'" in one.why_not(spoken)
