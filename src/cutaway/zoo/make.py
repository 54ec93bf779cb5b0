"""Train a model of the zoo from its recipe, write its folder, measure it and write its card."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from cutaway.errors import InputError
from cutaway.zoo.evaluate import Row
from cutaway.zoo.trained import CARD, MEASURED, Trained
from cutaway.zoo.training import Step

Told = Callable[[str], None]


@dataclass(frozen=True)
class Making:
    """How a model of the zoo is made. `recipe` is a dataclass with `steps` and `seed`, all of it with defaults.

    `untrained` makes the model from a seed, `processor` what goes in front of it, `steps` trains it in place from where
    a folder left off (model, recipe, folder, device), `measure` gives the rows of its card (model, processor, how many
    trials, told what is measured; the first row stands for the model in the list), `lost` says how far the shipped
    weights, rounded to float16, move what it says (trained, shipped).
    """

    recipe: type[Any]
    untrained: Callable[[int], Any]
    processor: Callable[[], Any]
    steps: Callable[[Any, Any, Path, str], Iterator[Step]]
    measure: Callable[[Any, Any, int, Told], list[Row]]
    lost: Callable[[Any, Any], float]


def training(entry: Trained, recipe: Any, work: Path, device: str = "cpu") -> tuple[Any, Iterator[Step]]:
    """The model, and its training as an iterator of steps: go through it, then `finish`."""
    module = entry.making.untrained(recipe.seed)
    return module, entry.making.steps(module, recipe, work, device)


def check_new(out: Path) -> None:
    """Refuse a folder that holds a model already."""
    if (out / "config.json").exists():
        raise InputError(
            f"'{out}' holds a model", expected="a new folder", exists="config.json in it",
            do="give another --out, or remove it",
        )  # fmt: skip


def finish(
    entry: Trained, module: Any, recipe: Any, out: Path, *, seconds: float, device: str = "cpu", n: int = 2000,
    told: Told = lambda _: None,
) -> list[Row]:  # fmt: skip
    """Write the trained model in half precision, read it back, measure it beside its untrained twin, write the card."""
    check_new(out)
    making, module = entry.making, module.to("cpu").eval()
    save(module, making.processor(), out)
    shipped = type(module).from_pretrained(out, dtype=torch.float32).eval()
    rows = making.measure(shipped, making.processor(), n, told)
    floor = making.measure(
        making.untrained(recipe.seed), making.processor(), n, lambda what: told(f"untrained, {what}")
    )
    measured = {
        "command": command(entry.name, recipe),
        "seconds": round(seconds),
        "machine": f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "recipe": asdict(recipe),
        "n": n,
        "lost to half precision": making.lost(module, shipped),
        "rows": [{**asdict(row), "untrained": low.value} for row, low in zip(rows, floor, strict=True)],
    }
    (out / MEASURED).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    (out / CARD).write_text(card(entry, measured), encoding="utf-8")
    return rows


def save(module: Any, processor: Any, out: Path) -> None:
    """A `from_pretrained` folder: weights rounded to float16, a config that asks for float32 again."""
    copy.deepcopy(module).half().save_pretrained(out)
    processor.save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def command(name: str, recipe: Any) -> str:
    """The command line that trains by this recipe."""
    changed = [
        f"--{field.name.replace('_', '-')} {getattr(recipe, field.name)}"
        for field in fields(recipe)
        if getattr(recipe, field.name) != field.default
    ]
    return " ".join([f"cutaway zoo train {name}", *changed])


def card(entry: Trained, measured: dict[str, Any]) -> str:
    """The model card, from the template beside its making: what it is, how it was made, what it can and cannot do."""
    recipe, minutes = measured["recipe"], measured["seconds"] / 60
    package, _, module = entry.home.rpartition(".")
    return (
        (files(package) / f"{module}.md")
        .read_text(encoding="utf-8")
        .format(
            parameters=f"{measured['parameters'] / 1e6:.2f}",
            samples=f"{recipe['steps'] * recipe['batch']:,}",
            minutes=f"{minutes:.0f}",
            lost=f"{measured['lost to half precision']:.1e}",
            table=table(measured["rows"]),
            recipe=", ".join(f"{key} {value}" for key, value in recipe.items() if key != "save_every"),
            **{key: measured[key] for key in ("command", "machine", "torch", "python", "n")},
        )
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The measures as a Markdown table, in percent."""
    lines = [
        "| Measure | Of | Trials | % right | 95 % interval | Untrained | Chance |",
        "|---|---|--:|--:|---|--:|--:|",
    ]
    for row in rows:
        value, low, high, chance, floor = (100 * row[key] for key in ("value", "low", "high", "chance", "untrained"))
        lines.append(
            f"| {row['measure']} | {row['of']} | {row['n']} | **{value:.1f}** | {low:.1f} to {high:.1f} "
            f"| {floor:.1f} | {chance:.1f} |"
        )
    return "\n".join(lines)
