"""Dictionaries: equations and gradients against plain torch, planted truth, and trainings that are stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy.optimize import linear_sum_assignment

import cutaway
from cutaway import Set, store
from cutaway.errors import MethodError, SiteError, StoreError
from cutaway.methods.sparse_autoencoders import stepping
from cutaway.methods.sparse_autoencoders.autoencoder import Crosscoder, SparseAutoencoder, opened
from cutaway.methods.sparse_autoencoders.batch import Price
from cutaway.methods.sparse_autoencoders.beginning import allowed, archetypes, untrained
from cutaway.methods.sparse_autoencoders.codes import Dense, of_best, of_mask, of_top
from cutaway.methods.sparse_autoencoders.learning import Learning
from cutaway.methods.sparse_autoencoders.reading import Rows
from cutaway.methods.sparse_autoencoders.shape import ARCHITECTURES, Group, Shape, modal, shaped
from cutaway.methods.sparse_autoencoders.stepping import judged
from cutaway.methods.sparse_autoencoders.training import train
from cutaway.model.dictionary import At, Dictionary
from cutaway.model.tokens import KINDS
from cutaway.store.collect import How
from cutaway.store.fitted import Fitted

SITE, N, D, M = "text.1.resid_post", 20, 6, 16
HERE = Path(__file__)


def drawn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(shape, out=D):
    w = {"encoder": drawn(M, D, seed=1), "decoder": drawn(M, out, seed=2)}
    w |= {"encoder_bias": drawn(M, seed=3) / 5, "decoder_bias": drawn(out, seed=4) / 5}
    if shape.activation == "jumprelu":
        w["log_threshold"] = drawn(M, seed=5) / 5 - 1
    if shape.activation == "gated":
        w |= {"log_gain": drawn(M, seed=5) / 5, "magnitude_bias": drawn(M, seed=6) / 5}
    if shape.skip:
        w["skip"] = drawn(out, D, seed=7)
    if shape.timed:
        w |= {"step_encoder": drawn(shape.timed, M, seed=8), "step_decoder": drawn(shape.timed, out, seed=9) / 5}
    if shape.groups:
        w["allowed"] = allowed(shape)
    return w


class Window(torch.autograd.Function):
    """f = u 1[u > θ] and 1[u > θ], with the published gradients of a window."""

    @staticmethod
    def forward(ctx, u, theta, wide, to_input):
        ctx.save_for_backward(u, theta)
        ctx.wide, ctx.to_input = wide, to_input
        on = (u > theta).to(u.dtype)
        return u * on, on

    @staticmethod
    def backward(ctx, df, don):
        u, theta = ctx.saved_tensors
        near = ((u - theta).abs() < ctx.wide / 2) & (u > 0)
        bent = near * (theta * df + don) / ctx.wide
        return df * (u > theta) + (near * theta * df / ctx.wide if ctx.to_input else 0), -bent.sum(0), None, None


def plain(w, shape, x, y, price, centred, kind=None, step=None):
    """The loss of a batch as the papers write it."""
    bias = w["decoder_bias"] + (w["step_decoder"][step] if shape.timed else 0)
    u = (x - bias if centred else x) @ w["encoder"].T + w["encoder_bias"]
    u = u + w["step_encoder"][step] if shape.timed else u
    u = u.masked_fill(~w["allowed"][kind], -1e30) if shape.groups else u
    long, more = w["decoder"].norm(dim=1), 0
    linear = x @ w["skip"].T if shape.skip else 0
    if shape.activation == "relu":
        f = u.relu()
        more = price * (f * long).sum()
    elif shape.activation == "topk":
        top = u.topk(shape.k)
        f = torch.zeros_like(u).scatter(1, top.indices, top.values.relu())
    elif shape.activation == "batch_topk":
        f = u.relu() * (u >= u.relu().flatten().topk(shape.k * len(x)).values.min())
    elif shape.activation == "jumprelu":
        f, on = Window.apply(u, w["log_threshold"].exp(), shape.bandwidth, shape.penalty == "tanh")
        more = price * (torch.tanh(4 * f * long).sum() if shape.penalty == "tanh" else on.sum())
    else:
        size = w["log_gain"].exp() * (u - w["encoder_bias"]) + w["magnitude_bias"]
        f, fixed = (u > 0) * size.relu(), bias.detach()
        side = u.relu() @ w["decoder"].detach() + fixed + (linear.detach() if shape.skip else 0) - y
        more = price * (u.relu() * long).sum() + side.square().sum()
    made, loss, low = bias + linear, 0, 0
    for edge in shape.edges:
        made = made + f[:, low:edge] @ w["decoder"][low:edge]
        loss, low = loss + (made - y).square().sum(), edge
    return (loss + more) / len(x), f


CASES = [
    *({"activation": name} for name in ("relu", "topk", "batch_topk", "jumprelu", "gated")),
    {"activation": "jumprelu", "penalty": "tanh"}, {"activation": "batch_topk", "nested": (4, 8, M)},
    {"activation": "relu", "nested": (5, M)}, {"activation": "topk", "skip": True},
    {"activation": "gated", "skip": True},
    {"activation": "topk", "timed": 3}, {"activation": "relu", "timed": 3},
    {"activation": "batch_topk", "groups": modal(8, 4, 4)}, {"activation": "relu", "groups": modal(8, 4, 4)},
]  # fmt: skip


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values()))[:30])
def test_losses_and_gradients_are_those_of_autograd(case, centred):
    shape = Shape(M, k=3, **case)
    w, x = weights(shape), drawn(N, D, seed=10)
    y = x if centred and not shape.skip else drawn(N, D, seed=11)
    kind = torch.tensor([KINDS.index(("image", "text", "cls")[i % 3]) for i in range(N)]) if shape.groups else None
    step = torch.arange(N) % 3 if shape.timed else None
    leaves = {name: value.clone().requires_grad_() for name, value in w.items() if value.is_floating_point()}
    loss, f = plain({**w, **leaves}, shape, x, y, 0.3, centred, kind, step)
    wanted = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    made = judged(w, shape, Rows(x, kind, step), y, Price(0.3), centred=centred)
    assert made.loss == pytest.approx(float(loss.detach()), abs=1e-10)
    assert torch.equal(made.fired, (f > 0).sum(0).to(made.fired.dtype))
    for name, grad in zip(leaves, wanted, strict=True):
        expected = torch.zeros_like(leaves[name]) if grad is None else grad
        assert torch.allclose(made.gradients[name], expected, atol=1e-10), name


@pytest.mark.parametrize("case", CASES[:5], ids=lambda case: case["activation"])
def test_what_is_kept_encodes_as_its_equation_says(case):
    shape = Shape(M, k=3, **case)
    w, x = weights(shape), drawn(N, D, seed=12)
    kept = {name: value for name, value in w.items() if name != "log_threshold"}
    if shape.activation == "jumprelu":
        kept["threshold"] = w["log_threshold"].exp()
    if shape.activation == "batch_topk":
        kept["threshold"] = torch.full((M,), 0.7, dtype=torch.float64)
    config = {"shape": shape.told(), "site": SITE, "centred": True}
    made = SparseAutoencoder(kept, config, untrained("topk", SITE, D, width=M, k=3).on)
    f = made.encode(x)
    u = (x - w["decoder_bias"]) @ w["encoder"].T + w["encoder_bias"]
    wanted = u * (u > 0.7) if shape.activation == "batch_topk" else plain(w, shape, x, x, 0.0, True)[1]
    assert torch.allclose(f, wanted, atol=1e-12)
    assert torch.allclose(made.decode(f, x), f @ w["decoder"] + w["decoder_bias"], atol=1e-12)
    assert isinstance(made, Dictionary) and made.target == SITE and made.asks == ()


def test_sums_over_entries_are_the_same_dense_and_sparse():
    u, w, g = drawn(N, M, seed=1), drawn(M, D, seed=2), drawn(N, 3, D, seed=3)
    edges, step = (3, 9, M), torch.arange(N) % 2
    for sparse in (of_top(u, 3, edges), of_best(u, 50, edges), of_mask(u > 1.5, edges)):
        assert not isinstance(sparse, Dense)
        values = sparse.take(u)
        dense = torch.zeros(N, M, dtype=u.dtype)
        dense[sparse.row, sparse.column] = values
        plain_code = Dense(edges)
        (a, back_a), (b, back_b) = sparse.decode(values, w), plain_code.decode(dense, w)
        assert torch.allclose(a, b) and torch.allclose(back_a(g), sparse.take(back_b(g)))
        assert torch.allclose(sparse.push(values, g), plain_code.push(dense, g))
        assert torch.allclose(sparse.push_rows(values, g[:, 0]), plain_code.push_rows(dense, g[:, 0]))
        assert torch.allclose(sparse.total(values), plain_code.total(dense))
        assert torch.equal(sparse.count(values > 0), plain_code.count(dense > 0))
        assert torch.allclose(sparse.by_step(values, step, 2), plain_code.by_step(dense, step, 2))
    best = of_best(u, 50, (M,))
    assert torch.equal(best.take(u).sort().values, u.flatten().topk(50).values.sort().values)


def test_a_batch_is_the_same_in_stretches(monkeypatch):
    for case in CASES:
        shape = Shape(M, k=3, **case)
        w, x = weights(shape), drawn(N, D, seed=10)
        kind = torch.arange(N) % len(KINDS) if shape.groups else None
        step = torch.arange(N) % 3 if shape.timed else None
        dead = torch.arange(M) % 4 == 0
        whole = judged(w, shape, Rows(x, kind, step), x, Price(0.3, 0.1), centred=True, dead=dead)
        monkeypatch.setattr(stepping, "ENTRIES", 1)
        monkeypatch.setattr(stepping, "LEAST", 7)
        apart = judged(w, shape, Rows(x, kind, step), x, Price(0.3, 0.1), centred=True, dead=dead)
        monkeypatch.undo()
        assert apart.loss == pytest.approx(whole.loss) and torch.equal(apart.fired, whole.fired)
        assert all(torch.allclose(apart.gradients[name], value) for name, value in whole.gradients.items())


def test_dead_features_are_told_what_the_others_left():
    shape = Shape(M, "topk", k=3)
    w, x = weights(shape), drawn(N, D, seed=13)
    dead = torch.zeros(M, dtype=torch.bool)
    dead[[2, 5, 7, 11]] = True
    leaves = {name: value.clone().requires_grad_() for name, value in w.items()}
    loss, f = plain(leaves, shape, x, x, 0.0, True)
    left = (x - f @ leaves["decoder"] - leaves["decoder_bias"]).detach()
    u = (x - leaves["decoder_bias"].detach()) @ leaves["encoder"].T + leaves["encoder_bias"]
    top = u[:, dead].topk(3)
    chosen = torch.zeros(N, 4, dtype=u.dtype).scatter(1, top.indices, top.values)
    loss = loss + 0.1 * (chosen @ leaves["decoder"][dead] - left).square().sum() / N
    made = judged(w, shape, Rows(x), x, Price(0.0, 0.1), centred=True, dead=dead)
    assert made.loss == pytest.approx(float(loss.detach()))
    for name, grad in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        assert torch.allclose(made.gradients[name], grad, atol=1e-10), name


# --- training ---------------------------------------------------------------------------------------------------------


def planted(n=6000, d=32, m=64, k=3):
    """Rows that are few of 64 known directions, and these directions."""
    dice = torch.Generator().manual_seed(17)
    truth = torch.nn.functional.normalize(torch.randn(m, d, generator=dice), dim=1)
    on = torch.zeros(n, m).scatter_(1, torch.rand(n, m, generator=dice).topk(k).indices, 1.0)
    return on * (0.5 + torch.rand(n, m, generator=dice)) @ truth + 0.3, truth


def matched(decoder, truth):
    """The mean cosine of the best one-to-one match (MCC)."""
    alike = torch.nn.functional.normalize(decoder, dim=1) @ truth.T
    return float(alike.numpy()[linear_sum_assignment(-alike.numpy())].mean())


def test_an_untrained_dictionary_begins_around_the_centre_it_is_given():
    centre = torch.linspace(-1, 1, 8)
    made = untrained("topk", SITE, 8, width=16, k=3, centre=centre)
    assert not made.encode(centre[None]).any() and torch.equal(made.decode(torch.zeros(1, 16), centre[None])[0], centre)
    assert torch.equal(made.tensors["decoder"], untrained("topk", SITE, 8, width=16, k=3).tensors["decoder"])


def test_planted_directions_are_found_where_chance_and_untrained_weights_find_none():
    x, truth = planted()
    made = train(x, SITE, "topk", width=64, k=3, steps=500, batch=256, rate=2e-2, dead_after=50, progress=False)
    floor = matched(untrained("topk", SITE, 32, width=64, k=3, seed=1).tensors["decoder"], truth)
    chance = matched(torch.randn(64, 32, generator=torch.Generator().manual_seed(5)), truth)
    found = matched(made.dictionary.tensors["decoder"], truth)
    assert found >= 0.9 > 0.6 > max(floor, chance)
    f = made.dictionary.encode(x)
    left = (x - made.dictionary.decode(f, x)).square().sum() / (x - x.mean(0)).square().sum()
    assert 1 - left > 0.85 and float((f > 0).sum(1).float().mean()) <= 3
    assert list(made.log.columns)[:4] == ["step", "loss", "error", "explained"] and made.log["step"].iloc[-1] == 500


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_learns_and_holds_what_it_promises(name, tmp_path):
    x, truth = planted(3000)
    made = train(x, SITE, name, width=64, k=3, steps=250, batch=256, rate=2e-2, price=1.0, progress=False)
    kept, log = made.dictionary, made.log
    assert log["explained"].iloc[-1] > 0.5 > log["explained"].iloc[0]
    assert matched(kept.tensors["decoder"], truth) > 0.6
    if kept.shape.unit:
        assert torch.allclose(kept.tensors["decoder"].norm(dim=1), torch.ones(64), atol=1e-5)
    if kept.shape.points:
        w = kept.tensors
        assert (w["mix"] >= 0).all() and torch.allclose(w["mix"].sum(1), torch.ones(64), atol=1e-5)
        assert w["drift"].norm(dim=1).max() <= kept.shape.drift * 32**0.5 + 1e-5
        assert torch.allclose(w["decoder"], archetypes(w), atol=1e-5)
    if name == "batch_topk":
        assert 2 < float((kept.encode(x) > 0).sum(1).float().mean()) < 4
    back = opened(Fitted.load(kept.save(tmp_path / "kept")))
    assert torch.equal(back.encode(x[:50]), kept.encode(x[:50])) and back.shape == kept.shape


CODE = """
import sys
sys.path.insert(0, {tests!r})
import torch
from cutaway.methods.sparse_autoencoders.training import train
x = torch.randn(700, 16, generator=torch.Generator().manual_seed(3))
train(x, "text.1.resid_post", {name!r}, width=48, k=4, steps=60, batch=128, price=0.5, dead_after=5, resample=12,
      save_every=10, folder={folder!r}, progress=False)
"""


@pytest.mark.parametrize("name", ["batch_topk", "relu"])
def test_a_training_that_was_killed_goes_on_bit_for_bit(name, tmp_path):
    x = torch.randn(700, 16, generator=torch.Generator().manual_seed(3))
    how = {
        "width": 48,
        "k": 4,
        "steps": 60,
        "batch": 128,
        "price": 0.5,
        "dead_after": 5,
        "resample": 12,
        "save_every": 10,
    }
    whole = train(x, SITE, name, **how, progress=False)
    stopped = tmp_path / "stopped"
    code = CODE.format(tests=str(HERE.parents[1]), name=name, folder=str(stopped))
    hook = (
        "import os, cutaway.methods.sparse_autoencoders.learning as l\n"
        "step = l.Learning.step\n"
        "def once(self, fed):\n    if self.done == 37: os.kill(os.getpid(), 9)\n    return step(self, fed)\n"
        "l.Learning.step = once\n"
    )
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", hook + code], env=env, check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    again = train(x, SITE, name, **how, folder=stopped, progress=False)
    for key, value in whole.dictionary.tensors.items():
        assert torch.equal(value, again.dictionary.tensors[key]), key
    assert whole.log.equals(again.log)
    with pytest.raises(StoreError, match="another rows"):
        train(x + 1, SITE, name, **how, folder=stopped, progress=False)


def test_rows_of_a_store_of_a_running_model_and_at_hand(tmp_path):
    model, texts = cutaway.load("tiny:clip"), ["a red dog", "a cat", "two blue birds", "a fox"] * 12
    kept = store.harvest(model, texts, "text.*.resid_post", tmp_path / "kept", progress=False)
    how = {"width": 48, "k": 4, "steps": 12, "batch": 32, "progress": False}
    made = train(kept, SITE, "topk", **how)
    assert made.dictionary.on.content == kept.model.content and made.dictionary.on.sites == (SITE,)
    made.dictionary.check(model, SITE)
    live = train(texts, SITE, "topk", model=model, feed={"items": 16, "together": 8}, **how)
    live.dictionary.check(model, SITE)
    assert live.log["explained"].iloc[-1] > live.log["explained"].iloc[0]
    across = train(kept, "text.0.resid_post", "topk", target=SITE, skip=True, **how)
    assert (across.dictionary.site, across.dictionary.target) == ("text.0.resid_post", SITE)
    some = train(kept, SITE, "topk", feed={"where": {"kind": "text"}}, **how)
    assert some.dictionary.width == 48
    several = train(kept, ["text.0.resid_post", SITE], "relu", unit=False, **how).dictionary
    assert isinstance(several, Crosscoder) and several.lengths.shape == (2, 48)
    rows = next(kept.rows(list(several.sites), batch=8))
    f = several.encode(several.joined(rows.values))
    assert several.parted(several.decode(f, several.joined(rows.values)))[SITE].shape == (8, 32)
    with pytest.raises(SiteError, match="has no single one"):
        _ = several.site


def test_kinds_have_scales_and_features_of_their_own():
    x, _ = planted(2000)
    kind = torch.tensor([KINDS.index("image" if i % 2 else "text") for i in range(2000)])
    x = x * (1 + 9 * (kind == KINDS.index("image")))[:, None]
    groups = (Group(32), Group(16, ("image",)), Group(16, ("text",)))
    made = train(x, SITE, "batch_topk", width=64, k=3, kind=kind, scale="kind", groups=groups, steps=60, batch=256,
                 progress=False).dictionary  # fmt: skip
    assert made.asks == ("kind",)
    scale = made.tensors["scale"][:, 0]
    assert float(scale[KINDS.index("text")] / scale[KINDS.index("image")]) == pytest.approx(10, rel=0.1)
    at = At(kind[:100].view(50, 2))
    f = made.encode(x[:100].view(50, 2, 32), at)
    assert f[:, 1, 48:].abs().max() == 0 == f[:, 0, 32:48].abs().max() and f[:, 1, 32:48].abs().max() > 0
    assert made.decode(f, x[:100].view(50, 2, 32), at).shape == (50, 2, 32)
    assert torch.equal(made.encode(x[1], At.all("image")), made.encode(x[1:2], At(kind[1:2]))[0])
    with pytest.raises(MethodError, match="must know the kind"):
        made.encode(x)


def test_one_scale_is_folded_away():
    x, _ = planted(2000)
    how = {"width": 64, "k": 3, "steps": 40, "batch": 256, "progress": False}
    for name in ("topk", "gated", "jumprelu", "batch_topk"):
        small, large = (train(x * size, SITE, name, **how).dictionary for size in (1.0, 64.0))
        assert small.asks == () and "scale" not in small.tensors
        assert torch.allclose(64 * small.encode(x), large.encode(64 * x), rtol=1e-3, atol=1e-2)
        f = small.encode(x)
        assert torch.allclose(64 * small.decode(f, x), large.decode(64 * f, x), rtol=1e-3, atol=1e-2)


def test_steps_of_a_drawing_have_biases_of_their_own():
    x, _ = planted(2000)
    step = torch.arange(2000) % 4
    x = x + 3.0 * step[:, None]
    how = {"width": 64, "k": 3, "steps": 60, "batch": 256, "progress": False}
    made = train(x, SITE, "topk", step=step, timed=4, **how)
    assert made.dictionary.asks == ("step",)
    assert made.log["error"].iloc[-1] < train(x, SITE, "topk", **how).log["error"].iloc[-1]
    exact, wide = At(step=step[:8], steps=4), At(step=step[:8] * 5 + 2, steps=20)
    assert torch.equal(made.dictionary.encode(x[:8], exact), made.dictionary.encode(x[:8], wide))
    with pytest.raises(MethodError, match="A row is of step 3 of 1"):
        made.dictionary.encode(x[:8], At(step=step[:8]))
    with pytest.raises(MethodError, match="A row is of step 3"):
        train(x, SITE, "topk", step=step, timed=2, **how)


def test_points_of_an_archetypal_decoder_can_be_given():
    x, _ = planted(600)
    made = train(
        x, SITE, "archetypal", width=64, k=3, points=x[:40], steps=20, batch=128, drift=0.0, rate=1e-6, progress=False
    ).dictionary
    w = made.tensors
    scale = w["points"] / (x[:40] - w["decoder_bias"])
    assert torch.allclose(scale, scale.median().expand_as(scale), rtol=1e-2) and made.shape.points == 40
    assert torch.allclose(w["decoder"], w["log_size"].exp() * (w["mix"] @ w["points"]), atol=1e-5)


def test_a_denoiser_is_learned_from_as_it_draws():
    model = cutaway.load("tiny:sd")
    feed = {"asked": {"steps": 3}, "items": 2, "together": 2, "how": How(guidance=("cond",))}
    how = {"width": 64, "k": 4, "steps": 3, "batch": 64, "timed": 3, "model": model, "feed": feed, "progress": False}
    made = train(["a red dog", "a cat"], "denoiser.1.resid_post", "topk", **how).dictionary
    assert made.asks == ("step",) and made.on.model == "tiny:sd"
    assert not torch.equal(made.tensors["step_decoder"][0], made.tensors["step_decoder"][2])


def test_features_have_a_gradient():
    made = untrained("jumprelu", SITE, 8, width=16)
    x = torch.randn(3, 8, requires_grad=True)
    made.decode(made.encode(x), x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"architecture": "tpok"}, "no architecture is called 'tpok'"), ({"widht": 3}, "there is no option 'widht'"),
        ({"k": 99}, "99 are on"), ({"nested": (8, 9)}, "prefixes of 8, 9"), ({"width": None}, "no width is given"),
        ({"groups": (Group(3),)}, "groups of 3 features"), ({"target": "text.0.mlp.out"}, "no rows of"),
        ({"groups": (Group(32, ("picture",)),)}, "no kind is called"), ({"batch": 4096}, "less than a batch"),
        ({"scale": "kind"}, "of which kind these rows are"), ({"timed": 3}, "of which step"),
        ({"sizes": (3, 4)}, "of 1 sites"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(given, said):
    asked = {"architecture": "topk", "width": 32, "k": 4, "steps": 2, "batch": 64, **given}
    with pytest.raises(MethodError, match=f"(?i){said}"):
        train(torch.randn(128, 16), SITE, progress=False, **asked)


def test_a_shape_travels_as_json():
    for name in ARCHITECTURES:
        shape = shaped(name, 64, groups=modal(32, 16, 16))
        assert Shape.read(shape.told()) == shape


def test_learning_can_be_asked_at_any_moment():
    from cutaway.methods.sparse_autoencoders.feeding import Fed, feed_of
    from cutaway.methods.sparse_autoencoders.recipe import Recipe

    feed = feed_of(torch.randn(200, 8), (SITE,), None)
    learning = Learning(feed, Shape(16, "topk", k=2), Recipe(steps=5, batch=50), (SITE,), None)
    learning.begin(None)
    before = learning.dictionary().encode(torch.ones(2, 8))
    learning.step(Fed(torch.randn(50, 8)))
    assert before.shape == (2, 16)


def test_the_threshold_of_a_short_training_is_that_of_its_end():
    """When read, as many are on as in training, though the first steps had larger features."""
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 16, generator=dice) @ torch.randn(16, 16, generator=dice)
    made = train(x, "vision.1.resid_post", "batch_topk", width=64, k=6, steps=200, batch=128, progress=False)
    on = float((made.dictionary.encode(x) > 0).sum(1).float().mean())
    assert abs(on - 6) < 0.6


def test_rows_that_cannot_be_learned_from_are_refused():
    x, more = torch.randn(256, 8), {"width": 16, "k": 4, "steps": 2, "batch": 64, "progress": False}
    for odd in (float("nan"), float("inf")):
        with pytest.raises(MethodError, match="not finite"):
            train(torch.cat([x, torch.full((1, 8), odd)]), "text.1.resid_post", "topk", **more)
    late = torch.cat([x, torch.full((64, 8), float("nan"))])
    with pytest.raises(MethodError, match="loss of step"):
        train(late, "text.1.resid_post", "topk", scale="none", **{**more, "steps": 20})
    made = train(x, "text.1.resid_post", "topk", **more).dictionary
    with pytest.raises(MethodError, match="16 features for each row"):
        made.decode(torch.zeros(3, 5), x[:3])
    model = cutaway.load("tiny:llama")
    with pytest.raises(MethodError, match="Edits are held"), model.edited(Set("text.1.resid_post", 1.0)):
        train(["a red dog"] * 32, "text.1.resid_post", "topk", model=model, **more)
