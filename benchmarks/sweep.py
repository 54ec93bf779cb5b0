"""Intervention sweeps side by side: one forward a cell with plain hooks, with nnsight, and cutaway's replay.

python benchmarks/sweep.py [CASE ...] [--json FILE] [--sample N] [--rounds N] [--threads N] [--growth] [--quick]

Cases: a LLaVA, text positions; b the same, picture positions; c heads at the last token; d a vision tower alone;
e zoo:emoji-clip; f a small UNet over steps; g (a) in the shape of a 1 B model, for GPUs; h Whisper's decoder, also
beside plain hooks that are given the encoder's output; i zoo:emoji-sd over steps. One forward a cell is timed on a
sample of the cells, in the same run, and counted for all of them; the values of the sample must agree.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from timing import begun, tensor_peak, timed
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import cutaway
from cutaway import Patch, Scale, targets
from cutaway.data import scene_at
from cutaway.data.render import render
from cutaway.model.cells import Cells
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model

try:
    from nnsight import NNsight
except ImportError:
    NNsight = None

PICTURE, WORDS, GOAL = 576, 24, 50.0
Target = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Case:
    """A sweep: model, inputs, cells, target; `paths` say for each cell which output nnsight and plain hooks patch."""

    name: str
    title: str
    model: Model
    inputs: Inputs
    cells: Cells
    target: Target
    source: dict[str, Tensor]
    goal: float | None = None
    kept: dict[str, Any] | None = (
        None  # arguments in place of the inputs', for plain hooks that keep the encoder's output
    )

    def place(self, cell: int) -> tuple[str, int | None, int | None, Tensor] | None:
        """Module path, head, position and the value to put there; None where that is no output of a module."""
        (edit,) = self.cells.edits[cell]
        if not isinstance(edit, Patch):
            return None
        seat = self.model.engine.seats[str(edit.site)]
        names = {id(module): path for path, module in self.model.module.named_modules()}
        return names[id(seat.module)], edit.head, edit.token, self.source[str(edit.site)]  # type: ignore[return-value]


@dataclass(frozen=True)
class Outcome:
    """Seconds for the whole sweep (processor time, and on the wall), ratios, FLOPs and memory."""

    case: str
    cells: int
    hooks: float
    hooks_kept: float | None
    nnsight: float | None
    replay: float
    replay_wall: float
    times_faster: float
    times_faster_wall: float
    times_faster_than_kept: float | None
    times_faster_than_nnsight: float | None
    gflops: float
    least_gflops: float
    over_bound: float
    peak_mb: float
    plan: str


# --- cases ------------------------------------------------------------------------------------------------------------


def llava(layers: int = 12, width: int = 512, words: int = WORDS, vision: tuple[int, int] = (8, 256)) -> Any:
    """A LLaVA with random weights, a prompt of one picture and some words, and one with another word."""
    seen = CLIPVisionConfig(
        hidden_size=vision[1], intermediate_size=4 * vision[1], num_hidden_layers=vision[0],
        num_attention_heads=vision[1] // 32, image_size=336, patch_size=14,
    )  # fmt: skip
    text = {
        "model_type": "llama", "vocab_size": 2000, "hidden_size": width, "intermediate_size": width * 43 // 16,
        "num_hidden_layers": layers, "num_attention_heads": width // 64, "num_key_value_heads": width // 64,
    }  # fmt: skip
    config = LlavaConfig(
        vision_config=seen.to_dict() | {"model_type": "clip_vision_model"}, text_config=text, image_token_id=1999,
        vision_feature_layer=-1, vision_feature_select_strategy="default",
    )  # fmt: skip
    module = LlavaForConditionalGeneration(config).eval()
    ids = torch.cat([torch.full((1, PICTURE), 1999), torch.randint(0, 1990, (1, words))], 1)
    other = ids.clone()
    other[:, PICTURE] = 7
    pixels = torch.randn(1, 3, 336, 336)
    return module, {"pixel_values": pixels, "attention_mask": torch.ones_like(ids)}, ids, other


def text_case(
    name: str, title: str, site: str, device: str, goal: float | None = None, shape: Any = (), **axes: Any
) -> Case:
    """Patches in the decoder of a LLaVA, read in the logits of the last token."""
    module, shared, ids, other = llava(**dict(shape))
    model = cutaway.load(module.to(device))
    inputs, clean = (model.inputs(**shared, input_ids=x) for x in (other, ids))
    if device == "cpu":
        record = [site.replace("*", str(layer)) for layer in range(model.sites.towers()["text"])]
    else:
        record = [site]
    source = dict(model.run(clean, record=record).activations)
    cells = model.grid(Patch(site, source), **axes)
    return Case(name, title, model, inputs, cells, targets.logit_diff(5, 9), source, goal)


def vision_case(device: str) -> Case:
    """Patches in a vision tower that nothing follows."""
    config = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=8,
        image_size=336,
        patch_size=14,
    )
    model = cutaway.load(CLIPVisionModel(config).eval().to(device))
    inputs, clean = (model.inputs(pixel_values=torch.randn(1, 3, 336, 336)) for _ in range(2))
    source = dict(model.run(clean, record="vision.*.resid_post").activations)
    cells = model.grid(Patch("vision.*.resid_post", source), token=range(0, 577, 24))
    reference = targets.outcome(model.run(clean)).detach()
    return Case(
        "d", "vision tower alone, 8 layers × 25 positions", model, inputs, cells, targets.distance(reference), source
    )


def zoo_case(device: str) -> Case:
    """Layers × patches of zoo:emoji-clip, from one scene into another."""
    model = cutaway.load("zoo:emoji-clip", device=device)
    inputs, clean = (model.inputs(image=render(scene_at("test", i)), text="a dog on a blue background") for i in (0, 1))
    source = dict(model.run(clean, record="vision.*.resid_post").activations)
    cells = model.grid(Patch("vision.*.resid_post", source), token=range(65))
    return Case("e", "zoo:emoji-clip, 6 layers × 65 positions", model, inputs, cells, targets.similarity(), source)


def unet_case() -> Case:
    """Cross-attention of a small UNet switched off, block by block and step by step."""
    model = cutaway.load("tiny:sd")
    inputs = model.inputs(prompt="a red dog", steps=8, guidance=3.0, size=(64, 64))
    reference = targets.outcome(model.run(inputs, output="pt"))
    cells = model.grid(Scale("denoiser.*.cross.out", 0.0), step=range(8))
    return Case("f", "small UNet, cross-attention × 8 steps", model, inputs, cells, targets.distance(reference), {})


def drawing_case(device: str) -> Case:
    """The same of zoo:emoji-sd: latents of 16 × 16, where a call of the denoiser is mostly waiting for the next."""
    model = cutaway.load("zoo:emoji-sd", device=device)
    inputs = model.inputs(prompt="a fox on a green background", steps=8, guidance=3.0)
    reference = targets.outcome(model.run(inputs, output="pt"))
    cells = model.grid(Scale("denoiser.*.cross.out", 0.0), step=range(8))
    return Case("i", "zoo:emoji-sd, cross-attention × 8 steps", model, inputs, cells, targets.distance(reference), {})


def whisper_case(device: str, quick: bool) -> Case:
    """Patches in the decoder of a Whisper in the shape of the tiny one, from a text with another word."""
    small: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 2} if quick else {}
    config = WhisperConfig(
        vocab_size=2000, decoder_start_token_id=5, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        suppress_tokens=None, begin_suppress_tokens=None, **small,
    )  # fmt: skip
    module = WhisperForConditionalGeneration(config).eval().to(device)
    model = cutaway.load(module)
    ids, sound = torch.randint(10, 1990, (1, WORDS)), torch.randn(1, 80, 3000)
    other = ids.clone()
    other[:, 1] = 7
    inputs, clean = (model.inputs(input_features=sound, decoder_input_ids=x) for x in (other, ids))
    record = [f"text.{layer}.resid_post" for layer in range(config.decoder_layers)]
    source = dict(model.run(clean, record=record).activations)
    cells = model.grid(Patch("text.*.resid_post", source), token=range(1, WORDS))
    encoded = module.get_encoder()(inputs.tensors["input_features"])
    kept = {"encoder_outputs": encoded, "decoder_input_ids": inputs.tensors["decoder_input_ids"]}
    title = f"Whisper's decoder, {config.decoder_layers} layers × {WORDS - 1} positions"
    return Case("h", title, model, inputs, cells, targets.logit_diff(5, 9), source, kept=kept)


def cases(chosen: Sequence[str], quick: bool, device: str) -> list[Callable[[], Case]]:
    """How to make each case that was asked for."""
    shape: dict[str, Any] = {"layers": 3, "width": 128, "vision": (2, 64)} if quick else {}
    text = range(PICTURE, PICTURE + WORDS)
    big = {"layers": 22, "width": 2048, "vision": (24, 1024)}
    post, heads = "text.*.resid_post", "text.*.attn.z"
    known: dict[str, Callable[[], Case]] = {
        "a": lambda: text_case("a", "LLaVA, layers × text positions", post, device, GOAL, shape, token=text),
        "b": lambda: text_case(
            "b", "LLaVA, layers × picture positions", post, device, None, shape, token=range(0, PICTURE, 24)
        ),
        "c": lambda: text_case(
            "c", "LLaVA, layers × heads, last token", heads, device, None, shape,
            head=range(shape.get("width", 512) // 64), token=[PICTURE + WORDS - 1],
        ),
        "d": lambda: vision_case(device),
        "e": lambda: zoo_case(device),
        "f": unet_case,
        "i": lambda: drawing_case(device),
        "g": lambda: text_case("g", "LLaVA in the shape of 1 B, text positions", post, device, None, big, token=text),
        "h": lambda: whisper_case(device, quick),
    }  # fmt: skip
    return [known[name] for name in chosen]


# --- contestants ------------------------------------------------------------------------------------------------------


def hooked(case: Case, cell: int, given: dict[str, Any] | None = None) -> Tensor:
    """One forward with one plain hook (or, for a pipeline, one edited run), and the target.

    `given` are the arguments of the call, those of the inputs unless the encoder's output is kept.
    """
    place = case.place(cell)
    if place is None:
        return case.target(case.model.run(case.inputs, edits=list(case.cells.edits[cell]), output="pt"))
    path, head, token, value = place
    module = case.model.module.get_submodule(path)

    def leave(_: Any, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, token] = value[:, token]
        return output

    def enter(_: Any, args: Any) -> tuple[Tensor]:
        z = args[0].clone().unflatten(-1, (value.shape[2], -1))
        z[:, token, head] = value[:, token, head]
        return (z.flatten(2),)

    handle = module.register_forward_hook(leave) if head is None else module.register_forward_pre_hook(enter)
    try:
        outputs = case.model.module(**(given or case.inputs.tensors))
    finally:
        handle.remove()
    return case.target(cutaway.Run(outputs, case.inputs, context=case.model))


def nnsighted(case: Case, wrapped: Any, cell: int) -> Tensor:
    """The same with nnsight's tracer."""
    place = case.place(cell)
    assert place is not None
    path, head, token, value = place
    envoy = wrapped.get(path)
    with wrapped.trace(**case.inputs.tensors):
        if head is None:
            envoy.output[:, token] = value[:, token]
        else:
            width = value.shape[-1]
            envoy.input[:, token, head * width : (head + 1) * width] = value[:, token, head]
        outputs = wrapped.output.save()
    return case.target(cutaway.Run(outputs, case.inputs, context=case.model))


def swept(case: Case) -> Any:
    """The whole sweep by replay."""
    return case.model.sweep(case.inputs, case.cells, case.target, progress=False)


def _timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    start = time.process_time(), time.perf_counter()
    made = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() - start[0], time.perf_counter() - start[1], made


def compare(case: Case, sample: int, rounds: int) -> Outcome:
    """Everyone once a round; the sample must agree with the sweep."""
    total = len(case.cells)
    chosen = [round(i * (total - 1) / max(1, sample - 1)) for i in range(min(sample, total))]
    peer = NNsight(copy.deepcopy(case.model.module)) if NNsight is not None and case.place(0) else None
    loops: dict[str, Callable[[int], Tensor]] = {"hooks": lambda cell: hooked(case, cell)}
    if case.kept is not None:
        loops["kept"] = lambda cell: hooked(case, cell, case.kept)
    if peer is not None:
        loops["nnsight"] = lambda cell: nnsighted(case, peer, cell)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in (*loops, "replay")}
    hooked(case, 0)
    made = swept(case)
    flat = torch.from_numpy(made.values.values.reshape(total, -1))
    for _ in range(rounds):
        for name, loop in loops.items():
            for cell in chosen:
                cpu, wall, value = _timed(lambda cell=cell, loop=loop: loop(cell))  # type: ignore[misc]
                taken[name].append((cpu, wall))
                gap = (value.double().cpu() - flat[cell]).abs().max().item()
                if gap > 1e-3 * max(1.0, flat.abs().max().item()):
                    raise SystemExit(f"case {case.name}, cell {cell}: replay and {name} differ by {gap:.2g}")
        cpu, wall, _ = _timed(lambda: swept(case))
        taken["replay"].append((cpu, wall))
    return _outcome(case, made, taken, tensor_peak(lambda: swept(case)) if case.model.device.type == "cpu" else 0.0)


def _outcome(case: Case, made: Any, taken: dict[str, list[tuple[float, float]]], peak: float) -> Outcome:
    middle = {name: [median(times) for times in zip(*found, strict=True)] for name, found in taken.items() if found}
    total, plan = len(case.cells), made.plan
    hooks, replay = middle["hooks"][0] * total, middle["replay"][0]
    kept, peer = (middle[name][0] * total if name in middle else None for name in ("kept", "nnsight"))
    bound = hooks * plan.least / plan.plain  # the least work at the speed of a plain forward
    return Outcome(
        f"{case.name}: {case.title}", total, hooks, kept, peer, replay, middle["replay"][1], hooks / replay,
        middle["hooks"][1] * total / middle["replay"][1], kept / replay if kept else None,
        peer / replay if peer else None, plan.flops / 1e9,
        plan.least / 1e9, replay / bound, peak, repr(plan),
    )  # fmt: skip


# --- the program ------------------------------------------------------------------------------------------------------


def growth(device: str, sample: int) -> list[Outcome]:
    """Case (a) with more layers, more positions, more width."""
    found = []
    for title, shape in (
        ("6 layers", {"layers": 6}), ("12 layers", {}), ("24 layers", {"layers": 24}),
        ("12 positions", {"words": 12}), ("48 positions", {"words": 48}),
        ("width 256", {"width": 256}), ("width 1024", {"width": 1024}),
    ):  # fmt: skip
        positions = range(PICTURE, PICTURE + shape.get("words", WORDS))
        found.append(
            compare(text_case("a", title, "text.*.resid_post", device, None, shape, token=positions), sample, 1)
        )
    return found


def show(outcomes: Sequence[Outcome]) -> None:
    """Print the table and the plans."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=150)
    table = Table(title="sweeps: seconds of processor time for all cells", title_justify="left", title_style="bold")
    for column in (
        "case",
        "cells",
        "plain hooks",
        "encoder kept",
        "nnsight",
        "replay",
        "× hooks",
        "× wall",
        "× kept",
        "× nnsight",
        "× bound",
        "peak MB",
    ):
        table.add_column(column, justify="left" if column == "case" else "right")
    for one in outcomes:
        numbers = (one.hooks, one.hooks_kept, one.nnsight, one.replay, one.times_faster, one.times_faster_wall,
                   one.times_faster_than_kept, one.times_faster_than_nnsight, one.over_bound, one.peak_mb)  # fmt: skip
        table.add_row(one.case, str(one.cells), *("n/a" if x is None else f"{x:.3g}" for x in numbers))
    console.print(table)
    for one in outcomes:
        console.print(f"{one.case}\n{one.plan}", markup=False, highlight=False)


def main() -> None:
    """Parse the options, run the cases, print the table."""
    options = timed(
        __doc__, 3, "small models, one round", sample=(6, "cells that plain hooks and nnsight run, a round"),
        growth=(False, "case (a) over layers, positions and width as well"), device=("cpu", "cpu or cuda"),
    )  # fmt: skip
    options.add_argument("cases", nargs="*", default=list("abcdefh"), help="which cases (all but g)")
    given = options.parse_args()
    machine = begun(given)
    sample, rounds = (2, 1) if given.quick else (given.sample, given.rounds)
    with torch.no_grad():
        outcomes = [compare(make(), sample, rounds) for make in cases(given.cases, given.quick, given.device)]
        grown = growth(given.device, sample) if given.growth else []
    show([*outcomes, *grown])
    if given.json:
        found = {"about": machine, "cases": [asdict(one) for one in outcomes], "growth": [asdict(one) for one in grown]}
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    missed = [one.case for one in outcomes if one.case.startswith("a:") and not given.quick and one.times_faster < GOAL]
    if missed:
        raise SystemExit(f"goal of {GOAL:g} × not met: {', '.join(missed)}")


if __name__ == "__main__":
    main()
