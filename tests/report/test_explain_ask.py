"""The page of a question to a model that writes: what it says is what the arrays hold."""

import re

import numpy as np
import pytest

from cutaway.methods.causal_tracing import declared as patching
from cutaway.methods.representation_decomposition import logit_views
from cutaway.report.explain import explained
from cutaway.views.kinds import Bars, Curve, HeadTable, Lens, Overlay, Table, WordGrid
from cutaway.views.words import number
from cutaway.zoo import tiny
from report.ran import printed

ASKED = {"text": "what is this", "answer": "dog", "rival": "cat"}
CASES = {
    "llava": {"model": "tiny:llava", "image": tiny.picture(), "counterfactual": tiny.picture(3)},
    "llava, text alone": {"model": "tiny:llava"},
    "llama": {"model": "tiny:llama", "counterfactual": "who is this"},
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(patching, "RUNS", 20)  # patching is tested elsewhere
        return {name: explained(**case, **ASKED, out=folder / name) for name, case in CASES.items()}


@pytest.fixture(params=CASES)
def made(request, pages):
    return pages[request.param]


@pytest.fixture
def pictured(pages):
    return pages["llava"]


def of(made, kind, title=""):
    return next(view for view in made.views if isinstance(view, kind) and title in view.title)


def numbers(text):
    """The numbers with a decimal point in a sentence."""
    return [float(word.replace("−", "-")) for word in re.findall(r"[+−]?\d+\.\d+(?:e-?\d+)?", text)]


def entering(page):
    """What enters at the tokens of each kind, from the arrays alone, pictures first."""
    found = page.made("logits").data.isel(row=0)
    brought = found["head_tokens"].sum(("layer", "head"))
    kinds = dict.fromkeys(found["token_kind"].values)
    parts = {kind: float(brought[(found["token_kind"] == kind).values].sum()) for kind in kinds}
    first = {"image": parts.pop("image")} if "image" in parts else {}
    return first | parts | {"": float(found["total"] - brought.sum())}


def test_the_sum_is_the_models_own_number(made):
    view, value = of(made, Bars), made.shown.question.value
    assert view.total == pytest.approx(value, abs=1e-6)
    assert sum(bar.value for bar in view.bars) == pytest.approx(value, abs=1e-5)
    assert {bar.group for bar in view.bars} == {"embedding", "heads", "MLPs", "constants", "rounding"}
    parts = {group: sum(bar.value for bar in view.bars if bar.group == group) for group in ("heads", "MLPs")}
    largest = max((bar.value for bar in view.bars), key=abs)
    wanted = [*parts.values(), value - sum(parts.values()), largest, value, value]
    assert numbers(view.seen)[:6] == pytest.approx(wanted, abs=6e-4)


def test_heads_are_those_of_the_array_beside_chance(made):
    view, found = of(made, HeadTable), made.shown.made("logits").data.isel(row=0)
    for head in view.heads:
        at = {"layer": head.layer, "head": head.head}
        assert head.effect == float(found["heads"].isel(at))
        assert head.extra["random words"] == float(found["heads_chance"].isel(at))
        assert head.direct == pytest.approx(head.effect / view_total(made))
        if "from picture tokens" in head.extra:
            here = (found["token_kind"] == "image").values
            assert head.extra["from picture tokens"] == pytest.approx(
                float(found["head_tokens"].isel(at)[here].sum()), abs=1e-6
            )
    largest = max((head.effect for head in view.heads), key=abs)
    assert numbers(view.seen) == pytest.approx([largest], abs=6e-4)
    assert ("from picture tokens" in view.heads[0].extra) == bool(made.shown.question.pictures)


def view_total(made):
    return float(made.shown.made("logits")["total"][0])


def test_findings_are_the_numbers_of_the_arrays(made):
    shown, parts = made.shown, entering(made.shown)
    value, found = shown.question.value, shown.made("logits").data.isel(row=0)
    verdict, measured, heads, sums, *more = made.findings
    words = next(said for said in more if said.startswith("Read at the last position"))
    ends = [abs(value), *([np.sign(value) * parts["image"]] if "image" in parts else [])]
    assert numbers(verdict) == pytest.approx(ends, abs=6e-4)
    assert verdict.startswith(f"The model answers “{'dog' if value > 0 else 'cat'}” rather than")
    other = shown.counterpart
    assert numbers(measured) == pytest.approx([value, *([other.question.value] if other else [])], abs=6e-4)
    at = np.unravel_index(np.abs(found["heads"].values).argmax(), found["heads"].shape)
    assert numbers(heads) == pytest.approx([found["heads"].values[at], found["heads_chance"].values[at]], abs=6e-4)
    assert "layer {} head {}".format(*at) in heads
    wanted = [value, *parts.values()]
    if "image" in parts:
        wanted.insert(2, entering(other)["image"])
    assert numbers(sums) == pytest.approx(wanted, abs=6e-4) and sum(parts.values()) == pytest.approx(value, abs=1e-5)
    lens = shown.made("word_lens").data.isel(prompt=0, token=-1)
    assert f"number {int(lens['word_rank'][-1, 0])} " in words
    assert f"puts it at {number(float(lens['random_rank'][-1, 0]))} on average" in words


def test_the_map_is_what_picture_tokens_add(pictured):
    found, view = pictured.shown.made("logits").data.isel(row=0), of(pictured, Overlay)
    brought = found["head_tokens"].sum(("layer", "head"))
    for at in np.flatnonzero(found["patch_row"].values >= 0):
        row, col = int(found["patch_row"][at]), int(found["patch_col"][at])
        assert view.values[0, row, col] == pytest.approx(float(brought[at]), abs=1e-6)
    parts = entering(pictured.shown)
    assert view.values.sum() == pytest.approx(parts["image"], abs=1e-5)
    values = view.values[0]
    strongest = values.flat[np.abs(values).argmax()]
    said = numbers(view.seen)
    assert said[-1] == pytest.approx(strongest, abs=6e-4)
    assert said[6:8] == pytest.approx([values[values > 0].sum(), values[values < 0].sum()], abs=6e-4)


def test_the_page_begins_with_the_picture(pictured):
    page = pictured.page.read_text(encoding="utf-8")
    assert '<figure class="lead">' in page and f'<p class="verdict">{pictured.findings[0]}' in page
    assert "read at picture tokens" in page


def test_without_a_picture_there_is_no_map(pages):
    made = pages["llava, text alone"]
    assert not any(isinstance(view, Overlay | Lens) for view in made.views)
    assert '<figure class="lead">' not in made.page.read_text(encoding="utf-8") and "picture" not in made.findings[0]


def test_the_curve_ends_at_the_models_own_number(made):
    view, lens = of(made, Curve, "Where the answer"), made.shown.made("word_lens")
    own, *_, chance = view.lines
    assert own.values[-1] == pytest.approx(made.shown.question.value, abs=1e-4)
    logits = lens["word_logit"].values[0, :, -1]
    assert own.values == pytest.approx(logits[:, 0] - logits[:, 1], abs=1e-5)
    random = lens["random_logit"].values
    assert chance.baseline and chance.values == pytest.approx(random[:, 0] - random[:, 1], abs=1e-5)
    steps = np.diff(own.values)
    wanted = [steps[np.abs(steps).argmax()], own.values[-1], chance.values[-1]]
    assert numbers(view.seen) == pytest.approx(wanted, abs=6e-4)
    same = view.seen.split(" it has the sign")[0].rsplit(". ", 1)[1]
    since = next(at for at in range(len(own.values)) if (np.sign(own.values[at:]) == np.sign(own.values[-1])).all())
    assert view.x.labels[since] in same
    assert [line.label for line in view.lines[1:-1]] == ["the counterfactual"] * (made.shown.counterpart is not None)


def test_the_words_of_each_layer_are_those_of_the_lens(made):
    view, lens = of(made, Table, "The words of each"), made.shown.made("word_lens").data.isel(prompt=0, token=-1)
    for at, (_, first, *told) in enumerate(view.cells):
        here = lens.isel(layer=at)
        assert first.startswith(f"“{str(here['top'].values[0]).strip()}” {number(float(here['top_probability'][0]))}")
        for word in (0, 1):
            wanted = [here["word_rank"][word], here["random_rank"][word], here["word_probability"][word]]
            assert told[3 * word : 3 * word + 3] == pytest.approx([float(one) for one in wanted])
    end = lens.isel(layer=-1)
    wanted = [float(end["top_probability"][0]), *map(float, end["word_probability"].values)]
    assert numbers(view.seen) == pytest.approx(wanted, abs=6e-4)


def test_picture_tokens_are_read_against_chance(pictured):
    view, lens = of(pictured, Lens), pictured.shown.made("word_lens")
    grid = lens.on_grid("word_probability")
    for word in (0, 1):
        for layer in range(len(view.layers)):
            wanted = np.log(grid.isel(word=word, layer=layer).values / float(lens["random_probability"][layer, word]))
            assert view.values[word, layer] == pytest.approx(wanted, abs=1e-5)
    layer, row, col = np.unravel_index(view.values[0].argmax(), view.values[0].shape)
    chance, there = float(lens["random_probability"][layer, 0]), float(grid[{"word": 0}].values[layer, row, col])
    assert numbers(view.seen) == pytest.approx([np.log(there / chance), there, chance], abs=6e-4)
    assert f"{(view.values[0, layer] > 0).sum()} of 16 tokens" in view.seen
    last = lens.data.isel(prompt=0, token=-1)
    pooled = np.log(last["word_probability"] / lens["random_probability"]).transpose("word", "layer").values
    assert view.pooled == pytest.approx(pooled, abs=1e-5)


def test_every_view_says_what_it_can_not_tell_and_its_code_runs(made, monkeypatch):
    monkeypatch.chdir(made.folder.parent)
    for view, said in printed(made, without="patching"):
        assert re.search(r"\d\.\d", said), view.code
        if "terms()" in view.code:
            assert float(said.split()[-1]) == pytest.approx(made.shown.question.value, abs=1e-5)
    assert all(view.limits and view.code and view.provenance for view in made.views)


def test_answers_that_are_hardly_told_apart_are_told_so(pictured, monkeypatch):
    monkeypatch.setattr(logit_views, "LEAST", 10.0)
    assert logit_views.verdict(pictured.shown).startswith("The model hardly tells “cat” from “dog” as an answer: 2.368")


@pytest.mark.parametrize("name", ["gemma2", "opt-postnorm"])
def test_a_model_whose_logits_are_no_sum_is_shown_without_it(name, tmp_path):
    made = explained(f"tiny:{name}", text="what is this", out=tmp_path)
    assert "logit decomposition" in made.notes[0] and not any(isinstance(view, Bars) for view in made.views)
    assert of(made, Curve) and "Expected" not in made.notes[0]


def test_a_picture_in_pieces_says_what_of_it_is_on_the_map(tmp_path):
    made = explained("tiny:llava-next", tiny.picture(), **ASKED, out=tmp_path)
    view = of(made, Overlay)
    assert f"{float(np.nansum(view.values)):+.3f}".replace("-", "−") + " of what all picture tokens bring" in view.seen


def test_the_steering_bench_is_the_array(pages):
    for name in ("llava", "llama"):
        made = pages[name]
        found, curve, table = made.shown.made("steering"), of(made, Curve, "Steering"), of(made, Table, "Steering")
        at, whole = found.best, found.data.sel(way="add", alpha=1.0)
        assert curve.lines[0].values == pytest.approx(found["share"].sel(way="add").isel(layer=at).values, abs=1e-6)
        assert [float(label) for label in curve.x.labels] == found["alpha"].values.tolist()
        chance = next(line for line in curve.lines if line.baseline)
        assert chance.low == pytest.approx(found["random_share_low"].isel(layer=at).values, abs=1e-5)
        here, there = made.shown.question.value, made.shown.counterpart.question.value
        assert numbers(curve.seen)[:2] == pytest.approx([here, there], abs=6e-4)
        share, random = (100 * float(whole[name].isel(layer=at)) for name in ("share", "random_share"))
        assert numbers(curve.seen)[2:4] == pytest.approx([share, random], abs=6e-2)
        for cell, layer in zip(table.cells, range(whole.sizes["layer"]), strict=True):
            assert cell[1:3] == pytest.approx([float(whole[n].isel(layer=layer)) for n in ("share", "random_share")])
        assert table.cells[-1][1] == pytest.approx(1, abs=1e-4)
        assert whole["kept"].isnull().all() and "no cost is known" in curve.seen  # no crowd was given
        said = next(said for said in made.findings if said.startswith("Steered by"))
        assert numbers(said) == pytest.approx([share, random], abs=6e-2)


def test_the_grid_has_the_words_of_every_token(made):
    """Of picture tokens at their places on the picture, of the others in order."""
    view, found = of(made, WordGrid), made.shown.made("word_lens")
    top = found["top"].isel(prompt=0).transpose("token", "layer", "rank").values
    own = [at for at, kind in enumerate(found["token_kind"].values[0]) if kind not in ("", "image")]
    places = [] if view.patches is None else view.patches.ravel().astype(int).tolist()
    grid = [at for at in range(len(view.tokens)) if at not in places]
    shown = np.array(view.words)[view.ranked.astype(int)]
    assert (shown[grid] == np.char.strip(top[own].astype(str))).all()
    if view.patches is None:
        assert view.picture is None and len(view.tokens) == len(own)
        return
    assert view.tokens[int(view.patches[2, 3])] == "row 2, column 3"
    here = np.array(view.values)[int(view.patches[2, 3])]
    assert np.allclose(here, found.on_grid("top_probability").values[:, :, 2, 3], atol=1e-6)
    assert f"{len(own)} positions" in view.seen and "16 picture tokens" in view.seen
