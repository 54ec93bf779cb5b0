"""Bind the tables to a live model: find its towers and blocks, resolve every row, refuse what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any, Literal, NamedTuple

from torch import nn

from cutaway.model.blocks import BLOCKS, GATES, RESIDUAL
from cutaway.model.paths import child, has, sizes_of
from cutaway.model.seats import ATTENTION_KINDS, Seat, Tower, View
from cutaway.model.sites import STREAMS, Site
from cutaway.model.table import ATTENTION, HEADS, KV_HEADS, SCALE, UNITS, Attn, Block, Family, Mlp, Port
from cutaway.model.towers import FAMILIES, PIPELINES, TOWERS

_ATTENTION_AXES = {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS, "scores": ATTENTION, "pattern": ATTENTION}
_HALVES = {"first_half": 1, "second_half": 2}


class Attached(NamedTuple):
    """What the tables say of one model: its towers, its seats by name, its family, and what is missing."""

    towers: dict[str, Tower]
    seats: dict[str, Seat]
    family: Family
    missing: list[str]


def attach(roots: dict[str, nn.Module], owner: str = "") -> Attached:
    """Resolve towers, blocks and parts of the modules of a model (one root, or the components of a pipeline)."""
    towers: dict[str, Tower] = {}
    missing: list[str] = []
    families: list[tuple[str, nn.Module, Family]] = []
    for root_name, root in roots.items():
        for path, module in root.named_modules():
            where = ".".join(word for word in (root_name, path) if word)
            kind = type(module).__name__
            if kind in FAMILIES:
                families.append((where, module, FAMILIES[kind]))
            if kind in TOWERS:
                tower = _tower(where, module, towers, bool(root_name))
                towers[tower.name] = tower
                missing += _unknown_blocks(module, tower)
    seats = dict(chain.from_iterable(_tower_seats(tower) for tower in towers.values()))
    for where, module, family in families:
        seats.update(_family_seats(where, module, family, towers))
    if not towers:
        kinds = ", ".join(type(root).__name__ for root in roots.values())
        missing.append(f"no row for any module of {kinds}: only raw sites (`raw.PATH`), no axes, no token map")
    family = next((family for _, _, family in families), Family("unknown"))
    if any(tower.stepped for tower in towers.values()):
        family = replace(family, kind="diffusion")
    return Attached(towers, _in_order(_mark_dead(seats, towers, families, owner)), family, missing)


def _in_order(seats: dict[str, Seat]) -> dict[str, Seat]:
    """Sites grouped by tower, what a tower has once before or after its layers as they run."""
    late = ("norm.", "final", "pool", "joint", "logits", "out")

    def rank(seat: Seat) -> tuple[str, float]:
        site = seat.site
        after = site.layer is None and site.part.startswith(late)
        return site.tower, site.layer if site.layer is not None else (1e9 if after else -1.0)

    order = {name: i for i, name in enumerate(dict.fromkeys(seat.site.tower for seat in seats.values()))}
    return dict(sorted(seats.items(), key=lambda item: (order[rank(item[1])[0]], rank(item[1])[1])))


def _tower(where: str, module: nn.Module, taken: dict[str, Tower], piped: bool) -> Tower:
    row = TOWERS[type(module).__name__]
    name, n = row.name, 2
    while name in taken:
        name, n = f"{row.name}_{n}", n + 1
    found = [pair for path in row.layers for pair in _blocks(path, child(module, path, type(module).__name__))]
    prompted = piped and row.name == "text"
    calls: Literal["once", "step", "prompt"] = "step" if row.name == "denoiser" else "prompt" if prompted else "once"
    prefix = tuple(chain.from_iterable(_prefix(module, word) for word in row.prefix))
    return Tower(
        name, module, where, tuple(b for _, b in found), tuple(label for label, _ in found),
        prefix, row.packed, row.causal, row.tokens, calls, row,
    )  # fmt: skip


def _prefix(module: nn.Module, word: str) -> list[str]:
    kind, _, count = word.partition("*")
    return [kind] * (int(getattr(module.config, count, 0)) if count else 1)


def _blocks(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Blocks of known classes below a module, in the order they run (a UNet alternates resnets and attentions)."""
    row = BLOCKS.get(type(module).__name__)
    if row and not (row.unless and getattr(module, row.unless, None)):
        yield path, module
        return
    children = list(module.named_children())
    names = dict(children)
    if "resnets" in names:
        pairs = zip_longest(
            names["resnets"].named_children(), dict(names.get("attentions", nn.Module()).named_children()).items()
        )
        children = [
            (f"{kind}.{child[0]}", child[1])
            for pair in pairs
            for kind, child in zip(("resnets", "attentions"), pair, strict=True)
            if child
        ]
    for name, below in children:
        yield from _blocks(f"{path}.{name}", below)


def _unknown_blocks(module: nn.Module, tower: Tower) -> list[str]:
    row = TOWERS[type(module).__name__]
    if tower.blocks or not row.layers:
        return []
    kinds = {type(child).__name__ for path in row.layers for child in child(module, path, "").children()}
    return [f"tower '{tower.name}': no row for its block class {', '.join(sorted(kinds))}; its layers have no sites"]


# --- parts ------------------------------------------------------------------------------------------------------------


def _tower_seats(tower: Tower) -> Iterator[tuple[str, Seat]]:
    kind = type(tower.module).__name__
    for part, port in TOWERS[kind].once.items():
        if not (port.optional and not has(tower.module, port.path)):
            yield _seat(tower, None, part, tower.module, port, kind)
    for layer, block in enumerate(tower.blocks):
        row = BLOCKS[type(block).__name__]
        for part, port in _parts(row, block).items():
            absent = port.optional and not has(block, port.path)
            if not absent and not (port.unless and getattr(block, port.unless, False)):
                yield _seat(tower, layer, part, block, port, type(block).__name__)


def _parts(row: Block, block: nn.Module) -> dict[str, Port]:
    """The parts of a block by name: residual stream, attention, cross-attention, MLP, extras."""
    post = row.post_norm
    if isinstance(post, str):
        post = bool(getattr(block, post.lstrip("!"))) != post.startswith("!")
    flat = "flat" if row.flat else ""
    parts: dict[str, Port] = {"resid_pre": RESIDUAL["resid_pre"]} if row.residual else {}
    if row.attn:
        parts |= _attention("attn", row.attn)
    if row.cross and (has(block, row.cross.path) or not row.cross.optional):
        if row.attn and row.attn.norm:
            parts["cross.resid_pre"] = Port(row.attn.norm) if post else Port(row.cross.norm, "mid")
        parts |= _attention("cross", row.cross)
    if row.mlp:
        last = row.cross if row.cross and has(block, row.cross.path) else row.attn
        if last and last.norm:
            parts["resid_mid"] = Port(last.norm) if post else Port(row.mlp.norm, "mid")
        parts |= _mlp(row.mlp, block)
    parts |= row.extra
    if row.flat:
        inner = {
            part
            for part in parts
            if part in ("mlp.pre", "mlp.post", "mlp.out") or (part in ("resid_mid", "mlp.norm.scale") and not post)
        }
        parts = {part: replace(port, keyword=flat) if part in inner else port for part, port in parts.items()}
    return parts | ({"resid_post": RESIDUAL["resid_post"]} if row.residual else {})


def _attention(word: str, row: Attn) -> dict[str, Port]:
    caller = row.caller or row.path
    parts: dict[str, Port] = {}
    if row.norm:
        parts[f"{word}.norm.scale"] = Port(row.norm, "scale", SCALE, optional=row.optional, unless=row.adaptive)
    for kind in ATTENTION_KINDS:
        parts[f"{word}.{kind}"] = Port(caller, kind, _ATTENTION_AXES[kind], optional=row.optional)  # type: ignore[arg-type]
    if row.z:
        parts[f"{word}.z"] = Port(row.z, "in", HEADS, view="heads", optional=row.optional)
        parts[f"{word}.out"] = Port(row.out or row.path, optional=row.optional)
    return parts


def _mlp(row: Mlp, block: nn.Module) -> dict[str, Port]:
    gated = not row.gate or GATES.get(type(child(block, row.gate, "")).__name__, False)
    return {
        "mlp.norm.scale": Port(row.norm, "scale", SCALE),
        "mlp.pre": Port(row.pre, axes=UNITS, view=row.pre_view if gated else ""),
        "mlp.post": Port(row.post, "in", UNITS),
        "mlp.out": Port(row.out),
    }


# --- seats ------------------------------------------------------------------------------------------------------------


def _seat(tower: Tower, layer: int | None, part: str, base: nn.Module, port: Port, row: str) -> tuple[str, Seat]:
    stream = None
    if layer is not None and part.split(".")[0] in STREAMS:
        stream, part = part.split(".", 1)
    module = child(base, port.path, row)
    sizes = sizes_of(base, BLOCKS.get(row), port, module)
    axes = tuple(
        "head" if axis == "kv_head" and sizes.get("kv_head") == sizes.get("head") else axis for axis in port.axes
    )
    if tower.stepped:
        axes = ("step", "guidance", *axes)
    if tower.prompted:
        axes = ("guidance", *axes)
    label = tower.labels[layer] if layer is not None else ""
    site = Site(tower.name, layer, part, stream, axes, {a: sizes[a] for a in axes if a in sizes}, label)
    flat = port.keyword == "flat"
    seat = Seat(
        site, tower, module, port.kind, port.index, "" if flat else port.keyword,
        replace(_view(port, sizes, tower), flat=flat),
    )  # fmt: skip
    return str(site), seat


def _view(port: Port, sizes: dict[str, int], tower: Tower) -> View:
    packed = tower.packed and port.kind not in ATTENTION_KINDS
    if port.kind in ("q", "k", "v"):
        return View(swap=True)
    if port.view == "heads":
        return View(heads=sizes["head"], packed=packed)
    if port.view == "front_heads":
        return View(stop=sizes["head"] * sizes["d_head"], heads=sizes["head"])
    if port.view == "back":
        return View(start=sizes["head"] * sizes["d_head"])
    if port.view in _HALVES:
        return View(half=_HALVES[port.view], packed=packed)
    if port.view in ("dt", "B", "C"):
        rank, state = sizes["dt_rank"], sizes["d_state"]
        start = {"dt": 0, "B": rank, "C": rank + state}[port.view]
        return View(start=start, stop=start + (rank if port.view == "dt" else state))
    return View(packed=packed)


def _mark_dead(
    seats: dict[str, Seat], towers: dict[str, Tower], families: list[tuple[str, nn.Module, Family]], owner: str
) -> dict[str, Seat]:
    """Say of each site that cannot influence the model's output why that is so."""
    dead: dict[str, str] = {}
    for _, module, family in families:
        if family.feature_layer and "vision" in towers:
            dead |= _after_feature_layer(seats, module, family.feature_layer)
    for name, tower in towers.items():
        if tower.stepped:
            dead[f"{name}.{len(tower.blocks) - 1}.text.resid_post"] = "the denoiser drops the text stream at its end"
    if owner in PIPELINES and (read := PIPELINES[owner].early):
        name, early = read
        used = len(towers[name].blocks) - early
        dead |= dict.fromkeys(_from_layer(seats, name, used), f"{owner} reads '{name}' {early} layer before its end")
    return {k: replace(s, site=replace(s.site, dead=dead[k])) if k in dead else s for k, s in seats.items()}


def _after_feature_layer(seats: dict[str, Seat], module: nn.Module, name: str) -> dict[str, str]:
    config: Any = module.config
    why = f"{type(module).__name__} reads the vision tower at {name}={getattr(config, name)}, before this site"
    return dict.fromkeys(_from_layer(seats, "vision", max(blocks_read(module, name))), why)


def blocks_read(module: nn.Module, name: str) -> tuple[int, ...]:
    """How many blocks of the vision tower lie before each of the states that the rest of a model reads.

    `name` is that of the config value which says so: a layer counted from either end, or several, whose states are then
    read side by side.
    """
    config: Any = module.config
    layers, count = getattr(config, name), config.vision_config.num_hidden_layers
    return tuple(i if i >= 0 else count + 1 + i for i in ([layers] if isinstance(layers, int) else layers))


def _from_layer(seats: dict[str, Seat], tower: str, first: int) -> Iterator[str]:
    """The sites of a tower from a layer on, its end included."""
    for key, seat in seats.items():
        layer = seat.site.layer
        late = layer >= first if layer is not None else not seat.site.part.startswith("embed")
        if seat.site.tower == tower and late:
            yield key


def _family_seats(
    where: str, module: nn.Module, family: Family, towers: dict[str, Tower]
) -> Iterator[tuple[str, Seat]]:
    for name, port in family.once.items():
        word, part = name.split(".", 1)
        inside = [t for t in towers.values() if t.name.split("_")[0] == word and t.path.startswith(where)]
        tower = inside[0] if inside else Tower(word, module, where)
        towers.setdefault(tower.name, tower)
        if tower.module is not module or has(module, port.path):
            yield _seat(tower, None, part, module, port, type(module).__name__)
