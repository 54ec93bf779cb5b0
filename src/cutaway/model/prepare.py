"""From what a user has (pictures, texts, sounds) to the tensors a model takes, without torchvision.

What is done with one kind of thing has its own file: `pictures.py`, `texts.py`, `sounds.py`; `prompts.py` is about what
is drawn. To add a kind: a file with its `Modality`, a name in `MODALITIES`, the argument in `Model.inputs`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from cutaway.errors import InputError, near
from cutaway.model.calls import Forward, Method
from cutaway.model.geometry import token_maps
from cutaway.model.inputs import Inputs
from cutaway.model.modality import Asked
from cutaway.model.pictures import PICTURES, flat
from cutaway.model.seats import Tower
from cutaway.model.sounds import SOUNDS
from cutaway.model.table import Family
from cutaway.model.texts import TEXTS, completed
from cutaway.model.tools import Tools

MODALITIES = (PICTURES, TEXTS, SOUNDS)
OWN = (*(one.argument for one in MODALITIES), "prompt")

# What makes the tensors that a model may need.
MADE_OF = {
    "pixel_values": ("a picture", "image"),
    "input_features": ("a sound", "audio"),
    "input_ids": ("a text", "text"),
}


def prepare(
    module: Any, towers: dict[str, Tower], family: Family, tools: Tools, given: Mapping[str, Any],
    tensors: dict[str, Any],
) -> Inputs:  # fmt: skip
    """Tensors and token maps for a transformers model, from things of every kind and from prepared tensors."""
    tensors = {name: value for name, value in tensors.items() if value is not None}
    things = {one.argument: one.read(given.get(one.argument)) for one in MODALITIES}
    beside = [name for name, some in things.items() if some]
    _check_names(module, tensors, beside)
    made = _made(Asked(module, towers, family, tools, things, tensors))
    unasked = "decoder_input_ids" in made and not (things["text"] and things["audio"])
    _check_beside(tensors, made, beside, family, unasked)
    whole = made | tensors
    if tensors and family.kind != "contrastive":
        whole = completed(module, tools.tokenizer, whole)
    if not whole:
        raise InputError(
            "nothing to run on",
            expected="`image=`, `text=`, `audio=`, or tensors by name",
            do="see `help(model.inputs)`",
        )
    call = _call(module, family, whole)
    if isinstance(call, Forward):
        _check_needed(module, towers, whole)
    maps = token_maps(towers, family, module, whole, tools.tokenizer, tools.sounds)
    begun = ("decoder_input_ids",) if unasked and "decoder_input_ids" not in tensors else ()
    return Inputs(whole, maps, tuple(flat(things["image"])), call, unasked=begun)


def _check_needed(module: Any, towers: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a call without what the model cannot do without, where it would fail inside the library."""
    known = inspect.signature(module.forward).parameters.values()
    needed = [one.name for one in known if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if "audio" in towers and "encoder_outputs" not in given:
        needed.append("input_features")
    missing = next((name for name in needed if name not in given and name in MADE_OF), None)
    if missing is not None:
        what, argument = MADE_OF[missing]
        raise InputError(
            f"{type(module).__name__} cannot run without {what}", expected=f"`{argument}=` as well",
            exists=", ".join(given), do=f"give `{argument}=`, or the tensor `{missing}=`",
        )  # fmt: skip


def _call(module: Any, family: Family, tensors: Mapping[str, Any]) -> Forward:
    """The forward, or of a model that matches the method for the one side that it is given."""
    sides = {"pixel_values": "get_image_features", "input_ids": "get_text_features"}
    given = [method for name, method in sides.items() if name in tensors]
    matches = family.kind in ("contrastive", "unknown") and all(hasattr(module, method) for method in sides.values())
    return Method(given[0]) if matches and len(given) == 1 else Forward()


def _made(asked: Asked) -> dict[str, Any]:
    """The tensors that things of every kind make."""
    present = [one for one in MODALITIES if asked.given[one.argument]]
    if any(one.texts or one.placed(asked.family) for one in present):  # these make tensors of the texts as well
        present = [one for one in present if one is not TEXTS]
    for one in present:
        read = any(tower.tokens in one.tokens for tower in asked.towers.values()) or one.placed(asked.family)
        if asked.towers and not read:
            raise InputError(f"this model takes no {one.called}", exists=f"the towers {', '.join(asked.towers)}")
    made: dict[str, Any] = {}
    for one in present:
        made |= one.make(asked)
    return made


def _check_names(module: Any, tensors: dict[str, Any], beside: list[str]) -> None:
    """Refuse names the call does not have, and values that are not tensors."""
    known = [name for name in inspect.signature(module.forward).parameters if name not in ("args", "kwargs")]
    for name, value in tensors.items():
        slip = difflib.get_close_matches(name, OWN, n=1)
        if name not in known and (beside or slip or not set(tensors) & set(known)):
            raise InputError(
                (f"`{name}=` came together with `{beside[0]}=`, but " if beside else "")
                + f"{type(module).__name__} takes no `{name}=`",
                exists=near(name, [*slip, *known]),
            )
        if isinstance(value, str | list | tuple | np.ndarray):
            raise InputError(f"`{name}=` cannot be of type {type(value).__name__}", expected="a tensor")


def _check_beside(
    tensors: dict[str, Any], made: dict[str, Any], beside: list[str], family: Family, unasked: bool
) -> None:  # fmt: skip
    """Refuse a prepared tensor beside what makes the same tensor, or makes it without knowing of the other."""
    taken = set(made) - {"decoder_input_ids" if unasked else ""}
    taken |= {"inputs_embeds"} if "input_ids" in made else set()
    taken |= {"pixel_values"} if family.image_tokens and "text" in beside else set()
    name = next((name for name in tensors if name in taken), None)
    if name is not None:
        raise InputError(
            f"`{name}=` came together with `{beside[0]}=`",
            expected="either pictures, texts and sounds, or prepared tensors of what they make",
            exists=f"`{'=`, `'.join(beside)}=` make{'s' if len(beside) == 1 else ''} {', '.join(sorted(made))}",
        )
