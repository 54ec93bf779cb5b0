"""Prompt-to-prompt: identities, one layer by hand, how words pair up, and what it refuses."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import MethodError, SiteError
from cutaway.methods import prompt_to_prompt, prompt_to_prompt_drawings
from cutaway.methods.cross_attention.prompt_to_prompt import columns
from cutaway.model.edits import Knockout, Patch
from cutaway.model.tokens import TokenMap
from world import OTHER, OWN

PATTERNS = "denoiser.*.cross.pattern"


def _images(sd, inputs, edits=()):
    return sd.run(inputs, edits=edits, output="pt").outputs.images


def test_the_same_prompt_is_the_same_drawing_and_nothing_put_in_is_the_other(sd, both):
    own, other = (_images(sd, one) for one in both)
    same = prompt_to_prompt(sd, both[0], both[0], share=1.0, own=1.0, weights={"a": 1.0})
    assert len(same) > 8 and (_images(sd, both[0], same) - own).abs().max() < 1e-12  # a written pattern: rounding alone
    assert prompt_to_prompt(sd, *both, share=0.0) == []
    drawn = _images(sd, both[1], prompt_to_prompt(sd, *both, share=1.0))
    assert (drawn - other).abs().max() > 1e-4 and (drawn - own).abs().max() > 1e-4


def test_replaced_words_are_the_first_drawings_patterns_put_in_at_its_first_steps(sd, both):
    first = sd.run(both[0], record=PATTERNS, output="pt")
    hand = [Patch(PATTERNS, dict(first.activations), step=[0], guidance="cond")]
    found = prompt_to_prompt(sd, *both, share=0.5)
    assert torch.equal(_images(sd, both[1], found), _images(sd, both[1], hand))
    assert not torch.equal(_images(sd, both[1], found), _images(sd, both[1], prompt_to_prompt(sd, *both, share=1.0)))


@pytest.mark.parametrize("kind", ["refine", "weights"])
def test_one_layer_is_what_a_hand_computes(sd, kind):
    """The mixed values of the first cross-attention that is run, from patterns and values, in double precision."""
    prompts = ("a red dog", "a red blue dog" if kind == "refine" else "a red dog")
    first, other = (sd.inputs(prompt=one, seed=3, steps=1) for one in prompts)
    layer = str(sd.sites[PATTERNS][0]).removesuffix(".pattern")
    names = [f"{layer}.{part}" for part in ("pattern", "v", "z")]
    one, two = (sd.run(given, record=names) for given in (first, other))
    cond = one.sites[names[0]].axes.index("guidance")
    pattern, mine = (run[names[0]].movedim(cond, 0)[1, 0, 0].clone() for run in (two, one))
    weights = {"dog": -2.0} if kind == "weights" else {}
    if kind == "refine":  # begin, a, red, (blue), dog, end, then padding
        new = [0, 1, 2, 4, 5, *range(6, mine.shape[-1])]
        pattern[..., new] = mine[..., [0, 1, 2, 3, 4, *range(5, mine.shape[-1] - 1)]]
    else:
        pattern[..., 3] *= -2.0
    values = two[names[1]].movedim(cond, 0)[1, 0, 0]
    hand = torch.einsum("hqk,khd->qhd", pattern, values)
    run = sd.run(other, edits=prompt_to_prompt(sd, first, other, share=1.0, weights=weights), record=names[2])
    z = run[names[2]].movedim(cond, 0)[1, 0, 0]
    assert (z - hand).abs().max() < 1e-12 and (z - two[names[2]].movedim(cond, 0)[1, 0, 0]).abs().max() > 1e-6


def test_pictures_of_a_prompt_take_their_own(sd):
    first, other = (sd.inputs(prompt=some, seed=3, steps=1, pictures=2) for some in (OWN, OTHER))
    drawn = _images(sd, other, prompt_to_prompt(sd, first, other, share=1.0, weights={"a": 1.5}, kind="refine"))
    assert len(drawn) == 4
    patterns = sd.run(first, record=PATTERNS)
    hand = [Patch(PATTERNS, dict(patterns.activations), guidance="cond")]
    found = prompt_to_prompt(sd, first, other, share=1.0)
    assert torch.equal(_images(sd, other, found), _images(sd, other, hand))


def _tokens(*pieces: str) -> TokenMap:
    tokens = TokenMap.blank(1, len(pieces))
    tokens.text[0] = np.array(pieces, object)
    tokens.kind[0] = np.array([{"<s>": "bos", "</s>": "eos", "-": "pad"}.get(one, "text") for one in pieces])
    return tokens


def test_a_word_of_other_pieces_keeps_its_sum_and_a_new_word_its_own():
    first = _tokens("<s>", "a</w>", "fox</w>", "</s>", "-", "-")
    other = _tokens("<s>", "a</w>", "ele", "phant</w>", "</s>", "-")
    matrix, known = columns(first, other, None)
    assert known.all() and matrix[0, 2].tolist() == [0, 0, 0.5, 0.5, 0, 0] and matrix[0, 5].sum() == 0
    assert [int(matrix[0, :, at].argmax()) for at in (0, 1, 4, 5)] == [0, 1, 3, 4]
    refined, known = columns(first, other, "refine")
    assert known[0].tolist() == [True, True, False, False, True, True] and refined[0, 2].sum() == 0
    back, _ = columns(other, first, "replace")
    assert back[0, :, 2].tolist() == [0, 0, 1, 1, 0, 0]  # a word of two pieces: both added


def test_what_is_not_two_drawings_of_prompts_is_refused(sd, both):
    other = sd.inputs(prompt=OTHER, seed=4, steps=2)
    with pytest.raises(MethodError, match="seed is 3 and 4"):
        prompt_to_prompt(sd, both[0], other)
    longer = sd.inputs(prompt=["a blue dog there", "a fox"], seed=3, steps=2)
    with pytest.raises(MethodError, match="one for one"):
        prompt_to_prompt(sd, both[0], longer, kind="replace")
    with pytest.raises(MethodError, match="not a word of the prompt"):
        prompt_to_prompt(sd, *both, share=0.0, weights={"zebra": 2.0})
    for error, bad in (
        (MethodError, {"share": 1.5}), (MethodError, {"own": -1.0}), (SiteError, {"guidance": "perturbed"}),
    ):  # fmt: skip
        with pytest.raises(error):
            prompt_to_prompt(sd, *both, **bad)
    step = sd.inputs(prompt=OWN, seed=3, steps=2, step=0)
    with pytest.raises(MethodError, match="whole drawings"):
        prompt_to_prompt(sd, step, step)


# --- joint attention --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joint():
    return cutaway.load("tiny:sd3", dtype="float64")


def _given(joint, prompt, **more):
    return joint.inputs(prompt=prompt, seed=3, steps=1, size=(16, 24), length=4, **more)


def test_in_joint_attention_the_same_prompt_is_the_same_drawing(joint):
    first = _given(joint, [OWN[0], "a cat"], pictures=2)
    same = prompt_to_prompt(joint, first, first, share=1.0, own=1.0, weights={"a": 1.0})
    assert (_images(joint, first, same) - _images(joint, first)).abs().max() < 1e-12
    assert all((edit.query == same[0].query).all() and edit.query.sum() == 2 * 24 for edit in same)


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_in_joint_attention_patches_take_the_words_of_the_first_and_the_rest_stays(joint, own):
    """The first block's results at the patches, and at the text, from patterns and values in double precision."""
    first, other = (_given(joint, one) for one in ("a red dog", "a blue dog"))
    part = [f"denoiser.0.{name}" for name in ("attn.pattern", "attn.v", "image.attn.z", "text.attn.z")]
    one, two = (joint.run(given, record=part) for given in (first, other))
    cond = one.guidance[part[0]].index("cond")
    pattern, mine = (run[part[0]][0, cond, 0].clone() for run in (two, one))
    patches = slice(0, 24)  # SD3 has the picture in front
    pattern[:, patches, 24:] = mine[:, patches, 24:]
    if own:
        pattern[:, patches, patches] = mine[:, patches, patches]
    hand = torch.einsum("hqk,khd->qhd", pattern, two[part[1]][0, cond, 0])
    run = joint.run(other, edits=prompt_to_prompt(joint, first, other, share=1.0, own=own), record=part[2:])
    assert (run[part[2]][0, cond, 0] - hand[patches]).abs().max() < 1e-12
    assert (run[part[3]][0, cond, 0] - two[part[3]][0, cond, 0]).abs().max() < 1e-12  # words look as they did
    assert (run[part[2]][0, cond, 0] - two[part[2]][0, cond, 0]).abs().max() > 1e-6


@pytest.mark.checks("prompt_to_prompt_drawings", "floor")
def test_in_joint_attention_too_it_matters_where_the_patterns_lie_and_before_training_it_does_not():
    asked, more = {"duck": "fox", "rose": "robot"}, {}
    for name in ("zoo:emoji-mmdit", "zoo:emoji-mmdit@untrained"):
        model = cutaway.load(name)
        both = [model.inputs(prompt=[f"a {one} on a white background" for one in some], seed=1, steps=4, guidance=3.0,
                             length=0) for some in (asked, asked.values())]  # fmt: skip
        found = prompt_to_prompt_drawings(model, *both, shares=(1.0,), progress=False)
        more[name] = found["value"].item() - found["random_value"].item()
    trained, untrained = more.values()
    assert trained > 0.15 and abs(untrained) < 0.05, more


# --- measured ---------------------------------------------------------------------------------------------------------


def _apart(one, two):
    return 255 * float((one - two).double().square().flatten(1).mean(1).sqrt().mean())


@pytest.mark.checks("prompt_to_prompt_drawings", "truth")
def test_what_moves_is_what_the_edits_draw_by_hand(sd, both):
    found = prompt_to_prompt_drawings(sd, *both, shares=(0.0, 1.0), progress=False)
    first, other = (_images(sd, one) for one in both)
    again = _images(sd, both[1], prompt_to_prompt(sd, *both, share=1.0))
    assert found["moved"].values == pytest.approx([_apart(other, first), _apart(again, first)], rel=1e-9)
    assert found["random_moved"][0] == found["moved"][0] and found["value"][0] == 0  # the other's own drawing
    assert found["value"][1] == pytest.approx(float((again - other).square().flatten(1).mean(1).mean()))
    same = prompt_to_prompt_drawings(sd, both[0], both[0], shares=(1.0,), own=1.0, progress=False)
    assert (found["drawn"][0].values == (other[0].permute(1, 2, 0) * 255).round().byte().numpy()).all()
    assert same["moved"].item() < 1e-6 and (same["drawn"][0] == same["first"]).all()
    assert len(found.summary()) == 2 and "<img" in found.to_html()


@pytest.mark.checks("prompt_to_prompt_drawings", "baseline")
def test_patterns_in_wrong_places_are_other_patterns_unless_all_places_are_alike(sd, both):
    """With every key hidden but the first, all patches look alike, and their order means nothing."""
    found = prompt_to_prompt_drawings(sd, *both, shares=(1.0,), progress=False)
    assert found["random_moved"].item() != found["moved"].item()
    with sd.edited(Knockout("denoiser.*.cross", key=range(1, 16))):
        alike = prompt_to_prompt_drawings(sd, *both, shares=(1.0,), progress=False)
    assert alike["random_moved"].item() == pytest.approx(alike["moved"].item(), rel=1e-9)


@pytest.mark.checks("prompt_to_prompt_drawings", "floor")
def test_before_training_it_means_nothing_where_the_patterns_lie():
    """How much more often what is asked for is there than with the patches of the patterns in an order by chance."""
    asked = {"fox": "duck", "crown": "house", "robot": "rose", "zebra": "bus"}
    more = {}
    for name in ("zoo:emoji-sd", "zoo:emoji-sd@untrained"):
        model = cutaway.load(name)
        both = [model.inputs(prompt=[f"a {one} on a white background" for one in some], seed=1, steps=8, guidance=3.0)
                for some in (asked, asked.values())]  # fmt: skip
        found = prompt_to_prompt_drawings(model, *both, shares=(1.0,), progress=False)
        more[name] = found["value"].item() - found["random_value"].item()
    trained, untrained = more.values()
    assert trained > 0.2 and abs(untrained) < 0.05, more
