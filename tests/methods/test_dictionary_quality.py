"""What is measured of a dictionary is what its definition says, row by row, and what identities ask."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from cutaway import store
from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.baselines import Directions, random_dictionary
from cutaway.methods.sparse_autoencoders.quality import Quality, quality
from cutaway.methods.sparse_autoencoders.recovered import loss_recovered, own_text
from cutaway.methods.sparse_autoencoders.seen import Seen, read, seen
from cutaway.model.dictionary import NOWHERE, At, Dictionary, Neurons, decoder_rows
from cutaway.model.edits import Ablate
from cutaway.model.targets import answer, log_prob
from cutaway.model.tokens import KINDS
from cutaway.zoo import tiny
from world import noise, opened

SITE = "vision.1.resid_post"
PICTURES = [tiny.picture(seed) for seed in range(4)]


@dataclass(frozen=True)
class Asking:
    """A dictionary that must know the kind of a position: it says the kind and nothing else."""

    site: str = SITE
    target: str = SITE
    width: int = 12
    asks: tuple[str, ...] = field(default=("kind",))
    d_in: int = 32
    d_out: int = 32

    def check(self, model, *sites) -> None:
        pass

    def encode(self, x: torch.Tensor, at: At = NOWHERE) -> torch.Tensor:
        return torch.nn.functional.one_hot(at.kind, 12).to(x)

    def decode(self, features: torch.Tensor, x: torch.Tensor, at: At = NOWHERE) -> torch.Tensor:
        return torch.zeros_like(x)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality") / "store"
    return store.harvest(opened("clip"), PICTURES, [SITE, "vision.1.mlp.out"], folder, items=3, progress=False)


def some(k: int | None = 3, width: int = 40, dim: int = 32) -> Directions:
    directions = torch.nn.functional.normalize(noise(width, dim, seed=1), dim=-1)
    return Directions(SITE, directions, noise(dim, seed=2) / 10, k)


def test_the_baselines_are_dictionaries():
    for one in (Neurons(SITE, torch.zeros(4)), random_dictionary(SITE, 8, torch.zeros(4)), Asking()):
        assert isinstance(one, Dictionary)


def test_numbers_by_kind_are_those_of_a_loop_over_rows(made):
    dictionary = some()
    found = quality(dictionary, made, batch=5)
    (part,) = made.rows(SITE, batch=10**6)
    features, decoded = read(dictionary, Seen(part.x, part.x))
    errors = around = 0.0
    for kind in ("cls", "image"):
        rows = [at for at, one in enumerate(part.index["kind"]) if one == kind]
        mean, got = part.x[rows].mean(0), found.by_kind[kind]
        error = sum(float(((part.x[at] - decoded[at]) ** 2).sum()) for at in rows)
        far = sum(float(((part.x[at] - mean) ** 2).sum()) for at in rows)
        assert got.rows == len(rows) and got.explained == pytest.approx(1 - error / far, abs=1e-12)
        assert got.l0 == pytest.approx(sum(int((features[at] > 0).sum()) for at in rows) / len(rows))
        lengths = [float(decoded[at].norm() / part.x[at].norm()) for at in rows]
        assert got.shrinkage == pytest.approx(sum(lengths) / len(rows), abs=1e-12)
        cosines = [float(torch.cosine_similarity(decoded[at], part.x[at], dim=0)) for at in rows]
        assert got.cosine == pytest.approx(sum(cosines) / len(rows), abs=1e-12)
        errors, around = errors + error, around + far
    assert found.value.explained == pytest.approx(1 - errors / around, abs=1e-12)
    assert torch.allclose(found.density, (features > 0).double().mean(0))
    assert found.alive == float((features > 0).any(0).double().mean())
    counts = found.densities
    assert int(counts.inside.sum() + counts.below + counts.above) == dictionary.width
    assert int(counts.below) == int((~(features > 0).any(0)).sum())


@settings(max_examples=15, deadline=None)
@drawn(st.integers(0, 1000), st.integers(1, 30), st.floats(0.1, 100))
def test_neither_order_nor_cuts_nor_scale_change_what_is_explained(seed, size, scale):
    rows, order = noise(30, 32, seed=seed), torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    one = some(k=4)
    scaled = Directions(SITE, one.directions, one.mean * scale, 4)
    kinds = torch.arange(30) % 3
    whole = quality(one, [Seen(rows, rows, At(kinds))])
    parts = [Quality(), Quality()]
    for at in order.split(size):
        x = rows[at] * scale
        features, decoded = read(scaled, Seen(x, x))
        parts[len(at) % 2].add(x, decoded, features, kinds[at])
    joined = parts[0].merge(parts[1])
    assert joined.value.explained == pytest.approx(whole.value.explained, abs=1e-9)
    assert joined.value.l0 == whole.value.l0 and torch.allclose(joined.density, whole.density)


def test_the_neurons_explain_all_and_nothing_explains_less_than_nothing():
    rows = noise(200, 8) + 3
    found = quality(Neurons(SITE, rows.mean(0)), rows)
    assert found.value.explained == pytest.approx(1) and found.value.l0 == 8 and found.alive == 1
    assert found.value.cosine == pytest.approx(1) and found.value.shrinkage == pytest.approx(1)
    fewer = quality(Neurons(SITE, rows.mean(0), k=3), rows)
    assert fewer.value.l0 == 3 and 0.3 < fewer.value.explained < 1
    nothing = quality(Directions(SITE, torch.zeros(5, 8).double(), torch.zeros(8)), rows)
    assert nothing.value.explained < -1 and nothing.alive == 0 and nothing.value.shrinkage == 0
    mean = quality(Directions(SITE, torch.zeros(5, 8).double(), rows.mean(0)), rows)
    assert mean.value.explained == pytest.approx(0, abs=1e-12)


def test_random_directions_lie_where_the_data_lie():
    """Data in 4 of 64 dimensions: directions drawn like them explain most, those drawn evenly far less."""
    basis = torch.linalg.qr(noise(64, 4, seed=5)).Q
    rows = noise(500, 4, seed=6) @ basis.T + 1
    like, even = (random_dictionary(SITE, 128, rows.mean(0), c, k=4, seed=0) for c in (torch.cov(rows.T), None))
    assert torch.allclose(like.directions.norm(dim=1), torch.ones(128).double())
    assert quality(like, rows).value.explained > 0.9 and quality(even, rows).value.explained < 0.3
    assert torch.equal(random_dictionary(SITE, 9, rows.mean(0), seed=1).directions,
                       random_dictionary(SITE, 9, rows.mean(0), seed=1).directions)  # fmt: skip


def test_what_a_feature_writes_is_read_off_its_decoding():
    one = some(dim=8)
    found = decoder_rows(one, like=torch.zeros(0).double())
    assert torch.allclose(found, one.directions, atol=1e-12)
    both = decoder_rows(Neurons(SITE, torch.ones(3)))
    assert torch.equal(both, torch.cat([torch.eye(3), -torch.eye(3)]))


def test_rows_are_known_for_what_they_are(made):
    parts = list(seen(Asking(), made, batch=50, kind="image"))
    assert sum(map(len, parts)) == 4 * 16 and {KINDS[kind] for kind in parts[0].kind.tolist()} == {"image"}
    assert parts[0].places[:5].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]] and parts[0].item[:2].tolist() == [
        0,
        0,
    ]
    assert quality(Asking(), made).value.l0 == 1
    layer = Directions(SITE, torch.zeros(2, 32).double(), torch.zeros(32))
    moved = list(seen(Asking(target="vision.1.mlp.out"), made, batch=100))
    assert not torch.equal(moved[0].x, moved[0].y) and torch.equal(moved[0].x, next(seen(layer, made, batch=100)).x)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda kept: quality(Asking(site="vision.0.resid_post"), kept), "holds no 'vision.0.resid_post'"),
        (lambda kept: quality(Asking(), noise(3, 32)), "nothing is known of the kind"),
        (lambda kept: quality(some(), noise(3, 32), kind="image"), "cannot be chosen by kind"),
        (lambda kept: quality(some(), []).value, "no row was seen"),
        (lambda kept: random_dictionary(SITE, 0, torch.zeros(2)), "one at least"),
    ],
)
def test_what_cannot_be_measured_is_refused(made, wrong, said):
    with pytest.raises(MethodError, match=f"(?i){said}"):
        wrong(made)


# --- in the place of what they reconstruct ----------------------------------------------------------------------------


def cases():
    clip, llava, sd = opened("clip"), opened("llava"), opened("sd")
    pairs = clip.inputs(image=PICTURES[:2], text=["a red dog", "a cat"])
    asked = llava.inputs(image=PICTURES[:2], text=["what is", "what"], answer=["a dog", "cat"])
    noised = sd.inputs(prompt=["a red dog", "a cat"], step=1, steps=3, image=PICTURES[:2])
    return [(clip, pairs, "vision.0.resid_post"), (clip, pairs, "text.0.resid_post"),
            (llava, asked, "text.0.resid_post"), (sd, noised, "denoiser.3.resid_post"),
            (llava, asked, "text.0.attn.z"), (sd, noised, "denoiser.3.attn.z")]  # fmt: skip


@pytest.mark.parametrize("at", range(6))
def test_a_perfect_dictionary_recovers_all_and_an_empty_one_nothing(at):
    model, inputs, site = cases()[at]
    state = model.run(inputs, record=site, stop=True)[site]
    width = state.shape[-1] * (state.shape[-2] if site.endswith("attn.z") else 1)
    zeros = torch.zeros(width, dtype=torch.float64)
    perfect = loss_recovered(model, Neurons(site, zeros), inputs, progress=False)
    assert perfect.rows == 2 and perfect.of_zero == pytest.approx(1) and perfect.of_mean == pytest.approx(1)
    empty = loss_recovered(model, Directions(site, zeros[None], zeros), inputs, progress=False)
    assert empty.of_zero == pytest.approx(0) and empty.zero == perfect.zero and empty.mean == perfect.mean
    assert empty.clean != empty.zero != empty.mean


def test_the_mean_is_that_of_a_kind_over_all_inputs_and_other_kinds_stay():
    model, site = opened("clip"), "vision.0.resid_post"
    batches = [model.inputs(image=PICTURES[:2], text=["a red dog", "a cat"]),
               model.inputs(image=PICTURES[2:], text=["a fox", "a red cat on a mat"])]  # fmt: skip
    states = [model.run(one, record=site, stop=True)[site][:, 1:] for one in batches]
    mean = torch.cat(states).mean((0, 1))
    dictionary = Directions(site, torch.zeros(1, 32, dtype=torch.float64), mean)
    found = loss_recovered(model, dictionary, batches, kinds=["image"], progress=False)
    assert (
        found.rows == 4 and found.spliced == pytest.approx(found.mean, abs=1e-12) and found.of_mean == pytest.approx(0)
    )
    runs = [own_text()(model.run(one)) for one in batches]
    assert found.clean == pytest.approx(float(torch.cat(runs).mean()))


def test_heads_lie_in_a_row_as_in_the_sites_of_features():
    dictionary = Neurons("text.0.attn.z", torch.zeros(32), k=3)
    model = opened("llama").with_dictionaries(dictionary)
    inputs = model.inputs(text="a red", answer="dog")
    found = loss_recovered(model, dictionary, inputs, progress=False)
    spliced = answer(mean=True)(model.run(inputs, edits=Ablate("text.0.attn.z.error")))
    assert found.spliced == pytest.approx(float(spliced)) != found.clean


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda model: (Neurons("text.0.attn.pattern", torch.zeros(32)), model.inputs(text=["a dog"])), "no vector"),
        (lambda model: (Neurons("text.0.resid_post", torch.zeros(32)), model.inputs(text=["a dog"])), "how well"),
        (lambda model: (Neurons("text.0.resid_post", torch.zeros(32)), []), "no inputs"),
    ],
)
def test_what_cannot_be_spliced_is_refused(how, said):
    dictionary, inputs = how(opened("llama"))
    with pytest.raises(MethodError, match=f"(?i){said}"):
        loss_recovered(opened("llama"), dictionary, inputs, log_prob("dog") if said == "no vector" else None,
                       progress=False)  # fmt: skip


def test_a_whole_drawing_is_not_spliced():
    inputs = opened("sd").inputs(prompt="a dog", steps=2)
    with pytest.raises(MethodError, match="A whole drawing"):
        loss_recovered(opened("sd"), Neurons("denoiser.3.resid_post", torch.zeros(64)), inputs, log_prob("dog"))
