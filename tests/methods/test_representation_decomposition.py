"""The terms add up to the embedding, mean what they say, and name what was planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

import cutaway
from cutaway import questions
from cutaway.data import World, pairs, scenes
from cutaway.errors import MethodError, SiteError
from cutaway.methods.representation_decomposition import (
    AblationCurve,
    Decomposition,
    Direct,
    accumulated_ablation,
    decompositions,
    representation_decomposition,
)
from cutaway.methods.result import Provenance, load
from cutaway.methods.table import method
from cutaway.model.edits import Ablate, Set
from cutaway.model.targets import similarity
from cutaway.model.weights import head_weights, value_weights
from cutaway.questions.bank import TextBank, text_bank
from cutaway.zoo import tiny
from world import fresh, gap, opened

PICTURES = [tiny.picture(i) for i in range(3)]
TEXTS = ["a red dog", "a cat on the left of a big dog", "two birds"]
TOWERS = [("clip", "vision"), ("clip", "text"), ("siglip", "vision"), ("siglip", "text"), ("dinov2", "vision"),
          ("vit", "vision")]  # fmt: skip


def made(name="clip", tower="vision", **options):
    rows = TEXTS if tower == "text" else PICTURES
    return representation_decomposition(opened(name), rows, tower=tower, progress=False, **options)


def tensor(array: xarray.DataArray) -> torch.Tensor:
    return torch.from_numpy(array.values)


@pytest.mark.checks("representation_decomposition", "truth")
@pytest.mark.parametrize(("name", "tower"), TOWERS)
def test_the_terms_add_up(name, tower):
    found = made(name, tower, by_token=True, batch=2)
    embedding = tensor(found["embedding"])
    assert gap(tensor(found.terms().sum("term")), embedding) < 1e-10
    assert gap(tensor(found["head_tokens"].sum("token")), tensor(found["heads"])) < 1e-10
    assert float(abs(found.shares().sum("term") - 1).max()) < 1e-10
    assert float(found["error"].max()) < 1e-10


def test_the_terms_add_up_in_float32():
    model = cutaway.load("tiny:clip")
    found = representation_decomposition(model, PICTURES, progress=False)
    assert found["heads"].dtype == np.float32
    assert gap(tensor(found.terms().sum("term")), tensor(found["embedding"])) < 1e-5


@pytest.mark.parametrize(("name", "tower"), TOWERS[:4])
def test_the_embedding_is_the_models_own(name, tower):
    model = opened(name)
    inputs = model.inputs(text=TEXTS) if tower == "text" else model.inputs(image=PICTURES)
    with torch.no_grad():
        own = inputs.call(model.module, inputs.tensors).pooler_output
    assert gap(tensor(made(name, tower)["embedding"]), own) < 1e-12


def test_direct_effects_add_up_to_the_models_similarity():
    model, bank = opened("clip"), text_bank(opened("clip"), TEXTS, progress=False)
    effect = made().effect(bank)
    for j in range(len(TEXTS)):
        own = similarity(text=j)(model.run(model.inputs(image=PICTURES, text=TEXTS)))
        assert gap(tensor(effect.sum("term").sel(text=TEXTS[j])), own) < 1e-10


@pytest.mark.parametrize(("name", "tower"), TOWERS)
def test_towards_directions_it_holds_products_and_no_vectors(name, tower):
    """The same effects, made without ever holding a head's vector: what is stored falls by joint / texts."""
    width = made(name, tower)["embedding"].sizes["joint"]
    directions = torch.randn(2, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, towards = (made(name, tower, by_token=True, batch=2, **more) for more in ({}, {"towards": directions}))
    for of in ("terms", "heads", "head_tokens", "embedding"):
        for cosine in (True, False):
            wanted = whole.effect(directions, of, cosine=cosine)
            assert float(abs(towards.effect(of=of, cosine=cosine) - wanted).max()) < 1e-10
    assert float(towards["error"].max()) < 1e-10
    largest = [max(value.nbytes for value in one.data.values()) for one in (whole, towards)]
    assert largest[0] == whole["head_tokens"].nbytes and largest[1] * width <= largest[0] * 2
    assert all("joint" not in towards[part].dims for part in ("embed", "heads", "head_tokens", "biases", "mlps"))
    with pytest.raises(MethodError, match="no vectors of its heads"):
        towards.vectors("heads")
    with pytest.raises(MethodError, match="not those that the decomposition was made towards"):
        towards.effect(-directions)


@pytest.mark.parametrize(("name", "tower"), TOWERS)
def test_towards_itself_it_holds_shares_and_no_vectors(name, tower):
    whole, own = (made(name, tower, by_token=True, batch=2, **more) for more in ({}, {"towards": "itself"}))
    assert float(abs(own.shares() - whole.shares()).max()) < 1e-10 and float(own["error"].max()) < 1e-10
    assert float(abs(own.shares().sum("term") - 1).max()) < 1e-10
    tokens = own.effect(of="head_tokens").isel(text=0).sum("token")
    assert float(abs(tokens - own.effect(of="heads").isel(text=0)).max()) < 1e-10
    assert np.allclose(own.summary()["all"], whole.summary()["all"]) and list(own.summary()) == list(whole.summary())
    assert all("joint" not in own[part].dims for part in ("embed", "heads", "head_tokens", "biases", "mlps", "offset"))
    with pytest.raises(MethodError, match="no direction but each item's own"):
        own.effect(torch.ones(1, whole["embedding"].sizes["joint"], dtype=torch.float64))
    with pytest.raises(MethodError, match="Towards 'me'"):
        made(name, tower, towards="me")


def test_a_question_without_texts_is_taken_apart_towards_itself(tmp_path):
    question = questions.asked(opened("clip"), image=PICTURES[0])
    applied = method("representation_decomposition").apply(question)
    assert applied.result.own and "towards='itself'" in applied.call
    back = type(applied.result).load(applied.result.save(tmp_path / "own.nc"))
    assert back.own and back.to_dataframe()["share"].sum() == pytest.approx(1)
    assert back.plot().get_title() == made().plot().get_title()


def test_a_crowd_is_seen_towards_its_texts():
    """A batch of a crowd holds a number a head and text; so does the one picture of a page, by patch."""
    question = questions.match(opened("clip"), PICTURES[0], TEXTS[:2], crowd=PICTURES)
    stream = decompositions(question.model, question.crowd, towards=question.texts, batch=2, progress=False)
    sizes = [part["heads"].nbytes / part.data.sizes["item"] for part in stream]
    whole = made()["heads"]
    assert sizes == [whole.nbytes / whole.sizes["item"] * 2 / whole.sizes["joint"]] * 2
    applied = method("representation_decomposition").apply(question, by_token=True)
    assert applied.result.along == "text" and "towards=question.texts, by_token=True" in applied.call
    own, wanted = Direct(question, applied.result), made().effect(question.texts, "heads").isel(item=0)
    assert float(abs(own.heads - (wanted.isel(text=0) - wanted.isel(text=1))).max()) < 1e-10
    usual = own.usual()
    assert usual is not None and float(abs(usual.isel(item=0) - own.heads).max()) < 1e-10


@settings(max_examples=15, deadline=None)
@drawn(st.floats(0.01, 100), st.integers(0, 1000))
def test_only_the_direction_of_a_direction_counts(factor, seed):
    direction = torch.randn(2, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    one, other = (made_once().effect(d, of="heads", cosine=False) for d in (direction, factor * direction))
    xarray.testing.assert_allclose(one, other)


def made_once(cache: list = []):  # noqa: B006, one decomposition for all examples
    cache or cache.append(made())
    return cache[0]


def test_the_published_contributions_differ_from_these_as_it_is_said():
    """Their program in numpy: means and biases in equal shares, the last norm, the projection, over |y|."""
    model, found = opened("clip"), made()
    own, layers, heads = model.module.vision_model, 3, 4
    sites = ["vision.0.resid_pre", "vision.*.attn.z", "vision.*.mlp.out", "vision.2.resid_post", "vision.norm.scale"]
    run = model.run(model.inputs(image=PICTURES), record=sites)
    end, s = run["vision.2.resid_post"][:, 0].numpy(), run["vision.norm.scale"].numpy().reshape(-1, 1)
    gain, bias = (x.detach().numpy() for x in (own.post_layernorm.weight, own.post_layernorm.bias))
    project = model.module.visual_projection.weight.detach().numpy().T
    mean, length = end.mean(1, keepdims=True), np.linalg.norm(found["embedding"].values, axis=1, keepdims=True)

    def term(x, share):
        return (gain * (x - mean * share) / s + bias * share) @ project / length

    whole, share = 0, 1 / (2 * layers + 1)
    for layer, block in enumerate(own.encoder.layers):
        matrix, offset = (x.detach().numpy() for x in (block.self_attn.out_proj.weight, block.self_attn.out_proj.bias))
        for head, z in enumerate(run[f"vision.{layer}.attn.z"][:, 0].numpy().swapaxes(0, 1)):
            wrote = z @ matrix.T[8 * head : 8 * head + 8]
            theirs = term(wrote + offset / heads, share / heads)
            along = (gain * (wrote.mean(1, keepdims=True) - mean * share / heads + offset / heads) / s) @ project
            constant = bias @ project * share / heads
            ours = found["heads"].sel(layer=layer, head=head).values
            assert np.abs(theirs * length - (ours + along + constant)).max() < 1e-10
            whole = whole + theirs
        whole = whole + term(run[f"vision.{layer}.mlp.out"][:, 0].numpy(), share)
    whole = whole + term(run["vision.0.resid_pre"][:, 0].numpy(), share)
    assert np.abs(whole * length - found["embedding"].values).max() < 1e-10


def test_a_term_is_what_the_output_loses_without_its_component():
    """With the norm's scale held, taking the last MLP out of the running model takes its term out of the embedding."""
    model, found = opened("clip"), made()
    inputs = model.inputs(image=PICTURES)
    scale = model.run(inputs, record="vision.norm.scale")["vision.norm.scale"]
    edits = [Ablate("vision.2.mlp.out"), Set("vision.norm.scale", scale)]
    without = model.run(inputs, record="vision.joint", edits=edits)["vision.joint"]
    assert gap(without, tensor(found["embedding"] - found["mlps"].isel(layer=-1))) < 1e-10


def test_a_term_of_a_pooled_tower_is_what_the_output_loses_without_its_component():
    """With the norm's scales, the pooling pattern and its MLP held, as in a tower that is read at one position."""
    model, found = opened("siglip"), made("siglip")
    inputs = model.inputs(image=PICTURES)
    held = ["vision.norm.scale", "vision.pool.attn.pattern", "vision.pool.mlp.out"]
    run = model.run(inputs, record=[*held, "vision.2.attn.z"])
    for site, part in (("vision.2.mlp.out", found["mlps"]), ("vision.2.attn.z", found["heads"].isel(head=1))):
        gone = Ablate(site, **({"head": 1} if "attn" in site else {}))
        pinned = [Set("vision.2.mlp.out", model.run(inputs, record="vision.2.mlp.out")["vision.2.mlp.out"])]
        edits = [gone, *(pinned if "attn" in site else []), *(Set(name, run[name]) for name in held)]
        without = model.run(inputs, record="vision.pool.out", edits=edits)["vision.pool.out"]
        assert gap(without, tensor(found["embedding"] - part.isel(layer=-1))) < 1e-10


def test_a_silenced_head_has_no_term():
    model = fresh("clip")
    with torch.no_grad():
        model.module.vision_model.encoder.layers[1].self_attn.out_proj.weight[:, 8:16] = 0
    sizes = abs(representation_decomposition(model, PICTURES, progress=False)["heads"]).max(("item", "joint"))
    assert float(sizes.sel(layer=1, head=1)) == 0
    assert float(sizes.where(sizes > 0).count()) == 11


@pytest.mark.parametrize("name", ["tiny:clip", "zoo:emoji-clip"])
def test_what_feeds_a_head_adds_up_to_it(name):
    """And one writer's part by hand: what it wrote, through the pattern, the head's matrices and the end."""
    model = cutaway.load(name, dtype="float64")
    question = questions.match(model, next(pairs("category", 1)))
    own = Direct(question, representation_decomposition(model, question.pictures, by_token=True, progress=False))
    fed = own.feeding()
    assert float(abs(fed.sum("writer") - own.heads).max()) < 1e-12 < float(abs(own.heads).max())
    assert float(abs(fed.sel(writer=f"{fed.sizes['layer'] - 1}.mlp")).max()) == 0  # nothing is behind the last MLP
    layer, head = own.leading
    pattern, scale = (f"vision.{layer}.attn.{part}" for part in ("pattern", "norm.scale"))
    inputs, last = model.inputs(image=question.pictures[0]), f"vision.{fed.sizes['layer'] - 1}.resid_post"
    run = model.run(inputs, record=[pattern, scale, last, "vision.0.mlp.out"])
    weight, _ = value_weights(model, "vision", layer)
    moved = (run[pattern][0, head, 0] / run[scale][0]) @ run["vision.0.mlp.out"][0] @ weight[head].T
    heads, _ = head_weights(model, "vision", layer)
    toward = own.end.matrix @ (moved @ heads[head]) / own.end.scale(run[last])[0, 0]
    words = torch.nn.functional.normalize(own.texts.embeddings, dim=1)
    lost = float((words[0] - words[1]) @ toward / run.outputs.pooler_output.norm())
    assert float(fed.sel(writer="0.mlp")[layer, head]) == pytest.approx(lost, rel=1e-9)


def test_tokens_fold_onto_the_grid():
    found = made(by_token=True)
    effect = found.effect(torch.eye(32, dtype=torch.float64)[:1], of="head_tokens")
    grid = found.on_grid(effect)
    assert grid.dims[-2:] == ("row", "col") and grid.shape[-2:] == (4, 4)
    assert float(grid.isel(item=1, layer=2, head=3, row=2, col=1, text=0)) == float(
        effect.isel(item=1, layer=2, head=3, token=1 + 2 * 4 + 1, text=0)
    )
    with pytest.raises(MethodError, match="no patch grid"):
        found.on_grid(found.effect(torch.eye(32, dtype=torch.float64)[:1], of="heads"))


def test_ready_inputs_of_both_kinds_are_taken_apart_by_tower():
    model = opened("clip")
    both = model.inputs(image=PICTURES, text=TEXTS)
    for tower in ("vision", "text"):
        found = representation_decomposition(model, both, tower=tower, progress=False)
        assert gap(tensor(found["heads"]), tensor(made("clip", tower)["heads"])) < 1e-10


def test_it_keeps_and_draws_itself(tmp_path):
    found = made(by_token=True)
    back = load(found.save(tmp_path / "d.nc"))
    xarray.testing.assert_allclose(back.data, found.data)
    assert isinstance(back, Decomposition) and back.provenance.model == "tiny:clip"
    assert "2310.05916" in found.to_html() and list(found.summary()["layer"]) == ["embed", "0", "1", "2"]
    assert len(found.to_dataframe()) == 3 * found.terms().sizes["term"]


def test_what_it_cannot_do_it_says():
    with pytest.raises(SiteError, match="is a decoder: its end is its whole vocabulary"):
        made("llama", "text")
    with pytest.raises(MethodError, match=r"(?i)length 5.*Expected: length 32"):
        made_once().effect(torch.ones(1, 5))
    with pytest.raises(MethodError, match="Nothing to run on"):
        representation_decomposition(opened("clip"), [], progress=False)
    with pytest.raises(MethodError, match="Nothing to run on"):
        representation_decomposition(opened("clip"), "a dog", tower="text", progress=False)


# --- mean ablation ----------------------------------------------------------------------------------------------------


def planted(carrier: int, layers: int = 4, items: int = 24) -> tuple[Decomposition, TextBank, np.ndarray]:
    """Embeddings whose class is written by one head of one layer; everything else is small noise."""
    draw = np.random.default_rng(0)
    truth = np.arange(items) % 3
    heads = 0.01 * draw.standard_normal((items, layers, 2, 8))
    heads[:, carrier, 1] += np.eye(8)[truth]
    rest = {name: np.zeros((items, layers, 8)) for name in ("biases", "mlps")}
    embedding = heads.sum((1, 2))
    data = xarray.Dataset(
        {
            "heads": (("item", "layer", "head", "joint"), heads),
            "embedding": (("item", "joint"), embedding),
            **{name: (("item", "layer", "joint"), value) for name, value in rest.items()},
        }
    )
    bank = TextBank(("a", "b", "c"), ("text",) * 3, torch.eye(8, dtype=torch.float64)[:3])
    return Decomposition(data, Provenance("planted", "here")), bank, truth


@pytest.mark.checks("representation_decomposition", "baseline")
@pytest.mark.parametrize("carrier", [0, 2, 3])
def test_accuracy_falls_with_the_layer_that_carries_the_class(carrier):
    parts, bank, truth = planted(carrier)
    curve = accumulated_ablation(parts, bank, truth)
    first, last = (curve["accuracy"].sel(order=order).values for order in ("first", "last"))
    assert (first[: carrier + 1] == 1).all() and (first[carrier + 1 :] < 0.7).all()
    assert (last[: 4 - carrier] == 1).all() and (last[4 - carrier :] < 0.7).all() and first[4] == last[4]
    random = curve["accuracy"].sel(order="random").values
    assert random[0] == 1 and 0.3 < random[2] < 1 and random[4] == pytest.approx(1 / 3)
    assert float(curve["majority"]) == pytest.approx(1 / 3)


def test_ablating_what_carries_nothing_changes_nothing(tmp_path):
    parts, bank, truth = planted(1)
    curve = accumulated_ablation(parts, bank, truth, what="mlps", seed=3)
    assert (curve["accuracy"] == 1).all()
    assert isinstance(load(curve.save(tmp_path / "c.nc")), AblationCurve) and "<img" in curve.to_html()
    for bad in ({"what": "layers"}, {"truth": truth[:3]}, {"truth": truth + 1}):
        with pytest.raises(MethodError):
            accumulated_ablation(parts, bank, bad.pop("truth", truth), **bad)


def test_batches_are_ablated_as_the_whole_is():
    parts, bank, truth = planted(2)
    apart = [replace(parts, data=parts.data.isel(item=slice(at, at + 7))) for at in range(0, len(truth), 7)]
    whole = accumulated_ablation(parts, bank, truth)
    xarray.testing.assert_equal(accumulated_ablation(apart, bank, truth).data, whole.data)
    with pytest.raises(MethodError, match="gone over once"):
        accumulated_ablation(iter(apart), bank, truth)


@pytest.mark.checks("representation_decomposition", "floor")
def test_an_untrained_model_is_at_chance():
    model = opened("clip")
    shown = list(scenes("test", 60, 0, World(names=("dog", "cat", "pizza"), things=(1, 1))))
    names = ["dog", "cat", "pizza"]
    truth = np.array([names.index(scene.things[0].concept) for scene in shown])
    bank = text_bank(model, ["a dog", "a cat", "a red car"], progress=False)
    curve = accumulated_ablation(representation_decomposition(model, shown, progress=False), bank, truth)
    assert float(abs(curve["accuracy"] - 1 / 3).max()) < 0.2
