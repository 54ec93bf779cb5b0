"""Methods and sweeps on real models: `make real`, or python benchmarks/real.py [PART ...] [--models DIR] [--page FILE].

Parts: lens, names, places, heads (SmolLM2-135M), pictures (DINOv2-small), sweeps. Each writes its table between its
marks in docs/real-models.md, and its figure into docs/img. Times are processor time on one thread.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import real_pictures
import real_sweeps
import real_words
import torch
from matplotlib.figure import Figure
from timing import about

from cutaway import targets
from cutaway.model.words import token_id
from cutaway.questions.pairs import closer_to

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("lens", "names", "places", "heads", "pictures", "sweeps")
SEEDS = (0, 1)
Made = tuple[str, dict[str, Figure]]


def words(part: str, folder: Path) -> Made:
    """One part on SmolLM2."""
    model = real_words.opened(folder)
    twins = [real_words.opened(folder, seed) for seed in SEEDS]
    if part == "names":
        return real_words.names(model, twins), {}
    if part == "lens":
        text, figure = real_words.lens(model, twins[0])
    elif part == "places":
        text, figure = real_words.places(model, twins[0])
    else:
        text, figure = real_words.heads(model, twins[:1])
    return text, {part: figure}


def pictures(folder: Path) -> Made:
    """All of DINOv2."""
    model, twins = real_pictures.opened(folder), [real_pictures.opened(folder, seed) for seed in SEEDS]
    shown = real_pictures.photographs()
    parts = (real_pictures.alike(model, twins[0], shown), real_pictures.shares(model, twins[0], shown),
             real_pictures.by_patch(model, twins, shown))  # fmt: skip
    return "\n\n".join(parts), {"pictures": real_pictures.figure(model, shown)}


def sweeps(models: Path, rounds: int) -> Made:
    """Heads × layers of both."""
    model = real_words.opened(models / "smollm2-135m")
    asked = real_words.Names(model, real_words.TEMPLATES[0], real_words.PAIRS[:1])
    inputs = model.inputs(text=real_words.TEMPLATES[0].format(a="Mary", b="John", s="John"))
    last = inputs.tensors["input_ids"].shape[1] - 1
    outs = [model.engine.seat(f"text.{layer}.attn.z").module for layer in range(model.sites.towers()["text"])]
    first, second = (token_id(model.run(inputs), name) for name in asked.rows[0])
    target = targets.logit_diff(first, second)
    rows = []
    for label, token in ((f"SmolLM2, {last + 1} tokens, everywhere", None), ("SmolLM2, at the last token", last)):
        rows.append([label, *real_sweeps.race(model, inputs, outs, real_words.HEADS, "text.*.attn.z", target,
                                              lambda final: final[first] - final[second], token, rounds)])  # fmt: skip
    model, shown = real_pictures.opened(models / "dinov2-small"), real_pictures.photographs()
    inputs = model.inputs(image=shown["cat"])
    aim = closer_to(model, [shown["woman"]], [shown["cup"]])
    outs = [model.engine.seat(f"vision.{layer}.attn.z").module for layer in range(model.sites.towers()["vision"])]

    def read(final: torch.Tensor) -> float:
        unit = torch.nn.functional.normalize
        return float((unit(final[None]) * (unit(aim.to) - unit(aim.than))).sum())

    rows.append(["DINOv2, 257 tokens, everywhere",
                 *real_sweeps.race(model, inputs, outs, 6, "vision.*.attn.z", aim, read, None, rounds)])  # fmt: skip
    return real_sweeps.speeds(rows), {}


def write(page: Path, part: str, text: str) -> None:
    """Put a text between the marks of a part."""
    whole = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {part} -->", f"<!-- /{part} -->"
    if begin not in whole:
        raise SystemExit(f"{page} has no place for '{part}': {begin} … {end}")
    made = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", whole, flags=re.S)
    page.write_text(made, encoding="utf-8")


def main() -> None:
    """Parse the options, run the parts, write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", help="which parts (all)")
    options.add_argument("--models", type=Path, default=ROOT / "real", help="where the models are (real/)")
    options.add_argument("--page", type=Path, default=ROOT / "docs" / "real-models.md", help="the page to write")
    options.add_argument("--rounds", type=int, default=3, help="rounds of the sweeps (3)")
    given = options.parse_args()
    torch.set_num_threads(1)
    for part in given.parts or PARTS:
        if part not in PARTS:
            options.error(f"no part '{part}': there are {', '.join(PARTS)}")
        torch.manual_seed(0)
        started = time.process_time()
        if part == "pictures":
            text, figures = pictures(given.models / "dinov2-small")
        elif part == "sweeps":
            with torch.no_grad():
                text, figures = sweeps(given.models, given.rounds)
        else:
            text, figures = words(part, given.models / "smollm2-135m")
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        machine = about("torch", "transformers")
        spent = f"{time.process_time() - started:.0f} s of processor time on one thread"
        text += f"\n\n{spent}, at most {most:.1f} GiB in this process; {machine['date']}, torch {machine['torch']}."
        print(f"{part}\n{text}\n", flush=True)
        write(given.page, part, text)
        for name, figure in figures.items():
            figure.savefig(given.page.parent / "img" / f"real-{name}.png")


if __name__ == "__main__":
    main()
