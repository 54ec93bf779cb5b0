"""Train a model of the zoo from its recipe, write its folder, measure it and write its card."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from cutaway import data
from cutaway.errors import InputError
from cutaway.zoo import emoji_clip
from cutaway.zoo.contrastive import Recipe, Step, train
from cutaway.zoo.evaluate import Eyes, Row, evaluate
from cutaway.zoo.trained import CARD, MEASURED

TEMPLATE = Path(__file__).with_name("card.md")


def training(recipe: Recipe, work: Path, device: str = "cpu") -> tuple[Any, Iterator[Step]]:
    """The model, and its training as an iterator of steps: go through it, then `finish`."""
    module = emoji_clip.untrained(recipe.seed)
    return module, train(module, emoji_clip.batches(recipe), recipe, work, device)


def finish(module: Any, recipe: Recipe, out: Path, *, seconds: float, device: str = "cpu", n: int = 2000) -> list[Row]:
    """Write the trained model in half precision, read it back, measure it beside its untrained twin, write the card."""
    from transformers import CLIPModel

    if (out / "config.json").exists():
        raise InputError(f"'{out}' holds a model", expected="a new folder", do="give another --out, or remove it")
    module = module.to("cpu").eval()
    save(module, out)
    shipped = CLIPModel.from_pretrained(out, dtype=torch.float32).eval()
    processor = emoji_clip.processor()
    rows = evaluate(shipped, processor, n=n)
    floor = evaluate(emoji_clip.untrained(recipe.seed), processor, n=n)
    measured = {
        "command": command(recipe),
        "seconds": round(seconds),
        "machine": f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "recipe": asdict(recipe),
        "n": n,
        "lost to half precision": _lost(Eyes(module, processor), Eyes(shipped, processor)),
        "rows": [{**asdict(row), "untrained": low.value} for row, low in zip(rows, floor, strict=True)],
    }
    (out / MEASURED).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    (out / CARD).write_text(card(measured), encoding="utf-8")
    return rows


def save(module: Any, out: Path) -> None:
    """A `from_pretrained` folder: weights rounded to float16, a config that asks for float32 again."""
    import copy

    half = copy.deepcopy(module).half()
    half.save_pretrained(out)
    emoji_clip.processor().save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _lost(one: Eyes, other: Eyes, n: int = 500) -> float:
    """The largest change of a cosine of n test scenes and their captions."""
    items = list(data.items("test", n))
    cosines = [
        eyes.scenes(item.scene for item in items) @ eyes.texts(item.caption.text for item in items).T
        for eyes in (one, other)
    ]
    return (cosines[0] - cosines[1]).abs().max().item()


def command(recipe: Recipe) -> str:
    """The command line that trains by this recipe."""
    changed = [
        f"--{field.name.replace('_', '-')} {getattr(recipe, field.name)}"
        for field in fields(recipe)
        if getattr(recipe, field.name) != field.default
    ]
    return " ".join(["cutaway zoo train emoji-clip", *changed])


def card(measured: dict[str, Any]) -> str:
    """The model card: what it is, how it was made, what it can do, what it cannot."""
    recipe, minutes = measured["recipe"], measured["seconds"] / 60
    drop = measured["lost to half precision"]
    return TEMPLATE.read_text(encoding="utf-8").format(
        parameters=f"{measured['parameters'] / 1e6:.2f}",
        samples=f"{recipe['steps'] * recipe['batch']:,}",
        minutes=f"{minutes:.0f}",
        lost=f"{drop:.1e}",
        table=table(measured["rows"]),
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
