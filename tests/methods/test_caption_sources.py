"""What wrote each word of a caption: exact sums, beside random words, and an untrained decoder looks elsewhere."""

import io

import numpy as np
import pytest
from rich.console import Console

import cutaway
from cutaway import data, questions
from cutaway.errors import InputError, MethodError
from cutaway.methods import caption_sources
from cutaway.methods.feature_visualisation.caption_sources import CaptionSources
from cutaway.methods.feature_visualisation.declared import METHODS
from cutaway.methods.result import load
from cutaway.methods.shown import Page
from cutaway.methods.sparse_autoencoders.beginning import untrained
from cutaway.model.targets import logit_diff, numbers
from cutaway.report.caption import write_caption
from cutaway.zoo import tiny
from world import opened

ASKED = "What does the picture show?"


def said(model, answer="a red dog", **more):
    return model.inputs(image=tiny.picture(), text="what is this", answer=answer, **more)


@pytest.fixture(scope="module")
def found():
    model = opened("llava").with_dictionaries(untrained("topk", "text.1.resid_post", 32, width=64, k=8), check=False)
    return model, caption_sources(model, said(model), features=2, progress=False)


@pytest.mark.checks("caption_sources", "truth")
def test_heads_patches_and_mlps_are_parts_of_the_models_own_difference(found):
    model, made = found
    inputs = said(model)
    own = inputs.tensors["input_ids"][0, -3:].tolist()
    logits = model.run(inputs).logits[0, -4:-1].double()
    for at, token in enumerate(own):
        order = logits[at].argsort(descending=True).tolist()
        rival = order[0] if order[0] != token else order[1]
        number = numbers(logit_diff(token, rival, at - 4), model.run(inputs))
        assert abs(float(made["number"][at]) - float(number)) < 1e-9
        assert made["rival"].values[at] == model.tokenizer.decode([rival]).strip()
        assert abs(float(made["probability"][at]) - float(logits[at].softmax(0)[token])) < 1e-6
    straight = made["patches"].sel(way="straight").sum(("row", "col"))
    assert np.allclose(straight, made["straight"]) and np.isfinite(made["effect"].values).all()
    assert list(made["text"].values) == ["a", "red", "dog"]


@pytest.mark.checks("caption_sources", "baseline")
def test_beside_heads_stands_their_size_for_random_words_and_beside_features_others(found):
    _, made = found
    table = made.summary()
    assert bool((made["heads_chance"] > 0).all()) and {"brings", "chance"} <= set(table)
    assert table["brings"].abs().median() < 6 * table["chance"].median()  # of random weights
    assert made.plot().get_yticklabels() and "chance" in made.note()


@pytest.mark.checks("caption_sources", "floor")
def test_heads_bring_the_word_of_a_thing_from_where_it_is_and_before_training_from_anywhere():
    some = [one for one in data.scenes("test", 60) if len(one.things) == 1][:3]
    share = []
    for name in ("zoo:emoji-llava", "zoo:emoji-llava@untrained"):
        model, found = cutaway.load(name), []
        for scene in some:
            inputs = model.inputs(image=data.render(scene), text=ASKED, answer=f"a {scene.things[0].concept}")
            made = caption_sources(model, inputs, features=0, progress=False)
            size = np.abs(made["patches"].sel(way="straight").isel(token=-1).values)
            there = np.asarray(data.masks(scene)[0], float).reshape(8, 8, 8, 8).mean((1, 3))
            found.append((size * there).sum() / size.sum() / there.mean())
        share.append(float(np.mean(found)))
    assert share[0] > 2 and share[1] < 1.5  # times what the thing covers


def test_the_page_has_a_map_and_bars_for_every_word(found):
    model, _ = found
    question = questions.asked(model.name, image=tiny.picture(), text="what is this")
    declared = next(one for one in METHODS if one.name == "caption_sources")
    applied = declared.apply(question, length=3, features=0)
    assert len(applied.result["text"]) <= 3
    (view,) = declared.show(Page(question, {"caption": applied}))
    assert view.values.shape[:2] == (len(view.words), 2) and len(view.bars[0]) == 6
    assert "logits above" in view.told[0] and "caption_sources(" in view.code


def test_the_command_writes_a_page_and_keeps_the_arrays(tmp_path):
    tiny.picture().save(tmp_path / "picture.png")
    console = Console(file=io.StringIO())
    wrote = write_caption(
        "tiny:llava", tmp_path / "picture.png", tmp_path / "page.html", caption="a dog", features=0,
        keep=tmp_path / "made.nc", console=console,
    )  # fmt: skip
    assert "What wrote each word" in wrote.read_text("utf-8") and isinstance(load(tmp_path / "made.nc"), CaptionSources)
    assert "answer='a dog'" in wrote.read_text("utf-8")
    with pytest.raises(InputError, match="already"):
        write_caption("tiny:llava", tmp_path / "picture.png", tmp_path / "page.html", console=console)


def test_what_has_no_caption_says_so():
    model = cutaway.load("tiny:llava")
    with pytest.raises(MethodError, match="2 captions"):
        caption_sources(model, model.inputs(image=[tiny.picture()] * 2, text=["a dog"] * 2, answer="red"))
    llama = cutaway.load("tiny:llama")
    with pytest.raises(MethodError, match="reads no picture"):
        caption_sources(llama, llama.inputs(text="a dog", answer="red"))
