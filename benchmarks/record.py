"""What it costs to record activations: cutaway beside plain hooks, nnsight and the library itself.

python benchmarks/record.py [--json FILE] [--rounds N] [--threads N] [--quick]

Random weights (speed does not depend on them), float32, eval, no gradients, everything timed in one process with the
contestants in turn. The first row of each table is the baseline. benchmarks/peers.sh makes an environment with nnsight.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from timing import QUICK, Contestant, Race, compete, timed
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaConfig, LlavaForConditionalGeneration

import cutaway

try:
    from nnsight import NNsight
except ImportError:
    NNsight = None

RESIDUAL_GOAL = 1.05
PATTERN_GOAL = 1.15
MISSING = "not installed: pip install 'nnsight>=0.8,<0.9', or benchmarks/peers.sh"


@dataclass(frozen=True)
class Case:
    """A model twice, with sdpa and with eager attention and the same weights, and what to run them on."""

    title: str
    sdpa: Any
    eager: Any
    tensors: dict[str, Tensor]
    judged: bool = True


def toy() -> Case:
    """Twelve layers so small that a forward is all Python: what recording adds to a run, whatever the model."""
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=12, num_attention_heads=4, image_size=32, patch_size=8
    )
    made = _case(
        "toy CLIP, 12 layers of width 32", CLIPVisionModel, config, {"pixel_values": torch.randn(1, 3, 32, 32)}
    )
    return replace(made, judged=False)


def clip(layers: int, batch: int) -> Case:
    """A CLIP vision tower of the size of ViT-B/32."""
    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=layers, num_attention_heads=12,
        image_size=224, patch_size=32,
    )  # fmt: skip
    tensors = {"pixel_values": torch.randn(batch, 3, 224, 224)}
    return _case(f"CLIP ViT-B/32, batch {batch}", CLIPVisionModel, config, tensors)


def llava(layers: int) -> Case:
    """A small LLaVA with the 576 picture tokens of the real one, and 24 text tokens."""
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 256, "intermediate_size": 1024, "projection_dim": 256,
        "num_hidden_layers": 2 * layers // 3, "num_attention_heads": 8, "image_size": 336, "patch_size": 14,
    }  # fmt: skip
    text = {
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": layers,
        "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 4096, "max_position_embeddings": 1024,
    }  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=4000, image_seq_length=576)
    words = torch.randint(3, 3999, (1, 24))
    ids = torch.cat([words[:, :4], torch.full((1, 576), 4000), words[:, 4:]], 1)
    tensors = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, 336, 336),
    }
    return _case("small LLaVA, 576 + 24 tokens", LlavaForConditionalGeneration, config, tensors)


def _case(title: str, cls: Any, config: Any, tensors: dict[str, Tensor]) -> Case:
    made = {}
    for attn in ("sdpa", "eager"):
        made[attn] = cls._from_config(copy.deepcopy(config), attn_implementation=attn).eval()
    made["eager"].load_state_dict(made["sdpa"].state_dict())
    return Case(title, made["sdpa"], made["eager"], tensors)


# --- contestants ------------------------------------------------------------------------------------------------------


def blocks(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The transformer blocks of every tower, with their paths, in order of execution."""
    kinds = ("CLIPEncoderLayer", "LlamaDecoderLayer")
    return [(path, part) for path, part in module.named_modules() if type(part).__name__ in kinds]


def _forward(module: Any, tensors: dict[str, Tensor], **options: Any) -> Callable[[], Any]:
    return lambda: module(**tensors, **options)


def _cutaway(module: Any, tensors: dict[str, Tensor], record: str) -> Callable[[], Any]:
    model = cutaway.load(module)
    inputs = model.inputs(**tensors)
    return lambda: model.run(inputs, record=record)


def _hooks(module: nn.Module, tensors: dict[str, Tensor]) -> Callable[[], Any]:
    def run() -> list[Tensor]:
        kept: list[Tensor] = []

        def keep(block: nn.Module, args: Any, output: Any) -> None:
            kept.append((output if isinstance(output, Tensor) else output[0]).detach())

        handles = [block.register_forward_hook(keep) for _, block in blocks(module)]
        try:
            module(**tensors)
        finally:
            for handle in handles:
                handle.remove()
        return kept

    return run


def _nnsight(module: nn.Module, tensors: dict[str, Tensor], attention: bool = False) -> Callable[[], Any] | None:
    """Save the output of each block, or the second output (the pattern) of each attention module."""
    if NNsight is None:
        return None
    wrapped = NNsight(module)
    envoys = [wrapped.get(path) for path, _ in blocks(module)]
    if attention:
        envoys = [envoy.self_attn for envoy in envoys]
    tupled = [attention] * len(envoys)

    def run() -> list[Tensor]:
        with wrapped.trace(**tensors):
            kept = [
                (envoy.output[1] if pair else envoy.output) for envoy, pair in zip(envoys, tupled, strict=True)
            ].save()
        return kept  # noqa: RET504, nnsight fills it in when the block ends

    return run


def residuals(case: Case) -> list[Contestant]:
    """Everyone who can keep the residual stream after each block."""
    module, tensors = case.sdpa, case.tensors
    return [
        Contestant("bare forward", _forward(module, tensors)),
        Contestant("bare forward, once more", _forward(module, tensors), note="the noise"),
        Contestant("plain hooks", _hooks(module, tensors)),
        Contestant("cutaway", _cutaway(module, tensors, "*.resid_post"), RESIDUAL_GOAL if case.judged else None),
        Contestant("nnsight", _nnsight(module, tensors), note="" if NNsight else MISSING),
    ]


def patterns(case: Case) -> list[Contestant]:
    """Everyone who can keep all attention patterns."""
    sdpa, eager, tensors = case.sdpa, case.eager, case.tensors
    goal = PATTERN_GOAL if case.judged else None
    return [
        Contestant("eager forward, output_attentions", _forward(eager, tensors, output_attentions=True)),
        Contestant("eager forward, keeps nothing", _forward(eager, tensors)),
        Contestant("sdpa forward, keeps nothing", _forward(sdpa, tensors)),
        Contestant("cutaway on the sdpa model", _cutaway(sdpa, tensors, "*.attn.pattern"), goal),
        Contestant("cutaway on the eager model", _cutaway(eager, tensors, "*.attn.pattern"), goal),
        Contestant("nnsight on the eager model", _nnsight(eager, tensors, True), note="" if NNsight else MISSING),
        Contestant("nnsight on the sdpa model", None, note="cannot: the fused kernel makes no pattern"),
    ]


def check(contestants: list[Contestant]) -> None:
    """Everyone must have found the same numbers, in as many tensors, before anyone is timed."""
    made = {one.name: one.call() for one in contestants if one.call}
    kept = {name: list(run.activations.values()) for name, run in made.items() if isinstance(run, cutaway.Run)}
    kept |= {name: found for name, found in made.items() if isinstance(found, list)}
    (first, expected), *others = kept.items()
    for name, found in others:
        for mine, theirs in zip(found, expected, strict=True):
            if not torch.allclose(mine, theirs, atol=1e-5):
                raise SystemExit(f"{name} and {first} disagree by {(mine - theirs).abs().max():.2g}: nothing to time")


# --- the program ------------------------------------------------------------------------------------------------------


def cases(quick: bool) -> Iterator[Case]:
    """The models to time; `quick` makes them short."""
    layers = 3 if quick else 12
    for batch in (1,) if quick else (1, 8):
        yield clip(layers, batch)
    yield llava(layers)
    yield toy()


def races(quick: bool, rounds: int) -> Iterator[Race]:
    """Each model twice."""
    for case in cases(quick):
        for what, contestants in (("residual stream", residuals(case)), ("attention patterns", patterns(case))):
            check(contestants)
            yield f"{case.title}: {what}", contestants, QUICK if quick else rounds


def main() -> None:
    """Parse the options, run every case, print the tables."""
    given = timed(__doc__, 31, f"three layers, {QUICK} rounds").parse_args()
    compete(given, races(given.quick, given.rounds), *([] if NNsight else [f"nnsight is {MISSING}"]))


if __name__ == "__main__":
    main()
