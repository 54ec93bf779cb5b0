"""Folders of SAELens: `sae_weights.safetensors` and `cfg.json`, read and written, without the package.

| here | there |
|---|---|
| relu | standard; with another target transcoder, skip_transcoder |
| topk | topk |
| batch_topk, nested, jumprelu | jumprelu; with another target jumprelu_transcoder, jumprelu_skip_transcoder |
| gated | gated |

Read are also trainings that SAELens saved (batchtopk, matryoshka_batchtopk: their threshold becomes that of
`jumprelu`), decoder rows whose length its top-k weighs by (folded into the encoder), and its configs before version 6.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import MethodError, StoreError
from cutaway.methods.sparse_autoencoders.autoencoder import Crosscoder, SparseAutoencoder
from cutaway.methods.sparse_autoencoders.beginning import folded
from cutaway.methods.sparse_autoencoders.hook_names import hook_of, site_of
from cutaway.methods.sparse_autoencoders.shape import Activation, Shape
from cutaway.model.model import Model
from cutaway.store.fitted import Origin

WEIGHTS, CONFIG, VERSION = "sae_weights.safetensors", "cfg.json", "6.0.0"
READ: Mapping[str, tuple[Activation, bool]] = {  # the activation here, and whether it is a transcoder
    "standard": ("relu", False), "topk": ("topk", False), "jumprelu": ("jumprelu", False), "gated": ("gated", False),
    "batchtopk": ("jumprelu", False), "matryoshka_batchtopk": ("jumprelu", False), "transcoder": ("relu", True),
    "skip_transcoder": ("relu", True), "jumprelu_transcoder": ("jumprelu", True),
    "jumprelu_skip_transcoder": ("jumprelu", True),
}  # fmt: skip
WRITTEN: Mapping[tuple[Activation, bool], str] = {
    ("relu", False): "standard", ("topk", False): "topk", ("jumprelu", False): "jumprelu", ("gated", False): "gated",
    ("relu", True): "transcoder", ("jumprelu", True): "jumprelu_transcoder",
}  # fmt: skip
LEVELS = ("none", "layer_norm", "constant_norm_rescale")
PLAIN = {
    "encoder_bias": "b_enc",
    "decoder": "W_dec",
    "decoder_bias": "b_dec",
    "threshold": "threshold",
    "skip": "W_skip",
}
GATED = {
    "encoder_bias": "b_gate",
    "magnitude_bias": "b_mag",
    "log_gain": "r_mag",
    "decoder": "W_dec",
    "decoder_bias": "b_dec",
}


def write(made: SparseAutoencoder | Crosscoder, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a dictionary as SAELens reads it (`SAE.load_from_disk`); the folder appears whole or not at all.

    The site becomes a hook name; it stands beside that as it is (`cutaway_site`), since hooks have no tower. What
    SAELens has no architecture for (features by kind or step, scales by kind, crosscoders) is a MethodError.
    """
    folder = Path(folder)
    if isinstance(made, Crosscoder):
        raise MethodError(
            f"a crosscoder of {len(made.sites)} sites has no place in SAELens", expected="a dictionary of one site",
            do="keep it with `save`",
        )  # fmt: skip
    shape, across = made.shape, made.target != made.site
    activation: Activation = "jumprelu" if shape.activation == "batch_topk" else shape.activation
    kind = WRITTEN.get((activation, across))
    lacks = [
        *([f"weights by the {' and the '.join(made.asks)} of a position"] if made.asks else []),
        *([f"{activation} with another target"] if kind is None else []),
        *(["a linear path without another target"] if shape.skip and not across else []),
    ]  # fmt: skip
    if lacks or kind is None:
        raise MethodError(
            f"SAELens has no architecture for {' and '.join(lacks)}", expected=", ".join(WRITTEN.values()),
            do="keep it with `save`",
        )  # fmt: skip
    if shape.skip:
        kind = kind.replace("transcoder", "skip_transcoder")
    w = folded(made.tensors) if "scale" in made.tensors else dict(made.tensors)
    names = GATED if activation == "gated" else PLAIN
    tensors = {there: w[here].contiguous() for here, there in names.items() if here in w}
    tensors["W_enc"] = w["encoder"].T.contiguous()
    told = {
        "d_in": w["encoder"].shape[1], "d_sae": made.width, "dtype": str(w["encoder"].dtype)[6:], "device": "cpu",
        "apply_b_dec_to_input": bool(made.config.get("centred", False)) and not across,
        "normalize_activations": made.config.get("level", "none"),
        "reshape_activations": "hook_z" if made.site.endswith("attn.z") else "none", "architecture": kind,
        "metadata": {
            "sae_lens_version": VERSION, "model_name": made.on.model, "hook_name": hook_of(made.site),
            "cutaway_site": made.site, "cutaway_target": made.target,
            **({"hook_name_out": hook_of(made.target)} if across else {}),
        },
        **({"k": shape.k, "rescale_acts_by_decoder_norm": False} if activation == "topk" else {}),
        **({"d_out": w["decoder"].shape[1]} if across else {}),
    }  # fmt: skip
    return _written(folder, tensors, told, overwrite)


def _written(folder: Path, tensors: dict[str, Tensor], told: dict[str, Any], overwrite: bool) -> Path:
    from safetensors.torch import save_file

    ours = folder.is_dir() and {one.name for one in folder.iterdir()} <= {WEIGHTS, CONFIG}
    if folder.exists() and not (overwrite and ours):
        raise StoreError(
            f"'{folder}' exists already", expected="a path where nothing is", do="choose another, or overwrite=True"
        )
    new = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        new.mkdir(parents=True)
        save_file({name: value.clone() for name, value in tensors.items()}, new / WEIGHTS)
        (new / CONFIG).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def read(
    folder: str | Path, *, site: str | None = None, target: str | None = None, tower: str = "text",
    model: Model | None = None, factor: float | None = None,
) -> SparseAutoencoder:  # fmt: skip
    """Open a folder of SAELens, in single precision; nothing in it is run.

    `site` and `target` say where it reads and what it stands for, where its hook names have no site here; else these
    are of `tower`. With a `model` it is said to be fitted on that, which nothing in the folder proves. `factor`: what
    rows are multiplied with, for weights that were trained so ("expected_average_only_in") and do not say by what.
    """
    told, w = _opened(Path(folder))
    kind = str(told.get("architecture"))
    if kind not in READ:
        raise StoreError(
            f"'{folder}' holds a '{kind}' of SAELens", expected=", ".join(READ), do="save it there as one of these"
        )
    activation, across = READ[kind]
    if activation == "topk" and not told.get("k"):
        raise StoreError(
            f"'{folder}' does not say how many features are on at once", expected=f"`k` in {CONFIG}, of a topk",
            exists=", ".join(told), do="write it there",
        )  # fmt: skip
    level = str(told.get("normalize_activations") or "none")
    if level == "expected_average_only_in" and factor is not None:
        level = "none"
    if level not in LEVELS:
        averaged = level == "expected_average_only_in"
        raise StoreError(
            f"the rows of '{folder}' are to be normalised by '{level}', and it does not say by what",
            expected=", ".join(LEVELS), do="give `factor=`" if averaged else "fold it into the weights with SAELens",
        )  # fmt: skip
    named = told["metadata"]
    whole_rows(folder, named.get("hook_head_index"))
    where = site or named.get("cutaway_site") or site_of(str(named.get("hook_name")), tower)
    goal = where
    if across:
        goal = target or named.get("cutaway_target") or site_of(str(named.get("hook_name_out")), tower)
    tensors = whole(_taken(w, told, activation), activation, folder, w)
    if factor is not None:  # features stay those of the rows that were multiplied, as SAELens has it
        tensors |= {"encoder": tensors["encoder"] * factor}
        tensors |= {name: tensors[name] / factor for name in ("decoder", "decoder_bias")}
    shape = Shape(len(tensors["encoder"]), activation, int(told.get("k") or 1), skip="skip" in tensors, unit=False)
    config = {
        "shape": shape.told(), "site": where, "target": goal, "level": level, "level_out": not across,
        "centred": bool(told.get("apply_b_dec_to_input", True)) and not across, "from": f"SAELens {kind}",
    }  # fmt: skip
    sites = tuple(dict.fromkeys((where, goal)))
    on = Origin(str(named.get("model_name") or "unknown"), "", "float32", "", sites)
    return SparseAutoencoder(tensors, config, on if model is None else Origin.of(model, *sites))


def _opened(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings in the form of version 6, and the tensors in single precision."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        told = settings(folder / CONFIG)
        w = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
    except (OSError, SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"'{folder}' cannot be read ({type(error).__name__})", expected=f"a folder with {CONFIG} and {WEIGHTS}",
            exists=", ".join(sorted(one.name for one in folder.iterdir())[:5]) if folder.is_dir() else "no such folder",
            do="check the path",
        ) from error  # fmt: skip
    if "metadata" not in told:  # before version 6 all stood side by side
        old = dict(told)
        old.setdefault("hook_name", old.get("hook_point"))
        chosen = str(old.get("activation_fn_str") or old.get("activation_fn") or "relu")
        if chosen not in ("relu", "topk"):
            raise StoreError(
                f"'{folder}' holds features by '{chosen}'", expected="relu or topk", do="train one of these"
            )
        if chosen == "topk":
            told |= {"architecture": "topk", "k": dict(old.get("activation_fn_kwargs") or {}).get("k")}
        told.setdefault("architecture", "standard")
        if isinstance(told.get("normalize_activations"), bool):
            told["normalize_activations"] = "expected_average_only_in" if told["normalize_activations"] else "none"
        told["metadata"] = old
    return told, w


def _taken(w: dict[str, Tensor], told: Mapping[str, Any], activation: str) -> dict[str, Tensor]:
    """Their tensors under our names."""
    if told["metadata"].get("finetuning_scaling_factor") and "scaling_factor" in w and "W_dec" in w:
        w["W_dec"] = w["W_dec"] * w["scaling_factor"][:, None]  # before version 6: features as they are read count more
    if "log_threshold" in w:
        w["threshold"] = w.pop("log_threshold").exp()
    names = GATED if activation == "gated" else PLAIN
    if not {"W_enc", "W_dec", "b_enc" if activation != "gated" else "b_gate"} <= w.keys():
        return {}
    weighed = told["architecture"] in ("batchtopk", "matryoshka_batchtopk")
    if told.get("rescale_acts_by_decoder_norm", weighed) and (weighed or activation == "topk"):
        long = w["W_dec"].norm(dim=1)
        w |= {"W_enc": w["W_enc"] * long, "b_enc": w["b_enc"] * long, "W_dec": w["W_dec"] / long[:, None]}
    if "topk_threshold" in w:
        w["threshold"] = torch.full_like(w["b_enc"], float(w["topk_threshold"]))
    made = {here: w[there].clone() for here, there in names.items() if there in w}
    return {**made, "encoder": w["W_enc"].T.contiguous()}


def settings(file: Path) -> dict[str, Any]:
    """What a file of settings says, by name."""
    told = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(told, dict):
        raise StoreError(f"'{file}' holds no settings", expected="a JSON object", do="check the path")
    return told


def whole_rows(folder: str | Path, head: int | None) -> None:
    """StoreError for a dictionary of the rows of one head: a site of features holds all of a position."""
    if head is not None:
        raise StoreError(
            f"'{folder}' holds a dictionary of head {head} alone", expected="one of whole rows, all heads in one",
            do="train one of `attn.z`, whose rows are the heads behind one another",
        )  # fmt: skip


def whole(
    tensors: dict[str, Tensor], activation: Activation, folder: str | Path, w: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a folder, `w` by their names there; StoreError where some are not there or do not fit."""
    names = {"encoder": "W_enc", **(GATED if activation == "gated" else PLAIN)}
    needed = [one for one in names if one != "skip" and (one != "threshold" or activation == "jumprelu")]
    lacks = [names[one] for one in needed if names[one] not in w]
    if not lacks:
        rows = len(tensors["encoder"])
        lacks = [names[one] for one in needed if one != "decoder_bias" and len(tensors[one]) != rows]
    if lacks:
        raise StoreError(
            f"'{folder}' lacks {' and '.join(lacks)}, or they do not fit W_enc",
            expected=", ".join(names[one] for one in needed),
            exists=", ".join(f"{name} {' × '.join(map(str, value.shape))}" for name, value in list(w.items())[:8])
            or "no tensor", do="save it there anew",
        )  # fmt: skip
    return tensors
