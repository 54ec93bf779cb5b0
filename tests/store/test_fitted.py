"""What was fitted comes back as it was, on the model it was fitted on and on no other."""

import json

import pytest
import torch

import cutaway
from cutaway.errors import StoreError
from cutaway.model.edits import Ablate
from cutaway.store.fitted import CONFIG, TENSORS, Fitted, Origin
from world import fresh, given, noise, opened

SITES = ("vision.1.resid_post", "vision.joint")


class Kept(Fitted):
    """One of our own."""

    kind = "kept"


def made(kind=Kept, model=None, **config):
    base = noise(6, 4)
    tensors = {"half": noise(3).half(), "number": torch.tensor(2.0), "view": base[::2].T, "same": base}
    return kind(tensors, {"items": 3, "names": ["a", "ä"], **config}, Origin.of(model or opened("clip"), *SITES))


def test_it_comes_back_as_it_was(tmp_path):
    one = made()
    assert one.save(tmp_path / "one") == tmp_path / "one"
    assert {path.name for path in tmp_path.rglob("*")} == {"one", TENSORS, CONFIG}
    for kind in (Kept, Fitted):
        back = kind.load(tmp_path / "one")
        assert type(back) is kind and back.config == one.config and back.on == one.on
        assert all(torch.equal(back.tensors[name], value) for name, value in one.tensors.items())
        assert {name: x.dtype for name, x in back.tensors.items()} == {n: x.dtype for n, x in one.tensors.items()}
    back.check(fresh("clip"), SITES[1])
    assert "half 3, number scalar, same 6x4, view 4x3; vision.1.resid_post, vision.joint of 'tiny:clip'" in repr(back)


@pytest.mark.parametrize("name", ["clip", "llava"])
def test_a_model_is_known_by_its_content(name):
    """Running it, putting it into training and opening it again make no other of it; a changed weight does."""
    model = fresh(name)
    before = Origin.of(model)
    model.run(given(name), record=list(model.sites)[:3])
    model.module.train()
    assert Origin.of(model) == before == Origin.of(opened(name))
    with torch.no_grad():
        next(model.module.parameters()).flatten()[0] += 1
    assert Origin.of(model).content != before.content and model.module.training


def test_a_pipeline_is_known_by_its_content():
    assert Origin.of(opened("sd")) == Origin.of(opened("sd")) and Origin.of(opened("sd")).dtype == "float64"


def test_a_model_without_weights_is_refused():
    model = fresh("clip")
    model.module.to("meta")
    with pytest.raises(StoreError, match=r"(?i)'tiny:clip' cannot be known by its content"):
        Origin.of(model)


def test_another_model_or_site_is_refused_by_name():
    one = made()
    with opened("clip").edited(Ablate("vision.0.mlp.out")):
        opened("clip").run(given("clip"))
        one.check(opened("clip"), *SITES)  # edits held around are no part of the model
    for other, said in (
        (
            opened("siglip"),
            r"this kept was fitted on 'tiny:clip' in float64 \(content \w{8}\), not on 'tiny:siglip' in",
        ),
        (cutaway.load("tiny:clip"), "not on 'tiny:clip' in float32.*the same weights, dtype.*fit it anew"),
    ):
        with pytest.raises(StoreError, match=f"(?i){said}"):
            one.check(other)
    with pytest.raises(StoreError, match=r"(?i)fitted at vision.1.resid_post, vision.joint, not at vision.0.mlp.out\."):
        one.check(opened("clip"), "vision.joint", opened("clip").sites.one("vision.0.mlp.out"))


def test_nothing_is_overwritten_in_silence(tmp_path):
    one, two = made(items=1), made(items=2)
    one.save(tmp_path / "x")
    with pytest.raises(StoreError, match=r"exists already.*or overwrite=True"):
        two.save(tmp_path / "x")
    assert Fitted.load(tmp_path / "x").config["items"] == 1
    two.save(tmp_path / "x", overwrite=True)
    assert Fitted.load(tmp_path / "x").config["items"] == 2 and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / CONFIG).write_text("{}")
    (tmp_path / "file").write_text("")
    for name in ("mine", "file"):
        with pytest.raises(StoreError, match="was not written by `save`"):
            one.save(tmp_path / name, overwrite=True)
    with pytest.raises(StoreError, match="no folder"):
        one.save(tmp_path / "no" / "where")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_fails_midway_leaves_all_as_it_was(tmp_path, monkeypatch, overwrite):
    if overwrite:
        made(items=1).save(tmp_path / "x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=r"(?i)settings of this kept cannot be written.*put arrays into `tensors`"):
        made(items=noise(2)).save(tmp_path / "x", overwrite=overwrite)
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made().save(tmp_path / "x", overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"nothing fitted lies|Nothing fitted lies"):
        Fitted.load(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="Available: no such folder"):
        Fitted.load(tmp_path / "nowhere")

    def broken(name, change):
        folder = made(Fitted).save(tmp_path / name)
        change(folder)
        return folder

    told = json.loads((made().save(tmp_path / "good") / CONFIG).read_text())
    other = Kept({"half": noise(3)}, {}, made().on).save(tmp_path / "other")
    for name, change, said in (
        ("cut", lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-9]), "cannot be read"),
        ("gone", lambda f: (f / TENSORS).unlink(), "cannot be read"),
        ("empty", lambda f: (f / CONFIG).write_text(""), "cannot be read"),
        ("list", lambda f: (f / CONFIG).write_text("[]"), "cannot be read"),
        ("less", lambda f: (f / CONFIG).write_text(json.dumps({**told, "on": {}})), "cannot be read"),
        ("mixed", lambda f: (f / TENSORS).write_bytes((other / TENSORS).read_bytes()), "not those its config.json"),
        ("later", lambda f: (f / CONFIG).write_text(json.dumps({**told, "format": 2})), "open it with that version"),
    ):
        with pytest.raises(StoreError, match=f"(?i){said}"):
            Fitted.load(broken(name, change))
    with pytest.raises(StoreError, match=r"holds a fitted\. Expected: a kept"):
        Kept.load(made(Fitted).save(tmp_path / "plain"))
