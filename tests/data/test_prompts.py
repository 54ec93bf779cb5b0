"""Prompts say what is true of their scene, in words that the text model knows."""

from itertools import combinations

import pytest

from cutaway import data
from cutaway.data.prompts import DRAWABLE, DRAWINGS, WAYS, prompt
from cutaway.zoo import emoji_clip

SCENES = list(data.scenes("train", 60, world=DRAWINGS))


@pytest.mark.parametrize("way", WAYS)
def test_every_claim_holds(way):
    for scene in SCENES:
        made = prompt(scene, scene.seed, way, ground=True)
        assert made.true_of(scene) and len(made.claims) >= len(scene.things) + 1
        assert made.text.endswith(" background")


def test_prompts_differ_and_are_the_same_for_a_seed():
    said = [prompt(scene, scene.seed) for scene in SCENES]
    assert said == [prompt(scene, scene.seed) for scene in SCENES]
    assert {one.style for one in said} == set(WAYS)
    assert 0 < sum("background" in one.text for one in said) < len(said)


def test_the_text_model_knows_every_word():
    known = emoji_clip.vocabulary()
    tokenizer = emoji_clip.tokenizer()
    for scene in SCENES:
        ids = tokenizer(prompt(scene, scene.seed).text)["input_ids"]
        assert known["<unk>"] not in ids and len(ids) < emoji_clip.LONGEST


def test_things_are_not_mistaken_for_one_another():
    assert len(set(DRAWABLE)) == 64
    assert not any(data.concept(one).is_kin(other) for one, other in combinations(DRAWABLE, 2))
    assert all("noto" in data.concept(name).shades for name in DRAWABLE)
    assert all(len(scene.things) in (1, 2) and scene.background.kind == "plain" for scene in SCENES)
