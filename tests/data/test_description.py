"""A full description is true, and says what every question asks."""

from cutaway import data
from cutaway.data import description, sentences
from cutaway.data.captions import SIDES


def scenes(n):
    world = data.World(things=(1, 3))
    for index in range(n):
        scene = data.scene_at("test", index, 0, world)
        yield data.counterfactual(scene, "label", index).b if index % 3 == 0 else scene


def test_it_is_true():
    for index, scene in enumerate(scenes(60)):
        assert description(scene, index).true_of(scene) and sentences(scene).true_of(scene)


def test_it_holds_every_answer():
    for index, scene in enumerate(scenes(60)):
        text = description(scene, index).text
        for one in data.questions(scene, index):
            if one.kind in ("what", "colour", "background") or (one.kind == "written" and one.answer not in "yesno"):
                assert one.answer in text, (one, text)
            if one.kind == "side":
                opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[one.answer]
                assert SIDES[one.answer] in text or SIDES[opposite] in text
        assert ("nothing written" in text) == (scene.label is None)
        assert all(f"in the {thing.artist} style" in text for thing in scene.things)


def test_the_seed_shuffles_the_things():
    scene = next(scene for scene in scenes(50) if len({thing.concept for thing in scene.things}) == 3)
    assert len({description(scene, seed).text for seed in range(20)}) > 3
    assert description(scene, 1) == description(scene, 1)
    assert description(scene, 1).text != sentences(scene).text
