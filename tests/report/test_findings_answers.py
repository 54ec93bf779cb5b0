"""The page about a model that answers: whole, with sentences that follow from its numbers; measures on tiny models."""

import numpy as np
import pytest
import torch
import xarray
from rich.console import Console

import cutaway
from cutaway.data import Scene, Thing, concept, scenes
from cutaway.methods.logit_lens import TunedLens
from cutaway.report import findings, findings_lens, findings_looks, findings_spots, findings_writes
from cutaway.report.findings_answers import further, page, sentences
from cutaway.report.findings_lens import ANY, LENSES, OUTPUT, RANDOM, Read
from cutaway.report.findings_page import About
from cutaway.zoo.trained import trained
from report.inside_numbers import inside
from world import opened

LAYERS = list(range(-1, 3))
ABOUT = About("zoo:planted", 48, 0, "page.md", {"maps": 1.0})


def maps(level: float, fall: float = 0.0) -> xarray.Dataset:
    """Two sets in which every lens finds `level`, the logit lens `fall` less after the last layer."""
    values = np.full((2, len(LENSES), len(LAYERS)), level)
    values[:, 0, -1] -= fall
    data = {}
    for what in ("iou", "hit", "reads"):
        for suffix, shift in (("", 0), ("_low", -0.03), ("_high", 0.03)):
            data[what + suffix] = ("set", "lens", "layer"), values + shift
            data[f"{what}_shuffled{suffix}"] = ("set", "lens", "layer"), np.full(values.shape, 0.1 + shift)
    counts = {name: ("set", [500, 400]) for name in ("words", "tokens")}
    return xarray.Dataset({**data, **counts}, coords={"lens": list(LENSES), "layer": LAYERS, "set": [0, 1]})


def mentions(level: float, output: float) -> xarray.Dataset:
    shape = (2, 2, len(LENSES), len(LAYERS) + 1)
    values = np.broadcast_to(np.array([level, 0.5])[None, :, None, None], shape)
    axes = ("set", "reader", "lens", "layer")
    data = {name: (axes, values + shift) for name, shift in (("auroc", 0), ("low", -0.05), ("high", 0.05))}
    gains = {"gain": 0, "gain_low": -0.04, "gain_high": 0.04}
    data |= {name: (axes, values - output + shift) for name, shift in gains.items()}
    for name, middle in ((OUTPUT, output), (RANDOM, 0.5)):
        ends = (("auroc", 0), ("low", -0.05), ("high", 0.05))
        data |= {f"{name}_{what}": ("set", np.full(2, middle + shift)) for what, shift in ends}
    counts = {"mentions": ("set", [100, 110]), "real": ("set", [60, 60])}
    coords = {"reader": ["trained", "untrained"], "lens": list(LENSES), "layer": [*map(str, LAYERS), ANY]}
    return xarray.Dataset({**data, **counts}, coords={**coords, "set": [0, 1]})


def found(level=0.7, before=0.2, fall=0.4, told=0.9, output=0.8) -> dict[str, xarray.Dataset]:
    return {**inside(), "maps": maps(level, fall), "maps_floor": maps(before), "hallucinated": mentions(told, output)}


def test_the_page_is_whole():
    text = page(found(), ABOUT, {name: f"img/{name}.png" for name in ("looks", "inside", "lens")})
    front, _, behind = text.partition("## ")
    assert [line[:2] for line in front.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3.", "4.", "5."]
    assert front.count("![") == 3
    assert "cutaway findings zoo:planted --out page.md --n 48 --seed 0" in behind and "nan" not in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 9 and all(len({line.count("|") for line in one.splitlines()}) == 1 for one in tables)
    assert "40/45 of 100 things" in text and "+10 [6, 14] / +10 [6, 14]" in text


@pytest.mark.parametrize(
    ("numbers", "begins"),
    [
        ({}, ["A picture token reads", "The name fades", "What the end can no longer read", "The map of a word lies",
              "The lens tells hallucinated things from real ones, and better"]),
        ({"level": 0.11, "before": 0.1, "fall": 0, "told": 0.52, "output": 0.8},
         ["It cannot be said that picture", "That the name fades", "No lens can be said", "The map of a word cannot",
          "The lens cannot be said to tell"]),
        ({"before": 0.69, "told": 0.7},
         ["It cannot be said that", "The name", "What the end", "The map of a word lies on its thing, though",
          "The lens tells hallucinated things from real ones, worse than"]),
        ({"told": 0.81},
         ["A picture", "The name", "What", "The map",
          "The lens tells hallucinated things from real ones, beyond luck no better"]),
    ],
)  # fmt: skip
def test_sentences_claim_what_both_sets_show_and_no_more(numbers, begins):
    whole = found(**numbers)
    first, *_, last = sentences(whole)
    said = [one.removeprefix("**") for one in (first, *further(whole), last)]
    assert [one.startswith(begin) for one, begin in zip(said, begins, strict=True)] == [True] * 5, said


def test_a_planted_map_is_scored_against_the_mask():
    """The mask itself as the map, the thing as the first word of its tokens; then of all tokens."""
    scene = Scene(things=(Thing("dog", place=(0.3, 0.3), size=0.5),))
    part = findings_lens.on_patches(findings_lens.coverage(scene)[1], 8, 8)
    on, ids = part >= 0.5, {"dog": 7, "umbrella": 8}
    read = Read({"dog": np.stack([part, -part])}, np.stack([np.where(on, 7, 8), np.full((8, 8), 7)]))
    made = findings_lens.against(scene, ["dog"], read, ids, 0)
    assert made["hit"].tolist() == [[1, 1], [0, 1]] and made["iou"][0, 0] > 0.9 and made["iou"][1, 0] == 0
    assert made["reads"].tolist() == [[on.sum(), on.sum()]] * 2
    assert np.allclose(made["reads_shuffled"][:, 0], [on.sum() * on.mean(), on.sum()])


def test_the_page_of_a_model_that_answers_is_these_sections(tmp_path, monkeypatch):
    """Lenses are made once a model; what they find is kept by section and set."""
    made, whole = [], found()

    class Counted(findings_lens.Lenses):
        def __init__(self, of, kept, told):
            made.append(kept)

    monkeypatch.setattr(findings_lens, "Lenses", Counted)
    monkeypatch.setattr(findings_lens, "maps", lambda lens, n, seed, told: whole["maps"].isel(set=seed, drop=True))
    seen = whole["hallucinated"]
    monkeypatch.setattr(findings_lens, "hallucinated", lambda of, read, n, seed, told: seen.isel(set=seed, drop=True))
    for of, name in ((findings_writes, "writes"), (findings_looks, "looks"), (findings_spots, "spots")):
        monkeypatch.setattr(of, name, _given(whole, name))
    model, floor = opened("llava"), opened("llava-next")
    out, quiet = tmp_path / "page.md", Console(quiet=True)
    findings.write(model, floor, out, 48, 0, findings.ANSWER, work=tmp_path, console=quiet)
    assert "\n1. **" in out.read_text(encoding="utf-8") and (tmp_path / "img" / "page-lens.png").is_file()
    assert len(set(made)) == 2 == len(made) and len(list(tmp_path.glob("*.nc"))) == 18
    assert {path.name for path in (tmp_path / "img").iterdir()} == {
        f"page-{n}.png" for n in ("looks", "inside", "lens")
    }


def _given(whole, name):
    """A measure that gives what is planted, without a model; of the floor where one form of the scene is asked for."""

    def measure(of, n, seed, told, forms=None):
        floor = of.name == "tiny:llava-next"
        return whole[f"{name}_floor" if floor else name].isel(set=seed, drop=True)

    return measure


def test_it_is_measured_on_a_trained_model(tmp_path, monkeypatch):
    """On few scenes: chance is chance, the lens is opened again, what is said has a probability."""
    if not trained("emoji-llava").here:
        pytest.skip("zoo:emoji-llava is not in this checkout")
    some = list(scenes("test", 6))
    names = sorted({concept(thing.concept).one for scene in some for thing in scene.things})
    monkeypatch.setattr(findings_lens, "emoji_texts", lambda count: names)
    monkeypatch.setattr(findings_lens, "STEPS", 4)
    monkeypatch.setattr(findings_lens, "BOOTSTRAPS", 40)
    monkeypatch.setattr(findings_lens, "LONGEST", 24)
    model = cutaway.load("zoo:emoji-llava")
    lenses = findings_lens.Lenses(model, tmp_path / "lens")
    again = TunedLens.load(tmp_path / "lens")
    assert torch.equal(lenses.tuned.tensors["change"], again.tensors["change"])
    made = findings_lens.maps(lenses, 4, 0, lambda _: None)
    assert made["reads"].sel(lens="embedding", layer=-1) > made["reads_shuffled"].sel(lens="embedding", layer=-1)
    assert (made["iou"] <= 1).all() and (made["hit_low"] <= made["hit"]).all() and int(made["words"]) >= 4
    said = findings_lens.hallucinated(model, {"trained": lenses}, 6, 0, lambda _: None)
    assert 0 <= float(said["output_low"]) <= float(said["output_auroc"]) <= 1
    for scene, mine in zip(some, findings_lens.mentions(model, some), strict=True):
        assert all(0 < chance <= 1 for chance in mine.values()) and len(scene.things) > 0
