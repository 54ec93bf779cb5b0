"""Head relevance vectors: by hand, a head that is made to look for one word, chance, the floor, weakening, refusals."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway import questions
from cutaway.errors import MethodError, SiteError
from cutaway.methods import head_relevance, weaken_heads
from cutaway.methods.cross_attention.joint_keys import Beside
from cutaway.methods.table import method
from cutaway.model.asides import Aside
from cutaway.model.edits import Scale, Set

WORDS = ["dog", "cat", "red"]
LAYER = "denoiser.1.cross"


def keys(sd, words):
    """The keys of one layer: of the begin, and of each word as a prompt of its own."""
    run = sd.run(sd.inputs(prompt=words, steps=1, step=0, guidance=1.0), record=f"{LAYER}.k")
    made = run[f"{LAYER}.k"][0, 0]
    return torch.cat([made[:1, 0], made[:, 1]])


@pytest.mark.checks("head_relevance", "truth")
def test_a_head_that_looks_for_one_word_alone_is_found(sd):
    """Planted: queries whose product with the key of a word is 1 and with those of the others 0, times a hundred."""
    inputs = sd.inputs(prompt="a red dog", seed=3, steps=2)
    plain = head_relevance(sd, inputs, WORDS, progress=False)
    own = keys(sd, WORDS)
    for head, at in ((0, 2), (1, 0), (2, 1)):
        query = 100 * torch.linalg.pinv(own[:, head].T)[at + 1]
        with sd.edited(Set(f"{LAYER}.q", query, head=head, guidance="cond")):
            found = head_relevance(sd, inputs, WORDS, progress=False)
        assert found["relevance"].sel(head=f"1.{head}").values.tolist() == [float(at == which) for which in range(3)]
        assert found.order(WORDS[at]).index(f"1.{head}") < sum(found["relevance"].sel(concept=WORDS[at]).values == 1)
    others = [name for name in plain["head"].values if not str(name).startswith("1.")]
    assert others and np.allclose(plain["relevance"].sum("concept"), 1)


def test_it_equals_a_computation_by_hand(sd):
    inputs = sd.inputs(prompt=["a red dog", "a cat"], seed=3, steps=2)
    found = head_relevance(sd, inputs, WORDS, progress=False)
    run = sd.run(inputs, record=f"{LAYER}.q")
    queries = run[f"{LAYER}.q"][:, run.guidance[f"{LAYER}.q"].index("cond")]
    scores = torch.einsum("sbqhd,khd->sbhqk", queries, keys(sd, WORDS)) / queries.shape[-1] ** 0.5
    first = scores.softmax(-1).mean(3)[..., 1:].argmax(-1)
    for head in range(first.shape[-1]):
        shares = [float((first[..., head] == which).double().mean()) for which in range(3)]
        assert found["relevance"].sel(head=f"1.{head}").values.tolist() == shares


@pytest.mark.checks("head_relevance", "baseline")
def test_words_dealt_by_chance_stand_beside_it(sd):
    inputs = sd.inputs(prompt="a red dog", seed=3, steps=2)
    concepts = {"animal": ["dog", "cat"], "colour": ["red", "blue"]}
    found, again = (head_relevance(sd, inputs, concepts, seed=1, progress=False) for _ in range(2))
    assert (found["random"] == again["random"]).all() and (found["relevance"] == again["relevance"]).all()
    assert np.allclose(found["random"].sum("concept"), 1) and float(found["even"]) == 0.5
    assert (found["random"] != found["relevance"]).any()


@pytest.mark.checks("head_relevance", "floor")
def test_before_training_no_concept_is_preferred_and_afterwards_colours_are():
    concepts = {
        "thing": ["fox", "owl", "rose", "car", "house", "pizza", "crown", "ghost"],
        "colour": ["red", "blue", "green", "yellow", "purple", "orange", "white", "black"],
    }
    colour = []
    for name in ("zoo:emoji-sd", "zoo:emoji-sd@untrained"):
        model = cutaway.load(name)
        inputs = model.inputs(prompt="a fox on a green background", seed=0, steps=4, guidance=3.0)
        found = head_relevance(model, inputs, concepts, progress=False)
        colour.append(float(found["relevance"].sel(concept="colour").mean()))
    assert colour[0] > 0.62 and abs(colour[1] - 0.5) < 0.1, colour


def test_heads_are_weakened_as_a_hand_does_it(sd):
    inputs = sd.inputs(prompt="a red dog", seed=3, steps=1)
    drawn = [
        sd.run(inputs, edits=edits, output="pt").outputs.images
        for edits in (
            weaken_heads(sd, inputs, ["1.2", "1.0", "3.1"], "dog"),
            [Scale(f"denoiser.{at}.cross.pattern", -2.0, head=heads, key=[3], guidance="cond")
             for at, heads in ((1, [0, 2]), (3, [1]))],
        )
    ]  # fmt: skip
    assert torch.equal(*drawn) and not torch.equal(drawn[0], sd.run(inputs, output="pt").outputs.images)
    every = weaken_heads(sd, inputs, ["1.0"], factor=0.0)[0]
    assert every.key[0].nonzero().flatten().tolist() == [1, 2, 3]
    for bad in ("2.0", "one", "1.x"):
        with pytest.raises(MethodError, match="no head"):
            weaken_heads(sd, inputs, [bad])


def test_what_cannot_be_asked_says_so(sd):
    inputs = sd.inputs(prompt="a red dog", seed=3, steps=1)
    with pytest.raises(MethodError, match="nothing to be told apart"):
        head_relevance(sd, inputs, "dog", progress=False)
    with pytest.raises(SiteError, match="guidance row 'perturbed'"):
        head_relevance(sd, inputs, WORDS, guidance="perturbed", progress=False)
    with pytest.raises(MethodError, match="none of the concepts"):
        head_relevance(sd, inputs, "dog, red", progress=False).order("cat")
    with pytest.raises(MethodError, match="over the steps of a drawing"):
        head_relevance(sd, sd.inputs(prompt="a dog", steps=1, step=0), WORDS, progress=False)


def test_it_answers_a_question():
    declared = method("head-relevance")
    made = declared.apply(questions.asked("tiny:sd", prompt="a red dog", step=1))
    assert made.result["concept"].values.tolist() == ["red", "dog"]
    assert "fewer than two words" in declared.why_not(questions.asked("tiny:sd", prompt="a dog", step=1))
    assert not declared.why_not(questions.asked("tiny:sd3", prompt="a red dog", step=1))


# --- joint attention --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sd3", "flux"])
def joint(request):
    return cutaway.load(f"tiny:{request.param}", dtype="float64")


def said(joint, prompt, **more):
    return joint.inputs(prompt=prompt, seed=3, steps=2, size=(16, 24), **more)


@pytest.mark.checks("head_relevance", "truth")
def test_with_joint_attention_keys_of_the_prompts_own_words_are_those_of_the_drawing(joint):
    """Every position of the row's own text beside it is that text itself, in every layer and step."""
    inputs = said(joint, "a red dog")
    own = np.flatnonzero(inputs.tokens["denoiser.joint"].row[0] < 0)
    beside = Beside.of(joint, inputs, ["dog"], "cond")
    states = said(joint, "a red dog", step=1, guidance=1.0).tensors["encoder_hidden_states"]
    beside.said = Aside(("all",), states[0], (0,) * states.shape[1])
    assert beside.watch() == 2
    names = [f"denoiser.{layer}.attn.k" for layer in beside.layers]
    run = joint.run(inputs, record=names)
    for name in names:
        keys = run[name][1, run.guidance[name].index("cond")]
        assert torch.allclose(beside.keys(1)[name.removesuffix("k")][1], keys[:, own], atol=1e-12)


def test_with_joint_attention_a_head_that_looks_for_one_word_alone_is_found():
    """Planted in the last layer: queries whose product with the key of a word is large and with those of others 0."""
    sd3 = cutaway.load("tiny:sd3", dtype="float64")
    inputs = sd3.inputs(prompt="a red dog", seed=3, steps=1, size=(16, 24), guidance=1.0)
    beside = Beside.of(sd3, inputs, WORDS, "cond")
    beside.watch()
    keys = beside.keys(0)["denoiser.1.attn."]
    own = torch.stack([word[0].mean(0) for word in keys[1:]])
    query = 1000 * torch.linalg.pinv(own[:, 0].T)[2]
    with sd3.edited(Set("denoiser.1.attn.q", query, head=0)):
        found = head_relevance(sd3, inputs, WORDS, progress=False)
    plain = head_relevance(sd3, inputs, WORDS, progress=False)
    shares = [one["relevance"].sel(head="1.0", concept="red").item() for one in (found, plain)]
    assert shares[0] == 1 and (found["relevance"].sel(head="0.0") == plain["relevance"].sel(head="0.0")).all(), shares


def test_heads_of_joint_attention_are_weakened_where_patches_look_at_words(joint):
    inputs = said(joint, "a red dog", guidance=1.0)
    (edit,) = weaken_heads(joint, inputs, ["1.2"])
    tokens = inputs.tokens["denoiser.joint"]
    name = "denoiser.1.attn.pattern"
    plain, weak = (joint.run(inputs, record=name, edits=edits)[name][0, 0, 0] for edits in ((), (edit,)))
    hand, patches, words = plain.clone(), tokens.row[0] >= 0, tokens.kind[0] == "text"
    hand[2][np.ix_(patches, words)] *= -2
    assert torch.allclose(weak, hand, atol=1e-12)
