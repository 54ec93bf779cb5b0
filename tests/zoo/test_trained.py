"""The trained model that comes with the package: it opens like any other, and its card tells the truth."""

import contextlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import cutaway
from cutaway import data
from cutaway.cli import app
from cutaway.errors import LoadError
from cutaway.zoo import emoji_clip, spec, trained
from cutaway.zoo.contrastive import Step
from cutaway.zoo.emoji_clip import untrained
from cutaway.zoo.evaluate import Eyes, Row, classes, naming, telling_apart
from cutaway.zoo.spec import Spec

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
    monkeypatch.setattr(spec, "MODELS", tmp_path)
    with pytest.raises(LoadError, match="cutaway zoo train emoji-clip"):
        cutaway.load("zoo:emoji-clip")
    assert "not trained here" in run(app, ["zoo", "list"]).output


def test_a_model_is_known_by_its_spec():
    """Also its twin, which has no floor of its own; other models have no spec, misspelt ones are an error."""
    found = trained.spec_of("zoo:emoji-clip")
    assert (found.title, found.floor) == ("zoo:emoji-clip", "zoo:emoji-clip@untrained")
    twin = trained.spec_of(found.floor)
    assert (twin.title, twin.floor, twin.bank) == (found.floor, None, found.bank)
    assert trained.spec_of("tiny:clip") is None and trained.spec_of("emoji-clip") is None
    assert all(one.template.is_file() for one in trained.TRAINED.values())
    with pytest.raises(LoadError, match="emoji-clip"):
        trained.spec_of("zoo:emojiclip")


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
    """A row on fewer scenes, one on the same: the same numbers, up to chance or the rounding of another machine."""
    module, processor = trained.build("emoji-clip")
    eyes = Eyes(module, processor)
    again = naming(eyes, classes(), "test", 300)[0]
    assert again.value == pytest.approx(row("zero-shot top-1", "test")["value"], abs=0.03)
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


def one_row(module, processor, n, told):
    """The first row of the card alone, among twenty names."""
    return naming(Eyes(module, processor), classes(20), "test", n)


@shipped
def test_commands(monkeypatch):
    monkeypatch.setitem(trained.TRAINED, "emoji-clip", replace(emoji_clip.SPEC, measure=one_row))
    listed = run(app, ["zoo", "list"]).output
    assert "zoo:emoji-clip" in listed and " 0.0 MB" not in listed  # of pipelines the weights lie deeper
    assert "# emoji-clip" in run(app, ["zoo", "card", "emoji-clip"]).output
    told = run(app, ["zoo", "eval", "emoji-clip", "--n", "64", "--device", "cpu"])
    assert "zero-shot" in told.output and told.exit_code == 0


def test_train_from_the_command_line(tmp_path, monkeypatch):
    """Two steps by a name with `zoo:` in front, measured and written down; the folders are those of the name."""
    monkeypatch.setitem(trained.TRAINED, "emoji-clip", replace(emoji_clip.SPEC, measure=one_row))
    command = ["zoo", "train", "zoo:emoji-clip", "--steps", "2", "--batch", "80", "--seed", "3"]
    with run_in(tmp_path):
        told = run(app, [*command, "--measure", "64"])
    assert told.exit_code == 0, told.output
    folder = tmp_path / "runs" / "emoji-clip" / "model"
    measured = json.loads((folder / "measured.json").read_text())
    assert measured["command"] == "cutaway zoo train emoji-clip --steps 2 --batch 80 --seed 3"
    assert cutaway.load(folder).sites.towers() == {"text": 3, "vision": 6}
    with run_in(tmp_path):
        again = run(app, command)
    assert again.exit_code != 0 and "holds a model" in str(again.exception)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "emoji-clap"], "'emoji-clap'.*Available: emoji-clip"),
        (["train", "zoo:emoji-clap"], "'emoji-clap'"),
        (["train", "emoji-clip", "--device", "cuda:99"], "no device 'cuda:99'"),
        (["card", "tiny:clip"], "no model of the zoo"),
        (["eval", "emoji-clip", "--device", "cuda:99"], "no device .cuda:99."),
        (["eval", "emoji-clip@trained"], "has no 'trained'.*@untrained"),
    ],
)
def test_what_the_zoo_refuses_writes_nothing(arguments, said, tmp_path):
    with run_in(tmp_path):
        told = run(app, ["zoo", *arguments])
    assert told.exit_code != 0 and re.search(f"(?is){said}", str(told.exception))
    assert not list(tmp_path.iterdir())


def run_in(folder):
    return contextlib.chdir(folder)


class Two(torch.nn.Module):
    """A model of two numbers, that `make` can write and read like any other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def save_pretrained(self, out: Path) -> None:
        out.mkdir(parents=True)
        (out / "config.json").write_text("{}")
        torch.save(self.weight, out / "weight")

    @classmethod
    def from_pretrained(cls, out: Path, dtype: torch.dtype = torch.float32) -> "Two":
        made = cls()
        made.weight.data = torch.load(out / "weight").data.to(dtype)
        return made


@dataclass(frozen=True)
class TwoRecipe:
    steps: int = 3
    batch: int = 1
    seed: int = 0


def two_steps(module, batches, recipe, work, device):
    for step in range(recipe.steps):
        module.weight.data += batches(step) >= 0
        yield Step(step + 1, 0.0, 1.0)


def two_rows(module, processor, n, told):
    told("counting")
    return [Row("sum", "of weights", n, float(module.weight.detach().sum()) / 6, 0.0, 1.0, 0.5)]


def test_another_model_is_one_entry(tmp_path, monkeypatch):
    """A second model, with its own recipe, measure and card, goes through the same commands."""
    (tmp_path / "two.md").write_text("# two\n{parameters} {samples} {minutes} {lost} {recipe}\n{table}\n")
    two = Spec(
        "two", "two numbers", lambda seed: Two(), lambda: SimpleNamespace(save_pretrained=lambda out: None), TwoRecipe,
        lambda recipe: lambda step: step, two_steps, two_rows, lambda module, shipped: 0.0, tmp_path / "two.md",
        asked="match",
    )  # fmt: skip
    monkeypatch.setitem(trained.TRAINED, "two", two)
    monkeypatch.setattr(spec, "MODELS", tmp_path)
    with run_in(tmp_path):
        told = run(app, ["zoo", "train", "two", "--seed", "7", "--out", "two"])
        assert told.exit_code == 0, told.output or told.exception
        assert "sum" in told.output and "100.0" in told.output
        assert "# two" in run(app, ["zoo", "card", "zoo:two"]).output
        listed = run(app, ["zoo", "list"]).output
    assert "zoo:two" in listed and "sum, of weights: 100.0 %" in listed and "not trained here" in listed
    measured = json.loads((tmp_path / "two" / "measured.json").read_text())
    assert measured["command"] == "cutaway zoo train two --seed 7" and measured["rows"][0]["untrained"] == 0
