"""Training-data attribution: exact leave-one-out, identities, planted copies, chance, the floor, and taking up."""

import importlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
from cutaway import data, targets
from cutaway.errors import MethodError, StoreError
from cutaway.methods.causal_tracing import Circuit
from cutaway.methods.data_attribution import (
    chosen_pieces,
    data_attribution,
    eigenbases,
    loo_correlation,
    mislabel_auc,
    retrieval,
)
from cutaway.methods.data_attribution.features import Bases, Plan, Projection, item_features
from cutaway.methods.data_attribution.scores import METHODS, Curved
from cutaway.methods.shown import applied
from cutaway.methods.table import method
from cutaway.model.inputs import Inputs
from cutaway.model.pieces import pieces
from cutaway.model.weight_gradients import weight_gradients
from cutaway.questions.asked import asked
from cutaway.questions.losses import contrastive_loss
from cutaway.questions.training import KINDS, Drawings, Items, Pairs, candidates
from cutaway.report.methods import questions as questions_of_each
from cutaway.zoo import tiny
from world import fresh, noise

N, WIDE, RIDGE = 24, 4, 0.7


class Line(nn.Module):
    """y = x w, or the logit of a class."""

    def __init__(self):
        super().__init__()
        self.fit = nn.Linear(WIDE, 1, bias=False)

    def forward(self, x, truth=None):
        return self.fit(x)


@dataclass(frozen=True, eq=False)
class Rows(Items):
    """Numbers x with their truth, and what each costs."""

    x: Any = None
    truth: Any = None
    cost: Any = None

    def __len__(self):
        return len(self.x)

    def shown(self, at):
        return None, f"row {at}"

    def on(self, model, measure="loss"):
        def make(rows, draw):
            inputs = Inputs({"x": self.x[list(rows)], "truth": self.truth[list(rows)]})
            return inputs, lambda run: self.cost(run.outputs[:, 0], run.inputs.tensors["truth"])

        return make


def line(weight):
    model = cutaway.load(Line().double())
    with torch.no_grad():
        model.module.fit.weight.copy_(weight[None])
    return model


def output(run):
    return run.outputs[:, 0]


@pytest.fixture(scope="module")
def clip():
    return fresh("clip")


@pytest.fixture(scope="module")
def six():
    """Six pairs, the last of which is the second again."""
    pictures = [tiny.picture().rotate(90 * i) for i in range(4)]
    order = (0, 1, 2, 3, 0, 1)
    texts = ["a red dog", "a cat", "two birds", "a fox", "a blue mat", "a cat"]
    return Pairs(pictures=[pictures[i] for i in order], texts=texts)


@pytest.mark.checks("data_attribution", "truth")
def test_it_is_exact_leave_one_out_of_ridge_regression():
    """w = H^-1 X'y; without item i a query falls by x_q H^-1 x_i r_i / (1 - h_i): influence, but for 1 - h_i."""
    x, y, asked = noise(N, WIDE, seed=1), noise(N, seed=2), noise(3, WIDE, seed=3)
    hessian = x.T @ x + RIDGE * torch.eye(WIDE)
    weight = torch.linalg.solve(hessian, x.T @ y)
    train = Rows(x=x, truth=y, cost=lambda out, truth: (out - truth) ** 2 / 2)
    curvature = replace(train, cost=lambda out, truth: out)
    found = data_attribution(
        line(weight), train, Inputs({"x": asked}), output, kind="whole", curvature=curvature,
        damping=RIDGE * WIDE / float(x.pow(2).sum()), progress=False,
    )  # fmt: skip
    leverage = torch.einsum("id,de,ie->i", x, torch.linalg.inv(hessian), x).numpy()
    change = np.zeros((3, N))
    for out in range(N):
        kept = [i for i in range(N) if i != out]
        other = torch.linalg.solve(x[kept].T @ x[kept] + RIDGE * torch.eye(WIDE), x[kept].T @ y[kept])
        change[:, out] = asked @ (weight - other)
    assert np.abs(found["scores"].values / (1 - leverage) - change).max() < 1e-8
    chance = loo_correlation(found["random"].values, change)
    assert np.abs(chance).max() < 0.6 < loo_correlation(found["scores"].values, change).min()


def test_it_is_leave_one_out_of_logistic_regression_to_first_order():
    x, asked = noise(N, WIDE, seed=4), noise(2, WIDE, seed=5)
    y = (x @ noise(WIDE, seed=6) + noise(N, seed=7) > 0).double()

    def fitted(kept):
        weight = torch.zeros(WIDE, dtype=torch.float64)
        for _ in range(30):
            p = (x[kept] @ weight).sigmoid()
            slope = x[kept].T @ (p - y[kept]) + RIDGE * weight
            weight -= torch.linalg.solve((x[kept].T * (p * (1 - p))) @ x[kept] + RIDGE * torch.eye(WIDE), slope)
        return weight

    weight = fitted(list(range(N)))
    p = (x @ weight).sigmoid()
    train = Rows(x=x, truth=y, cost=lambda out, truth: nn.functional.softplus(out) - truth * out)
    curvature = replace(train, truth=(p * (1 - p)).sqrt(), cost=lambda out, scale: out * scale)
    damping = RIDGE * WIDE / float((x.pow(2).sum(1) * p * (1 - p)).sum())
    found = data_attribution(
        line(weight), train, Inputs({"x": asked}), output, kind="whole", curvature=curvature, damping=damping,
        progress=False,
    )  # fmt: skip
    change = np.stack([(asked @ (weight - fitted([i for i in range(N) if i != out]))).numpy() for out in range(N)], 1)
    assert loo_correlation(found["scores"].values, change).min() > 0.99
    bend = torch.linalg.inv((x.T * (p * (1 - p))) @ x + RIDGE * torch.eye(WIDE))
    leverage = (torch.einsum("id,de,ie->i", x, bend, x) * p * (1 - p)).numpy()
    assert np.abs(found["scores"].values / (1 - leverage) - change).max() < 0.1 * np.abs(change).max()


def test_a_contrastive_batch_is_the_sum_of_its_items(clip, six):
    """With what each costs the others, gradients of items add up to that of the symmetric loss of the batch."""
    inputs, own = replace(six, whole=True).on(clip)(range(6), 0)
    assert isinstance(own, contrastive_loss)
    chosen = pieces(clip, ["vision.1.mlp.out", "text.0.attn.q"])
    parts = weight_gradients(clip, inputs, own, chosen)

    def batch(run):
        logits = run.outputs.logits_per_image
        same = torch.arange(6)
        both = nn.functional.cross_entropy(logits, same) + nn.functional.cross_entropy(logits.T, same)
        return both[None] * 3

    whole = weight_gradients(clip, inputs, batch, chosen)
    for piece in chosen:
        assert torch.allclose(parts.of(piece).sum(0), whole.of(piece)[0], atol=1e-9)
    plain = six.on(clip)(range(6), 0)[1]
    loss = batch(clip.run(inputs))[0]
    assert torch.allclose(plain(clip.run(inputs)).sum(), loss)
    alone = six.take([2]).on(clip)([0], 0)
    assert torch.allclose(alone[1](clip.run(alone[0])), plain(clip.run(inputs))[2:3])


def test_scores_are_the_algebra_that_they_say(clip, six):
    chosen = pieces(clip, ["vision.1.attn.q", "text.1.mlp.norm.scale"])
    (f,) = item_features(clip, six, chosen, [Projection("factored", 3)], Plan(4), progress=False)
    g, n, by = f.values.double(), 6, Curved(f, 0.3)
    assert [stop - start for start, stop in f.parts] == [6, 9]
    blocks = [g[:, start:stop] for start, stop in f.parts]
    ridge = 0.3 * g.pow(2).sum() / g.shape[1]
    by_hand = {
        "dot": g @ g.T,
        "cosine": nn.functional.normalize(g, dim=1) @ nn.functional.normalize(g, dim=1).T,
        "trak": g @ torch.linalg.inv(g.T @ g + ridge * torch.eye(g.shape[1])) @ g.T,
        "logra": sum(b @ torch.linalg.inv(b.T @ b / n + 0.3 * b.pow(2).sum() / n / b.shape[1]
                                          * torch.eye(b.shape[1])) @ b.T for b in blocks),
        "ekfac": sum(b / (b.pow(2).mean(0) + 0.3 * b.pow(2).mean()) @ b.T for b in blocks),
    }  # fmt: skip
    by_hand["datainf"] = sum(
        b @ sum(torch.linalg.inv(torch.outer(k, k) + r * torch.eye(len(k))) for k in b) / n @ b.T
        for b in blocks for r in [0.3 * b.pow(2).mean()]
    )  # fmt: skip
    assert set(by_hand) == set(METHODS)
    for name, true in by_hand.items():
        assert torch.allclose(METHODS[name](f, f, by).double(), true, rtol=1e-6, atol=1e-9), name
    lost = (1 - torch.exp(-f.losses))[:, None]
    odds = g / lost
    true = g @ torch.linalg.inv(odds.T @ odds + 0.3 * odds.pow(2).sum() / 15 * torch.eye(15)) @ g.T
    assert torch.allclose(METHODS["trak"](f, f, Curved(f, 0.3, margin=True)).double(), true, rtol=1e-6)


def test_projections_keep_products_and_eigenvectors_keep_all(clip, six):
    chosen = pieces(clip, ["vision.1.attn.q", "text.0.mlp.norm.scale"])
    hows = [Projection("whole"), *(Projection(k, 6, s) for k in ("factored", "dense", "adapter") for s in range(60))]
    whole, *others = (
        one.values @ one.values.T for one in item_features(clip, six, chosen, hows, Plan(6), progress=False)
    )
    for at in range(3):
        mean = torch.stack(others[60 * at : 60 * at + 60]).mean(0)
        assert (mean - whole).norm() < 0.35 * whole.norm()
    basis = eigenbases(clip, six, chosen, Plan(6), progress=False)
    (turned,) = item_features(clip, six, chosen, [basis], Plan(6), progress=False)
    assert torch.allclose(turned.values @ turned.values.T, whole, rtol=1e-6)


@pytest.mark.checks("data_attribution", "baseline")
@pytest.mark.parametrize("method", ["cosine", "trak", "ekfac", "representation"])
def test_copies_of_what_is_asked_come_first_and_not_by_chance(clip, six, method):
    found = data_attribution(clip, six, six.take([1]), method=method, weights="vision", size=4, progress=False)
    assert set(found.proponents(k=2)) == {1, 5}
    assert retrieval(found["scores"].values, [{1, 5}], k=2)["recall"] == 1
    shuffled = [
        retrieval(np.random.default_rng(i).permuted(found["scores"].values, axis=1), [{1, 5}], k=2)["recall"]
        for i in range(40)
    ]
    assert abs(np.mean(shuffled) - 1 / 3) < 0.15
    assert sorted(found["random"].values[0]) == sorted(found["scores"].values[0])


class Adapted(Line):
    """The same with a low-rank adapter beside it, which does nothing yet."""

    def __init__(self):
        super().__init__()
        self.lora_A, self.lora_B = nn.Linear(WIDE, 2, bias=False), nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x, truth=None):
        return self.fit(x) + self.lora_B(self.lora_A(x))


def test_an_adapter_at_its_beginning_is_a_projection_of_one_side():
    """So DataInf on a low-rank adapter needs none: dB = G A', and A has no gradient while B is zero."""
    model = cutaway.load(Adapted().double())
    train = Rows(x=noise(N, WIDE, seed=1), truth=noise(N, seed=2), cost=lambda out, truth: (out - truth) ** 2)
    (layer,), (first,), (second,) = (pieces(model, name) for name in ("fit", "lora_A", "lora_B"))
    side = Bases({layer: (None, model.module.lora_A.weight.detach().T)})
    how = {"plan": Plan(N), "progress": False}
    (ours,) = item_features(model, train, [layer], [side], **how)
    (none,) = item_features(model, train, [first], [Projection("whole")], **how)
    (theirs,) = item_features(model, train, [second], [Projection("whole")], **how)
    assert torch.allclose(ours.values, theirs.values) and not none.values.any()
    asked = Inputs({"x": noise(2, WIDE, seed=3)})
    found = data_attribution(model, train, asked, output, method="datainf", kind="whole", weights="lora_B",
                             progress=False)  # fmt: skip
    assert np.isfinite(found["scores"].values).all() and found["scores"].values.any()


def test_of_a_trained_adapter_both_sides_count_by_the_mean_of_inverses():
    """DataInf by hand, from gradients of one item at a time, and the inverse that it stands for."""
    model = cutaway.load(Adapted().double())
    x, truth, asked = noise(N, WIDE, seed=1), noise(N, seed=2), noise(2, WIDE, seed=3)
    learns = [model.module.lora_A.weight, model.module.lora_B.weight]
    optimiser = torch.optim.SGD(learns, lr=0.1)
    for _ in range(20):
        optimiser.zero_grad()
        (model.module(x)[:, 0] - truth).square().mean().backward()
        optimiser.step()

    def slopes(value):
        return [one.flatten() for one in torch.autograd.grad(value, learns)]

    items = [slopes((model.module(x[i : i + 1])[0, 0] - truth[i]).square()) for i in range(N)]
    numbers = [slopes(model.module(asked[i : i + 1])[0, 0]) for i in range(2)]
    by_hand, exact = torch.zeros(2, N), torch.zeros(2, N)
    for side in (0, 1):
        g, q = (torch.stack([one[side] for one in some]) for some in (items, numbers))
        ridge = 0.1 * g.square().mean() * torch.eye(g.shape[1])
        by_hand -= q @ torch.stack([torch.linalg.inv(torch.outer(k, k) + ridge) for k in g]).mean(0) @ g.T
        exact -= q @ torch.linalg.inv(g.T @ g / N + ridge) @ g.T
    train = Rows(x=x, truth=truth, cost=lambda out, truth: (out - truth) ** 2)
    how = {"kind": "whole", "weights": "lora_*", "progress": False}
    found = data_attribution(model, train, Inputs({"x": asked}), output, method="datainf", **how)["scores"].values
    assert np.allclose(found, by_hand.detach(), rtol=1e-4, atol=1e-6)
    assert loo_correlation(found, exact.detach().numpy()).min() > 0.5
    other = data_attribution(model, train, Inputs({"x": asked}), output, method="logra", **how)["scores"].values
    assert np.allclose(other, exact.detach(), rtol=1e-4, atol=1e-6)


def test_what_is_kept_is_taken_up_and_known_by_content(clip, six, tmp_path, monkeypatch):
    chosen, hows = pieces(clip, "vision.1.attn.q"), [Projection(size=3, seed=s) for s in (0, 1)]
    plain = item_features(clip, six, chosen, hows, Plan(2), progress=False)
    made, real = [], weight_gradients

    def counted(*given):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(given)
        return real(*given)

    home = importlib.import_module("cutaway.methods.data_attribution.features")
    monkeypatch.setattr(home, "weight_gradients", counted)
    with pytest.raises(KeyboardInterrupt):
        item_features(clip, six, chosen, hows, Plan(2), folder=tmp_path, progress=False)
    made.clear()
    again = item_features(clip, six, chosen, hows, Plan(2), folder=tmp_path, progress=False)
    assert len(made) == 1
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one.values, other.values) and torch.equal(one.losses, other.losses)
    with pytest.raises(StoreError, match="of another model"):
        item_features(clip, six.take(range(5)), chosen, hows, Plan(2), folder=tmp_path, progress=False)


def test_checkpoints_are_summed_by_their_rates(clip, six):
    other = fresh("clip")
    with torch.no_grad():
        other.module.visual_projection.weight.mul_(1.0).add_(0.01 * noise(*other.module.visual_projection.weight.shape))
    how = {"method": "dot", "weights": "vision.1.attn.q", "progress": False}
    each = [data_attribution(one, six, six.take([0]), **how)["scores"].values for one in (clip, other)]
    both = data_attribution(clip, six, six.take([0]), checkpoints=[clip, other], rates=[0.5, 2.0], **how)
    assert np.allclose(both["scores"], 0.5 * each[0] + 2.0 * each[1])


def test_a_circuit_names_its_weights_and_errors_say_what_is_there(clip, six):
    circuit = Circuit.of("tiny:clip", [("vision.0.attn[1]", "vision.1.mlp"), ("vision.1.mlp", "vision.end")])
    named = {one.layer.rpartition("layers.")[2] for one in chosen_pieces(clip, circuit)}
    assert named == {*(f"0.self_attn.{part}_proj" for part in ("q", "k", "v", "out")), "1.mlp.fc1", "1.mlp.fc2"}
    with pytest.raises(MethodError, match="ekfac"):
        data_attribution(clip, six, six, method="ek-fac")
    with pytest.raises(MethodError, match="no inverse"):
        data_attribution(clip, six, six, weights="vision", damping=0.0, progress=False)
    with pytest.raises(MethodError, match="no number"):
        data_attribution(clip, six, clip.inputs(text="a dog"))


def test_a_denoiser_has_levels_of_noise_and_measures_of_its_own(tmp_path):
    model = cutaway.load("tiny:sd")
    pictures = [tiny.picture(), tiny.picture().rotate(90), tiny.picture()]
    items = Drawings(pictures=pictures, prompts=["a dog", "a cat", "a dog"], at=(0, 2), steps=3)
    chosen = pieces(model, "denoiser.1.attn.q")
    plain, even = (
        item_features(model, items, chosen, [Projection("whole")], Plan(3, even=one), progress=False)[0].values
        for one in (False, True)
    )
    assert torch.allclose(plain[0], plain[2]) and not torch.allclose(plain[0], plain[1])
    assert float(even.norm(dim=1).max()) <= 1 + 1e-5
    asked = model.inputs(prompt="a cat", step=1, steps=3)
    how = {"measure": "square", "weights": "denoiser.1.attn.q", "folder": tmp_path, "progress": False}
    found = data_attribution(model, items, asked, **how)
    model.engine.pipeline("a dog", num_inference_steps=2, output_type="latent")  # its clock stands elsewhere now
    assert np.array_equal(data_attribution(model, items, asked, **how)["scores"], found["scores"])
    assert found["scores"].shape == (1, 3) and np.allclose(found["scores"][0, 0], found["scores"][0, 2], rtol=1e-3)
    with pytest.raises(MethodError, match="has no gradient"):
        data_attribution(model, items, asked, targets.distance(torch.zeros(1)))


@pytest.mark.checks("data_attribution", "floor")
def test_a_trained_model_knows_wrong_captions_by_their_own_influence_and_an_untrained_one_does_not():
    planted = data.plant_mislabels(list(data.items("train", 20)), 0.25, seed=1)
    items = Pairs(pictures=[one.scene for one in planted.items], texts=[one.caption.text for one in planted.items])
    wrong = np.isin(np.arange(len(items)), planted.wrong)
    found = {}
    for name in ("zoo:emoji-clip", "zoo:emoji-clip@untrained"):
        made = data_attribution(
            cutaway.load(name), items, items.take([0]), method="dot", weights="vision.*.mlp.out", batch=20,
            progress=False,
        )  # fmt: skip
        found[name] = mislabel_auc(made["own"].values, wrong)
    assert found["zoo:emoji-clip"] > 0.95 and abs(found["zoo:emoji-clip@untrained"] - 0.5) < 0.3


def test_a_page_shows_the_items_and_candidates_are_told_as_the_recipe_does():
    declared = method("data-attribution")
    page = applied(questions_of_each()["contrastive"], [declared])
    helping, harming, histogram = declared.show(page)
    assert len(helping.pictures) == len(harming.pictures) == 2 and histogram.lines[0].values.sum() == 2
    assert "question.training" in page.applied["data_attribution"].call
    assert "it needs items" in declared.why_not(asked("tiny:clip", image=tiny.picture(), text="a dog", floor=False))
    assert candidates(page.question.model) is None
    made = {name: one(2) for name, one in KINDS.items()}
    assert all(len(one) == 2 and one.shown(1)[0].size == (64, 64) and one.shown(1)[1] for one in made.values())
    assert made["emoji-llava"].take([1]).answers == made["emoji-llava"].answers[1:]
