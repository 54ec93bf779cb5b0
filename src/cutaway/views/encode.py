"""Views as JSON and back. Arrays are little-endian float32 in base64, so every number keeps seven digits.

A dataclass becomes an object whose `$type` is its class, an array `{"shape": […], "float32": "…"}`, a tuple a list, and
a number that is not there (None, NaN) null.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from cutaway.errors import InputError, near


def encode(value: object, pool: dict[str, str] | None = None) -> Any:
    """What `json.dumps` can write. With a `pool`, addresses of pictures go there and are named by a short key."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case np.ndarray():
            data = base64.b64encode(np.ascontiguousarray(value, "<f4").tobytes()).decode()
            return {"shape": list(value.shape), "float32": data}
        case np.generic():
            return encode(value.item(), pool)
        case Mapping():
            return {str(key): encode(item, pool) for key, item in value.items()}
        case list() | tuple():
            return [encode(item, pool) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return str(value)
    kept = {field.name: encode(getattr(value, field.name), pool) for field in fields(value)}
    if pool is not None and "uri" in kept:
        kept["uri"] = pool.setdefault(kept["uri"], f"p{len(pool)}")
    return {"$type": type(value).__name__, **kept}


def decode(value: Any, known: Mapping[str, type]) -> Any:
    """The inverse of `encode` without a pool; `known` are the classes that may be made."""
    if isinstance(value, list):
        return tuple(decode(item, known) for item in value)
    if not isinstance(value, dict):
        return value
    if "float32" in value:
        flat = np.frombuffer(base64.b64decode(value["float32"]), "<f4")
        return flat.reshape(value["shape"]).astype(np.float32)
    inner = {key: decode(item, known) for key, item in value.items() if key != "$type"}
    if "$type" not in value:
        return inner
    name = str(value["$type"])
    if name not in known:
        raise InputError(
            f"'{name}' is not a view", expected="the JSON of a view", exists=near(name, known),
            do="check which file it is: `View.to_json` writes them",
        )  # fmt: skip
    return known[name](**inner)
