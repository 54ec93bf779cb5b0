"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Column, Table

from cutaway.errors import InputError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site


def print_sites(model: Model, pattern: str = "", *, every: bool = False, console: Console | None = None) -> None:
    """The sites of a model, one row for all layers that look alike (or every layer)."""
    console = console or Console(emoji=False)
    chosen = model.sites[pattern] if pattern else list(model.sites)
    rows = [(str(site), site) for site in chosen] if every else list(_folded(chosen))
    heading(console, f"{model.name}: {type(model.module).__name__}, {model.family.kind}")
    table = Table(Column("site", overflow="fold"), "axes")
    if any(site.dead for _, site in rows):
        table.add_column("note")
    reasons = list(dict.fromkeys(site.dead for _, site in rows if site.dead))
    for name, site in rows:
        note = [f"dead ({reasons.index(site.dead) + 1})"] if site.dead else []
        table.add_row(name, site.shape.strip("()"), *note)
    if rows:
        console.print(table)
    for n, reason in enumerate(reasons, 1):
        console.print(f"dead ({n}): writing here changes no output: {reason}", markup=False)
    for line in model.missing:
        console.print(f"missing: {line}", markup=False, highlight=False)
    if not len(model.sites):
        raw = [str(site) for site in model.sites["raw.*"]]
        some = ", ".join(raw[1 : len(raw) : max(1, len(raw) // 4)][:4])
        console.print(
            f"No site has a name. Every module can still be read and written by its path, {len(raw)} in all: {some}",
            markup=False, highlight=False,
        )  # fmt: skip


def heading(console: Console, title: str) -> None:
    """A title above a table: as wide as the terminal, so that a narrow table does not break its words."""
    console.print(title, style="italic", markup=False, emoji=False, highlight=False)


def print_recording(model: Model, inputs: Inputs, console: Console | None = None) -> None:
    """How much memory it takes to record every site on these inputs, and what of it most."""
    try:
        found = model.estimate(inputs, "*")
    except InputError:  # some axes are known after a run only
        return
    largest = max(found.by_site, key=lambda name: found.by_site[name])
    (console or Console(emoji=False)).print(
        f"Recording all {len(found.by_site)} sites on this takes {amount(found.total)}; the largest, {largest}, "
        f"{amount(found.by_site[largest])}. `model.estimate(inputs, sites)` says it for any choice.",
        markup=False, highlight=False,
    )  # fmt: skip


def amount(count: float) -> str:
    """A number of bytes in the unit that fits it."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def print_tokens(inputs: Inputs, console: Console | None = None) -> None:
    """The token map of each tower, positions of one kind folded into ranges."""
    console = console or Console(emoji=False)
    for tower, tokens in inputs.tokens.items():
        console.print(f"[bold]{tower}[/bold]")
        console.print(str(tokens), markup=False, highlight=False)


def print_tiny(console: Console | None = None) -> None:
    """The tiny models, by family."""
    from cutaway.zoo import tiny

    console = console or Console(emoji=False)
    table = Table("name", "family", "takes")
    for name in tiny.names():
        spec = tiny.TINY[name]
        table.add_row(f"tiny:{name}", spec.family, ", ".join(spec.modalities))
    console.print(table)


def _folded(sites: list[Site]) -> Iterator[tuple[str, Site]]:
    """Layers with the same parts, axes and sizes as one row each: `text.0-2.resid_post`."""
    groups: dict[tuple[str, ...], list[Site]] = {}
    for site in sites:
        key = (
            site.tower,
            site.stream or "",
            site.part,
            site.shape,
            site.dead,
            "" if site.layer is not None else "once",
        )
        groups.setdefault(key, []).append(site)
    for group in groups.values():
        layers = [site.layer for site in group if site.layer is not None]
        name = str(group[0])
        if len(layers) > 1:
            words = [group[0].tower, _ranges(layers), group[0].stream, group[0].part]
            name = ".".join(word for word in words if word)
        yield name, group[0]


def _ranges(layers: list[int]) -> str:
    """0, 1, 2, 5 as `0-2,5`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == z else f"{a}-{z}" for a, z in runs)
