"""Token maps from what a model is about to be given: one builder a kind of tower, none of them reads a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutaway.model.seats import Tower
from cutaway.model.table import Family
from cutaway.model.texts import padding
from cutaway.model.tokens import TokenMap

Tensors = Mapping[str, Any]


def token_maps(
    towers: dict[str, Tower], family: Family, module: Any, tensors: dict[str, Any], tokenizer: Any, extractor: Any
) -> dict[str, TokenMap]:
    """The token map of every tower these tensors reach."""
    maps: dict[str, TokenMap] = {}
    for name, tower in towers.items():
        needs, build = BUILDERS.get(tower.tokens, ("", None))
        if build is not None and needs in tensors:
            maps[name] = build(tower, tensors, module, extractor)
    for name, tower in towers.items():
        if tower.tokens == "ids" and (ids := _ids_of(name, towers, tensors)) is not None:
            mask = tensors.get("attention_mask" if ids is tensors.get("input_ids") else "decoder_attention_mask")
            maps[name] = text_map(ids, mask, tokenizer, getattr(module, "config", None))
    if "vision" in maps and "text" in maps and family.image_tokens:
        _place_pictures(maps["text"], family.image_tokens, module, tensors)
    if "connector" in towers and "vision" in maps and family.image_tokens in ("grid", "anyres", "thw"):
        maps["connector"] = _connected(maps["vision"], family.image_tokens, towers["vision"], module)
    if "connector" in towers and towers["connector"].blocks and hasattr(module, "query_tokens"):
        rows = int(tensors["pixel_values"].shape[0])
        maps["connector"] = TokenMap.blank(rows, module.query_tokens.shape[1], "query")
        maps["connector"].image[:] = np.arange(rows)[:, None]
    return maps


def _connected(vision: TokenMap, how: str, tower: Tower, module: Any) -> TokenMap:
    """What the connector hands on: the patches, or one position for each square of merged patches."""
    if how == "thw":
        merge = int(getattr(tower.module, "spatial_merge_size", 1))
        columns = {name: column[:, :: merge**2].copy() for name, column in vars(vision).items()}
        for name in ("row", "col"):
            columns[name] //= merge
        return TokenMap(**columns)
    kept = slice(0, None)
    if getattr(module.config, "vision_feature_select_strategy", "full") == "default":
        kept = slice(1, None)
    return TokenMap(**{name: column[:, kept] for name, column in vars(vision).items()})


def _ids_of(name: str, towers: dict[str, Tower], tensors: dict[str, Any]) -> Tensor | None:
    decoder = "encoder" in towers or "audio" in towers
    return tensors.get("decoder_input_ids" if decoder and name == "text" else "input_ids")


# --- vision -----------------------------------------------------------------------------------------------------------


def _patches(tower: Tower, tensors: Tensors, module: Any, _: Any) -> TokenMap:
    config: Any = tower.module.config
    size, pixels = int(config.patch_size), tensors["pixel_values"]
    height, width = (side // size for side in pixels.shape[-2:])
    if pixels.dim() == 4:
        return TokenMap.patches(pixels.shape[0], height, width, tower.prefix)
    counts = _tiles(module, tensors)
    made = TokenMap.patches(sum(counts), height, width, tower.prefix)
    image = np.repeat(np.arange(len(counts)), counts)[:, None]
    tile = np.concatenate([np.arange(n) for n in counts])[:, None]
    made.image[:] = np.where(made.image >= 0, image, -1)
    made.tile[:] = np.where(made.row >= 0, tile, -1)
    return made


def _tiles(module: Any, tensors: Tensors) -> list[int]:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    config = module.config
    side = config.vision_config.image_size
    return [image_size_to_num_patches(size, config.image_grid_pinpoints, side) for size in tensors["image_sizes"]]


def _packed(tower: Tower, tensors: Tensors, *_: Any) -> TokenMap:
    """All pictures behind one another; patches in blocks of `merge x merge`, as the processor lays them out."""
    vision: Any = tower.module
    merge, grids = int(vision.spatial_merge_size), tensors["image_grid_thw"]
    parts = []
    for image, (frames, height, width) in enumerate(grids.tolist()):
        rows = torch.arange(height)[:, None].expand(height, width)
        cols = torch.arange(width).expand(height, width)
        rows, cols = (_blocked(x, merge).flatten().repeat(frames) for x in (rows, cols))
        made = TokenMap.blank(1, len(rows), "image" if frames == 1 else "frame")
        made.image[:], made.row[0], made.col[0] = image, rows, cols
        made.time[0] = np.repeat(np.arange(frames), height * width) if frames > 1 else -1
        parts.append(made)
    whole = TokenMap.blank(1, sum(map(len, parts)), "image")
    at = 0
    for part in parts:
        whole.at(0, slice(at, at + len(part)), part)
        at += len(part)
    order = window_order(tower.module, grids)
    return whole if order is None else TokenMap(**{name: column[:, order] for name, column in vars(whole).items()})


def _blocked(x: Tensor, merge: int) -> Tensor:
    return x.reshape(x.shape[0] // merge, merge, x.shape[1] // merge, merge).permute(0, 2, 1, 3)


def window_order(vision: nn.Module, grids: Tensor) -> Any:
    """The order in which a window-attention tower (Qwen2.5-VL) holds its patches inside its layers; None for others."""
    if not hasattr(vision, "window_size"):
        return None
    from transformers.vision_utils import get_vision_window_index

    tower: Any = vision
    unit = tower.spatial_merge_size**2
    index, _ = get_vision_window_index(grids.cpu(), tower.spatial_merge_size, tower.window_size, tower.patch_size)
    return (index[:, None] * unit + torch.arange(unit)).flatten().numpy()


def _frames(_: Tower, tensors: Tensors, __: Any, extractor: Any) -> TokenMap:
    features = tensors["input_features"]
    count = features.shape[-1] // 2
    made = TokenMap.blank(features.shape[0], count, "audio")
    seconds = 2 * extractor.hop_length / extractor.sampling_rate if extractor is not None else 0.02
    made.time[:] = np.arange(count) * seconds
    return made


# By what lies on the token axis of a tower: the tensor that says how it lies there, and what makes the map of it. Ids
# come last, since things of other kinds may have their places among them.
BUILDERS: dict[str, tuple[str, Callable[[Tower, Tensors, Any, Any], TokenMap]]] = {
    "patches": ("pixel_values", _patches),
    "packed": ("image_grid_thw", _packed),
    "frames": ("input_features", _frames),
}


# --- text -------------------------------------------------------------------------------------------------------------


def text_map(ids: Tensor, mask: Tensor | None, tokenizer: Any, config: Any) -> TokenMap:
    """Kinds and decoded text of token ids; picture positions are of kind `image` and placed by `_place_pictures`.

    Padding is what the mask hides, or without one the padding at both ends of a row.
    """
    made = TokenMap.blank(*ids.shape)
    table = ids.cpu().numpy()
    if tokenizer is not None:
        spelled = {int(i): tokenizer.decode([int(i)]) for i in np.unique(table) if i >= 0}
        made.text[:] = np.vectorize(lambda i: spelled.get(int(i), ""), otypes=[object])(table)
    pad, *special = (getattr(tokenizer, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos", "cls"))
    for kind, number in zip(("bos", "eos", "cls"), special, strict=True):
        if number is not None:
            made.kind[table == number] = kind
    flat = mask is not None and mask.shape == ids.shape
    hidden = mask.eq(0) if flat and mask is not None else padding(ids, pad, *special[:2])
    made.kind[hidden.cpu().numpy()] = "pad"
    number = getattr(config, "image_token_id", None)
    if number is not None:
        made.kind[table == number] = "image"
    return made


def _place_pictures(text: TokenMap, how: str, module: Any, tensors: dict[str, Any]) -> None:
    """Give the picture positions of a prompt their picture, row and column; pictures come in order of the rows."""
    per_picture = [_geometry(how, module, tensors, i) for i in range(_pictures(how, tensors))]
    waiting = iter(enumerate(per_picture))
    for row in range(text.batch):
        positions = np.flatnonzero(text.kind[row] == "image")
        while len(positions):
            image, place = next(waiting, (-1, None))
            if place is None:
                break
            here, positions = positions[: len(place)], positions[len(place) :]
            place.image[:] = image
            words = text.text[row, here]
            text.at(row, here, place)
            text.text[row, here] = words


def _pictures(how: str, tensors: dict[str, Any]) -> int:
    if how == "thw":
        return len(tensors["image_grid_thw"])
    return len(tensors["image_sizes"]) if how == "anyres" else int(tensors["pixel_values"].shape[0])


def _geometry(how: str, module: Any, tensors: dict[str, Any], picture: int) -> TokenMap:
    config = module.config
    if how == "thw":
        frames, height, width = tensors["image_grid_thw"][picture].tolist()
        merge = config.vision_config.spatial_merge_size
        made = TokenMap.patches(1, frames * height // merge, width // merge)
        made.row[:] %= height // merge
        return made
    if how == "query":
        return TokenMap.blank(1, config.num_query_tokens, "query")
    side = config.vision_config.image_size // config.vision_config.patch_size
    if how == "anyres":
        return _anyres(module, tensors["image_sizes"][picture], side)
    made = TokenMap.patches(1, side, side)
    strategy = getattr(config, "vision_feature_select_strategy", "default")
    return made if strategy == "default" else TokenMap.patches(1, side, side, ("cls",))


def _anyres(module: Any, size: Tensor, side: int) -> TokenMap:
    """LLaVA-Next: the model's own packing applied to coordinates instead of features; -9 marks row ends."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    config = module.config
    high, wide = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
    inner = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(-1, 2)
    corner = torch.tensor([(r * side, c * side) for r in range(high) for c in range(wide)])
    coordinates = torch.cat([inner[None], inner[None] + corner[:, None]]).float()
    tiles = (torch.arange(len(coordinates)) > 0).float()[:, None, None].expand(-1, side * side, 1)
    packed, _ = module.model.pack_image_features(
        [torch.cat([tiles, coordinates], -1)], size[None], "default", image_newline=torch.full((3,), -9.0)
    )
    tile, row, col = packed[0].T.long().numpy()
    made = TokenMap.blank(1, len(tile), "image")
    ends = tile == -9
    made.tile[0], made.row[0], made.col[0] = (np.where(ends, -1, x) for x in (tile, row, col))
    made.kind[0, ends] = "newline"
    kept = made.row[0][tile == 1]
    if len(kept):
        made.row[0][tile == 1] -= kept.min()
        made.col[0][tile == 1] -= made.col[0][tile == 1].min()
    return made
