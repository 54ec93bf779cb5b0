"""Folders as ViT-Prisma leaves them: `config.json` beside a state dict, opened without the package.

Its rows are by default normalised one by one (`layer_norm`), so `decode` needs x. Its weights are `.pt` files, which
are read as tensors alone (`weights_only`): a file that also holds a pickled config is refused.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import StoreError
from cutaway.methods.sparse_autoencoders.autoencoder import SparseAutoencoder
from cutaway.methods.sparse_autoencoders.hook_names import site_of
from cutaway.methods.sparse_autoencoders.saelens import GATED, PLAIN, settings, whole, whole_rows
from cutaway.methods.sparse_autoencoders.shape import Activation, Shape
from cutaway.model.model import Model
from cutaway.store.fitted import Origin

KINDS: Mapping[tuple[str, str], Activation] = {
    ("standard", "relu"): "relu", ("standard", "topk"): "topk", ("gated", "relu"): "gated",
}  # fmt: skip
PLACED, PLACED_OUT = ("hook_point_layer", "layer_subtype"), ("out_hook_point_layer", "layer_out_subtype")
LEVELS = {"layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm_rescale", "none": "none", "None": "none"}


def read(
    folder: str | Path, *, site: str | None = None, target: str | None = None, tower: str = "vision",
    model: Model | None = None,
) -> SparseAutoencoder:  # fmt: skip
    """Open a dictionary or transcoder of ViT-Prisma: relu, topk or gated. `site`, `target`, `model`: as of SAELens."""
    folder = Path(folder)
    told, w = _opened(folder)
    across = bool(told.get("is_transcoder", False))
    asked, kind = str(told.get("activation_fn_str", "relu")), str(told.get("architecture", "standard"))
    level = str(told.get("normalize_activations", "layer_norm"))
    activation = KINDS.get((kind, asked))
    if activation is None or level not in LEVELS:
        raise StoreError(
            f"'{folder}' holds a {kind} {asked} dictionary of rows by '{level}'", do="convert it with ViT-Prisma",
            expected=f"standard or gated, relu or topk, rows by {', '.join(LEVELS)}",
        )  # fmt: skip
    named = PLACED + (PLACED_OUT if across else ())
    lacks = [name for name in named if name not in told]
    if lacks:
        raise StoreError(
            f"'{folder}' holds no dictionary of ViT-Prisma: its config.json has no {', '.join(lacks)}",
            expected=", ".join(named), exists=", ".join(list(told)[:8]),
            do="check the path: a dictionary, not a model",
        )  # fmt: skip
    whole_rows(folder, told.get("hook_point_head_index"))
    where = site or site_of(f"blocks.{_layer(told['hook_point_layer'])}.{told['layer_subtype']}", tower)
    goal = where
    if across:
        place = f"blocks.{_layer(told['out_hook_point_layer'])}.{told['layer_out_subtype']}"
        goal = target or site_of(place, tower)
        own = w.pop("b_dec", None)  # their transcoder takes a bias of its own from x, or none
        if own is not None and {"b_enc", "W_enc"} <= w.keys():
            w["b_enc"] = w["b_enc"] - own @ w["W_enc"]
        if "b_dec_out" in w:
            w["b_dec"] = w["b_dec_out"]
    names = GATED if activation == "gated" else PLAIN
    tensors = {here: w[there].clone() for here, there in names.items() if there in w}
    tensors |= {"encoder": w["W_enc"].T.contiguous()} if "W_enc" in w else {}
    tensors = whole(tensors, activation, folder, w)
    k = int(dict(told.get("activation_fn_kwargs") or {}).get("k", 64)) if activation == "topk" else 1
    shape = Shape(len(tensors["encoder"]), activation, k, skip="skip" in tensors, unit=False)
    config = {
        "shape": shape.told(), "site": where, "target": goal, "centred": not across, "level": LEVELS[level],
        "from": "ViT-Prisma",
    }  # fmt: skip
    sites = tuple(dict.fromkeys((where, goal)))
    on = Origin(str(told.get("model_name", "unknown")), "", "float32", "", sites)
    return SparseAutoencoder(tensors, config, on if model is None else Origin.of(model, *sites))


def _layer(given: Any) -> int:
    return int(given[0] if isinstance(given, list) else given)


def _opened(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors.torch import load_file

    files = (
        [one for one in sorted(folder.glob("*")) if one.suffix in (".pt", ".safetensors")] if folder.is_dir() else []
    )
    if not (folder / "config.json").is_file() or len(files) != 1:
        raise StoreError(
            f"'{folder}' is no folder of ViT-Prisma", expected="config.json and one file of weights",
            do="check the path", exists=", ".join(sorted(one.name for one in folder.glob("*"))[:5]) or "nothing",
        )  # fmt: skip
    try:
        told = settings(folder / "config.json")
        held = load_file(files[0]) if files[0].suffix == ".safetensors" else torch.load(files[0], weights_only=True)
        return told, {name: value.float() for name, value in held.items() if isinstance(value, Tensor)}
    except (OSError, json.JSONDecodeError, pickle.UnpicklingError, RuntimeError, KeyError) as error:
        raise StoreError(
            f"'{files[0].name}' holds more than tensors, or is damaged ({type(error).__name__})",
            expected="a state dict", do="open it with ViT-Prisma and save its `state_dict()` beside `cfg.save_config`",
        ) from error  # fmt: skip
