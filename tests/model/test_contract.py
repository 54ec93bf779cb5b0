"""The contract of every site of every architecture: reads are the library's values, writes act, nothing stays behind.

Each architecture is built once (`world.opened`) and judged in float64 on one input. Cold means that the library has not
yet put its own capture hooks on, warm that it has: an edit must act in both.
"""

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cutaway import Patch, Scale, Set, Site
from cutaway.errors import EditError
from cutaway.model.attention import AttentionTap
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.seats import Seat, Tower
from world import (
    KNOWN,
    PIPELINES,
    ROUNDING,
    captures,
    chill,
    clean,
    drawn,
    ends,
    fresh,
    gap,
    given,
    identical,
    library_call,
    moved,
    noise,
    opened,
    shortest,
    state,
    tensors,
    warm,
)

each = pytest.mark.parametrize("name", KNOWN)
each_pipeline = pytest.mark.parametrize("name", PIPELINES)
each_state = pytest.mark.parametrize("start", ["cold", "warm"])

# Norms come after the sum here, so that the pieces of a block do not simply add up.
POST_NORM = {("bert", "text"), ("bart", "encoder"), ("bart", "text"), ("opt-postnorm", "text"), ("blip2", "connector")}
FLOAT32_SOFTMAX = {"gemma2"}  # always eager (soft cap), where the library takes the softmax in float32
FLOAT32_RESIDUAL = {"mamba"}
GATED = {"dit"}  # what a sublayer gives is added behind a gate of the step and the class
STATES_BEGIN_AFTER_THE_FIRST_BLOCK = {"mamba"}
SELF_AND_CROSS_IN_ONE_LIST = {"blip2"}  # the connector's attentions, in the order they run
ONE_WINDOW_AT_A_TIME = {"qwen2-vl", "qwen2.5-vl"}  # vision towers that return no attentions
WINDOWED = {"qwen2.5-vl"}


def problems(found: Iterator[str]) -> None:
    listed = list(found)
    assert not listed, f"{len(listed)} sites break the contract:\n  " + "\n  ".join(listed[:20])


def calls_of(model: Model, name: str) -> dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """What each tower is called with in a plain run, call by call."""
    seen: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {tower: [] for tower in model.towers}
    handles = [
        tower.module.register_forward_pre_hook(
            lambda _, args, kwargs, key=key: seen[key].append((args, dict(kwargs))), with_kwargs=True
        )
        for key, tower in model.towers.items()
    ]
    try:
        with torch.no_grad():
            library_call(model, given(name))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def again(tower: Tower, calls: list[tuple[tuple[Any, ...], dict[str, Any]]], wanted: str) -> list[list[Tensor]]:
    """What the library itself captures when each call of a tower is made again: `hidden_states`, `attentions`, …

    Prompt encoders come in guidance order, without the prompt first.
    """
    asked = {"cross_attentions": "output_attentions"}.get(wanted, f"output_{wanted}")
    found = []
    for args, kwargs in calls[::-1] if tower.prompted else calls:
        plain = {key: value for key, value in kwargs.items() if "past_key" not in key} | {asked: True}
        with torch.no_grad():
            out = tower.module(*args, **plain | ({"use_cache": False} if "use_cache" in kwargs else {}))
        found.append([t for t in getattr(out, wanted, None) or () if t is not None])
    return found


def whole(tower: Tower, layers: list[list[Tensor]]) -> list[Tensor]:
    """One tensor a layer, with the axes of our sites."""
    if tower.prompted:
        return [torch.stack(parts) for parts in zip(*layers, strict=True)]
    assert len(layers) == 1
    return [t.unsqueeze(0) if tower.packed else t for t in layers[0]]


def library_towers(model: Model) -> list[Tower]:
    return [t for t in model.towers.values() if t.blocks and isinstance(t.module, PreTrainedModel)]


# --- reads ------------------------------------------------------------------------------------------------------------


@each
def test_recording_everything_leaves_the_output_as_the_plain_library_gives_it(name: str) -> None:
    with torch.no_grad():
        plain = library_call(opened(name), given(name))
    assert len(clean(name).activations) == len(opened(name).sites)
    assert identical(plain, clean(name).outputs)


@each
def test_a_cold_model_reads_the_same_as_a_warm_one(name: str) -> None:
    model = opened(name)
    chill(model)
    cold = model.run(given(name), record=list(model.sites), **drawn(model))
    warm(model, given(name))
    hot = model.run(given(name), record=list(model.sites), **drawn(model))
    assert identical(cold.outputs, hot.outputs)
    problems(site for site in cold.activations if not identical(cold[site], hot[site]))


@each
def test_the_residual_stream_is_the_librarys_hidden_states(name: str) -> None:
    model, run, calls = opened(name), clean(name), calls_of(opened(name), name)
    for tower in library_towers(model):
        hidden = whole(tower, again(tower, calls[tower.name], "hidden_states"))
        if name in STATES_BEGIN_AFTER_THE_FIRST_BLOCK:
            hidden = [run[f"{tower.name}.0.resid_pre"], *hidden[:-1]]
        assert len(hidden) == len(tower.blocks) + 1
        for layer in range(len(tower.blocks)):
            assert identical(run[f"{tower.name}.{layer}.resid_pre"], hidden[layer])
        for layer in range(len(tower.blocks) - 1):
            assert identical(run[f"{tower.name}.{layer}.resid_post"], hidden[layer + 1])
        last = [
            f"{tower.name}.{len(tower.blocks) - 1}.resid_post",
            f"{tower.name}.final",
        ]  # the library may add the norm
        assert any(identical(run[site], hidden[-1]) for site in last if site in run.activations)


@each
def test_every_block_takes_up_what_the_one_before_it_left(name: str) -> None:
    run = clean(name)

    def broken() -> Iterator[str]:
        for site, tensor in run.activations.items():
            here = run.sites[site]
            if here.part == "resid_pre" and here.layer:
                before = str(Site(here.tower, here.layer - 1, "resid_post", here.stream))
                if before in run.activations and run[before].shape == tensor.shape and not in_unet(name, here):
                    yield from [site] * (not identical(tensor, run[before]))

    problems(broken())


def in_unet(name: str, site: Site) -> bool:
    """Between the transformer blocks of a UNet lie residual blocks and projections."""
    return opened(name).towers[site.tower].tokens == "latent"


@each
def test_patterns_are_the_librarys_attentions(name: str) -> None:
    eager = opened(name, "eager")
    calls = calls_of(eager, name)
    for tower in library_towers(eager):
        sites = [
            str(s) for s in eager.sites if s.layer is not None and s.part.endswith("pattern") and s.tower == tower.name
        ]
        if not sites or (name in ONE_WINDOW_AT_A_TIME and tower.name == "vision"):
            continue
        ours = {
            "attentions": [s for s in sites if ".attn." in s],
            "cross_attentions": [s for s in sites if ".cross." in s],
        }
        if name in SELF_AND_CROSS_IN_ONE_LIST:
            ours = {"attentions": sites}
        for wanted in [word for word in ours if ours[word]]:
            theirs = whole(tower, again(tower, calls[tower.name], wanted))
            for site, attention in zip(ours[wanted], theirs, strict=True):
                assert gap(clean(name)[site], attention) < 1e-5, site
                assert gap(clean(name, "eager")[site], attention) < 1e-5, site


def softmax_tolerance(name: str) -> float:
    return 1e-5 if name in FLOAT32_SOFTMAX else 1e-9


def axes_last(run: Any, site: str, *wanted: str) -> Tensor:
    """An activation with the wanted axes last, in this order; key/value heads count as heads."""
    axes = ["head" if axis == "kv_head" else axis for axis in run.sites[site].axes]
    lead = [i for i, axis in enumerate(axes) if axis not in wanted]
    return run[site].permute(*lead, *(axes.index(axis) for axis in wanted))


def attentions_of(name: str) -> Iterator[tuple[str, Tensor, Tensor, Tensor, Tensor]]:
    """(site prefix, q, k, v, pattern) of every attention, heads before positions, key/value heads repeated."""
    run = clean(name)
    for site in run.activations:
        if site.endswith(".pattern"):
            prefix, pattern = site.removesuffix("pattern"), run[site]
            query = "query" if "query" in run.sites[f"{prefix}q"].axes else "token"
            q = axes_last(run, f"{prefix}q", "head", query, "d_head")
            k, v = (axes_last(run, f"{prefix}{part}", "head", "token", "d_head") for part in "kv")
            k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
            yield prefix, q, k, v, pattern


@each
def test_every_row_of_a_pattern_sums_to_one(name: str) -> None:
    patterns = {site: tensor for site, tensor in clean(name).activations.items() if site.endswith(".pattern")}
    problems(s for s, p in patterns.items() if gap(p.sum(-1), torch.ones(p.shape[:-1])) > softmax_tolerance(name))


@each
def test_pattern_times_values_is_z(name: str) -> None:
    run = clean(name)

    def broken() -> Iterator[str]:
        for prefix, _, _, v, pattern in attentions_of(name):
            made = (pattern @ v).transpose(-3, -2)  # position, head, d_head
            yield from [prefix] * (gap(made, seen_z(name, run, prefix, made)) > softmax_tolerance(name))

    problems(broken())


def seen_z(name: str, run: Any, prefix: str, made: Tensor) -> Tensor:
    """The recorded z of an attention; of one over two streams both, of a pooling one what its output map took."""
    site = run.sites[f"{prefix}pattern"]
    if f"{prefix}z" in run.activations:
        return run[f"{prefix}z"]
    if site.layer is None:
        module = opened(name).engine.seats[f"{prefix}pattern"].module
        out = module.out_proj(made.flatten(-2))
        assert gap(out, run[f"{prefix}out"]) < 1e-9
        return made
    order = dict.fromkeys(
        "image" if kind == "image" else "text" for kind in given(name).tokens["denoiser.joint"].kind[0]
    )
    names = [f"{site.tower}.{site.layer}.{stream}.attn.z" for stream in order]
    parts = [run[z] for z in names if z in run.activations]
    if len(parts) < len(order):  # SD3 drops the text stream in its last block; the picture comes first
        parts.append(made[..., parts[0].shape[-3] :, :, :])
    return torch.cat(parts, -3)


@each
def test_scores_are_what_the_pattern_is_the_softmax_of(name: str) -> None:
    run = clean(name)

    def broken() -> Iterator[str]:
        for prefix, *_, pattern in attentions_of(name):
            scores = run[f"{prefix}scores"]
            if name in WINDOWED and prefix.startswith("vision"):
                scores = scores.masked_fill(pattern == 0, torch.finfo(scores.dtype).min)
            yield from [prefix] * (gap(scores.softmax(-1), pattern) > softmax_tolerance(name))

    problems(broken())


@pytest.mark.parametrize("name", [*PIPELINES, *sorted(ONE_WINDOW_AT_A_TIME)])
def test_where_the_library_shows_no_attentions_the_pattern_is_softmax_of_q_times_k(name: str) -> None:
    checked = 0
    for prefix, q, k, _, pattern in attentions_of(name):
        if prefix.startswith(("denoiser", "vision")):
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            if name in WINDOWED:
                scores = scores.masked_fill(pattern == 0, -torch.inf)
            assert gap(scores.softmax(-1), pattern) < 1e-9, prefix
            checked += 1
    assert checked


def test_window_attention_is_block_diagonal_in_its_windows() -> None:
    model, run = opened("qwen2.5-vl"), clean("qwen2.5-vl")
    full = [layer in model.towers["vision"].module.config.fullatt_block_indexes for layer in range(3)]
    assert [bool((run[f"vision.{layer}.attn.pattern"] > 0).all()) for layer in range(3)] == full


def broken_sums(name: str, run: Run, written: Collection[str] = ()) -> Iterator[str]:
    """Where the running residual is not what was there before plus what a sublayer adds, but for what was written."""
    for site in run.activations:
        here, p = run.sites[site], site.removesuffix("resid_post")
        added = [p + part for part in ("attn.out", "cross.out", "mlp.out", "mixer.out") if p + part in run.activations]
        apart = here.stream or (name, here.tower) in POST_NORM or name in GATED
        if here.part != "resid_post" or apart or not added:
            continue
        steps = [p + part for part in ("resid_pre", "cross.resid_pre", "resid_mid", "resid_post")]
        steps = [step for step in steps if step in run.activations]
        for (before, after), piece in zip(pairwise(steps), added, strict=True):
            off = 0.0 if after in written else gap(run[before] + run[piece], run[after])
            yield from [f"{after}: {off}"] * (off > (1e-5 if name in FLOAT32_RESIDUAL else 1e-9))


@each
def test_the_pieces_of_a_block_add_up(name: str) -> None:
    problems(broken_sums(name, clean(name)))


@each
def test_a_write_into_the_running_residual_is_seen_by_the_norm_and_by_the_skip_connection(name: str) -> None:
    model, run = opened(name), clean(name)
    kept = [s for s in ends(model) if "resid" in s.part or s.part.endswith(".out")]
    stream = [s for s in kept if s.part in ("resid_pre", "cross.resid_pre", "resid_mid") and not s.dead]
    for part in {site.part for site in stream}:
        edits = [Patch(site, random_value(site, run)) for site in stream if site.part == part]
        stirred = model.run(given(name), record=kept, edits=edits, **drawn(model))
        problems(broken_sums(name, stirred, {edit.pattern for edit in edits}))
        assert all(gap(stirred[edit.pattern], run[edit.pattern]) > 0.1 for edit in edits)


@pytest.mark.parametrize("name", ["sd3", "flux", "dit"])
def test_a_write_into_a_stream_is_carried_on_behind_the_gate(name: str) -> None:
    """resid_post = resid_mid + gate * mlp.out, with one gate for all positions, which no activation moves."""
    model, run = opened(name), clean(name)

    def gates(found: Run, p: str) -> Tensor:
        return (found[p + "resid_post"] - found[p + "resid_mid"]) / found[p + "mlp.out"]

    for site in [site for site in model.sites if site.tower == "denoiser" and site.part == "resid_mid"]:
        p = str(site).removesuffix("resid_mid")
        stirred = model.run(given(name), record=f"{p}*", edits=Patch(site, random_value(site, run)), **drawn(model))
        assert gap(gates(stirred, p), gates(run, p)) < 1e-6, site


@pytest.mark.parametrize(("name", "tower"), sorted(POST_NORM))
def test_where_the_norm_comes_last_it_takes_the_sum(name: str, tower: str) -> None:
    model, run = opened(name), clean(name)
    for layer in range(len(model.towers[tower].blocks)):
        p, total = f"{tower}.{layer}.", run[f"{tower}.{layer}.resid_pre"]
        words = [word for word in ("attn", "cross", "mlp") if f"{p}{word}.out" in run.activations]
        steps = [s for s in ("cross.resid_pre", "resid_mid", "resid_post") if p + s in run.activations]
        for word, step in zip(words, steps, strict=True):
            total = model.engine.seats[f"{p}{word}.norm.scale"].module(total + run[f"{p}{word}.out"])
            assert gap(total, run[p + step]) < 1e-9, p + step
            total = run[p + step]


@each
def test_a_norm_divides_by_its_scale(name: str) -> None:
    """y = (x - mean) / scale * w + b, without the mean for RMS norms, whose arithmetic the library does in float32."""
    model, run = opened(name), clean(name)
    seats = {site: seat for site, seat in model.engine.seats.items() if seat.kind == "scale"}
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {site: [] for site in seats}
    handles = [
        seat.module.register_forward_hook(lambda _, args, out, site=site: seen[site].append((args[0].clone(), out)))
        for site, seat in seats.items()
    ]
    with torch.no_grad():
        library_call(model, given(name))
    for handle in handles:
        handle.remove()

    def broken() -> Iterator[str]:
        for site, seat in seats.items():
            order = slice(None, None, -1 if seat.tower.prompted else 1)
            x, y = (torch.cat([pair[i].flatten(0, -2) for pair in seen[site][order]]) for i in (0, 1))
            yield from [site] * (
                gap(normed(seat, x, run[site].flatten()[:, None]), y) > (1e-5 if is_rms(seat) else 1e-9)
            )

    problems(broken())


def is_rms(seat: Seat) -> bool:
    return not isinstance(seat.module, torch.nn.LayerNorm)


def normed(seat: Seat, x: Tensor, scale: Tensor) -> Tensor:
    norm: Any = seat.module
    if not is_rms(seat):
        gain, bias = (1.0, 0.0) if norm.weight is None else (norm.weight, norm.bias)
        return (x - x.mean(-1, keepdim=True)) / scale * gain + bias
    return x / scale * (norm.weight + 1 if type(norm).__name__.startswith("Gemma") else norm.weight)


@each
def test_the_estimate_is_what_the_recording_takes(name: str) -> None:
    run, model = clean(name), opened(name)
    told = model.estimate(given(name), list(model.sites))
    problems(
        f"{site}: {told.shapes[site]} is {tuple(tensor.shape)}"
        for site, tensor in run.activations.items()
        if told.shapes[site] != tuple(tensor.shape)
    )
    assert told.by_site == {site: tensor.nbytes for site, tensor in run.activations.items()}


@each
def test_a_site_states_its_axes_and_sizes(name: str) -> None:
    run = clean(name)

    def broken() -> Iterator[str]:
        for site, tensor in run.activations.items():
            here = run.sites[site]
            sizes = dict(zip(here.axes, tensor.shape, strict=True))
            yield from [f"{site} {here.shape}: {sizes}"] * any(sizes[axis] != size for axis, size in here.sizes.items())
            if sizes.keys() & {"head", "kv_head"}:
                yield from [f"{site} without sizes"] * ("head" not in here.sizes and "kv_head" not in here.sizes)

    problems(broken())


# --- counts -----------------------------------------------------------------------------------------------------------


@each
def test_every_site_fires_once_a_forward_and_once_a_step(name: str) -> None:
    model, inputs = opened(name), given(name)
    session = model.engine.session([], list(model.engine.seats.values()), inputs=inputs)
    with torch.no_grad(), model.engine.taken(), session:
        inputs.call(model.module, inputs.tensors, **inputs.call.sweeping)
    expected = {
        str(seat.site): inputs.tensors["num_inference_steps"] if seat.tower.stepped else len_guidance(name, seat)
        for seat in model.engine.seats.values()
    }
    assert {site: len(fired) for site, fired in session.read.items()} == expected


def len_guidance(name: str, seat: Seat) -> int:
    """A prompt encoder runs once more without the prompt, unless the pipeline puts zeros there or takes no guidance."""
    return 2 if seat.tower.prompted and name not in ("sdxl", "flux") else 1


# --- writes -----------------------------------------------------------------------------------------------------------


def start_from(model: Model, start: str) -> None:
    if start == "cold":
        chill(model)
        assert captures(model) == 0


def written(name: str, start: str) -> list[Site]:
    """The sites to write: all of them cold; warm those that are written by forward hooks, as the library captures."""
    model = opened(name)
    live = [site for site in ends(model) if not site.dead]
    if start == "cold":
        return live
    warm(model, given(name))
    library = {tower.name for tower in library_towers(model)}
    return [s for s in live if s.tower in library and model.engine.seats[str(s)].kind in ("out", "scale")]


def tolerance_of(name: str, site: Site) -> float:
    """Rounding; more for what has to be computed again: the softmax, the ratio of two scales, a pooling attention.

    What is written lies elsewhere in memory than what was there, and some processors' products depend on that.
    """
    if site.part.endswith(("scores", "pattern")):
        return softmax_tolerance(name)
    return 1e-9 if site.part.endswith("norm.scale") or site.part.startswith("pool.attn") else ROUNDING


@each_state
@each
def test_writing_back_what_was_read_changes_nothing(name: str, start: str) -> None:
    """All sites at once; where that changes something, one by one."""
    model, run = opened(name), clean(name)
    sites = written(name, start)

    def change(some: list[Site]) -> float:
        start_from(model, start)
        return moved(model.run(given(name), edits=[Patch(site, run) for site in some], **drawn(model)), run)

    if sites and change(sites) > max(tolerance_of(name, site) for site in sites):
        apart = {site: change([site]) for site in sites}
        problems(f"{site}: {by}" for site, by in apart.items() if by > tolerance_of(name, site))
        pytest.fail("together they change something, and none does alone")


def random_value(site: Site, run: Any) -> Tensor:
    """Something else of the same shape; scales stay positive."""
    drawn_value = noise(*run[site].shape, seed=1)
    return run[site] * (1 + drawn_value.abs()) if site.part.endswith("norm.scale") else drawn_value


@each_state
@each
def test_a_random_write_changes_the_output_and_is_read_back(name: str, start: str) -> None:
    model = opened(name)

    def broken() -> Iterator[str]:
        for site in written(name, start):
            start_from(model, start)
            once = model.towers[site.tower].stepped  # one evaluation says as much as a whole drawing
            inputs, run = shortest(name, once)
            value = random_value(site, run)
            edited = model.run(inputs, edits=Patch(site, value), record=site, **({} if once else drawn(model)))
            yield from [f"{site}: dead, and not declared so"] * (moved(edited, run) <= 1e-9)
            seen = edited[site]
            if name in WINDOWED and site.tower == "vision" and site.part.endswith(("scores", "pattern")):
                inside = run[f"vision.{site.layer}.attn.pattern"] > 0
                seen, value = seen[inside], value[inside]
            yield from [f"{site}: reads {gap(seen, value)} off"] * (gap(seen, value) > 1e-9)

    problems(broken())


@each
def test_a_dead_site_is_dead_and_says_why(name: str) -> None:
    model, run = opened(name), clean(name)
    for site in [site for site in model.sites if site.dead]:
        value = random_value(site, run)
        with pytest.raises(EditError) as caught:
            model.run(given(name), edits=Patch(site, value), **drawn(model))
        assert site.dead.rstrip(".") in str(caught.value)
        inputs, engine = given(name), model.engine
        forced = engine.session([(engine.seats[str(site)], Patch(site, value))], inputs=inputs)
        with torch.no_grad(), forced:
            outputs = inputs.call(model.module, inputs.tensors, **inputs.call.sweeping)
        forced.check()  # it did write
        final = [t for t in tensors(outputs) if t.shape == tensors(run.outputs)[0].shape][:1]
        assert identical(final[0], tensors(run.outputs)[0]), f"{site} is declared dead and changes the output"


def test_models_that_read_a_tower_early_declare_what_comes_after_dead() -> None:
    dead = {name: sum(bool(site.dead) for site in opened(name).sites) for name in KNOWN}
    assert {name for name, count in dead.items() if count} == {"llava", "llava-next", "sdxl", "flux"}


# --- our path ran -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "clip", "siglip", "whisper", "qwen2.5-vl", "sd", "sd3", "flux"])
def test_attention_goes_through_the_tap_when_asked_and_only_then(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, attended = opened(name), []
    attend = AttentionTap.attend
    monkeypatch.setattr(AttentionTap, "attend", lambda tap, *a, **k: attended.append(tap) or attend(tap, *a, **k))
    model.run(
        given(name),
        record=next(s for s in model.sites if s.part.endswith("resid_post") or s.part == "res.out"),
        **drawn(model),
    )
    assert not attended
    sites = [site for site in model.sites if site.part.endswith("attn.q")]
    run = model.run(given(name), record=sites, **drawn(model))
    assert len(set(map(id, attended))) == len(sites) == len(run.activations)


@pytest.mark.parametrize(
    ("name", "site"),
    [("llama", "text.1.mlp.out"), ("clip", "vision.1.attn.out"), ("llava", "vision.1.resid_post"),
     ("bert", "text.0.mlp.pre"), ("mamba", "text.1.mixer.out"), ("sd", "denoiser.0.res.out"),
     ("sd3", "denoiser.0.image.mlp.out")],
)  # fmt: skip
def test_an_edit_does_what_a_plain_hook_at_the_same_place_does(name: str, site: str) -> None:
    model, run = opened(name), clean(name)
    seat = model.engine.seats[site]
    factor = 1.5

    def plain(module: Any, args: Any, output: Any) -> Any:
        return (output[0] * factor, *output[1:]) if isinstance(output, tuple) else output * factor

    handle = seat.module.register_forward_hook(plain, prepend=True)
    try:
        with torch.no_grad():
            by_hand = library_call(model, given(name))
    finally:
        handle.remove()
    ours = model.run(given(name), edits=Patch(site, run[site] * factor), **drawn(model))
    once = model.run(given(name), edits=Scale(site, factor), **drawn(model))
    assert identical(by_hand, once.outputs)
    assert not identical(by_hand, run.outputs)
    if not seat.tower.stepped:  # from the second step on the steps before have changed what there is to scale
        assert moved(ours, once) < 1e-12


# --- hygiene ----------------------------------------------------------------------------------------------------------


def everything(name: str) -> dict[str, Any]:
    """Record every site and write every live one that is tested, all at once."""
    model = opened(name)
    edits = [Scale(str(site), 1.0) for site in ends(model) if not site.dead]
    return {"record": list(model.sites), "edits": edits, **drawn(model)}


@each
def test_nothing_stays_behind_after_a_run(name: str) -> None:
    model = fresh(name)
    before = state(model)
    model.run(given(name), **everything(name))
    assert state(model) == before


@each
def test_nothing_stays_behind_when_the_model_raises_in_the_middle(name: str) -> None:
    model = fresh(name)
    tower = [tower for tower in model.towers.values() if tower.blocks][-1]
    middle = tower.blocks[len(tower.blocks) // 2]

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("in the middle")

    handle = middle.register_forward_hook(fail)
    before = state(model)
    with pytest.raises(ZeroDivisionError, match="in the middle"):
        model.run(given(name), **everything(name))
    assert state(model) == before
    handle.remove()
    assert identical(model.run(given(name), **drawn(model)).outputs, clean(name).outputs)


@each
def test_nothing_stays_behind_when_an_edit_does_not_fit(name: str) -> None:
    model = fresh(name)
    before = state(model)
    site = [site for site in model.sites if not site.dead and site.layer is not None][-1]
    with pytest.raises(EditError):
        model.run(
            given(name), record=list(model.sites), edits=Set(site, torch.zeros(7, 7, 7, 7, 7, 7, 7)), **drawn(model)
        )
    with pytest.raises(EditError):
        model.run(given(name), edits=Set(site, torch.zeros(997)), **drawn(model))
    assert state(model) == before


def test_nothing_stays_behind_when_putting_the_hooks_on_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened("llama")
    before = state(model)

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cutaway.model.session.tapped", fail)
    with pytest.raises(ZeroDivisionError):
        model.run(given("llama"), record="text.*.attn.*", edits=Scale("text.0.mlp.out", 2.0))
    assert state(model) == before


def test_a_chilled_model_is_as_a_fresh_one() -> None:
    model = fresh("llava")
    assert captures(model) == 0
    before = {path: set(vars(module)) for path, module in model.module.named_modules()}
    warm(model, given("llava"))
    assert captures(model) > 0
    chill(model)
    assert captures(model) == 0
    assert {path: set(vars(module)) for path, module in model.module.named_modules()} == before
