"""Submodules by dotted path, and the sizes an architecture fixes, read from the live modules."""

from __future__ import annotations

from typing import Any

from torch import nn

from cutaway.errors import LoadError, near
from cutaway.model.blocks import TRANSPOSED
from cutaway.model.table import UNITS, Attn, Block, Port
from cutaway.model.towers import TOWERS
from cutaway.model.wrapped import core


def child(module: nn.Module, path: str, row: str) -> nn.Module:
    """The submodule at a dotted path; on mismatch names the row, the path and the children that exist."""
    here = module
    for word in path.split(".") if path else ():
        below = getattr(here, word, None) if not word.isdecimal() else dict(here.named_children()).get(word)
        if not isinstance(below, nn.Module):
            raise LoadError(
                f"row '{row}' does not fit this model: no module '{path}'",
                expected=f"a child '{word}' of {type(here).__name__}",
                exists=near(word, [name for name, _ in here.named_children()]),
                do="the table row is out of date for this version of the library; see docs/adding-a-model.md",
            )
        here = below
    return here


def has(module: nn.Module, path: str) -> bool:
    """Whether there is a submodule at a dotted path."""
    here: Any = module
    for word in path.split(".") if path else ():
        here = dict(here.named_children()).get(word)
        if here is None:
            return False
    return True


def linear_shape(module: Any) -> tuple[int, int] | None:
    """(in, out) features of a linear map, GPT-2's transposed `Conv1D` included; None for anything else."""
    if getattr(module, "in_features", None) and getattr(module, "out_features", None):
        return int(module.in_features), int(module.out_features)
    if type(module).__name__ in TRANSPOSED:
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return None if core(module) is module else linear_shape(core(module))


def sizes_of(base: nn.Module, row: Block | None, port: Port, module: nn.Module) -> dict[str, int]:
    """The sizes of the axes of a port that do not depend on the input; `row` is None for what a tower has once."""
    return _block_sizes(base, row, port, module) if row else _tower_sizes(base, port, module)


def _tower_sizes(base: Any, port: Port, module: Any) -> dict[str, int]:
    sizes: dict[str, int] = {}
    config: Any = getattr(module, "config", None) or getattr(base, "config", None)
    shape = linear_shape(module)
    if shape and port.axes[-1] in ("vocab", "label", "d_model", "d_mlp", "condition"):
        sizes[port.axes[-1]] = shape[0] if port.kind == "in" else shape[1]
    elif port.axes[-1] == "d_model" and getattr(module, "weight", None) is not None:
        sizes["d_model"] = int(module.weight.shape[-1])
    elif "d_model" in port.axes and (width := _width(base, module, config)):
        sizes["d_model"] = width
    if "channel" in port.axes:
        first = "latent_channels" if port.kind == "in" else "out_channels"
        sizes["channel"] = int(getattr(config, first, None) or config.in_channels)
    if port.path.startswith("head") and "query" in port.axes:
        sizes["query"] = 1
    module = core(module)
    if isinstance(module, nn.MultiheadAttention):
        sizes |= {"head": module.num_heads, "d_head": module.head_dim, "d_model": module.embed_dim}
    return sizes


def _width(base: nn.Module, module: nn.Module, config: Any) -> int | None:
    """What a module without weights of its own gives out: a connector's last linear map, else the config's width."""
    row = TOWERS.get(type(base).__name__)
    shapes = [shape for inner in module.modules() if (shape := linear_shape(inner))]
    if row is not None and row.name == "connector" and shapes:
        return shapes[-1][1]
    return next((int(getattr(config, n)) for n in ("hidden_size", "d_model", "embed_dim") if hasattr(config, n)), None)


def _block_sizes(base: Any, row: Block, port: Port, module: Any) -> dict[str, int]:
    sizes: dict[str, int] = {}
    cross = row.cross if row.cross and port.path.startswith(row.cross.path) and has(base, row.cross.path) else None
    if attention := cross or row.attn:
        sizes |= _attention_sizes(base, attention)
    if row.mlp and (shape := linear_shape(child(base, row.mlp.post, ""))):
        sizes |= {"d_mlp": shape[0], "d_model": shape[1]}
    if mixer := getattr(base, "mixer", None):
        sizes |= {"d_inner": mixer.intermediate_size, "d_state": mixer.ssm_state_size}
        sizes |= {"dt_rank": mixer.time_step_rank, "d_model": mixer.hidden_size}
    if "channel" in port.axes:
        sizes["channel"] = base.out_channels
    if port.axes == UNITS and row.mlp is None and (shape := linear_shape(module)):
        before = sizes["head"] * sizes["d_head"] if port.view else 0
        sizes["d_mlp"] = shape[1] if port.kind == "out" else shape[0] - before
    return sizes


def _attention_sizes(base: nn.Module, row: Attn) -> dict[str, int]:
    module: Any = child(base, row.caller or row.path, "")
    named = [getattr(module, n) for n in ("num_heads", "num_attention_heads", "heads") if hasattr(module, n)]
    heads = int(named[0] if named else module.config.num_attention_heads)
    sizes = {"head": heads, "kv_head": heads // int(getattr(module, "num_key_value_groups", 1))}
    shape = linear_shape(child(base, row.z, "") if row.z else getattr(module, "to_q", None))
    if shape:
        inside, outside = shape if row.z else shape[::-1]
        sizes |= {"d_head": inside // heads, "d_model": outside}
    return sizes
