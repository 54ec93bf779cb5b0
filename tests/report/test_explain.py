"""The report on a picture: what is on it, what it says, what it refuses."""

import importlib
import re
from contextlib import chdir, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cutaway
from cutaway import data
from cutaway.errors import InputError
from cutaway.methods import representation_decomposition
from cutaway.methods.causal_tracing import declared as patching
from cutaway.methods.causal_tracing.views import unrelated
from cutaway.methods.logit_lens.views import conflict
from cutaway.methods.representation_decomposition import Direct
from cutaway.methods.representation_decomposition.views import PATCHES
from cutaway.methods.result import load
from cutaway.methods.table import method
from cutaway.model.targets import margin
from cutaway.questions import given
from cutaway.questions.rows import embedded
from cutaway.report import explain
from cutaway.report.explain import explained
from cutaway.views.kinds import Bars, HeadTable, Matrix, Table
from cutaway.views.kinds import Lens as LensView
from cutaway.views.words import inside, mass, signed
from cutaway.zoo import tiny
from cutaway.zoo.spec import MODELS
from report.ran import printed

TEXTS = ("a red dog", "a cat on the left")
ASKED = importlib.import_module("cutaway.questions.asked")  # the package hands out a function of that name
trained_here = pytest.mark.skipif(not (MODELS / "emoji-clip").is_dir(), reason="zoo:emoji-clip is not in the package")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report with everything in it, on a random model; its code is written for the folder it was made in."""
    here = tmp_path_factory.mktemp("full")
    bank = here / "words.txt"
    bank.write_text("a dog\na cat\na red car\nbig birds\n")
    (here / "many").mkdir()
    for seed in range(6):
        tiny.picture(seed).save(here / "many" / f"{seed}.png")
    tiny.picture(0).save(here / "photo.png")
    return explained(
        "tiny:clip",
        here / "photo.png",
        TEXTS,
        counterfactual=tiny.picture(3),
        bank=bank,
        pictures=here / "many",
        out=here / "report",
        truth={"the left half": np.arange(40)[None].repeat(40, 0) < 20},
    )


@pytest.fixture(scope="module")
def views(full):
    return full.views


def direct(made):
    """What the decomposition on a report says."""
    return Direct(made.shown.question, made.shown.made("decomposition"))


def lens_line(made, text=0):
    return made.shown.made("lens")["pooled"].isel(picture=0, text=text).values


def test_the_page_and_its_arrays_are_written(full):
    assert full.page.read_text(encoding="utf-8").startswith("<!doctype html>")
    names = {file.name for file in full.folder.iterdir()}
    assert {"report.html", "picture.png", "counterfactual.png", "bank.txt", "decomposition.nc", "lens.nc"} <= names
    for file in full.folder.glob("*.nc"):
        assert load(file).provenance.method


def test_every_sum_is_the_number_of_the_model(full, views):
    question = full.shown.question
    run = question.model.run(question.model.inputs(image=question.pictures[0], text=list(TEXTS)))
    cosines = [float(cutaway.targets.similarity(text)(run)) for text in (0, 1)]
    wanted = [cosines[0] - cosines[1], *cosines]
    sums = [view for view in views if isinstance(view, Bars)]
    for view, number in zip(sums, wanted, strict=True):
        assert view.total == pytest.approx(number, abs=1e-6)
        assert sum(bar.value for bar in view.bars) == pytest.approx(number, abs=1e-5)
    assert question.value == pytest.approx(wanted[0], abs=1e-6)


def test_patches_and_heads_count_the_same_thing(full, views):
    own = direct(full)
    heads = next(view for view in views if isinstance(view, HeadTable))
    assert sum(head.effect for head in heads.heads) == pytest.approx(float(own.heads.sum()), abs=1e-6)
    assert len(heads.heads) == own.heads.size
    everywhere = own.parts.effect(own.texts, "head_tokens").isel(item=0).sum(("layer", "head", "token")).values
    assert everywhere[0] - everywhere[1] == pytest.approx(float(own.heads.sum()), abs=1e-5)
    assert all(len(head.phrases) == 3 for head in heads.heads)


def test_the_class_token_curve_ends_at_the_models_own_number(full, views):
    lens = next(view for view in views if isinstance(view, LensView))
    assert lens.pooled[:, -1] == pytest.approx(direct(full).cosines, abs=1e-5)


def test_a_model_with_a_pooling_head_is_explained_too(tmp_path):
    found = explained("tiny:siglip", tiny.picture(), TEXTS, counterfactual=tiny.picture(3), out=tmp_path / "new")
    own, made = direct(found), found.views
    assert own.reader == "pooling head" and own.all_read
    first = next(view for view in made if isinstance(view, Bars))
    assert sum(bar.value for bar in first.bars) == pytest.approx(found.shown.question.value, abs=1e-5)
    assert "MLP of the pooling head" in {bar.label for bar in first.bars}
    lens = next(view for view in made if isinstance(view, LensView))
    assert lens.pooled[:, -1] == pytest.approx(own.cosines, abs=1e-5) and lens.reader == "pooling head"
    said = " ".join([*found.findings, *(view.seen + view.limits for view in made)])
    assert "class token" not in said and "nan" not in re.findall("[a-z]+", said)


def test_patching_maps_lie_on_the_grid(full, views):
    by_patch, by_head = (view for view in views if isinstance(view, Matrix))
    assert by_patch.grid == (4, 4) and by_patch.values.shape == (3, 16) and by_head.values.shape == (3, 4)
    assert by_patch.values[-1] == pytest.approx(np.zeros(16), abs=1e-4)  # patches of the last layer are never read
    assert unrelated(full.shown.question).shape == (3, 4)


def test_every_view_says_what_it_shows_with_numbers(views):
    assert len({view.title for view in views}) == len(views) >= 12
    for view in views:
        assert re.search(r"\d", view.seen) and "nan" not in re.findall("[a-z]+", view.seen), view.seen
        assert view.provenance.get("model") == "tiny:clip", view.title


def numbers(text):
    """The numbers with a decimal point in a sentence, outside quotation marks; percents as shares."""
    plain = re.sub("“.*?”", "", text)
    found = re.findall(r"([+−]?\d+\.\d+)(%?)", plain)
    return [float(word.replace("−", "-")) / (100 if percent else 1) for word, percent in found]


def both(values):
    """What is added on either side of zero, and the ninth with most of the side on which all is."""
    side = -1 if values.sum() < 0 else 1
    return [values[values > 0].sum(), values[values < 0].sum(), mass(side * values)[1]]


def steered_by_hand(full):
    """What is said of steering: at the layer that is shown, with the whole difference added."""
    found, question = full.shown.made("steering"), full.shown.question
    whole = found.data.sel(way="add", alpha=1.0)
    names = ("share", "random_share", "kept", "random_kept", "cost", "random_cost")
    at = [float(whole[name].isel(layer=found.best)) for name in names]
    ends = [float(whole["share"][-1]), float(found["length"][-1]), float(found["state"][-1])]
    return {
        "Steering towards the counterfactual": [question.value, question.counterpart.value, *at,
                                                float(found["out_share"][found.best])],
        "Steering by layer": ends,
    }  # fmt: skip


def circuit_by_hand(full):
    """What is said of the circuit: what the first edges carry that are half of the gap and can be drawn, both runs."""
    found, question = full.shown.made("circuit"), full.shown.question
    there = [at for at, size in enumerate(found["edges"].values) if size <= 300]
    at = next((at for at in there if found["faithfulness"].values[at] >= 0.5), there[-1])
    shares = [float(found[name].mean("draw")[at] if name == "random" else found[name][at])
              for name in ("faithfulness", "random")]  # fmt: skip
    return {"The circuit: which edges carry it": [*shares, question.counterpart.value, question.value]}


def found_by_hand(full):
    """What the sentence of each view must say, from the arrays alone, in the order of the sentence."""
    shown, own, question = full.shown, direct(full), full.shown.question
    model, other = question.model, question.counterpart
    run = model.run(model.inputs(image=question.pictures[0], text=list(TEXTS)))
    cosine = [float(cutaway.targets.similarity(text)(run)) for text in (0, 1)]
    margin, patches = cosine[0] - cosine[1], own.patches.values[0] - own.patches.values[1]
    heads = own.heads.values
    side = 1 if margin > 0 else -1
    lead = float(heads.flat[(side * heads).argmax()])
    recovery = {over: shown.made(f"patching_{over}")["recovery"].isel(pair=0).transpose("layer", over).values
                for over in ("token", "head")}  # fmt: skip
    layer, head = np.unravel_index(recovery["head"].argmax(), recovery["head"].shape)
    curve = lens_line(full, 0) - lens_line(full, 1)
    step = int(abs(np.diff(curve)).argmax())
    centred = shown.made("lens_centred")
    last = centred["patch"].isel(picture=0, layer=-1).transpose("text", "row", "col").values
    near = own.parts.cosines(given.with_asked(own.texts, question.bank)).values[0]
    chance = float(centred["random"].values[-1])
    strongest = patches.min() if patches.sum() < 0 else patches.max()
    by_word = {f"“{text}” word by word": by_word_by_hand(full, text) for text in TEXTS}
    bank = question.bank.directions(centre=True).double()
    words = own.texts.directions(centre=False).double()
    wanted = (words[0] - words[1]) / (words[0] - words[1]).norm()
    spans = shown.made("head_texts")
    fits = spans.data.isel(pick=0)["fit"].values
    near_bank = float((bank @ wanted).abs().max())
    strong = np.unravel_index(abs(heads).argmax(), heads.shape)
    fed = sorted(own.feeding().values[strong] * np.sign(heads[strong]), reverse=True)
    return by_word | steered_by_hand(full) | circuit_by_hand(full) | {
        "What each patch adds": [patches.sum(), margin, *both(patches), strongest],
        "Heads": [lead, lead / margin, fits.flat[(side * heads).argmax()],
                  float(spans["random_fit"].isel(pick=0).mean()), *[near_bank] * (near_bank < 0.5)],
        "What feeds the heads": [heads[strong], *(np.sign(heads[strong]) * np.array(fed[:2]))],
        "Patching by layer and patch": [margin, other.value, recovery["token"][:, 1:].max()],
        "Patching by layer and head": [recovery["head"].max(), float(unrelated(question).values[layer, head])],
        "Where the answer appears": [curve[step + 1] - curve[step], curve[-1]],
        "Layer by layer": [lens_line(full)[0], cosine[0]],
        "What each patch says at the last layer": [last[0].max(), chance, (last[0] > 2 * chance).mean()],
        "Nearest texts": [near[0], near[2:].max()],
        "The embedding as a few texts": [float(shown.made("splice")[name].values[0]) for name in ("cosine", "random")],
        "Beside chance": [margin],
        **flow_by_hand(shown),
        **relevance_by_hand(shown),
    }  # fmt: skip


def flow_by_hand(shown):
    """What is said of windows that were put back, and of edges that were cut."""
    cut = shown.made("knockout").data
    whole, inside = cut.sel(layer="all"), cut["change"].isel(layer=cut["layer"].values != "all").values
    order = np.argsort(-abs(whole["change"].values), kind="stable")
    edges = [float(whole[name][at]) for at in order for name in ("change", "random")]
    return {
        "Windows of attention and of MLPs": shown.made("tracing_windows")["mean"].max("layer").values.tolist(),
        "Which way it takes through attention": edges,
        "Edges of attention, cut": [inside.flat[abs(inside).argmax()]],
    }


def relevance_by_hand(shown):
    """The share of the patch that counts most of the size of all."""
    heat = abs(shown.made("relevance").data["picture"].values[0, 0])
    said = [heat.max() / heat.sum()]
    return {f"Which {what} the number depends on, by method": said for what in ("patches", "words")}


def by_word_by_hand(full, text):
    """What the patches add for the word that matters most, from the model's own cosines of shorter texts."""
    question, words = full.shown.question, text.split()
    texts = [text, *(" ".join(words[:at] + words[at + 1 :]) for at in range(len(words)))]
    vectors = embedded(question.model, texts, "text")
    parts = representation_decomposition(question.model, question.pictures, by_token=True)  # whole vectors
    grid = parts.on_grid(parts.effect(vectors, "head_tokens").sum(("layer", "head"))).isel(item=0).values
    maps = grid[0] - grid[1:]
    best = maps[abs(maps.sum((1, 2))).argmax()]
    return [best.sum(), best[best > 0].sum(), best[best < 0].sum()]


def test_every_number_in_a_sentence_is_that_of_the_arrays(full, views):
    wanted = found_by_hand(full)
    said = {view.title: numbers(view.seen) for view in views if not isinstance(view, Bars)}
    assert set(said) == set(wanted)
    for title, values in wanted.items():
        assert said[title] == pytest.approx(values, abs=6e-3), title


def test_the_sentence_of_a_sum_adds_up(views):
    for view in (view for view in views if isinstance(view, Bars)):
        parts = {group: sum(bar.value for bar in view.bars if bar.group == group) for group in ("heads", "MLPs")}
        rest = sum(bar.value for bar in view.bars) - sum(parts.values())
        largest = max((bar.value for bar in view.bars), key=abs)
        wanted = [parts["heads"], parts["MLPs"], rest, largest, view.total, view.total]
        assert numbers(view.seen)[:6] == pytest.approx(wanted, abs=6e-4), view.title


def test_the_findings_are_the_numbers_of_the_arrays(full):
    own, value = direct(full), full.shown.question.value
    verdict, first, second, third = (numbers(finding) for finding in full.findings)
    assert verdict == pytest.approx([abs(value)], abs=6e-4)
    assert first == pytest.approx([*own.cosines, value, full.shown.question.counterpart.value], abs=6e-4)
    side = 1 if value > 0 else -1
    heads = own.heads.values
    patches = own.added.values
    assert second == pytest.approx([heads.sum(), side * (side * heads).max(), *both(patches)], abs=6e-4)
    added, area = inside(patches, full.shown.question.truth["the left half"])
    brought = float(full.shown.made("patching_head")["mean"].max())
    assert third == pytest.approx([area, added, patches.sum() - added, brought], abs=6e-4)


def test_the_crowd_is_counted(full, views):
    view = next(view for view in views if view.title == "What each patch says at the last layer")
    assert "the mean over 7 pictures" in view.seen  # six of the folder, and the picture itself


def test_what_a_user_wrote_stays_as_it_was_written(tmp_path):
    made = explained("tiny:clip", tiny.picture(), ["a -5 cat", "-2.5 dogs"], out=tmp_path / "new")
    page = made.page.read_text(encoding="utf-8")
    assert "“a -5 cat”" in " ".join(made.findings) and "−5 cat" not in page and "−2.5 dogs" not in page
    assert all("-0." not in finding for finding in made.findings)


@pytest.fixture(scope="module")
def told_by_code(full):
    with chdir(full.folder.parent):
        return list(printed(full))


def test_the_code_of_every_view_runs(told_by_code, views):
    assert [view for view, _ in told_by_code] == list(views)
    assert all(re.search(r"\d", said) for _, said in told_by_code)


def test_the_code_of_each_sum_gives_the_number_on_the_page(told_by_code):
    sums = [(view, said) for view, said in told_by_code if isinstance(view, Bars)]
    assert sums
    for view, said in sums:
        assert float(said.split()[-1]) == pytest.approx(view.total, abs=1e-5), view.title


def test_findings_and_floors_are_told(full, views):
    assert 3 <= len(full.findings) <= 4 and f"{signed(full.shown.question.value):+.3f}" in full.findings[1]
    floors = next(view for view in views if view.title == "Beside chance")
    assert isinstance(floors, Table) and any("left half" in str(row[0]) for row in floors.cells)
    assert "No untrained twin" in floors.seen


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA", "1"])
def test_pictures_of_every_mode_and_size(mode, tmp_path):
    Image.fromarray(np.arange(37 * 91, dtype=np.uint32).reshape(37, 91).astype(np.uint8)).convert(mode).save(
        tmp_path / "odd.png"
    )
    assert given.as_seen(cutaway.load("tiny:clip"), given.read_picture(tmp_path / "odd.png")).mode == "RGB"
    if mode == "LA":
        assert explain.explain("tiny:clip", tmp_path / "odd.png", ["a dog"], out=tmp_path / "out").is_file()


def test_a_turned_photo_is_set_upright(tmp_path):
    photo, exif = Image.new("RGB", (40, 20), "red"), Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=exif)
    assert given.read_picture(tmp_path / "turned.jpg").size == (20, 40)


def test_one_text_and_no_bank_leave_views_out_and_say_so(tmp_path):
    made = explained("tiny:clip", tiny.picture(), ["a dog xylograph"], out=tmp_path)
    titles = [view.title for view in made.views]
    assert made.shown.question.bank is None and "--bank" in " ".join(made.notes)
    assert not {"Nearest texts", "The embedding as a few texts"} & set(titles) and "Heads" in titles
    page = made.page.read_text(encoding="utf-8")
    assert "--pictures" in page and "--bank" in page and "--counterfactual" in page
    assert "“xylograph”" in page  # a word that the model has no entry for


def test_pictures_that_the_model_hardly_tells_apart_are_not_patched(tmp_path):
    made = explained("tiny:clip", tiny.picture(), TEXTS, counterfactual=tiny.picture(), out=tmp_path)
    assert made.shown.made("patching_token") is None and "nothing can be brought back" in " ".join(made.notes)


def test_hostile_texts_and_texts_that_look_like_code_stay_texts(tmp_path):
    texts = ["</script><img src=x> '\"\\", "texts[0]"]
    made = explained("tiny:clip", tiny.picture(), texts, out=tmp_path)
    assert "<img src=x" not in made.page.read_text(encoding="utf-8")
    assert all("text=" + repr(texts) in view.code for view in made.views)
    exec(compile(made.views[0].code, "a view", "exec"), {"print": lambda *_: None})  # noqa: S102


def test_an_opened_model_is_taken_as_it_is(tmp_path):
    module, processor = tiny.build("clip")
    model = cutaway.load(module, processor=processor)
    made = explained(model, tiny.picture(), TEXTS, out=tmp_path)
    with redirect_stdout(StringIO()):
        exec(compile(made.views[0].code, "a view", "exec"), {"model": model})  # noqa: S102


def test_a_picture_is_shown_as_it_is_cropped(tmp_path):
    wide = Image.fromarray(
        (np.arange(300)[None, :, None] / 300 * np.array([255, 128, 0])).repeat(100, 0).astype("uint8")
    )
    model = cutaway.load("tiny:clip")
    seen = given.as_seen(model, wide)
    assert seen.width == seen.height
    row = np.asarray(seen)[seen.height // 2, :, 0].astype(float)
    middle = np.interp(np.linspace(100, 200, seen.width), np.arange(300), np.asarray(wide)[50, :, 0])
    whole = np.interp(np.linspace(0, 299, seen.width), np.arange(300), np.asarray(wide)[50, :, 0])
    wanted = middle if getattr(model.engine.tools.images, "do_center_crop", False) else whole
    assert np.abs(row - wanted).mean() < 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "nowhere.png"}, "No picture at"),
        ({"image": "words.png"}, "cannot be opened"),
        ({"image": "half.png"}, "damaged"),
        ({"texts": []}, "There is no text"),
        ({"texts": ["  "]}, "There is no text"),
        ({"model": "tiny:llava"}, "2 texts.*answers one.*--answer"),
        ({"model": "tiny:llava", "texts": "what is this", "image": None, "prompt": "a dog"}, "draws nothing"),
        ({"model": "tiny:sd"}, "--text says nothing.*as --prompt"),
        ({"image": None}, "no image.*a picture to hold"),
        ({"model": "tiny:siglip2"}, "asked nothing.*unknown.*Expected.*SigLIP"),
        ({"bank": "none.txt"}, "No file at"),
        ({"pictures": "none"}, "no folder"),
        ({"pictures": "words.png"}, "is a file.*Expected: a folder.*--image"),
        ({"image": "."}, "is a folder.*Expected: one picture file.*half.png.*--pictures"),
        ({"bank": "words.png"}, "words.png.*--bank.*fewer than two"),
        ({"texts": ["a dog", "a dog "]}, "'a dog' is given twice"),
        ({"texts": ["a dog", " "]}, "Text 2 is empty"),
        ({"out": "words.png/new"}, "cannot be written to"),
        ({"model": "zoo:emoji-clip@nothing"}, "'nothing'.*@untrained"),
        ({"pictures": "."}, "holds 2 pictures.*words.png"),
        ({"out": "taken"}, "not empty.*kept.txt.*overwrite"),
        ({"out": "words.png"}, "is a file"),
    ],
)
def test_what_can_not_be_done_is_said_in_four_parts(change, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.png").write_text("no picture")
    tiny.picture(size=(200, 200)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "whole.png").unlink()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "kept.txt").write_text("mine")
    given = {"model": "tiny:clip", "image": tiny.picture(), "texts": list(TEXTS), "out": "new", **change}
    with pytest.raises(ValueError, match=f"(?s){said}"):
        explain.explain(given.pop("model"), given.pop("image"), given.pop("texts"), **given)
    assert (tmp_path / "taken" / "kept.txt").read_text() == "mine" and not (tmp_path / "new" / "report.html").exists()


def test_overwrite_replaces_every_file_of_an_earlier_report_and_nothing_else(tmp_path):
    (tmp_path / "bank.txt").write_text("a dog\na cat\n")
    given = {"counterfactual": tiny.picture(3), "bank": tmp_path / "bank.txt", "out": tmp_path / "new"}
    explain.explain("tiny:clip", tiny.picture(), TEXTS, **given)
    (tmp_path / "new" / "mine.nc").write_text("not a report's")
    with pytest.raises(InputError, match="not empty"):
        explain.explain("tiny:clip", tiny.picture(), ["a dog"], out=tmp_path / "new")
    before = {file.name for file in (tmp_path / "new").iterdir()}
    assert {"counterfactual.png", "bank.txt", "patching_head.nc"} <= before <= {*explain.FILES, "mine.nc"}
    explain.explain("tiny:clip", tmp_path / "new" / "picture.png", ["a dog"], out=tmp_path / "new", overwrite=True)
    after = {file.name for file in (tmp_path / "new").iterdir()}
    kept = {"decomposition", "knockout", "lens", "relevance", "mine"}
    kept |= {f"relevance_by_{how}" for how in ("attention", "removal", "slope")}
    assert after == {"report.html", "picture.png", *(f"{name}.nc" for name in kept)}
    assert (tmp_path / "new" / "mine.nc").read_text() == "not a report's"


def test_nothing_is_opened_before_what_is_cheap_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(ASKED, "load", lambda _: pytest.fail("the model was opened"))
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "taken.txt").write_text("mine")
    for wrong in ({"bank": tmp_path / "empty.txt"}, {"pictures": tmp_path}, {"out": tmp_path / "taken.txt" / "x"},
                  {"counterfactual": tmp_path / "none.png"}):  # fmt: skip
        with pytest.raises(ValueError, match="Expected"):
            explain.explain("tiny:clip", tiny.picture(), TEXTS, **{"out": tmp_path / "new", **wrong})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty.txt", "taken.txt"]


def test_a_region_and_a_ninth_are_found():
    values = np.zeros((6, 6))
    values[0, 5] = 2.0
    assert mass(values) == ("top right", 1.0)
    mask = np.zeros((60, 60), bool)
    mask[:10, 50:] = True
    assert inside(values, mask) == (2.0, pytest.approx(1 / 36))


def test_a_margin_needs_two_texts():
    model = cutaway.load("tiny:clip")
    run = model.run(model.inputs(image=tiny.picture(), text=list(TEXTS)))
    cosines = [cutaway.targets.similarity(text)(run) for text in (0, 1)]
    assert margin(1, 0)(run) == pytest.approx(cosines[1] - cosines[0])
    assert margin(1)(run) == pytest.approx(cosines[1]) and margin().unit == "cosine"
    with pytest.raises(cutaway.errors.TargetError, match="own rival"):
        margin(0, 0)(run)


def test_large_models_are_patched_at_some_layers_only(full, monkeypatch):
    monkeypatch.setattr(patching, "RUNS", 20)
    made = method("activation_patching").apply(full.shown.question, over="token")
    assert made.result["recovery"]["layer"].values.tolist() == [2] and "'vision.2.resid_post'" in made.code()
    whole = full.shown.made("patching_token")["recovery"].sel(layer=2)
    assert np.allclose(made.result["recovery"].values[0, 0], whole.values[0], atol=1e-4)


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / page).read_text(encoding="utf-8"), re.S)


def test_the_page_on_reports_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for code in blocks("docs/report.md"):
        exec(compile(code, "docs/report.md", "exec"), {})  # noqa: S102
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tiny:llava", "tiny:qwen2-vl"])
def test_a_model_that_answers_is_explained_by_what_fits(name, tmp_path):
    made = explained(name, tiny.picture(), text="what is this", counterfactual=tiny.picture(3), out=tmp_path)
    question = made.shown.question
    by_token, by_head = (view for view in made.views if isinstance(view, Matrix))
    known = question.inputs.tokens["text"]
    at = int(known.where(row=1, col=2).numpy().argmax())
    assert by_token.column_axis.labels[at] == "row 1, column 2" and by_token.column_axis.labels[-1] == "this"
    assert by_token.grid is None and by_token.pictures[0] is not None
    recovery = made.shown.made("patching_token")["recovery"].isel(pair=0).values
    assert np.allclose(by_token.values, recovery, atol=1e-6) and by_head.values.shape == (3, 4)
    assert numbers(made.findings[1]) == pytest.approx([question.value, question.counterpart.value], abs=6e-4)
    assert numbers(made.findings[4])[0] == pytest.approx(recovery[:, :-1].max(), abs=6e-4)  # but where it is read
    assert "logit lens" in made.notes[0] and "--bank" not in made.notes[0]
    assert all("found = activation_patching(" in view.code for view in (by_token, by_head))


def test_a_text_is_explained_beside_another_without_a_picture(tmp_path):
    made = explained("tiny:llama", text="what is this", answer="dog", rival="cat", counterfactual="who is this",
                     out=tmp_path)  # fmt: skip
    view = next(view for view in made.views if isinstance(view, Matrix))
    assert view.column_axis.labels == ("<s>", "what", "is", "this") and view.pictures[0] is None
    assert "counterfactual “who is this”" in view.captions[1]
    assert not list(tmp_path.glob("*.png")) and "counterfactual='who is this'" in view.code


def test_a_drawing_is_explained_by_its_parts(tmp_path):
    made = explained("tiny:sd3", prompt="a red dog", counterfactual="a blue dog", out=tmp_path)
    (view,) = (one for one in made.views if getattr(one, "column_axis", None) and one.column_axis.name == "part")
    assert "image.mlp.out" in view.column_axis.labels
    best = float(made.shown.made("patching_part")["mean"].max())
    assert numbers(view.seen)[-1] == pytest.approx(best, abs=6e-4) and np.nanmax(view.values) == np.float32(best)


@trained_here
def test_the_report_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ASKED, "crowd", lambda *_, **__: list(data.scenes("test", 12)))  # as in the page, but sooner
    monkeypatch.setattr(patching, "RUNS", 130)
    code = next(code for code in blocks("README.md") if "explain(" in code)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102
    assert (tmp_path / "reports" / "written-word" / "report.html").is_file()


@trained_here
def test_the_trained_model_finds_the_written_word(tmp_path, monkeypatch):
    monkeypatch.setattr(ASKED, "crowd", lambda *_, **__: list(data.scenes("test", 12)))
    monkeypatch.setattr(patching, "RUNS", 130)
    pair = next(data.pairs("label", 1, "test", world=data.World(things=(1, 1))))
    written = replace(pair.b, canvas=(128, 128))
    made = explained(
        "zoo:emoji-clip", data.render(written), [pair.caption_b.text, pair.caption_a.text],
        counterfactual=data.render(replace(pair.a, canvas=(128, 128))), out=tmp_path, many=48,
        truth={"the word": data.label_mask(written)},
    )  # fmt: skip
    question, added = made.shown.question, direct(made).added.values
    assert question.value > 0.1 > question.counterpart.value and question.floor is not None
    mask = question.truth["the word"]
    here, area = inside(added, mask)
    assert here > 2 * area * added.sum()
    floor = made.shown.floor
    assert here > abs(inside(Direct(floor.question, floor.made("decomposition")).added.values, mask)[0])
    assert any("Nearest" in view.title for view in made.views)


def test_a_text_that_the_patches_speak_against_is_told_so(tmp_path, full):
    question = full.shown.question
    lower = TEXTS[0] if question.value < 0 else TEXTS[1]
    made = explained("tiny:clip", question.pictures[0], [lower], out=tmp_path)
    added = direct(made).added.values
    stance = "against" if added.sum() < 0 else "for"
    assert f"speak {stance} it ({signed(added.sum()):+.3f})" in made.findings[0]
    view = next(view for view in made.views if view.title == PATCHES)
    assert f"of what speaks {stance} it" in view.seen


def test_a_map_that_contradicts_the_first_says_so(full, views):
    added = direct(full).added.values
    assert "contradicts" in conflict(full.shown, -added)
    assert not conflict(full.shown, added)
    read = [view for view in views if view.title in ("Layer by layer", "What each patch says at the last layer")]
    assert all(view.folded for view in read) and read[1].palette == "reads"


def test_the_code_of_a_curve_and_of_a_map_gives_what_the_page_shows(told_by_code):
    for title, wanted in (
        ("Where the answer appears", lambda view: view.lines[0].values),
        (PATCHES, lambda view: view.values[0]),
    ):
        view, said = next((view, said) for view, said in told_by_code if view.title == title)
        found = [float(word) for word in re.findall(r"-?\d+\.\d+", said)]
        assert found == pytest.approx(wanted(view).ravel().tolist(), abs=1e-3), title


def test_the_pictures_that_move_a_head_are_those_in_which_it_adds_most_and_least(full, views):
    view = next(view for view in views if isinstance(view, HeadTable))
    crowd = representation_decomposition(full.shown.question.model, full.shown.question.crowd)
    effect = crowd.effect(direct(full).texts, "heads").transpose("text", "item", "layer", "head").values
    usual = effect[0] - effect[1]
    for head in view.heads:
        one = usual[:, head.layer, head.head]
        named = [view.pictures[place].alt for place in (head.most[0], head.least[0])]
        assert named == [f"picture {one.argmax()}", f"picture {one.argmin()}"]
    assert view.patterns.shape == (3, 4, 4, 4) and (view.patterns.sum((2, 3)) <= 1 + 1e-5).all()
