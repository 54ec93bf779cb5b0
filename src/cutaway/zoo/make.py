"""Train a model of the zoo from its recipe, write its folder, measure it and write its card."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from cutaway.errors import InputError
from cutaway.zoo.evaluate import Row
from cutaway.zoo.spec import CARD, MEASURED, Spec, Told, absent, holds_model
from cutaway.zoo.training import Step


def training(spec: Spec, recipe: Any, work: Path, device: str = "cpu") -> tuple[Any, Iterator[Step]]:
    """The model, and its training as an iterator of steps: go through it, then `finish`."""
    module = spec.start(recipe.seed)
    return module, spec.train(module, spec.batches(recipe), recipe, work, device)


def check_new(out: Path) -> None:
    """Refuse a folder that holds a model already."""
    if holds_model(out):
        raise InputError(
            f"'{out}' holds a model", expected="a new folder", exists="its config is in it",
            do="give another --out, or remove it",
        )  # fmt: skip


def finish(
    spec: Spec, module: Any, recipe: Any, out: Path, *, seconds: float, device: str = "cpu", n: int = 2000,
    told: Told = lambda _: None,
) -> list[Row]:  # fmt: skip
    """Write the trained model in half precision, read it back, measure it beside its untrained twin, write the card."""
    check_new(out)
    module = module.to("cpu")
    save(module, spec.processor(), out)
    shipped = type(module).from_pretrained(out, **absent(out)).to(torch.float32)
    for part in parts_of(shipped):
        part.eval()
    if hasattr(shipped, "set_progress_bar_config"):
        shipped.set_progress_bar_config(disable=True)
    rows = spec.measure(shipped, spec.processor(), n, told)
    floor = spec.measure(spec.start(recipe.seed), spec.processor(), n, lambda what: told(f"untrained, {what}"))
    measured = {
        "command": command(spec.name, recipe),
        "seconds": round(seconds),
        "machine": f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for part in parts_of(module) for p in part.parameters()),
        "recipe": asdict(recipe),
        "n": n,
        "lost to half precision": spec.lost(module, shipped),
        "rows": [{**asdict(row), "untrained": low.value} for row, low in zip(rows, floor, strict=True)],
    }
    (out / MEASURED).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    (out / CARD).write_text(card(spec, measured), encoding="utf-8")
    return rows


def save(module: Any, processor: Any, out: Path) -> None:
    """A `from_pretrained` folder: weights rounded to float16, a config that asks for float32 again."""
    copy.deepcopy(module).to(torch.float16).save_pretrained(out)
    if processor is not None:
        processor.save_pretrained(out)
    path = out / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "dtype" in config:
        config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def parts_of(module: Any) -> list[torch.nn.Module]:
    """A model, or every model of a pipeline."""
    found = module.components.values() if hasattr(module, "components") else [module]
    return [part for part in found if isinstance(part, torch.nn.Module)]


def command(name: str, recipe: Any) -> str:
    """The command line that trains by this recipe."""
    changed = [
        f"--{field.name.replace('_', '-')} {getattr(recipe, field.name)}"
        for field in fields(recipe)
        if getattr(recipe, field.name) != field.default
    ]
    return " ".join([f"cutaway zoo train {name}", *changed])


def card(spec: Spec, measured: dict[str, Any]) -> str:
    """The model card, from the template of the spec: what it is, how it was made, what it can and cannot do."""
    recipe, minutes = measured["recipe"], measured["seconds"] / 60
    return spec.template.read_text(encoding="utf-8").format(
        parameters=f"{measured['parameters'] / 1e6:.2f}",
        samples=f"{recipe['steps'] * recipe['batch']:,}",
        minutes=f"{minutes:.0f}",
        lost=f"{measured['lost to half precision']:.1e}",
        table=table(measured["rows"]),
        trials=f"{measured['rows'][0]['n']:,}",
        recipe=", ".join(f"{key} {value}" for key, value in recipe.items() if key != "save_every"),
        **{key: measured[key] for key in ("command", "machine", "torch", "python", "n")},
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
