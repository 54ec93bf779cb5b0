"""The judge, the autoencoder and what draws: their truth, their training, and what they are measured by."""

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch

from cutaway import data
from cutaway.data.prompts import DRAWABLE, DRAWINGS
from cutaway.zoo import autoencoder, drawing, emoji_judge, emoji_sd, emoji_vae, judging, make, trained
from cutaway.zoo.judging import GROUNDS, PAINTS, SPLIT, UNSAID, Seen, shown
from cutaway.zoo.training import PROGRESS

SCENES = list(data.scenes("test", 24, world=DRAWINGS))
HERE = {name: trained.TRAINED[name].here for name in ("emoji-judge", "emoji-vae", "emoji-sd")}


def perfect(scenes) -> Seen:
    """What a judge would say that knows the truth of every cell."""
    truth = shown(scenes)
    things = torch.where(truth.thing == UNSAID, len(DRAWABLE), truth.thing)
    paints = torch.where(truth.paint == UNSAID, PAINTS.index("unpainted"), truth.paint)
    one_hot = torch.nn.functional.one_hot
    return Seen(
        one_hot(things, SPLIT[0]).movedim(-1, 1).float(), one_hot(paints, SPLIT[1]).movedim(-1, 1).float(),
        one_hot(truth.ground, len(GROUNDS)).float(),
    )  # fmt: skip


def test_who_knows_every_cell_knows_the_scene():
    found = perfect(SCENES).scenes()
    rows = emoji_judge.compared("truth", SCENES, found)
    assert all(row.value == 1 for row in rows), rows
    for scene, seen in zip(SCENES, found, strict=True):
        assert {t.concept: t.tint for t in scene.things} == {t.concept: t.tint for t in seen.things}


def test_a_thing_is_there_by_the_cells_that_show_it_best():
    seen = perfect(SCENES)
    for at, scene in enumerate(SCENES):
        names = {thing.concept for thing in scene.things}
        other = next(name for name in DRAWABLE if name not in names)
        assert all(float(seen.there(name)[at]) == 1 for name in names)
        assert float(seen.there(other)[at]) == 0


def test_the_judge_of_the_package_reads_held_out_scenes():
    if not HERE["emoji-judge"]:
        pytest.skip("the weights of zoo:emoji-judge are not in this checkout")
    rows = {(row.measure, row.of): row.value for row in emoji_judge.evaluate(emoji_judge.judge(), 100, lambda _: None)}
    assert rows["all things and no others", "test"] > 0.9
    floor = emoji_judge.evaluate(emoji_judge.untrained(), 50, lambda _: None)
    assert floor[0].value < 0.1


@pytest.mark.parametrize(
    ("spec", "recipe", "part"),
    [
        (emoji_judge.SPEC, judging.Recipe(steps=4, batch=4, save_every=2), None),
        (emoji_vae.SPEC, autoencoder.Recipe(steps=4, batch=2, save_every=2), None),
        (emoji_sd.SPEC, drawing.Recipe(steps=4, batch=2, save_every=2), "unet"),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_resumed_is_straight(tmp_path, spec, recipe, part):
    """Stopped after the third step and resumed from the second, the weights are those of a training in one go."""
    if part and not HERE["emoji-vae"]:
        pytest.skip("the weights of zoo:emoji-vae are not in this checkout")

    def state(folder, *halves):
        for until in halves:
            module, steps = make.training(spec, recipe, tmp_path / folder)
            list(islice(steps, until))
        return (getattr(module, part) if part else module).state_dict()

    straight, resumed = state("straight", None), state("halves", 3, None)
    assert json.loads((tmp_path / "halves" / PROGRESS).read_text())["step"] == 4
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_what_a_denoiser_should_say_leads_back_to_the_picture():
    """x = √ᾱ z - √(1 - ᾱ) v, for latents z with noise and the velocity v there."""
    if not HERE["emoji-vae"]:
        pytest.skip("the weights of zoo:emoji-vae are not in this checkout")
    pipeline = emoji_sd.untrained()
    clean, noise = torch.randn(2, 8, 4, 16, 16).unbind()
    given = emoji_sd.noised(pipeline, clean, noise, torch.rand(8))
    kept = pipeline.scheduler.alphas_cumprod[given.time][:, None, None, None]
    assert torch.allclose(kept.sqrt() * given.latents - (1 - kept).sqrt() * given.wanted, clean, atol=1e-5)


def test_prompts_of_a_step_are_new_and_some_are_empty():
    recipe = drawing.Recipe(batch=40)
    one, other = (drawing.batches(recipe, "x")(step) for step in (0, 1))
    assert 0 < one.prompts.count("") < 12 and one.prompts != other.prompts
    again = drawing.batches(replace(recipe), "x")(0)
    assert again.prompts == one.prompts and torch.equal(again.pictures, one.pictures)
