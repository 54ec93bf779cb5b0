"""`cutaway dictionary`: dictionaries of features, trained, shown, taken from other tools and given to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cutaway.cli.options import Overwrite, opens
from cutaway.source import Source

dictionary = typer.Typer(
    help="Dictionaries of features: few of many stand for what a model holds at a place.", no_args_is_help=True
)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="What `cutaway dictionary train` or another tool wrote, or zoo:NAME.")
]


Sites = Annotated[list[str], typer.Option("--site", help="Where it reads; several make a crosscoder.")]
Data = Annotated[
    str,
    typer.Option(
        metavar="WHAT",
        help="What it runs on: 'emojiworld' (or emojiworld:test), a folder of pictures, a text file with an item "
        "a line, a data set on disk.",
    ),
]
Kept = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Activations on disk to learn from; with --data they are harvested there first, or taken up. Without it "
        "the model runs as the training goes on.",
    ),
]
Target = Annotated[
    str | None, typer.Option(metavar="SITE", help="What it is to stand for, of a transcoder; else what it reads.")
]
Architecture = Annotated[str, typer.Option(help="relu, topk, batch_topk, jumprelu, gated, matryoshka or archetypal.")]
ByModality = Annotated[
    bool, typer.Option("--by-modality", help="A quarter of the features for pictures alone, one for texts alone.")
]
Timed = Annotated[int, typer.Option(min=0, help="Biases for each of so many denoising steps, of a model that draws.")]
Work = Annotated[Path | None, typer.Option(metavar="DIR", help="Save here as it goes, and take up what was stopped.")]


@dictionary.command("train")
@opens
def train(
    model: Source,
    site: Sites,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the dictionary goes.")],
    data: Data = "",
    n: Annotated[int | None, typer.Option("--n", min=1, help="How many items at most; of scenes 1000.")] = None,
    store: Kept = None,
    target: Target = None,
    architecture: Architecture = "batch_topk",
    width: Annotated[int | None, typer.Option(min=1, help="How many features; else 8 for each number read.")] = None,
    k: Annotated[int, typer.Option(min=1, help="How many are on at once, of the topk kinds.")] = 32,
    price: Annotated[float, typer.Option(min=0, help="What a feature costs, of relu, jumprelu and gated.")] = 3.0,
    skip: Annotated[bool, typer.Option("--skip", help="A linear path beside the features of a transcoder.")] = False,
    by_modality: ByModality = False,
    timed: Timed = 0,
    where: Annotated[str | None, typer.Option(metavar="KIND", help="Learn from positions of this kind only.")] = None,
    text: Annotated[str | None, typer.Option(help="What goes with every picture, such as a question.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches to learn from.")] = 2000,
    batch: Annotated[int, typer.Option(min=2, help="Rows in each.")] = 1024,
    rate: Annotated[float, typer.Option(min=0, help="How fast it learns.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Another seed, another dictionary.")] = 0,
    work: Work = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a dictionary of the activations of a site, and keep it.

    The printed table says how much of the variance the features explain, how many are on at once (`on`), and the share
    that is ever used (`alive`). A smaller --k or a higher --price means fewer features a row and less explained.

    Try: cutaway dictionary train zoo:emoji-clip --site vision.3.resid_post --data emojiworld --n 500 --out runs/sae ·
    cutaway dictionary train zoo:emoji-clip --site vision.3.resid_mid --target vision.3.mlp.out --store runs/scenes
    --data emojiworld --architecture topk --skip --out runs/transcoder
    """
    from cutaway.methods.sparse_autoencoders.commands import trained

    options = {
        "k": k,
        "price": price,
        "skip": skip,
        "timed": timed,
        "steps": steps,
        "batch": batch,
        "rate": rate,
        "seed": seed,
    }
    typer.echo(
        trained(
            model, site, data, out, target=target, n=n, data_seed=0, text=text, where=where, store=store,
            architecture=architecture, width=width, by_modality=by_modality, work=work, overwrite=overwrite,
            options=options,
        )
    )  # fmt: skip


@dictionary.command("show")
def show(folder: Folder) -> None:
    """Print what a dictionary is, what it was fitted on and how its training ended.

    Try: cutaway dictionary show runs/sae
    """
    from cutaway.methods.sparse_autoencoders.commands import shown

    typer.echo(shown(folder))


@dictionary.command("export")
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the folder for SAELens goes.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a dictionary as SAELens reads it: sae_weights.safetensors and cfg.json.

    Try: cutaway dictionary export runs/sae --out runs/for-saelens
    """
    from cutaway.methods.sparse_autoencoders.commands import exported

    typer.echo(exported(folder, out, overwrite))


@dictionary.command("import")
def take_in(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of SAELens or of ViT-Prisma.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the dictionary goes.")],
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="What it was trained on, as you know.")] = None,
    site: Annotated[str | None, typer.Option(help="Where it reads, if its hook name does not say.")] = None,
    target: Annotated[str | None, typer.Option(help="What it stands for, of a transcoder.")] = None,
    tower: Annotated[str | None, typer.Option(help="Which tower: text of SAELens, vision of ViT-Prisma.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Take in a dictionary that SAELens or ViT-Prisma wrote.

    A --model is opened as its name says, to be told by its content: no --device, --dtype or --revision.

    Try: cutaway dictionary import runs/for-saelens --out runs/again --tower vision
    """
    from cutaway.methods.sparse_autoencoders.commands import imported

    on = None if model is None else Source(model)
    typer.echo(imported(folder, out, site=site, target=target, tower=tower, model=on, overwrite=overwrite))
