"""Bad input: every case is one of our errors and says what failed, what was expected, what exists, what to do."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import cutaway
from cutaway import Ablate, Knockout, Patch, Project, Scale, Set, Site, Where, errors, targets
from cutaway.zoo import tiny
from world import PT, given, opened


def clip():
    return opened("clip")


def run(*edits, name="llava", **options):
    return opened(name).run(given(name), edits=list(edits), **options)


def pickled(folder):
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    return cutaway.load(folder)


def no_picture(folder):
    (folder / "words.png").write_text("no picture")
    return clip().inputs(image=folder / "words.png")


# name -> (what is done, the error, words that its text must hold)
CASES = {
    "unknown site": (lambda _: opened("llava").sites["text.0.atn.z"], errors.SiteError, ["Available: text.0.attn.z"]),
    "unknown tower": (lambda _: opened("llava").sites["txt.0.attn.z"], errors.SiteError, ["'txt'", "text (3 layers)"]),
    "layer out of range": (
        lambda _: opened("llava").sites["text.33.resid_post"],
        errors.SiteError,
        ["layer 33", "from 0 to 2", "text.2.resid_post"],
    ),
    "a pattern that matches nothing": (
        lambda _: opened("llava").sites["vision.*.cross.*"],
        errors.SiteError,
        ["matches no site", "Available:"],
    ),
    "no site at all": (lambda _: Site.parse("hello"), errors.SiteError, ["tower.layer.part"]),
    "a number as a picture": (
        lambda _: clip().inputs(image=3),
        errors.InputError,
        ["type int", "PIL image", "pixel_values"],
    ),
    "a batch as a picture": (
        lambda _: clip().inputs(image=np.zeros((2, 3, 4, 5))),
        errors.InputError,
        ["(2, 3, 4, 5)"],
    ),
    "floats beyond 1": (lambda _: clip().inputs(image=np.full((4, 4, 3), 7.0)), errors.InputError, ["0 to 1"]),
    "an empty picture": (
        lambda _: clip().inputs(image=Image.new("RGB", (0, 0))),
        errors.InputError,
        ["0 x 0", "at least"],
    ),
    "one pixel": (lambda _: clip().inputs(image=Image.new("RGB", (1, 1))), errors.InputError, ["1 x 1", "at least"]),
    "an enormous picture": (
        lambda _: clip().inputs(image=Image.new("1", (20_000, 20_000))),
        errors.InputError,
        ["at most", "Shrink"],
    ),
    "no file": (lambda _: clip().inputs(image="nope.png"), errors.InputError, ["nope.png"]),
    "a file that is no picture": (no_picture, errors.InputError, ["words.png", "Expected: PNG"]),
    "a text longer than the tower": (
        lambda _: clip().inputs(text="a dog " * 50),
        errors.InputError,
        ["102 tokens", "at most 16", "never truncates"],
    ),
    "an empty text without a token": (lambda _: opened("gpt2").inputs(text=["a", ""]), errors.InputError, ["no token"]),
    "nothing": (lambda _: opened("clip").inputs(), errors.InputError, ["`image=`"]),
    "a text for a model of pictures": (lambda _: opened("vit").inputs(text="a"), errors.InputError, ["vision"]),
    "a picture for a model of text": (
        lambda _: opened("llama").inputs(image=tiny.picture()),
        errors.InputError,
        ["text"],
    ),
    "a picture for a pipeline": (lambda _: opened("sd").inputs(image=tiny.picture()), errors.InputError, ["`prompt=`"]),
    "a size the latents cannot have": (
        lambda _: opened("sd").inputs(prompt="a dog", size=(33, 32)),
        errors.InputError,
        ["multiples of"],
    ),
    "a folder without a model": (
        cutaway.load,
        errors.LoadError,
        ["config.json", "save_pretrained"],
    ),
    "a pickle checkpoint": (pickled, errors.LoadError, ["pytorch_model.bin", "safetensors", "refused"]),
    "a name that is nothing": (lambda _: cutaway.load("nonsense"), errors.LoadError, ["hub id", "tiny:NAME"]),
    "a hub id out of reach": (
        lambda _: cutaway.load("nobody/nothing"),
        errors.LoadError,
        ["could not be read", "folder"],
    ),
    "a tiny name misspelled": (lambda _: cutaway.load("tiny:lava"), errors.LoadError, ["llava"]),
    "an object that is no model": (lambda _: cutaway.load(3), errors.LoadError, ["type int"]),
    "a token that is no position": (lambda _: run(Scale("text.1.attn.z", 0.0, token=1.5)), errors.EditError, ["1.5"]),
    "a token that is a word": (
        lambda _: run(Scale("text.1.attn.z", 0.0, token="dog")),
        errors.EditError,
        ["Where(text='dog')"],
    ),
    "a mask of another length": (
        lambda _: run(Scale("text.1.attn.z", 0.0, token=torch.ones(3, dtype=torch.bool))),
        errors.EditError,
        ["3 entries", "each token"],
    ),
    "a value that does not fit": (
        lambda _: run(Set("text.1.attn.z", torch.zeros(7), head=1)),
        errors.EditError,
        ["(7,)", "(batch=1, token=", "d_head=8)", "head=4"],
    ),
    "a patch of another length": (
        lambda _: run(Patch("text.1.attn.z", torch.zeros(1, 5, 4, 8))),
        errors.EditError,
        ["(1, 5, 4, 8)", "token="],
    ),
    "a head out of range": (lambda _: run(Scale("text.1.attn.z", 0.0, head=9)), errors.EditError, ["head 9", "0 to 3"]),
    "a selector that does not exist": (
        lambda _: Scale("text.1.attn.z", 0.0, heads=9),
        errors.EditError,
        ["heads", "head,"],
    ),
    "a selector the site lacks": (
        lambda _: run(Scale("text.1.resid_post", 0.0, head=1)),
        errors.EditError,
        ["`head=`", "d_model=32"],
    ),
    "a token out of range": (lambda _: run(Scale("text.1.resid_post", 0.0, token=99)), errors.EditError, ["token 99"]),
    "a place no patch has": (
        lambda _: run(Scale("text.1.resid_post", 0.0, token=Where("image", row=9))),
        errors.InputError,
        ["row=9", "bos, image, text"],
    ),
    "a step of a model without steps": (
        lambda _: run(Scale("text.1.resid_post", 0.0, step=3)),
        errors.EditError,
        ["`step=`", "the axes"],
    ),
    "a step that never comes": (
        lambda _: run(Scale("denoiser.1.resid_post", 0.0, step=5), name="sd"),
        errors.EditError,
        ["never acted", "`step=`"],
    ),
    "a dead site": (
        lambda _: run(Scale("vision.2.resid_post", 0.0)),
        errors.EditError,
        ["would change nothing", "vision_feature_layer=-2"],
    ),
    "directions of another length": (
        lambda _: run(Project("text.0.resid_post", torch.ones(5))),
        errors.EditError,
        ["length 32", "length 5"],
    ),
    "a mean of nothing": (lambda _: Ablate("text.0.attn.z", "mean"), errors.EditError, ["reference=", "model.run"]),
    "a patch from a run that did not record": (
        lambda _: Patch("text.0.attn.z", run(record="text.1.attn.z")),
        errors.SiteError,
        ["not recorded", "text.1.attn.z"],
    ),
    "an activation that was not recorded": (
        lambda _: run(record="text.0.attn.z")["text.1.attn.z"],
        errors.SiteError,
        ["text.0.attn.z", "`record=`"],
    ),
    "a site that does not run": (
        lambda _: opened("llava").run(opened("llava").inputs(text="a dog"), record="vision.0.resid_post"),
        errors.SiteError,
        ["did not run", "no picture"],
    ),
    "a word that is not one token": (
        lambda _: targets.logit("hippopotamus")(run()),
        errors.TargetError,
        ["hippopotamus", "vocabulary", "Available"],
    ),
    "a next word of a contrastive model": (
        lambda _: targets.logit("dog")(run(name="clip")),
        errors.TargetError,
        ["similarity()"],
    ),
    "a similarity without pictures": (lambda _: targets.similarity()(run()), errors.TargetError, ["joint embeddings"]),
    "text from a model that writes none": (lambda _: clip().generate(given("clip")), errors.InputError, ["CLIPModel"]),
    "a key to cut that has no meaning here": (
        lambda _: run(Knockout("text.1.attn", key=Where("audio"))),
        errors.InputError,
        ["'audio'", "image"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_answered_with_what_failed_and_what_to_do(case, tmp_path):
    act, kind, words = CASES[case]
    with pytest.raises(errors.CutawayError) as caught:
        act(tmp_path)
    text = str(caught.value)
    assert type(caught.value) is kind, text
    assert [word for word in words if word not in text] == [], text
    assert len(text) < 600
    assert text.count(". ") >= 1 or text.endswith(".")


def test_errors_are_also_the_errors_python_has_for_them():
    assert issubclass(errors.SiteError, KeyError)
    for kind in (errors.EditError, errors.InputError, errors.TargetError, errors.LoadError):
        assert issubclass(kind, ValueError)


def test_an_error_survives_pickling():
    error = errors.EditError("it failed", expected="this", exists="that", do="try again")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_at_most_five_near_names_are_listed():
    assert errors.near("aa", [f"a{i}" for i in range(40)]).count(",") == errors.NEAR - 1


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA", "1", "I;16"])
def test_pictures_of_any_mode_become_rgb(mode):
    assert clip().inputs(image=Image.new(mode, (31, 17))).pictures[0].mode == "RGB"


def test_a_picture_is_turned_as_its_exif_says():
    plain = tiny.picture(size=(40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned = plain.copy()
    turned.info["exif"] = exif.tobytes()
    turned._exif = exif
    assert clip().inputs(image=turned).pictures[0].size == (20, 40)


def test_transparency_falls_on_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert clip().inputs(image=clear).pictures[0].getpixel((3, 3)) == (255, 255, 255)


def test_pipelines_return_pictures_as_tensors_when_asked():
    run = opened("sd").run(given("sd"), **PT)
    assert run.outputs.images.shape[-2:] == (32, 32)
