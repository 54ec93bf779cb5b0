"""Pictures and masks: what a mask says is exactly what a thing changes."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from cutaway import data
from cutaway.errors import InputError
from emoji_scenes import SCENES, many

PLAIN = {"black": data.Background("plain", ("black",)), "white": data.Background("plain", ("white",))}


def without(scene: data.Scene, index: int) -> data.Scene:
    return replace(scene, things=scene.things[:index] + scene.things[index + 1 :])


def changed(a: data.Scene, b: data.Scene) -> np.ndarray:
    return (data.pixels(a) != data.pixels(b)).any(2)


@settings(max_examples=60, deadline=None)
@given(SCENES)
def test_nothing_changes_outside_a_mask(text: str) -> None:
    scene = data.Scene.from_json(text)
    for index, mask in enumerate(data.masks(scene)):
        assert not (changed(scene, without(scene, index)) & ~mask).any()


@pytest.mark.parametrize("rotation", [0.0, 15.0])
@pytest.mark.parametrize("name", ["zebra", "dove", "pill", "spider web", "fog"])
def test_a_mask_is_the_difference_with_and_without_the_thing(name: str, rotation: float) -> None:
    """Over two grounds: a pixel that looks like the one ground cannot look like the other."""
    thing = data.Thing(name, "noto", (0.45, 0.5), 0.7, rotation)
    seen = [changed(data.Scene((64, 64), ground, (thing,)), data.Scene((64, 64), ground)) for ground in PLAIN.values()]
    scene = data.Scene((64, 64), PLAIN["black"], (thing,))
    strong = data.coverage(scene)[1] > 0.02  # fainter than that, rounding may hide it
    mask = data.masks(scene)[0]
    assert ((seen[0] | seen[1]) <= mask).all()
    assert (mask & strong == (seen[0] | seen[1]) & strong).all()


def test_masks_know_what_lies_on_top() -> None:
    below, above = data.Thing("full moon", size=0.8), data.Thing("tomato", size=0.3)
    scene = data.Scene((96, 96), PLAIN["white"], (below, above))
    alone = data.masks(data.Scene((96, 96), PLAIN["white"], (below,)))[0]
    seen_below, seen_above = data.masks(scene)
    hidden = data.coverage(scene)[2] == 1
    assert hidden.sum() > 200
    assert (seen_below == alone & ~hidden).all()
    assert changed(scene, without(scene, 0)).sum() <= seen_below.sum() < alone.sum()
    assert not (data.masks(scene, 0.5).sum(0) > 1).any()
    assert (seen_above == data.masks(data.Scene((96, 96), PLAIN["white"], (above,)))[0]).all()


@settings(max_examples=40, deadline=None)
@given(SCENES)
def test_coverage_sums_to_one(text: str) -> None:
    scene = data.Scene.from_json(text)
    layers = data.coverage(scene)
    assert layers.shape == (len(scene.things) + 2, scene.canvas[1], scene.canvas[0])
    np.testing.assert_allclose(layers.sum(0), 1, atol=1e-9)
    assert not (data.masks(scene) & (layers[-1] == 1)).any()  # nothing is seen through a label
    assert data.label_mask(scene).any() == (scene.label is not None)


def test_boxes_bound_the_masks() -> None:
    for scene in many()[::7]:
        for mask, box in zip(data.masks(scene), data.boxes(scene), strict=True):
            assert box is not None
            left, top, right, bottom = box
            assert mask[top:bottom, left:right].sum() == mask.sum()
            assert mask[top].any() and mask[:, left].any() and mask[bottom - 1].any() and mask[:, right - 1].any()


def test_a_thing_lies_where_the_scene_says_and_is_as_big() -> None:
    for size in (0.25, 0.5, 0.9):
        scene = data.Scene((200, 120), PLAIN["white"], (data.Thing("full moon", "twemoji", (0.5, 0.5), size),))
        left, top, right, bottom = data.boxes(scene)[0] or (0, 0, 0, 0)
        assert abs((left + right) / 2 - 100) <= 1
        assert abs((top + bottom) / 2 - 60) <= 1
        assert abs(right - left - size * 120) <= 2


def test_the_same_scene_draws_at_every_size() -> None:
    scene = data.Scene((224, 224), data.Background("texture", ("red", "white"), 7), (data.Thing("panda", size=0.6),))
    large = np.asarray(data.render(scene).resize((64, 64))).astype(float)
    small = data.pixels(replace(scene, canvas=(64, 64))).astype(float)
    assert np.abs(large - small).mean() < 12


def test_a_batch_equals_its_pictures() -> None:
    batch = data.pictures(many()[:20])
    assert batch.shape == (20, 3, 64, 64)
    for picture, scene in zip(batch, many(), strict=False):
        assert (picture.transpose(1, 2, 0) == np.asarray(data.render(scene))).all()
    with pytest.raises(InputError, match="one canvas size"):
        data.pictures([many()[0], replace(many()[0], canvas=(32, 32))])
    with pytest.raises(InputError, match="at least one"):
        data.pictures([])


def test_a_tint_gives_its_colour_and_leaves_the_shape() -> None:
    ground = data.Background("plain", ("gray",))
    for tint, wanted in data.TINTS.items():
        plain = data.Scene((64, 64), ground, (data.Thing("elephant", size=0.8),))
        painted = replace(plain, things=(replace(plain.things[0], tint=tint),))
        mask = data.masks(plain, 0.99)[0]
        assert (data.masks(painted)[0] == data.masks(plain)[0]).all()
        mean = data.pixels(painted)[mask].mean(0)
        nearest = min(data.TINTS, key=lambda word: np.abs(mean / mean.max() - np.array(data.TINTS[word]) / 255).sum())
        assert nearest == tint, (tint, wanted, mean)


@pytest.mark.parametrize("text", ["dog", "polar bear", "rhinoceros", "stethoscope", "yo-yo", "what? 12."])
def test_labels_are_written_in_full_at_64_pixels(text: str) -> None:
    scene = data.Scene((64, 64), PLAIN["black"], (), data.Label(text))
    picture = data.pixels(scene)
    ink = (picture < 100).all(2) & data.label_mask(scene)
    letters = sum(letter != " " for letter in text)
    assert ink.sum() >= 5 * letters
    plate = data.label_mask(scene)
    rows, columns = np.flatnonzero(plate.any(1)), np.flatnonzero(plate.any(0))
    edge = picture[rows[0], columns[0] : columns[-1] + 1], picture[rows[0] : rows[-1] + 1, columns[0]]
    assert all((side == 255).all() for side in edge)  # letters keep off the edge: none is cut
    assert rows.size <= 20


def test_drawing_is_the_same_on_every_machine() -> None:
    """Guards the released pictures: a change here changes what every trained model has seen."""
    scene = data.Scene(
        (64, 64),
        data.Background("texture", ("blue", "white"), 4),
        (data.Thing("tomato", "fluent", (0.3, 0.4), 0.5), data.Thing("key", "noto", (0.7, 0.6), 0.44, 0.0, "red")),
        data.Label("cat", "top"),
    )
    assert hashlib.sha256(data.pixels(scene).tobytes()).hexdigest()[:16] == "ce6c734b3bd0d3fc"
