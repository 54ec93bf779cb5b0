"""The command line: a thin shell over the functions of the package."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, cast

import typer

app = typer.Typer(
    help="Open any multi-modal model: name its parts, watch them, change them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

data = typer.Typer(help="EmojiWorld: drawn scenes with exact truth.", no_args_is_help=True)
app.add_typer(data, name="data")

zoo = typer.Typer(help="The trained models inside the package, and how they were made.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A hub id, a folder that `save_pretrained` wrote, `zoo:NAME` (trained) or `tiny:NAME` (random).",
    ),
]


@app.command()
def sites(
    model: ModelName,
    pattern: Annotated[
        str, typer.Argument(help="Show only these, e.g. 'vision.*.resid_post' or 'text.0.attn.*'.")
    ] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Every layer; without it one layer stands for those like it.")
    ] = False,
    attn: Annotated[str | None, typer.Option(help="Attention implementation to load with: sdpa or eager.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the weights.")] = False,
) -> None:
    """Print the sites of a model: where an activation can be read and written, with its axes and sizes.

    Try: cutaway sites tiny:llava · cutaway sites tiny:sd 'denoiser.*.cross.*' · cutaway sites ./my-model --all
    """
    from cutaway.model.load import load
    from cutaway.report.tables import print_sites

    print_sites(load(model, attn=attn, trust_remote_code=trust_remote_code), pattern, every=every)


@app.command()
def tokens(
    model: ModelName,
    image: Annotated[Path | None, typer.Option(help="A picture file.")] = None,
    text: Annotated[str | None, typer.Option(help="A text or question.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A prompt, for pipelines that draw.")] = None,
) -> None:
    """Print what each position of each tower is, for a picture and a text.

    Try: cutaway tokens tiny:llava --image photo.png --text "what is this"
    """
    from cutaway.model.load import load
    from cutaway.report.tables import print_tokens

    opened = load(model)
    print_tokens(opened.inputs(image=image, text=text, prompt=prompt))


@app.command()
def tiny() -> None:
    """List the tiny random models: every architecture the tables know, built in a moment, nothing downloaded."""
    from cutaway.report.tables import print_tiny

    print_tiny()


@data.command()
def show(
    out: Annotated[Path, typer.Argument(help="The PNG file to write.")] = Path("emojiworld.png"),
    n: Annotated[int, typer.Option(min=1, max=400, help="How many scenes.")] = 24,
    split: Annotated[str, typer.Option(help="train, test, or one kept apart: see docs/emojiworld.md.")] = "train",
    seed: Annotated[int, typer.Option(help="Another seed, other scenes.")] = 0,
    size: Annotated[int, typer.Option(min=32, max=512, help="Pixels a side.")] = 128,
    pairs: Annotated[bool, typer.Option("--pairs", help="Counterfactual pairs of every factor instead.")] = False,
) -> None:
    """Write a contact sheet: scenes with a caption each, or pairs that differ in exactly one factor.

    Try: cutaway data show · cutaway data show pairs.png --pairs --split test
    """
    from cutaway.data.sheet import contact_sheet, pair_sheet
    from cutaway.data.splits import Split, check_split
    from cutaway.errors import InputError

    if out.exists():
        raise InputError(f"'{out}' exists", expected="a new file", do="give another name, or remove it")
    check_split(split)
    chosen = cast(Split, split)
    made = pair_sheet(2, chosen, seed, size) if pairs else contact_sheet(n, chosen, seed, size)
    made.save(out)
    typer.echo(f"wrote {out} ({made.width} x {made.height} pixels)")


ZooName = Annotated[str, typer.Argument(metavar="NAME", help="As `cutaway zoo list` shows it.")]


@zoo.command("list")
def zoo_list() -> None:
    """List the trained models that come with the package."""
    from cutaway.report.zoo import print_zoo

    print_zoo()


@zoo.command("card")
def zoo_card(name: ZooName = "emoji-clip") -> None:
    """Print a model's card: what it is, how it was made, what was measured."""
    from cutaway.zoo.trained import trained

    typer.echo(trained(name.removeprefix("zoo:")).card())


@zoo.command("eval")
def zoo_eval(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `cutaway zoo list` shows it, or NAME@untrained.")] = (
        "emoji-clip"
    ),
    n: Annotated[int, typer.Option(min=256, help="Pictures a zero-shot row; the card has 2000.")] = 2000,
) -> None:
    """Measure a model of the zoo on held-out scenes: the numbers of its card, anew.

    Try: cutaway zoo eval emoji-clip · cutaway zoo eval emoji-clip@untrained --n 512
    """
    from cutaway.report.zoo import evaluate_zoo

    evaluate_zoo(name.removeprefix("zoo:"), n)


@zoo.command("train")
def zoo_train(
    name: ZooName,
    out: Annotated[Path, typer.Option(help="Where the finished model goes.")] = Path("runs/emoji-clip/model"),
    work: Annotated[Path, typer.Option(help="Where checkpoints go; run again to go on from them.")] = Path(
        "runs/emoji-clip"
    ),
    steps: Annotated[int | None, typer.Option(min=1, help="Batches to learn from; default: the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option(min=80, help="Pictures a batch; default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another model.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a model of the zoo again from its recipe, measure it and write its card. Stop and go on at any time.

    Try: cutaway zoo train emoji-clip · cutaway zoo train emoji-clip --steps 200 --work /tmp/try --out /tmp/try/model
    """
    from cutaway.report.zoo import train_zoo

    chosen = {"steps": steps, "batch": batch, "seed": seed}
    train_zoo(name, {key: value for key, value in chosen.items() if value is not None}, work, out, device)


@app.command()
def demo(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A generative `tiny:` model.")] = "tiny:llava",
) -> None:
    """Open a tiny model, print its sites, cut one attention edge after another and watch the answer change."""
    from cutaway.report.demo import run_demo

    run_demo(model)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; what goes wrong on purpose is one paragraph, not a traceback."""
    from cutaway.errors import CutawayError

    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")  # their advice on optional kernels is not for a table
    try:
        app(args=argv, standalone_mode=True)
    except CutawayError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
