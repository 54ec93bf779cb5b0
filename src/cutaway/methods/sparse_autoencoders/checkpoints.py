"""Where a training stands, on disk: whole or not at all, so that it goes on bit for bit after any stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cutaway.errors import StoreError
from cutaway.store.files import read_json, sweep_up, write_json, write_whole

STATE, PLACE = "state-{step}.safetensors", "training.json"


def save(folder: Path, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a state under the number of its step, then the file that names it, then let the one before go."""
    from safetensors.torch import save as packed

    name = STATE.format(step=told["step"])
    held = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    digest = write_whole(folder / name, [packed(held)])
    write_json(folder / PLACE, {**told, "state": name, "checksum": digest})
    for old in folder.glob(STATE.format(step="*")):
        if old.name != name:
            old.unlink(missing_ok=True)


def resume(folder: Path, same: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """What was saved last, if anything; a training of other rows or settings is refused."""
    from safetensors.torch import load_file

    sweep_up(folder)
    if not (folder / PLACE).is_file():
        return None
    told = read_json(folder / PLACE, do="delete the folder and train anew")
    other = [name for name, value in same.items() if told.get(name) != value]
    if other:
        raise StoreError(
            f"'{folder}' holds a training with another {' and another '.join(other)}",
            expected="the same rows, shape and recipe", exists=f"step {told['step']} of that training",
            do="give another folder, or the same settings to go on",
        )  # fmt: skip
    # products may differ in the last digit with where a tensor lies in memory: copies lie as those that were made here
    return told, {name: value.clone() for name, value in load_file(folder / told["state"]).items()}
