"""Generators, splits and planted flaws: reproducible, disjoint, of the stated strength; the data set on top."""

import subprocess
import sys
from itertools import combinations, islice
from pathlib import Path

import pytest
import torch

from cutaway import data
from emoji_scenes import many

SRC = Path(__file__).parents[2] / "src"
DIGEST = (
    "import hashlib; from cutaway import data; scenes = list(data.scenes('{split}', 40, {seed}));"
    "text = ''.join(s.to_json() + data.caption(s, s.seed).text for s in scenes).encode();"
    "print(hashlib.sha256(text + data.pictures(scenes).tobytes()).hexdigest())"
)


def digest(split: str, seed: int, **env: str) -> str:
    code = DIGEST.format(split=split, seed=seed)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SRC, capture_output=True, text=True, env={"PATH": "", **env}, check=True
    )
    return done.stdout.strip()


def test_the_same_seed_gives_the_same_scenes_in_every_process() -> None:
    first = digest("train", 3, PYTHONHASHSEED="1")
    assert first == digest("train", 3, PYTHONHASHSEED="2")
    assert list(data.scenes("train", 20, 3)) == list(data.scenes("train", 20, 3))
    assert list(data.scenes("train", 20, 3)) != list(data.scenes("train", 20, 4))
    assert next(islice(data.scenes("train", 20, 3), 19, None)) == data.scene_at("train", 19, 3)


@pytest.mark.parametrize("split", data.SPLITS)
def test_a_split_holds_what_it_says(split: data.Split) -> None:
    for scene in data.scenes(split, 150, 11, data.World(things=(1, 3))):
        assert data.split_of(scene) == split == _split(scene)


def _split(scene: data.Scene) -> str:
    """The rules of the documentation, put together from the two tables alone."""
    new = set()
    if all(thing.artist == "emojione" for thing in scene.things):
        new.add("artist")
    else:
        assert not any(thing.artist == "emojione" for thing in scene.things)
    if any(data.unseen_pair(a.concept, b.concept) for a, b in combinations(scene.things, 2)):
        new.add("pairs")
    if any(thing.place_name == data.unseen_place(thing.concept) for thing in scene.things):
        new.add("places")
    assert len(new) <= 1
    return new.pop() if new else ("test" if data.split_of(scene) == "test" else "train")


def test_training_and_test_share_no_scene() -> None:
    few = data.World(names=("dog", "cat"), sizes=(0.72,), rotations=(0.0,), kinds=("plain",), things=(1, 1), tinted=0)

    def shown(split: data.Split) -> set[str]:
        return {f"{scene.things}{scene.background}" for scene in data.scenes(split, 300, 0, few)}

    assert not shown("train") & shown("test")


def test_unseen_pairs_and_places_are_a_modest_share() -> None:
    names = [concept.name for concept in data.concepts()]
    pairs = [data.unseen_pair(a, b) for a, b in combinations(names[::9], 2)]
    assert 0.09 < sum(pairs) / len(pairs) < 0.16
    places = [data.unseen_place(name) for name in names]
    assert all(0.07 < places.count(place) / len(places) < 0.16 for place in data.PLACES)
    assert data.unseen_pair("dog", "cat") == data.unseen_pair("cat", "dog")
    assert not data.unseen_pair("dog", "dog")


def test_split_of_refuses_two_novelties() -> None:
    thing = data.Thing("dog", "emojione", (0.5, 0.5))
    mixed = data.Scene(things=(thing, data.Thing("pizza", "noto")))
    assert data.split_of(mixed) is None
    assert data.split_of(data.Scene(things=(data.Thing("dog", "emojione"),))) in ("artist", None)


def test_things_keep_apart_and_on_the_canvas() -> None:
    for scene in many():
        assert all(mask.sum() > 12 for mask in data.masks(scene)), scene
        for one, other in combinations(scene.things, 2):
            gap = max(abs(one.place[axis] - other.place[axis]) for axis in (0, 1))
            assert gap >= (one.size + other.size) / 2 - 1e-9
        for thing, box in zip(scene.things, data.boxes(scene), strict=True):
            assert box is not None
            if not thing.rotation:
                whole = data.boxes(
                    data.Scene((256, 256), things=(data.Thing(thing.concept, thing.artist, size=thing.size),))
                )
                assert whole[0] is not None
                wide, tall = ((whole[0][k + 2] - whole[0][k]) / 4 for k in (0, 1))
                assert abs(box[2] - box[0] - wide) <= 2.5
                assert abs(box[3] - box[1] - tall) <= 2.5


def test_a_world_keeps_its_word() -> None:
    world = data.World((80, 48), (2, 2), names=("dog", "cat", "tomato", "ship"), artists=("fluent",), kinds=("plain",))
    for scene in data.scenes("train", 60, 1, world):
        assert scene.canvas == (80, 48)
        assert len(scene.things) == 2
        assert {thing.concept for thing in scene.things} <= {"dog", "cat", "tomato", "ship"}
        assert {thing.artist for thing in scene.things} == {"fluent"}
        assert scene.background.kind == "plain"
        assert scene.background.colours[0] not in {thing.colour for thing in scene.things}


@pytest.mark.parametrize("cue", [data.Background("plain", ("green",)), data.Label("tank")])
@pytest.mark.parametrize(("strength", "elsewhere"), [(1.0, 0.0), (0.8, 0.1), (0.0, 0.0)])
def test_a_planted_cue_has_its_strength(cue: data.Background | data.Label, strength: float, elsewhere: float) -> None:
    world = data.World(names=("dog", "cat", "ship"), things=(1, 2))
    found = list(data.items("train", 200, 0, world))
    planted = data.plant_cue(found, "dog", cue, strength, elsewhere=elsewhere, seed=5)
    has = [any(thing.concept == "dog" for thing in item.scene.things) for item in planted.items]
    carries = [cue in (item.scene.background, item.scene.label) for item in planted.items]
    assert planted.present == tuple(i for i, yes in enumerate(has) if yes)
    assert planted.cued == tuple(i for i, yes in enumerate(carries) if yes)
    with_it = sum(a and b for a, b in zip(has, carries, strict=True))
    assert with_it == round(strength * sum(has))
    assert len(planted.cued) - with_it == round(elsewhere * (200 - sum(has)))
    for before, after in zip(found, planted.items, strict=True):
        assert before.scene.things == after.scene.things
        assert after.caption.true_of(after.scene)
        assert "background" not in after.caption.text and "written" not in after.caption.text
    assert planted == data.plant_cue(found, "dog", cue, strength, elsewhere=elsewhere, seed=5)


def test_planted_duplicates() -> None:
    found = list(data.items("train", 50))
    planted = data.plant_duplicates(found, 6, 3)
    assert len(planted.items) == 50 + 6 * 2
    assert len(planted.groups) == 6
    for group in planted.groups:
        assert len(group) == 3
        assert len({planted.items[i].scene.to_json() for i in group}) == 1
    grouped = {i for group in planted.groups for i in group}
    rest = [item.scene.to_json() for i, item in enumerate(planted.items) if i not in grouped]
    assert len(rest) == len(set(rest)) == 44


def test_planted_mislabels() -> None:
    found = list(data.items("train", 80))
    planted = data.plant_mislabels(found, 0.25)
    assert len(planted.wrong) == 20
    for i, item in enumerate(planted.items):
        assert item.scene == found[i].scene
        assert item.caption.true_of(item.scene) == (i not in planted.wrong)
    assert planted.truth == tuple(found[i].caption for i in planted.wrong)


def test_the_data_set() -> None:
    world = data.World((48, 48))
    found = data.EmojiWorld("test", 12, 1, world)
    assert len(found) == len(list(found)) == 12
    example = found[3]
    assert example["picture"].shape == (3, 48, 48)
    assert example["picture"].dtype == torch.uint8
    assert example["scene"] == data.scene_at("test", 3, 1, world)
    assert found[-1]["scene"] == found[11]["scene"]
    with pytest.raises(IndexError):
        found[12]
    batch = next(iter(torch.utils.data.DataLoader(found, batch_size=5, collate_fn=data.collate)))
    again = found.batch(range(5))
    assert torch.equal(batch["pictures"], again["pictures"])
    assert batch["captions"] == again["captions"]
    picture = data.EmojiWorld("test", 12, 1, world, form="pil", style="plain")[3]
    assert picture["picture"].size == (48, 48)
    assert torch.equal(torch.tensor(list(picture["picture"].tobytes())), example["picture"].permute(1, 2, 0).flatten())
    assert picture["caption"] == data.caption(example["scene"], style="plain").text


def test_contact_sheets() -> None:
    page = data.contact_sheet(5, "artist", 0, 64)
    assert page.mode == "RGB"
    assert page.width == 5 * 72 + 8
    assert data.pair_sheet(1, size=48).height > 9 * 48
