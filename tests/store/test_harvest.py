"""A store holds what the model computes: every site of every family, no padding, each row known for what it is."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway import Where, store
from cutaway.errors import StoreError
from cutaway.store.collect import How
from cutaway.store.examples import as_data
from cutaway.store.shard_work import Packed, WriteShard
from cutaway.zoo import tiny
from world import KNOWN, PIPELINES, TEXT, clean, given, opened

FRONT = ("step", "guidance", "batch", "token", "query", "key", "height", "width")
COLUMN = {"token": "position", "query": "position", "height": "row", "width": "col"}
TEXTS = ["a red dog on a blue mat", "a cat", "a red dog"]


def kept(model, data, sites, folder, **options):
    return store.harvest(model, data, sites, folder, progress=False, **options)


def whole(found, site, **where):
    """All rows of a site at once."""
    return next(iter(found.rows(site, batch=10**9, **where)))


def expected(run, site, batch):
    """The rows of a run's own tensor that the index speaks of."""
    axes, index = run.sites[site].axes, batch.index
    front = [axis for axis in FRONT if axis in axes]
    tensor = run[site].permute([axes.index(axis) for axis in (*front, *(axis for axis in axes if axis not in front))])
    guidance = {name: at for at, name in enumerate(run.guidance.get(site, ()))}
    places = []
    for axis, size in zip(front, tensor.shape, strict=False):
        if axis == "guidance":
            column = [guidance[name] for name in index["guidance"]]
        elif axis == "batch":
            crops = index["tile"] if "tile" in index.columns and index["tile"].max() >= 0 else index["image"]
            column = np.maximum(crops, 0) if size > 1 else np.zeros(len(index), int)
        else:
            column = index[COLUMN.get(axis, axis)]
        places.append(torch.as_tensor(np.asarray(column, int)))
    return tensor[tuple(places)]


@pytest.mark.parametrize("name", KNOWN)
def test_every_site_of_every_family_is_kept_as_it_is(name, tmp_path):
    """Of what a drawing attends to within its picture one site stands for all: a pair of pixels is a row."""
    run, model = clean(name), opened(name)
    sites = [site for site in run if name not in PIPELINES or not site.endswith(("attn.pattern", "attn.scores"))]
    sites += [site for site in run if name in PIPELINES and site.endswith("cross.pattern")][:1]
    found = kept(model, given(name), sites, tmp_path / "store")
    assert found.sites == tuple(map(str, model.sites.select(sites))) and found.complete
    for site in found.sites:
        batch = whole(found, site)
        assert torch.equal(batch.x, expected(run, site, batch)), site
        assert set(batch.index["item"]) == {0} and "pad" not in set(batch.index["kind"])


@pytest.mark.parametrize("name", ["clip", "siglip", "llama", "gpt2", "bart"])
def test_padding_is_never_a_row(name, tmp_path):
    """Texts of several lengths, filled up on the right or on the left, have the rows that each of them has alone."""
    model = opened(name)
    tower = "encoder" if name == "bart" else "text"
    site = f"{tower}.1.resid_post"
    found = kept(model, TEXTS, [site, f"{tower}.1.attn.pattern"], tmp_path / "store")
    for item, text in enumerate(TEXTS):
        inputs = model.inputs(text=[text])
        alone, own = model.run(inputs, record=[site, f"{tower}.1.attn.pattern"]), inputs.tokens[tower].kind[0] != "pad"
        batch = whole(found, site, item=item)
        assert torch.allclose(batch.x, alone[site][0, own], atol=1e-10)
        assert list(batch.index["text"]) == list(inputs.tokens[tower].text[0, own])
        assert list(batch.index["position"]) == list(range(int(own.sum())))
        pairs = whole(found, f"{tower}.1.attn.pattern", item=item)
        if name != "siglip":  # whose padding is read
            square = alone[f"{tower}.1.attn.pattern"][0].permute(1, 2, 0)
            assert torch.allclose(pairs.x, square.reshape(-1, square.shape[-1]), atol=1e-10)


@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen2.5-vl"])
def test_pictures_belong_to_their_prompts(name, tmp_path):
    """Two pictures in one prompt, one in another, one text without: towers apart and packed, text filled up."""
    model, (a, b, c) = opened(name), (tiny.picture(seed) for seed in range(3))
    items = [{"image": [a, b], "text": TEXTS[0]}, {"image": c, "text": "a cat"}]
    sites = ["vision.1.resid_post", "connector.out", "text.1.resid_post"]
    sites = [site for site in sites if site in model.sites]
    found = kept(model, items, sites, tmp_path / "store")
    for item, example in enumerate(items):
        inputs = model.inputs(image=[example["image"]], text=[example["text"]])
        alone = model.run(inputs, record=sites)
        for site in sites:
            batch = whole(found, site, item=item)
            tensor = alone[site].reshape(-1, alone[site].shape[-1])
            known = inputs.map_for(model.sites.one(site), "token", alone[site].shape[1])
            assert torch.allclose(batch.x, tensor, atol=1e-9), site
            assert list(batch.index["kind"]) == list(known.kind.ravel())
            patches = known.kind.ravel() == "image"
            for column in ("image", "row", "col"):
                assert (batch.index[column][patches] == getattr(known, column).ravel()[patches]).all(), column


def test_a_drawing_has_steps_and_guidance_rows(tmp_path):
    """Two prompts, two pictures of each: chosen steps and rows; the words of the empty prompt are not the prompt's."""
    model, prompts = opened("sd"), ["a red dog", "a cat"]
    asked = {"steps": 3, "guidance": 4.0, "pictures": 2, "size": (32, 32)}
    site, read = str(model.sites["denoiser.*.resid_post"][0]), "text.1.resid_post"
    cross = next(str(one) for one in model.sites if one.part == "cross.k")
    found = kept(model, prompts, [site, read, cross], tmp_path / "all", asked=asked)
    run = model.run(model.inputs(prompt=prompts, seed=0, **asked), record=[site, read, cross])
    for item in range(2):
        for step, guidance, copy in [(0, "uncond", 0), (2, "cond", 1)]:
            row = run.guidance[site].index(guidance)
            batch = whole(found, site, item=item, step=step, guidance=guidance, copy=copy)
            assert torch.equal(batch.x, run[site][step, row, 2 * item + copy])
    words = {name: "".join(whole(found, read, item=0, guidance=name).index["text"]) for name in ("cond", "uncond")}
    assert "red" in words["cond"] and "red" not in words["uncond"]
    assert "red" not in "".join(whole(found, cross, item=0, guidance="uncond").index["text"])
    some = kept(model, prompts, [site], tmp_path / "some", asked=asked, steps=[1], guidance="cond")
    assert torch.equal(whole(some, site).x, whole(found, site, step=1, guidance="cond").x)
    assert some.count(some.table(site)) * 6 == found.count(found.table(site))


def test_a_drawing_ends_behind_the_last_step_that_is_kept(tmp_path):
    """Of six steps the first is kept: the denoiser begins a second one, and no more."""
    model, ran = cutaway.load("tiny:sd"), []
    handle = model.module.unet.register_forward_pre_hook(lambda *_: ran.append(1))
    asked = {"steps": 6, "guidance": 1}
    found = kept(model, ["a dog"], "denoiser.1.resid_post", tmp_path / "s", steps=[0], asked=asked)
    handle.remove()
    assert len(ran) == 2 and set(found.index()["step"]) == {0}
    pads = kept(model, ["a dog"], "text.1.resid_post", tmp_path / "t", where="pad", asked={"steps": 1, "guidance": 1})
    assert set(pads.index()["kind"]) == {"pad"} and len(pads.index()) > 3


def test_one_evaluation_of_a_denoiser_is_a_step(tmp_path):
    model = opened("sd3")
    inputs = model.inputs(prompt="a red dog", size=(32, 32), steps=4, step=2)
    found = kept(model, inputs, "denoiser.*.image.resid_post", tmp_path / "store")
    run = model.run(inputs, record="denoiser.*.image.resid_post")
    batch = whole(found, found.sites[0])
    assert torch.equal(batch.x, run[found.sites[0]][0, 0, 0]) and set(batch.index["step"]) == {2}


def test_filters_keep_some_positions(tmp_path):
    model = opened("clip")
    site, every = "text.1.resid_post", kept(model, TEXTS, "text.1.resid_post", tmp_path / "all")
    full = whole(every, site)
    for number, (where, met) in enumerate([
        ("eos", full.index["kind"] == "eos"), (-1, full.index["kind"] == "eos"), (0, full.index["position"] == 0),
        (Where(text=["red", "cat"]), np.isin([word.strip() for word in full.index["text"]], ["red", "cat"])),
        (["bos", -1], np.isin(full.index["kind"], ["bos", "eos"])),
    ]):  # fmt: skip
        some = whole(kept(model, TEXTS, site, tmp_path / str(number), where=where), site)
        assert torch.equal(some.x, full.x[torch.from_numpy(met)]) and list(some.item) == list(full.item[met])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_numbers_are_kept_in_a_dtype(dtype, tmp_path):
    model, site = opened("clip"), "vision.1.resid_post"
    pictures = [tiny.picture(seed) for seed in range(3)]
    full, half = (kept(model, pictures, site, tmp_path / str(name), dtype=name) for name in (None, dtype))
    wanted = whole(full, site).x.to(getattr(torch, dtype))
    assert torch.equal(whole(half, site).x, wanted) and whole(half, site).x.dtype == wanted.dtype
    assert half.item(1)[site].dtype == ("float32" if dtype == "bfloat16" else dtype)


def test_a_half_precision_model_is_kept_in_its_own(tmp_path):
    model = cutaway.load("tiny:llava", dtype="bfloat16")
    found = kept(model, [{"image": tiny.picture(), "text": TEXT}], ["vision.0.*", "text.0.resid_post"], tmp_path / "s")
    assert {one.dtype for one in found.spec.kept.values()} == {"bfloat16"}
    with model.edited(cutaway.Scale("vision.0.resid_pre", 2.0)):
        model.run(model.inputs(image=tiny.picture(), text=TEXT), record="vision.0.resid_post")
        with pytest.raises(StoreError, match="Leave the `edited` block"):
            kept(model, [tiny.picture()], "vision.0.resid_post", tmp_path / "t")


def test_numbers_that_do_not_fit_are_no_silent_infinities(tmp_path):
    model = cutaway.load("tiny:clip")
    with torch.no_grad():
        model.module.vision_model.pre_layrnorm.weight.mul_(1e9)
    with pytest.raises(StoreError, match="at most 65504 in float16"):
        kept(model, [tiny.picture()], "vision.0.resid_pre", tmp_path / "store", dtype="float16")


def test_a_shard_is_the_same_whoever_makes_it(tmp_path):
    """In another order, in another process's words: a value that was pickled."""
    import pickle

    model, data = opened("clip"), as_data(TEXTS * 3)
    one = kept(model, data, "text.*.resid_post", tmp_path / "one", items=4, batch=2)
    other = tmp_path / "other"
    other.mkdir()
    one.spec.write(other)
    work = pickle.loads(pickle.dumps(WriteShard(str(other), one.spec, data, How())))
    entries = {shard: work.do(model, shard) for shard in (2, 0, 1)}
    assert entries == dict(one.entries)
    for name in sorted(file.name for file in (tmp_path / "one").glob("shard*")):
        assert (tmp_path / "one" / name).read_bytes() == (other / name).read_bytes()
    with pytest.raises(StoreError, match=r"(?i)this worker opened another model"):
        work.do(opened("llama"), 0)


def test_only_what_is_needed_runs(tmp_path):
    """The forward ends behind the last site, and a tower that no site is of does not run."""
    model, ran = cutaway.load("tiny:clip"), []
    layers = model.module.vision_model.encoder.layers
    handles = [layer.register_forward_hook(lambda *_, at=at: ran.append(at)) for at, layer in enumerate(layers)]
    kept(model, store.Scenes(2), "vision.0.resid_post", tmp_path / "store")
    for handle in handles:
        handle.remove()
    assert ran == [0]


def test_data_of_several_kinds(tmp_path):
    model = opened("clip")
    for seed in range(3):
        tiny.picture(seed).save(tmp_path / f"{seed}.png")
    (tmp_path / "texts.txt").write_text("a red dog\n\na cat\n", encoding="utf-8")
    folder, lines = store.read_data(str(tmp_path)), store.read_data(str(tmp_path / "texts.txt"))
    seen = whole(kept(model, folder, "vision.1.resid_post", tmp_path / "a"), "vision.1.resid_post")
    listed = kept(model, [tiny.picture(seed) for seed in range(3)], "vision.1.resid_post", tmp_path / "b")
    assert torch.equal(seen.x, whole(listed, "vision.1.resid_post").x)
    read = kept(model, lines, "text.1.resid_post", tmp_path / "c")
    assert len(read) == 2 and read.index()["text"].tolist()[-3:] == ["a", "cat", "<|endoftext|>"]
    scenes = store.read_data("emojiworld:test", n=3, seed=1)
    both = kept(model, scenes, ["vision.1.resid_post", "text.1.resid_post"], tmp_path / "d")
    assert set(both.tables) == {"vision", "text"} and len(both) == 3
    answering = kept(opened("llava"), scenes, ["vision.1.resid_post", "text.1.resid_post"], tmp_path / "e")
    assert "?" in "".join(answering.index("text").query("item == 0")["text"])
    drawing = kept(opened("sd"), scenes, "text.1.resid_post", tmp_path / "f", batch=2)
    assert len(drawing) == 3


class Columns(list):
    """What `load_from_disk` gives, as far as it is used here."""

    _fingerprint = "abc"


def test_a_hugging_face_data_set_on_disk(tmp_path, monkeypatch):
    """The library is asked for when the data are, and its absence is one sentence."""
    import sys
    import types

    (tmp_path / "state").mkdir()
    (tmp_path / "dataset_info.json").write_text("{}")
    data = store.read_data(str(tmp_path), text="what is this", n=2)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(StoreError, match="pip install datasets"):
        len(data)
    rows = Columns({"image": tiny.picture(seed), "label": seed} for seed in range(3))
    fake = types.SimpleNamespace(load_from_disk=lambda folder: {"train": rows})
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(StoreError, match=r"holds several splits.*train"):
        len(data)
    data = store.read_data(str(tmp_path), text="what is this", n=2, split="train")
    assert len(data) == 2 and "2 items" in data.told()
    found = kept(opened("llava"), data, "text.0.resid_post", tmp_path / "store")
    assert "what" in list(found.index()["text"])


@pytest.mark.parametrize(
    ("sites", "data", "options", "said"),
    [
        ("raw.vision_model", [0], {}, "nothing says what the rows of 'raw.vision_model' are"),
        ("vision.0.resid_post", iter("ab"), {}, "is no data to go over"),
        ("vision.0.resid_post", "a dog", {}, "is no data to go over"),
        ("vision.0.resid_post", [], {}, "no item to run on"),
        ("vision.0.resid_post", ["a dog"], {}, "has nothing that 'tiny:clip' reads"),
        ("text.0.resid_post", ["a dog"], {"where": "image"}, "no position of 'text.0.resid_post' is image"),
        ("text.0.resid_post", ["a dog"], {"where": "patch"}, "no position is of kind 'patch'"),
        ("text.0.resid_post", ["a dog"], {"where": Where("patch")}, "no position is of kind 'patch'"),
        ("text.0.resid_post", ["a dog"], {"where": Where(word="a")}, "positions have no 'word'.*text"),
        ("text.0.resid_post", ["a dog"], {"dtype": "int8"}, "cannot keep numbers in int8"),
        ("text.0.resid_post", ["a dog"] * 9, {"items": 5, "batch": 2}, "5 items to a shard in batches of 2"),
    ],
)
def test_what_cannot_be_harvested_is_said(sites, data, options, said, tmp_path):
    with pytest.raises(StoreError, match=f"(?i){said}"):
        kept(opened("clip"), data, sites, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_a_filter_that_meets_nothing_is_no_silent_store(tmp_path):
    with pytest.raises(StoreError, match=r"(?i)no position of 'text' is Where\(text='zebra'\) in any item"):
        kept(opened("clip"), TEXTS, "text.0.resid_post", tmp_path / "s", where=Where(text="zebra"))


def test_shards_are_made_by_whoever_is_given_them(tmp_path):
    """From behind, by the work itself: what a harvest goes on with, and its files are the same."""
    model, asked = opened("clip"), []

    def backwards(work, chunks):
        asked.append(list(chunks))
        for chunk in reversed(chunks):
            yield chunk, work.do(model, chunk)

    how = {"items": 2, "batch": 2}
    one, other = (kept(model, TEXTS * 2, "text.0.resid_post", tmp_path / str(at), spread=by, **how)
                  for at, by in enumerate((None, backwards)))  # fmt: skip
    assert asked == [[0, 1, 2]] and one.entries == other.entries


def test_a_damaged_picture_is_named_and_what_was_done_is_kept(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(4):
        tiny.picture(seed).save(folder / f"{seed}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    with pytest.raises(StoreError, match=r"'3.png' cannot be read to its end"):
        kept(opened("clip"), store.read_data(str(folder)), "vision.0.resid_post", tmp_path / "s", items=2, batch=2)
    assert len(store.open(tmp_path / "s")) == 2


def test_an_estimate_says_what_is_written(tmp_path):
    model = opened("clip")
    guess = store.estimate(model, store.Scenes(40), "vision.*.resid_post", dtype="float32", batch=8)
    found = kept(model, store.Scenes(40), "vision.*.resid_post", tmp_path / "store", dtype="float32", batch=8)
    assert guess.rows == {"vision": found.count("vision")}
    assert guess.total == sum(whole(found, site).x.nbytes for site in found.sites)


def test_small_batches_lie_in_blocks_and_large_ones_where_they_are():
    packed, given = Packed(), [torch.full((3, 5), float(at)) for at in range(5)]
    kept = [packed.add(rows) for rows in [*given[:2], torch.empty(0, 5), *given[2:]]]
    assert torch.equal(torch.cat(kept), torch.cat(given))
    assert len({rows.untyped_storage().data_ptr() for rows in kept if len(rows)}) == 1
    many = [packed.add(torch.full((2**12, 5), float(at))) for at in range(20)]
    assert [rows.unique().tolist() for rows in many] == [[at] for at in range(20)]
    assert len({rows.untyped_storage().data_ptr() for rows in many}) == 2
    large = torch.ones(2**17, 5)
    assert packed.add(large) is large
