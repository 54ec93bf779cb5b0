"""A model whose layers lie on two devices gives the numbers of the same model on one."""

import pytest
import second
import torch
from accelerate import dispatch_model
from torch import nn

import cutaway
from world import ROUNDING, TEXT, clean, fresh, gap, opened, tiny

second.install()
HERE, THERE, FAR = "cpu", "other:0", "other:1"
# Where the early layers of each tower lie, where the late ones, and where inputs enter and outputs leave. The last are
# brought from the CPU when they are needed.
PLACED = {
    "CPU, device": (HERE, THERE, HERE),
    "device, CPU": (THERE, HERE, HERE),
    "two devices": (THERE, FAR, THERE),
    "offloaded": (THERE, HERE, THERE),
}
NAMES = ("llama", "gpt2", "llava", "clip")


def spread(name, how):
    """A tiny model in float64 whose parts lie on two devices, as `device_map` puts them."""
    early, late, main = PLACED[how]
    model = fresh(name)
    dispatch_model(model.module, placed(model, early, late), main_device=main, skip_keys="past_key_values")
    return cutaway.load(model.module, processor=model.processor)


def placed(model, early, late):
    """Each part that holds no blocks with the half of its tower that it is next to; words that are shared early."""
    blocks = {id(block): (tower, i) for tower in model.towers.values() for i, block in enumerate(tower.blocks)}
    found, shared = {}, set()

    def place(name, module, where):
        if id(module) in blocks:
            tower, i = blocks[id(module)]
            where = early if 2 * i <= len(tower.blocks) - 1 else late
        elif any(id(below) in blocks for below in module.modules()):
            for key, own in [*module._parameters.items(), *module._buffers.items()]:
                if own is not None:
                    found[f"{name}.{key}".strip(".")] = early
            where = early
            for key, below in module.named_children():
                place(f"{name}.{key}".strip("."), below, where)
                where = late if any(id(one) in blocks for one in below.modules()) else where
            return
        weights = {id(weight) for weight in module.parameters()}
        if weights & shared:
            where = early
        shared.update(weights)
        if module.state_dict() or list(module.buffers()):
            found[name] = where

    place("", model.module, early)
    return found
