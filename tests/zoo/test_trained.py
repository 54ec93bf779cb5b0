"""The trained model that comes with the package: it opens like any other, and its card tells the truth."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

import cutaway
from cutaway import data
from cutaway.cli import app
from cutaway.errors import LoadError
from cutaway.zoo import trained
from cutaway.zoo.emoji_clip import untrained
from cutaway.zoo.evaluate import Eyes, classes, naming, telling_apart

run = CliRunner(env={"COLUMNS": "160"}).invoke
HERE = trained.TRAINED["emoji-clip"].here
MEASURED = trained.TRAINED["emoji-clip"].measured() if HERE else {}
shipped = pytest.mark.skipif(not HERE, reason="the weights of zoo:emoji-clip are not in this checkout")


def row(measure: str, of: str) -> dict:
    return next(row for row in MEASURED["rows"] if row["measure"] == measure and row["of"].startswith(of))


@shipped
def test_it_opens_with_the_library_alone():
    from transformers import AutoProcessor, CLIPModel

    folder = trained.TRAINED["emoji-clip"].folder
    model, processor = CLIPModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.dtype == torch.float32
    scene = data.scene_at("test", 0)
    given = processor(images=data.render(scene), text=["a dog"], return_tensors="pt", padding=True, truncation=True)
    assert model(**given).logits_per_image.shape == (1, 1)


@shipped
def test_it_opens_by_name_and_names_what_it_sees():
    model = cutaway.load("zoo:emoji-clip")
    scene = next(s for s in data.scenes("test", 50) if len(s.things) == 1 and s.things[0].tint is None)
    name = scene.things[0].concept
    others = [other for other in classes(40) if not data.concept(name).is_kin(other)]
    texts = [data.concept(one).one for one in (name, *others)]
    outputs = model.run(model.inputs(image=data.render(scene), text=texts)).outputs
    assert outputs.logits_per_image[0].argsort(descending=True)[:5].tolist().count(0) == 1
    assert model.sites.towers() == {"text": 3, "vision": 6}


@shipped
def test_the_untrained_twin_is_what_training_began_with():
    twin = cutaway.load("zoo:emoji-clip@untrained")
    assert twin.name == "zoo:emoji-clip@untrained"
    expected = untrained(MEASURED["recipe"]["seed"]).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in twin.module.state_dict().items())
    assert cutaway.load("zoo:emoji-clip@untrained", attn="eager", dtype="float64").dtype == torch.float64


def test_weights_that_are_not_here_say_how_to_make_them(monkeypatch, tmp_path):
    monkeypatch.setattr(trained, "MODELS", tmp_path)
    with pytest.raises(LoadError, match="cutaway zoo train emoji-clip"):
        cutaway.load("zoo:emoji-clip")
    assert "not trained here" in run(app, ["zoo", "list"]).output


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(LoadError, match="emoji-clip"):
        cutaway.load("zoo:emojiclip")


@shipped
def test_it_reaches_what_it_was_made_for():
    assert row("zero-shot top-1", "test")["value"] >= 0.85
    unseen = row("zero-shot top-1", "artist")
    assert unseen["low"] > 20 * unseen["chance"]
    assert {one["of"] for one in MEASURED["rows"]} >= set(data.FACTORS)


@shipped
def test_the_card_can_be_measured_again():
    """Two rows, on the same scenes: the same numbers, up to the rounding of another machine."""
    module, processor = trained.build("emoji-clip")
    eyes = Eyes(module, processor)
    again = naming(eyes, classes(), "test", MEASURED["n"])[0]
    assert again.value == pytest.approx(row("zero-shot top-1", "test")["value"], abs=0.003)
    pairs = telling_apart(eyes, "background", MEASURED["n"] // 4)
    assert pairs[-1].value == pytest.approx(row("pairs: group", "background")["value"], abs=0.01)


@shipped
def test_the_card_says_what_was_measured():
    card = trained.TRAINED["emoji-clip"].card()
    assert MEASURED["command"] in card and "cutaway zoo train emoji-clip" in card
    for one in MEASURED["rows"]:
        assert re.search(
            rf"\| {re.escape(one['measure'])} \| {re.escape(one['of'])} \| {one['n']} \| \*\*{100 * one['value']:.1f}",
            card,
        )


@shipped
def test_commands(tmp_path):
    assert "zoo:emoji-clip" in run(app, ["zoo", "list"]).output
    assert "# emoji-clip" in run(app, ["zoo", "card", "emoji-clip"]).output
    assert "zero-shot" in run(app, ["zoo", "eval", "emoji-clip", "--n", "256"]).output


def test_train_from_the_command_line(tmp_path):
    """Three steps, stopped after the first two by their number, then finished, measured and written down."""
    folder = tmp_path / "model"
    command = [
        "zoo",
        "train",
        "emoji-clip",
        "--steps",
        "2",
        "--batch",
        "80",
        "--seed",
        "3",
        "--work",
        str(tmp_path / "work"),
    ]
    told = run(app, [*command, "--out", str(folder), "--measure", "64"])
    assert told.exit_code == 0, told.output
    measured = json.loads((folder / "measured.json").read_text())
    assert measured["command"] == "cutaway zoo train emoji-clip --steps 2 --batch 80 --seed 3"
    assert cutaway.load(folder).sites.towers() == {"text": 3, "vision": 6}
    again = run(app, [*command, "--out", str(folder)])
    assert again.exit_code != 0 and "holds a model" in str(again.exception)
