"""Features of a dictionary are sites like any other: y = decode(f) + e, read, written, swept and differentiated."""

import pickle
from dataclasses import replace

import pytest
import torch

import cutaway
from cutaway import Ablate, Add, Patch, Scale, Set, Where, store, targets
from cutaway.errors import EditError, SiteError, StoreError
from cutaway.jobs.worker import Opening
from cutaway.methods.neuron_descriptions.write_vectors import write_vectors
from cutaway.model import dictionary
from cutaway.model.dictionary import At
from cutaway.model.fingerprint import fingerprint
from cutaway.model.tokens import KINDS
from cutaway.store.fitted import Origin
from cutaway.zoo import tiny
from toys import Toy, toy
from world import KNOWN, PIPELINES, ROUNDING, Accurate, drawn, gap, given, identical, moved, noise, one_step, opened

CAT = targets.logit("cat")
PLACES = {"sd": "denoiser.1.resid_post"}


def middle(name):
    """A site of the residual stream that the outcome depends on."""
    model = opened(name)
    live = [site for site in model.sites if site.part in ("resid_post", "mlp.out", "attn.out") and not site.dead]
    live = [str(site) for site in live if (site.tower == "denoiser") == (name in PIPELINES)]
    return PLACES.get(name, live[len(live) // 2])


def seen(name, **options):
    """A model with a toy at its middle, the toy, the names of its two sites, and an input."""
    model, site = opened(name), middle(name)
    made = toy(model, site, **options)
    inputs = one_step(name) if name in PIPELINES else given(name)
    return model.with_dictionaries(made), made, f"{site}.features", f"{site}.error", inputs


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_read_is_encoded_and_adds_up(name):
    model, made, features, error, inputs = seen(name)
    run = model.run(inputs, record=[made.site, features, error])
    assert gap(run[features], made.encode(run[made.site])) == 0
    assert gap(made.decode(run[features], run[made.site]) + run[error], run[made.site]) < ROUNDING
    assert run.sites[features].axes[-1] == "feature" and run.sites[features].sizes["feature"] == made.width


@pytest.mark.parametrize("name", KNOWN)
def test_an_edit_of_features_is_what_they_write(name):
    """One feature set to a number moves the state by its row of the decoder, times by how much it moved."""
    model, made, features, error, inputs = seen(name)
    run = model.run(inputs, record=[made.site, features])
    assert identical(model.run(inputs, edits=Scale(features, 1.0)).outputs, run.outputs)
    assert identical(model.run(inputs, edits=Add(error, 0.0)).outputs, run.outputs)
    moves = torch.zeros_like(run[features])
    moves[..., 3] = 2.0 - run[features][..., 3]
    step = moves @ made.part(2, *made.part(2, made.width, made.d_out).shape)
    step = step[0] if name in PIPELINES else step
    here = model.run(inputs, edits=Set(features, 2.0, unit=3), record=[made.site, features, error])
    there = model.run(inputs, edits=Add(made.site, step), record=made.site)
    assert moved(here, there) < 1e-9 and moved(here, run) > 1e-6
    assert gap(here[features][..., 3], torch.full_like(here[features][..., 3], 2.0)) == 0  # what was written is read
    assert gap(here[made.site], there[made.site]) < ROUNDING


@pytest.mark.parametrize("name", KNOWN)
def test_without_the_error_it_is_the_reconstruction(name):
    model, made, features, error, inputs = seen(name)
    run = model.run(inputs, record=[made.site, features, error])
    whole = made.decode(run[features], run[made.site])
    whole = whole[0] if name in PIPELINES else whole
    spliced = model.run(inputs, edits=Ablate(error), record=[made.site, features])
    assert moved(spliced, model.run(inputs, edits=Set(made.site, whole))) < 1e-9
    both = model.run(inputs, edits=[Ablate(error), Scale(features, 0.0)], record=[made.site, features, error])
    assert both[made.site].abs().max() < ROUNDING and not both[features].any() and not both[error].any()


def test_edits_of_a_site_and_of_its_features_compose_in_order():
    model, made, features, _, inputs = seen("llama")
    site, vector = made.site, 2 * noise(32)
    clean = model.run(inputs, record=site)[site]
    moved_first = model.run(inputs, edits=[Add(site, vector), Set(features, 1.0, unit=0)], record=[site, features])
    want = made.encode(clean + vector)
    want[..., 0] = 1.0
    assert gap(moved_first[features], want) < ROUNDING
    moved_last = model.run(inputs, edits=[Set(features, 1.0, unit=0), Add(site, vector)], record=[site, features])
    assert gap(moved_last[features], made.encode(moved_last[site])) < ROUNDING
    twice = model.run(inputs, edits=[Set(features, 1.0, unit=0), Scale(features, 3.0, unit=0)], record=features)
    assert gap(twice[features][..., 0], torch.full_like(twice[features][..., 0], 3.0)) == 0


def test_two_dictionaries_of_a_site_have_names():
    plain = opened("llama")
    one, other = toy(plain, "text.1.resid_post"), toy(plain, "text.1.resid_post", width=20)
    with pytest.raises(SiteError, match="there already"):
        plain.with_dictionaries(one, other)
    model = plain.with_dictionaries(one, wide=other).with_dictionaries(toy(plain, "text.0.resid_post"))
    assert list(model.dictionaries) == [
        "text.0.resid_post.features", "text.1.resid_post.features", "text.1.resid_post.wide.features",
    ]  # fmt: skip
    assert "text.1.resid_post.features" not in plain.sites
    inputs = given("llama")
    edits = [Scale("text.1.resid_post.features", 2.0), Ablate("text.1.resid_post.wide.features")]
    run = model.run(inputs, edits=edits, record="text.1.resid_post*")
    assert not run["text.1.resid_post.wide.features"].any()
    assert gap(run["text.1.resid_post.features"], one.encode(run["text.1.resid_post"])) < ROUNDING


@pytest.mark.parametrize("name", KNOWN)
def test_gradients_of_features_and_error(name):
    """D/df is the gradient of the state along each feature's row; d/de is that of the state."""
    model, made, features, error, inputs = seen(name)

    def target(run):
        return sum(t.double().pow(2).sum() for t in [targets.outcome(run)])[None]

    plain = opened(name).gradients(inputs, target, made.site)
    found = model.gradients(inputs, target, [features, error])
    rows = made.part(2, made.width, made.d_out)
    scale = plain[made.site].abs().max().item() + 1e-9
    assert gap(found[features], plain[made.site] @ rows.T) < 1e-6 * scale
    assert gap(found[error], plain[made.site]) < 1e-6 * scale
    assert gap(found.activations[features], made.encode(plain.activations[made.site])) < 1e-9


def test_features_of_two_layers_are_differentiated_together():
    model = opened("llama")
    made = [toy(model, f"text.{layer}.resid_post") for layer in (0, 1)]
    model = model.with_dictionaries(*made)
    inputs = given("llama")
    names = ["text.0.resid_post.features", "text.1.resid_post.features"]
    together = model.gradients(inputs, CAT, names)
    for name in names:
        alone = model.gradients(inputs, CAT, name)
        assert gap(together[name], alone[name]) < 1e-9
        step = 1e-6
        direction = noise(*alone[name].shape)
        with Accurate():
            ends = [CAT(model.run(inputs, edits=Add(name, direction, scale))).item() for scale in (step, -step)]
        assert abs((ends[0] - ends[1]) / (2 * step) - (direction * alone[name]).sum().item()) < 1e-4
    path = model.gradients(inputs, CAT, names[1], path=16)
    ends = [CAT(model.run(inputs, edits=edits)).item() for edits in ((), Scale(names[1], 0.0))]
    assert abs(path.attribution(names[1]).sum().item() - (ends[0] - ends[1])) < 1e-3 + abs(path.gaps[names[1]])


@pytest.mark.parametrize("name", ["llama", "gpt2", "llava", "clip", "bart", "mamba", "sd", "sd3", "qwen2-vl"])
def test_a_sweep_of_features_is_its_runs(name):
    model, _, features, error, inputs = seen(name)
    cells = [Set(features, 1.5, unit=k) for k in range(3)] + [Ablate(error), Scale(features, 0.0)]

    def number(run):
        return targets.outcome(run).double().flatten().cos().sum()[None]

    target = {"generative": CAT, "contrastive": targets.similarity()}.get(model.family.kind, number)
    got = model.sweep(inputs, cells, target, progress=False).values
    want = [target(model.run(inputs, edits=cell)) for cell in cells]
    assert gap(torch.as_tensor(got.values).flatten(), torch.cat(want).flatten()) < 1e-6


def test_a_sweep_over_rows_and_kinds_is_its_runs():
    """Cells share a batch: the kinds of positions are those of each cell's rows."""
    model = opened("llava")
    made = toy(model, "text.1.resid_post", asks=("kind",))
    model = model.with_dictionaries(made)
    model.tokenizer.padding_side = "left"
    inputs = model.inputs(image=[tiny.picture(0), tiny.picture(1)], text=["a dog", "a photo of a big cat"])
    cells = model.grid(Set("text.1.resid_post.features", 3.0), unit=range(4), token=[-1, -2])
    got = model.sweep(inputs, cells, CAT, progress=False).values
    want = [CAT(model.run(inputs, edits=cell)) for cell in cells.edits]
    assert gap(torch.as_tensor(got.values).reshape(-1, 2), torch.stack(want)) < 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
def test_in_a_padded_batch_each_row_is_as_alone(side):
    model = opened("llava")
    made = toy(model, "text.1.resid_post", asks=("kind",))
    model = model.with_dictionaries(made)
    texts, pictures = ["a dog", "a photo of a big cat"], [tiny.picture(0), tiny.picture(1)]
    before, model.tokenizer.padding_side = model.tokenizer.padding_side, side
    try:
        both = model.inputs(image=pictures, text=texts)
    finally:
        model.tokenizer.padding_side = before
    edits = [Set("text.1.resid_post.features", 2.0, unit=1, token=Where("image")),
             Scale("text.1.resid_post.features", 0.0, token=-1)]  # fmt: skip
    got = CAT(model.run(both, edits=edits))
    for row in (0, 1):
        alone = model.inputs(image=pictures[row], text=texts[row])
        assert gap(got[row : row + 1], CAT(model.run(alone, edits=edits))) < 1e-5
        run = model.run(alone, record=["text.1.resid_post", "text.1.resid_post.features"])
        kinds = torch.tensor([[KINDS.index(kind) for kind in alone.tokens["text"].kind[0]]])
        want = made.encode(run["text.1.resid_post"], At(kinds))
        assert gap(run["text.1.resid_post.features"], want) == 0


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_while_text_is_written(kind):
    model = opened("llava")
    made = toy(model, "text.1.resid_post", asks=("kind",))
    model = model.with_dictionaries(made)
    inputs = model.inputs(image=tiny.picture(), text="a red dog")
    length = inputs.tensors["input_ids"].shape[1] if "input_ids" in inputs.tensors else 0
    options = {"max_new_tokens": 5, "do_sample": False}
    static = {"cache_implementation": "static"} if kind == "static" else {}
    written = Set("text.1.resid_post.features", 6.0, unit=2, token=slice(length - 1, None))
    for edits in ([written], [Ablate("text.1.resid_post.error")]):
        want = model.generate(inputs, edits=edits, use_cache=False, **options).ids
        assert torch.equal(model.generate(inputs, edits=edits, **static, **options).ids, want)
    beams = model.generate(inputs, edits=edits, num_beams=2, **options).ids
    assert torch.equal(beams, model.generate(inputs, edits=edits, num_beams=2, use_cache=False, **options).ids)


def test_a_transcoder_reads_in_one_place_and_stands_in_another():
    plain = opened("llama")
    made = toy(plain, "text.1.resid_mid", "text.1.mlp.out", skip=True)
    model = plain.with_dictionaries(made)
    inputs, features, error = given("llama"), "text.1.mlp.out.features", "text.1.mlp.out.error"
    run = model.run(inputs, record=["text.1.resid_mid", "text.1.mlp.out", features, error])
    assert gap(run[features], made.encode(run["text.1.resid_mid"])) == 0
    assert gap(made.decode(run[features], run["text.1.resid_mid"]) + run[error], run["text.1.mlp.out"]) < ROUNDING
    whole = made.decode(run[features], run["text.1.resid_mid"])
    assert moved(model.run(inputs, edits=Ablate(error)), plain.run(inputs, edits=Set("text.1.mlp.out", whole))) < 1e-9
    earlier = [Add("text.1.resid_mid", 2 * noise(32)), Set(features, 1.0, unit=2)]
    changed = model.run(inputs, edits=earlier, record=["text.1.resid_mid", features])
    want = made.encode(changed["text.1.resid_mid"])
    want[..., 2] = 1.0
    assert gap(changed[features], want) < ROUNDING
    slopes = model.gradients(inputs, CAT, [features])[features]
    assert gap(slopes, plain.gradients(inputs, CAT, "text.1.mlp.out")["text.1.mlp.out"] @ made.part(2, 12, 32).T) < 1e-6
    cells = [Set(features, 1.0, unit=k, token=t) for k in range(3) for t in (1, 3)]
    got = model.sweep(inputs, cells, CAT, progress=False).values
    want = torch.cat([CAT(model.run(inputs, edits=cell)) for cell in cells])
    assert gap(torch.as_tensor(got.values).flatten(), want) < 1e-6
    across = toy(plain, "text.0.resid_mid", "text.2.mlp.out")
    far = plain.with_dictionaries(across)
    cells = [Set("text.2.mlp.out.features", 1.0, unit=k, token=t) for k in range(2) for t in (1, 3)]
    got = far.sweep(inputs, cells, CAT, progress=False).values
    want = torch.cat([CAT(far.run(inputs, edits=cell)) for cell in cells])
    assert gap(torch.as_tensor(got.values).flatten(), want) < 1e-6


@pytest.mark.parametrize("name", ["llama", "clip", "sd"])
def test_heads_lie_behind_one_another(name):
    """Of `attn.z` a dictionary has the row that the output projection takes; heads alone stay sites beside it."""
    plain = opened(name)
    tower = "denoiser" if name in PIPELINES else "text"
    heads = next(site for site in plain.sites.select(f"{tower}.1.*") if site.part == "attn.z")
    size = heads.sizes["head"] * heads.sizes["d_head"]
    made = Toy(str(heads), str(heads), size, size)
    model, features, error = plain.with_dictionaries(made), f"{heads}.features", f"{heads}.error"
    inputs = one_step(name) if name in PIPELINES else given(name)
    run = model.run(inputs, record=[str(heads), features, error])
    whole = run[str(heads)].flatten(-2)
    assert gap(run[features], made.encode(whole)) == 0 and run.sites[error].axes[-1] == "d_heads"
    assert gap(made.decode(run[features], whole) + run[error], whole) < ROUNDING
    back = made.decode(run[features], whole).unflatten(-1, (heads.sizes["head"], -1))
    back = back[0] if name in PIPELINES else back  # without the axis of steps
    assert moved(model.run(inputs, edits=Ablate(error)), plain.run(inputs, edits=Set(str(heads), back))) < ROUNDING
    both = [Ablate(str(heads), head=0), Scale(features, 1.0)]
    changed = model.run(inputs, edits=both, record=[str(heads), features])
    assert not changed[str(heads)][..., 0, :].any()
    assert gap(changed[features], made.encode(changed[str(heads)].flatten(-2))) < ROUNDING
    if name == "llama":
        slopes, there = (one.gradients(inputs, CAT, [at])[at] for one, at in ((model, features), (plain, str(heads))))
        assert gap(slopes, there.flatten(-2) @ made.part(2, made.width, size).T) < 1e-6
        assert write_vectors(model, model.sites.one(features)).shape == (made.width, 32)


def test_steps_guidance_and_pictures_of_a_drawing():
    plain = opened("sd")
    made = toy(plain, "denoiser.1.resid_post", asks=("kind", "step"))
    model = plain.with_dictionaries(made)
    inputs = model.inputs(prompt=["a red dog", "a cat"], steps=3, guidance=3.0, size=(32, 32), pictures=2)
    features = "denoiser.1.resid_post.features"
    run = model.run(inputs, record=["denoiser.1.resid_post", features], **drawn(model))
    state = run["denoiser.1.resid_post"]
    image, steps = KINDS.index("image"), torch.arange(3).view(3, 1, 1, 1).expand(state.shape[:-1])
    assert gap(run[features], made.encode(state, At(torch.full(state.shape[:-1], image), steps, 3))) == 0
    edit = Set(features, 2.0, unit=1, step=1, guidance="cond", batch=1)
    changed = model.run(inputs, edits=edit, record=features, **drawn(model))
    hit = changed[features][1, 1, 2:, :, 1]
    assert gap(hit, torch.full_like(hit, 2.0)) == 0
    assert gap(changed[features][0], run[features][0]) == 0 and gap(changed[features][1, 0], run[features][1, 0]) == 0
    one = model.run(inputs, record=features, guidance="cond", **drawn(model))
    assert gap(one[features][:, 0], run[features][:, 1]) == 0
    alone = model.inputs(prompt="a cat", steps=3, step=2, size=(32, 32), guidance=1.0)
    single = model.run(alone, record=["denoiser.1.resid_post", features])
    here = single["denoiser.1.resid_post"]
    at = At(torch.full(here.shape[:-1], image), torch.full(here.shape[:-1], 2), 3)
    assert gap(single[features], made.encode(here, at)) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_left_as_it_is_where_nothing_changes(dtype):
    plain = cutaway.load("tiny:llama", dtype=dtype)
    made = toy(plain, "text.1.resid_post", dtype=torch.float32)
    model = plain.with_dictionaries(made)
    inputs = model.inputs(text="a red dog")
    run = model.run(inputs, record=["text.1.resid_post", "text.1.resid_post.features"])
    assert run["text.1.resid_post.features"].dtype == torch.float32
    assert identical(model.run(inputs, edits=Scale("text.1.resid_post.features", 1.0)).outputs, run.outputs)
    changed = model.run(
        inputs, edits=Set("text.1.resid_post.features", 3.0, unit=1), record="text.1.resid_post.features"
    )
    assert bool((changed["text.1.resid_post.features"][..., 1] == 3).all())


def test_features_of_another_run_are_patched_in():
    model, made, features, error, inputs = seen("llama")
    other = model.inputs(text="a blue cat on the left")
    source = model.run(other, record=[features, error, made.site])
    patched = model.run(inputs, edits=[Patch(features, source), Patch(error, source)], record=made.site)
    assert gap(patched[made.site], source[made.site]) < ROUNDING


def test_held_edits_and_the_users_own_module():
    model, made, features, _, inputs = seen("llama")
    edit = Set(features, 2.0, unit=1)
    with model.edited(edit):
        held = model.module(**inputs.tensors)
        inside = model.run(inputs, edits=Scale(features, 2.0, unit=1), record=features)
    assert identical(held, model.run(inputs, edits=edit).outputs)
    assert gap(inside[features][..., 1], torch.full_like(inside[features][..., 1], 4.0)) == 0
    asking = opened("llama").with_dictionaries(toy(opened("llama"), made.site, asks=("kind",)))
    with pytest.raises(EditError, match="kinds of positions"), asking.edited(edit):
        asking.module(**inputs.tensors)
    with asking.edited(edit, inputs):
        asking.module(**inputs.tensors)


def test_it_is_known_by_content():
    """A model with a dictionary is another to a sweep that goes on, and the same to what was fitted on it."""
    model, made, features, _, inputs = seen("llama")
    plain = opened("llama")
    assert fingerprint(model) != fingerprint(plain)
    assert Origin.of(model) == Origin.of(plain) and Origin.of(model, made.site) == Origin.of(plain, made.site)
    other = plain.with_dictionaries(replace(made, width=13))
    assert len({Origin.of(one, features).content for one in (model, other, plain)}) == 3
    opening = Opening.of(cutaway.load("tiny:llama").with_dictionaries(made))
    assert str(pickle.loads(pickle.dumps(opening)).open().dictionaries[features]) == str(made)
    run = model.run(inputs, record=features)
    assert pickle.loads(pickle.dumps(run))[features].shape == run[features].shape
    unchecked = cutaway.load("tiny:llama").with_dictionaries(replace(made, of="another"), check=False)
    assert features in pickle.loads(pickle.dumps(Opening.of(unchecked))).open().dictionaries


def test_what_does_not_fit_is_refused():
    model = opened("llama")
    made = toy(model, "text.1.resid_post")
    wide, within = replace(made, d_in=48, d_out=48), f"{made.site}.features"
    with pytest.raises(SiteError, match=r"does not fit"):
        model.with_dictionaries(wide)
    for site in ("text.1.attn.v", "text.1.attn.pattern", "text.1.attn.norm.scale"):
        with pytest.raises(SiteError, match="through a dictionary"):
            model.with_dictionaries(replace(made, site=site, target=site))
    with pytest.raises(SiteError, match="matches no site"):
        model.with_dictionaries(replace(made, site="text.1.resid", target="text.1.resid"))
    with pytest.raises(StoreError, match="of another"):
        model.with_dictionaries(toy(model, "text.1.resid_post", of="another"))
    with pytest.raises(SiteError, match="through a dictionary"):
        model.with_dictionaries(made).with_dictionaries(replace(made, site=within, target=within, d_in=12, d_out=12))
    with pytest.raises(SiteError, match="cannot stand for"):
        opened("llava").with_dictionaries(toy(opened("llava"), "vision.1.resid_post", "text.1.resid_post"))


def test_a_dictionary_is_opened_by_its_name():
    clip = cutaway.load("zoo:emoji-clip").with_dictionaries("zoo:emoji-clip-sae")
    assert list(clip.dictionaries) == ["vision.4.resid_post.features"]
    with pytest.raises(StoreError, match=r"not on 'zoo:emoji-clip' in bfloat16.*check=False"):
        cutaway.load("zoo:emoji-clip", dtype="bfloat16", dictionary="zoo:emoji-clip-sae")
    both = cutaway.load("zoo:emoji-clip", dictionary=("zoo:emoji-clip-sae", "again=zoo:emoji-clip-sae"))
    assert list(both.dictionaries) == ["vision.4.resid_post.features", "vision.4.resid_post.again.features"]
    with pytest.raises(StoreError, match="are called 'again'"):
        cutaway.load("tiny:clip", dictionary=("again=one", "again=other"))
    unchecked = getattr(dictionary.opened, "__wrapped__", dictionary.opened)  # without the tests' own checks of types
    for wrong in (3, list(clip.dictionaries.values())):
        with pytest.raises(StoreError, match="is no dictionary"):
            unchecked(wrong)


def test_features_are_harvested(tmp_path):
    """Rows of features on disk, those of another dictionary refused."""
    model = cutaway.load("tiny:llama")
    made = toy(model, "text.1.resid_post", dtype=torch.float32)
    one, other = (model.with_dictionaries(replace(made, width=width)) for width in (12, 20))
    features = "text.1.resid_post.features"
    kept = store.harvest(one, ["a red dog", "a cat"], features, tmp_path / "kept", progress=False)
    rows = next(iter(kept.rows(features, batch=64))).x
    run = one.run(one.inputs(text="a red dog"), record=features)
    assert gap(rows[: run[features].shape[1]], run[features][0]) < 1e-5
    store.open(tmp_path / "kept", one)
    for wrong in (other, model):
        with pytest.raises(StoreError):
            store.open(tmp_path / "kept", wrong)
