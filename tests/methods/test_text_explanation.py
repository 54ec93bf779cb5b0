"""TextSpan names a planted head and agrees with its definition; SpLiCE solves its problem and finds what was mixed."""

import weakref

import numpy as np
import pytest
import torch
import xarray
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from cutaway.data import scenes
from cutaway.errors import MethodError
from cutaway.methods.representation_decomposition import Decomposition, decompositions, representation_decomposition
from cutaway.methods.result import Provenance, load
from cutaway.methods.text_explanation import Spans, SparseTexts, splice, text_span
from cutaway.methods.text_explanation.text_span import picked, row_space
from cutaway.model.weights import readout
from cutaway.questions.bank import TextBank, text_bank
from cutaway.questions.rows import embedded, unit
from world import fresh, noise, opened

TEXTS = [f"a {colour} {noun}" for colour in ("red", "blue", "green") for noun in ("dog", "cat", "car", "tree")]
SCENES = list(scenes("test", 20, 1))


def bank(model=None) -> TextBank:
    return text_bank(model or opened("clip"), TEXTS, progress=False)


def planted(text: str, layer: int = 1, head: int = 2):
    """A model with one head that writes a single direction, which the end of the tower turns into that of a text."""
    model = fresh("clip")
    words = unit(bank(model).embeddings)
    direction = (words - words.mean(0))[TEXTS.index(text)]
    written = torch.linalg.pinv(readout(model, "vision").matrix) @ direction
    with torch.no_grad():
        projection = model.module.vision_model.encoder.layers[layer].self_attn.out_proj.weight
        projection[:, 8 * head : 8 * head + 8] = torch.outer(written, noise(8))
    return model


@pytest.mark.checks("head_texts", "truth")
@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[6]])
def test_a_planted_head_is_named(text):
    model = planted(text)
    parts = representation_decomposition(model, SCENES, progress=False)
    spans = text_span(parts, bank(model), picks=3, progress=False)
    named = spans.data.sel(layer=1, head=2)
    assert str(named["text"][0].values) == text and float(named["explained"][0]) > 1 - 1e-9
    assert float(named["fit"][0]) > 0.95 and float(named["random_fit"][0]) < 0.75
    others = spans["fit"].isel(pick=0).values.ravel()
    assert (np.delete(others, 1 * 4 + 2) < 0.95).all()


@pytest.mark.checks("head_texts", "baseline", "floor")
def test_an_untrained_head_is_named_no_better_than_by_random_directions():
    parts = representation_decomposition(opened("clip"), SCENES, progress=False)
    spans = text_span(parts, bank(), picks=3, progress=False)
    assert float((spans["explained"] - spans["random"]).mean()) < 0.1
    assert float((spans["fit"] - spans["random_fit"]).mean()) < 0.1


def greedy(content, words, picks):
    scatter = content.T @ content
    return picked(scatter, words, picks, row_space(scatter))


def plain(content, words, picks):
    """Algorithm 1 as it is written, on the items themselves."""
    content, words = content.clone(), words.clone()
    rows = torch.linalg.svd(content, full_matrices=False).Vh[: torch.linalg.matrix_rank(content)]
    words, total, order, explained = words @ rows.T @ rows, content.pow(2).sum(), [], []
    for _ in range(picks):
        best = int((content @ words.T).pow(2).sum(0).argmax())
        direction = words[best] / words[best].norm()
        content = content - torch.outer(content @ direction, direction)
        words = words - torch.outer(words @ direction, direction)
        order.append(best)
        explained.append(float(1 - content.pow(2).sum() / total))
    return order, explained


@settings(max_examples=25, deadline=None)
@drawn(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 4))
def test_the_picks_are_those_of_the_algorithm(seed, rank, picks):
    content = noise(15, rank, seed=seed) @ noise(rank, 9, seed=seed + 1)
    words = noise(12, 9, seed=seed + 2)
    picks = min(picks, rank)
    order, fit, explained = greedy(content, words, picks)
    expected, shares = plain(content, words, picks)
    assert order.tolist() == expected and explained == pytest.approx(shares, abs=1e-8) and (fit <= 1 + 1e-9).all()
    assert (np.diff(explained) >= -1e-9).all() and explained.min() >= -1e-9 and explained.max() <= 1 + 1e-9
    if picks == rank:
        assert explained[-1] == pytest.approx(1)


def published(content, words, picks, rank):
    """The authors' rule in plain numpy: texts as they are, in the span of the contributions as they are."""
    _, _, rows = np.linalg.svd(content, full_matrices=False)
    words, content, order = words @ rows[:rank].T @ rows[:rank], content - content.mean(0), []
    for _ in range(picks):
        best = int((content @ words.T).std(0).argmax())
        along = words[best] / np.linalg.norm(words[best])
        content, words = content - np.outer(content @ along, along), words - np.outer(words @ along, along)
        order.append(best)
    return order


@settings(max_examples=15, deadline=None)
@drawn(st.integers(0, 10_000), st.sampled_from([None, 6, 9]))
def test_without_centring_the_picks_are_those_of_the_published_rule(seed, rank):
    heads = (noise(30, 2, 2, 12, seed=seed) + 2 * noise(12, seed=seed + 1)).numpy()
    words = TextBank(tuple(map(str, range(25))), ("text",) * 25, noise(25, 12, seed=seed + 2) + 0.5)
    data = xarray.Dataset({"heads": (("item", "layer", "head", "joint"), heads)})
    parts = Decomposition(data, Provenance("planted", "nobody, 2026"))
    spans = text_span(parts, words, picks=5, centre=False, rank=rank, progress=False)
    for layer, head in np.ndindex(2, 2):
        order = published(heads[:, layer, head], unit(words.embeddings).numpy(), 5, rank)
        assert spans["text"].values[layer, head].tolist() == list(map(str, order))
    assert (np.diff(spans["explained"]) >= -1e-9).all() and spans["explained"].max() <= 1 + 1e-9


def test_on_a_model_the_published_rule_is_another_one():
    parts = representation_decomposition(opened("clip"), SCENES, progress=False)
    ours, theirs = (text_span(parts, bank(), picks=3, centre=centre, progress=False) for centre in (True, False))
    order = published(parts["heads"].values[:, 1, 2], unit(bank().embeddings).numpy(), 3, 8)  # 8: what a head can write
    assert theirs["text"].values[1, 2].tolist() == [TEXTS[i] for i in order]
    assert (ours["text"] != theirs["text"]).any()
    assert (ours.provenance.options["centred"], theirs.provenance.options["centred"]) == (
        "contributions and bank",
        "contributions",
    )


def test_a_head_that_does_nothing_explains_nothing():
    order, _, explained = greedy(torch.zeros(5, 4, dtype=torch.float64), noise(6, 4), 2)
    assert len(order) == 2 and (explained == 0).all()


# A pooling head's contributions fall off to a ten-thousandth: C'C holds their squares, so the last of them to 8 digits.
@pytest.mark.parametrize(("name", "rounding"), [("clip", 1e-10), ("siglip", 1e-8)])
def test_a_stream_gives_the_picks_of_the_algorithm_on_all_rows(name, rounding):
    model = opened(name)
    words = text_bank(model, TEXTS, progress=False)
    stream = decompositions(model, iter(SCENES), batch=3, progress=False)
    spans = text_span(stream, words, picks=3, progress=False)
    parts = representation_decomposition(model, SCENES, progress=False)
    texts = unit(words.embeddings).double()
    for layer, head in np.ndindex(*spans["variance"].shape):
        content = torch.from_numpy(parts["heads"].values[:, layer, head])
        order, explained = plain(content - content.mean(0), texts - texts.mean(0), 3)
        found = spans.data.isel(layer=layer, head=head)
        assert found["text"].values.tolist() == [TEXTS[i] for i in order]
        assert np.abs(found["explained"].values - explained).max() < rounding
        assert float(found["variance"]) == pytest.approx(float((content - content.mean(0)).pow(2).sum(1).mean()))
    assert spans.provenance.options["items"] == 20 and spans.provenance.model == model.name


@pytest.mark.parametrize("options", [{}, {"centre": False, "rank": 4}, {"layers": [-1, 0]}])
def test_a_stream_is_named_as_the_whole_is(options):
    parts = representation_decomposition(opened("clip"), SCENES, progress=False)
    pieces = (Decomposition(parts.data.isel(item=slice(i, i + 7)), parts.provenance) for i in range(0, 20, 7))
    whole, stream = (text_span(one, bank(), picks=2, progress=False, **options) for one in (parts, pieces))
    assert (whole["text"] == stream["text"]).all() and (whole["layer"] == stream["layer"]).all()
    for name in ("fit", "explained", "random_fit", "random", "variance"):
        assert np.abs(whole[name] - stream[name]).max() < 1e-10


def test_no_decomposition_is_held_once_it_was_seen():
    parts, alive, most = representation_decomposition(opened("clip"), SCENES, progress=False), [], 0

    def stream():
        nonlocal most
        for i in range(0, 20, 2):
            part = Decomposition(parts.data.isel(item=slice(i, i + 2)), parts.provenance)
            alive.append(weakref.ref(part))
            yield part
            del part
            most = max(most, sum(one() is not None for one in alive))

    assert text_span(stream(), bank(), picks=2, progress=False).provenance.options["items"] == 20
    assert most <= 3  # the first, from which the sizes are taken, and those at hand


def test_what_is_no_stream_of_decompositions_is_refused():
    parts = [representation_decomposition(opened(n), SCENES[:4], progress=False) for n in ("clip", "siglip")]
    other = Decomposition(parts[0].data, parts[1].provenance)
    few = Decomposition(parts[0].data.isel(item=[0, 1]), parts[0].provenance)
    for stream, said in (([], "an empty stream"), (SCENES, "a stream of Scene"), ([parts[0], other], "several models"),
                         ([few], "2 items")):  # fmt: skip
        with pytest.raises(MethodError, match=said):
            text_span(iter(stream), bank(), picks=2, progress=False)


def test_spans_keep_and_draw_themselves(tmp_path):
    parts = representation_decomposition(opened("clip"), SCENES, progress=False)
    spans = text_span(parts, bank(), picks=2, layers=[-1], progress=False)
    back = load(spans.save(tmp_path / "s.nc"))
    assert isinstance(back, Spans) and back["text"].values.tolist() == spans["text"].values.tolist()
    assert back["layer"].values.tolist() == [2] and len(back.named()) == 4 and "<img" in back.to_html()
    assert "a red" in spans.to_html() or "a blue" in spans.to_html() or "a green" in spans.to_html()
    for options in ({"picks": 0}, {"picks": 13}):
        with pytest.raises(MethodError, match="1 to 12 picks"):
            text_span(parts, bank(), **options)
    with pytest.raises(MethodError, match="3 picks from 2 directions"):
        text_span(parts, bank(), picks=3, rank=2)


# --- SpLiCE -----------------------------------------------------------------------------------------------------------


def random_bank(size: int = 40, width: int = 64) -> TextBank:
    return TextBank(tuple(f"text {i}" for i in range(size)), ("text",) * size, unit(noise(size, width, seed=5)))


@pytest.mark.checks("picture_texts", "truth")
def test_what_was_mixed_is_found():
    words = random_bank()
    directions, mean = words.directions(), unit(noise(64, seed=6)) * 0.3
    mixed = torch.stack([0.8 * directions[3] + 0.6 * directions[7], directions[11]])
    found = splice(unit(mean + 0.2 * unit(mixed)), words, penalty=0.05, mean=mean)
    assert set(found.top(0, 2)["text"]) == {"text 3", "text 7"}
    assert found.top(1, 1)["text"].tolist() == ["text 11"]
    assert (found["cosine"] > 0.8).all() and (found["cosine"] > found["random"] + 0.05).all()


def solved(words, z, penalty, whole):
    """w >= 0 that minimises |D'w - z|^2 + p |w|_1, or with half the square, one weight at a time."""
    weights, factor = np.zeros((len(z), len(words))), 2.0 if whole else 1.0
    for _ in range(500):
        for j, word in enumerate(words):
            rest = z - weights @ words + np.outer(weights[:, j], word)
            weights[:, j] = np.maximum(0, (factor * rest @ word - penalty) / (factor * word @ word))
    return weights


@pytest.mark.parametrize("named", ["lambda", "l1_penalty"])
def test_the_penalty_is_that_of_the_paper_or_of_its_program(named):
    words, z = random_bank(), unit(noise(3, 64, seed=8))
    mean = torch.zeros(64, dtype=torch.float64)
    found = splice(z, words, penalty=0.15, penalty_as=named, mean=mean)
    expected = solved(words.directions().numpy(), z.numpy(), 0.15, whole=named == "l1_penalty")
    assert np.abs(found["weight"].values - expected).max() < 1e-4
    other = splice(z, words, penalty=0.15, penalty_as={"lambda": "l1_penalty"}.get(named, "lambda"), mean=mean)
    more, fewer = (found, other) if named == "l1_penalty" else (other, found)
    assert (more["used"] > fewer["used"]).all()
    same = splice(z, words, penalty=0.3 if named == "l1_penalty" else 0.15, penalty_as=named, mean=mean)
    assert np.abs(same["weight"].values - fewer["weight"].values).max() < 1e-6


@settings(max_examples=10, deadline=None)
@drawn(st.integers(0, 1000), st.floats(0.05, 0.4))
def test_the_weights_solve_the_stated_problem(seed, penalty):
    """At the optimum D(z - D'w) equals lambda where a weight is positive and is at most lambda elsewhere."""
    words, z = random_bank(), unit(noise(3, 64, seed=seed))
    found = splice(z, words, penalty=penalty, mean=torch.zeros(64, dtype=torch.float64))
    weights = torch.from_numpy(found["weight"].values)
    slope = (z - weights @ words.directions()) @ words.directions().T
    assert (weights >= 0).all() and slope.max() < penalty + 1e-3
    assert (slope[weights > 0] - penalty).abs().max() < 1e-3 if (weights > 0).any() else True


def test_too_high_a_price_buys_nothing():
    found = splice(unit(noise(2, 64)), random_bank(), penalty=2.0)
    assert (found["used"] == 0).all() and (found["cosine"] == 0).all() and len(found.top()) == 0


@pytest.mark.checks("picture_texts", "baseline", "floor")
def test_an_untrained_model_is_described_no_better_than_by_random_directions():
    vectors = embedded(opened("clip"), SCENES, "vision", progress=False)
    found = splice(vectors, bank(), penalty=0.1)
    assert float((found["cosine"] - found["random"]).mean()) < 0.1


def test_sparse_texts_keep_and_draw_themselves(tmp_path):
    parts = representation_decomposition(opened("clip"), SCENES, progress=False)
    found = splice(parts, bank(), penalty=0.1)
    back = load(found.save(tmp_path / "s.nc"))
    assert isinstance(back, SparseTexts) and (back["weight"].values == found["weight"].values).all()
    assert back.provenance.options["modality_mean"] == "of these items" and "cosine" in back.plot().get_title()
    with pytest.raises(MethodError, match="above 0, as `lambda` or `l1_penalty`"):
        splice(parts, bank(), penalty=0.0)
    with pytest.raises(MethodError, match="at least two embeddings"):
        splice(unit(noise(1, 32)), bank())
    with pytest.raises(MethodError, match="32 dimensions"):
        splice(unit(noise(2, 64)), bank())
