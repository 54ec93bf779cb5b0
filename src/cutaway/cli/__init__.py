"""The command line: a thin shell over the functions of the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from cutaway.cli.atlas import atlas, cite
from cutaway.cli.caption import caption
from cutaway.cli.dictionary import dictionary
from cutaway.cli.features import features
from cutaway.cli.options import Bank, Device, Dtype, Overwrite, Pictures, Raw, SkipBad, Texts, opens
from cutaway.cli.store import harvest, store
from cutaway.source import Source

OURS = Source("zoo:emoji-clip")


class Declared(TyperGroup):
    """The commands of the declared methods, which are imported when one is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every method."""
        return [*self._made]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One method."""
        return self._made.get(cmd_name)

    @cached_property
    def _made(self) -> Mapping[str, Any]:
        from cutaway.cli.methods import commands

        group: Any = typer.main.get_command(commands())
        return dict(group.commands)


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

data = typer.Typer(help="EmojiWorld: drawn scenes with exact truth.", no_args_is_help=True)
app.add_typer(data, name="data")

zoo = typer.Typer(help="The trained models inside the package, and how they were made.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")
app.command()(harvest)
app.command()(features)
app.command()(cite)
app.add_typer(atlas, name="atlas")
app.command()(caption)
app.add_typer(store, name="store")
app.add_typer(dictionary, name="dictionary")


def _version(wanted: bool) -> bool:
    """Print the version and stop."""
    if wanted:
        from cutaway import __version__

        typer.echo(f"cutaway {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Open any multi-modal model: name its parts, watch them, change them."""


@app.command()
@opens
def sites(
    model: Source,
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

    print_sites(load(replace(model, attn=attn, trust_remote_code=trust_remote_code)), pattern, every=every)


@app.command()
@opens
def tokens(
    model: Source,
    image: Annotated[Path | None, typer.Option(help="A picture file.")] = None,
    text: Annotated[str | None, typer.Option(help="A text or question; beside a sound, its words so far.")] = None,
    audio: Annotated[Path | None, typer.Option(metavar="FILE.wav", help="A sound, for models that hear.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A prompt, for pipelines that draw.")] = None,
    raw: Raw = False,
) -> None:
    """Print what each position of each tower is, for a picture, a text, a sound or a prompt.

    Try: cutaway tokens tiny:llava --image photo.png --text "what is this" · cutaway tokens tiny:whisper --audio a.wav
    """
    from cutaway.report.positions import show_tokens

    show_tokens(model, image, text, audio, prompt, raw=raw)


@app.command()
def tiny() -> None:
    """List the tiny random models: every architecture the tables know, built in a moment, nothing downloaded."""
    from cutaway.report.tables import print_tiny

    print_tiny()


@data.command()
def show(
    out: Annotated[Path, typer.Argument(help="The picture file to write.")] = Path("emojiworld.png"),
    n: Annotated[int, typer.Option(min=1, max=400, help="How many scenes.")] = 24,
    split: Annotated[str, typer.Option(help="train, test, or one kept apart: see docs/emojiworld.md.")] = "train",
    seed: Annotated[int, typer.Option(help="Another seed, other scenes.")] = 0,
    size: Annotated[int, typer.Option(min=32, max=512, help="Pixels a side.")] = 128,
    pairs: Annotated[bool, typer.Option("--pairs", help="Counterfactual pairs of every factor instead.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a sheet that is there.")] = False,
) -> None:
    """Write a contact sheet: scenes with a caption each, or pairs that differ in exactly one factor.

    Try: cutaway data show · cutaway data show pairs.png --pairs --split test
    """
    from cutaway.data.sheet import contact_sheet, pair_sheet
    from cutaway.data.splits import Split, check_split
    from cutaway.questions.given import check_file

    check_file(out, (".png", ".jpg", ".jpeg", ".webp"), overwrite)
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

    typer.echo(trained(name).card())


@zoo.command("eval")
def zoo_eval(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `cutaway zoo list` shows it, or NAME@untrained.")] = (
        "emoji-clip"
    ),
    n: Annotated[int, typer.Option(min=64, help="Trials for the rows of the table; the card has 2000.")] = 2000,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Measure a model of the zoo on held-out scenes: the numbers of its card, anew.

    There is no --revision: the weights are those of the installed package.

    Try: cutaway zoo eval emoji-clip · cutaway zoo eval emoji-clip@untrained --n 512
    """
    from cutaway.report.zoo import evaluate_zoo

    evaluate_zoo(name, n, device or "cpu", dtype=dtype or "float32")


@zoo.command("train")
def zoo_train(
    name: ZooName,
    out: Annotated[Path | None, typer.Option(help="Where the finished model goes; else WORK/model.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where checkpoints go, to go on from; else runs/NAME.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Batches to learn from; default: the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples in each batch; default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another model.")] = 0,
    device: Device = "cpu",
    measure: Annotated[int, typer.Option(min=64, help="Trials for the rows of the card.")] = 2000,
) -> None:
    """Train a model of the zoo again from its recipe, measure it and write its card. Stop and go on at any time.

    There is no --dtype and no --revision: the recipe says in what it learns, and it begins from no weights of the hub.

    Try: cutaway zoo train emoji-clip · cutaway zoo train emoji-clip --steps 200 --work runs/try --out runs/try/model
    """
    from cutaway.report.zoo import train_zoo

    chosen = {"steps": steps, "batch": batch, "seed": seed}
    train_zoo(
        name, {key: value for key, value in chosen.items() if value is not None}, work, out, device or "cpu", measure
    )


@app.command()
@opens
def findings(
    model: Source = OURS,
    out: Annotated[Path, typer.Option(metavar="FILE.md", help="The page to write.")] = Path("reports/findings.md"),
    n: Annotated[int, typer.Option(help="How many scenes a set; n / 16 to n / 4 pairs a factor.")] = 640,
    seed: Annotated[int, typer.Option(help="Other scenes: the two sets are of this seed and the next.")] = 0,
    about: Annotated[
        str,
        typer.Option(
            metavar="circuits|features|attribution",
            help="Another page: circuits by picture and in words, and planted; what dictionaries tell that neurons do "
            "not; which data, which pixels, which picture, held against truth.",
        ),
    ] = "",
    work: Annotated[Path | None, typer.Option(metavar="DIR", help="Where finished sections are kept.")] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read activations of the scenes from stores in DIR; make those missing."),
    ] = None,
) -> None:
    """Which heads carry what, what happens without them, where factors are readable and where they are used: one page.

    Of a model that answers in words: what its picture tokens read as, and whether that tells what is not there. Of one
    that draws: where words are looked for, what carries them, what a changed meaning draws, beside joint attention.

    Try: cutaway findings zoo:emoji-clip --out emoji-clip.md
    """
    from cutaway.report.findings import write_findings

    made = write_findings(model, out, n, seed, about=about, work=work, store=store)
    typer.echo(f"wrote {made}")


# --- explaining -------------------------------------------------------------------------------------------------------


@app.command()
@opens
def explain(
    model: Source,
    image: Annotated[Path | None, typer.Option(help="The picture file.")] = None,
    text: Texts = None,
    answer: Annotated[str, typer.Option(metavar="WORD", help="What a model that answers may say; else its own.")] = "",
    rival: Annotated[
        str,
        typer.Option(metavar="WORD", help="What else; unless given a word named beside it, else its next choice."),
    ] = "",
    raw: Raw = False,
    prompt: Annotated[str, typer.Option(help="What a model that draws is to draw.")] = "",
    word: Annotated[
        str, typer.Option(metavar="WORD", help="Of the prompt: what the page begins with; else what is seen best.")
    ] = "",
    seed: Annotated[
        int, typer.Option(help="Of the noise that a drawing begins with, and of what is drawn by chance.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the report goes; else reports/MODEL-PICTURE.")
    ] = None,
    counterfactual: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A second picture (or text, or prompt) that differs in one thing."),
    ] = None,
    bank: Bank = None,
    pictures: Pictures = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
) -> None:
    """Explain what a model makes of a picture, a text or a prompt: one HTML page and the arrays behind it.

    A CLIP or SigLIP holds the picture against each --text: the first is explained, with a second one, its rival, the
    first rather than the second. A model that answers is asked one --text, of the picture or alone. A pipeline draws
    the --prompt.

    Try: cutaway explain zoo:emoji-clip --image photo.png --text "a red car" --text "a blue car" ·
    cutaway explain openai/clip-vit-base-patch32 --image photo.jpg --text "a dog" --text "a wolf" --pictures ~/photos
    --bank words.txt · cutaway explain tiny:llava --image a.png --text "what is this" --counterfactual b.png ·
    cutaway explain zoo:emoji-sd --prompt "a fox on a green background" --word fox --seed 3
    """
    from rich.console import Console

    from cutaway.report.demo import announce
    from cutaway.report.explain import explained
    from cutaway.report.progress import steps

    with steps() as told:
        made = explained(
            model, image, text or [], answer=answer, rival=rival, raw=raw, prompt=prompt, out=out,
            counterfactual=counterfactual, bank=bank, pictures=pictures, overwrite=overwrite, told=told,
            skip_bad=skip_bad, word=word, seed=seed,
        )  # fmt: skip
    announce(made, Console(emoji=False))


@app.command()
@opens
def demo(
    model: Source = OURS,
    every: Annotated[
        bool, typer.Option("--all", help="Three reports: of a model that matches, one that answers, one that draws.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where it goes; else reports/demo, or reports/demo-all.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Explain a drawn scene with a misleading word on it, by the trained model that comes with the package.

    Try: cutaway demo · cutaway demo --all · cutaway demo tiny:llava (cuts attention edges of a random model, no report)
    """
    from cutaway.zoo import parted

    if every:
        from cutaway.errors import InputError
        from cutaway.report.demo import run_demos

        if model != OURS:
            raise InputError(
                f"--all takes models of its own, not '{model}'", expected="--all alone, or one model without it",
                do="leave one of the two out",
            )  # fmt: skip
        run_demos(out, overwrite=overwrite)
    elif parted(model.name)[0] == "tiny":
        from cutaway.report.tiny_demo import run_tiny_demo

        run_tiny_demo(model, out, overwrite=overwrite)
    else:
        from cutaway.report.demo import run_demo

        run_demo(model, out, overwrite=overwrite)


@app.command()
def methods(
    needs: Annotated[bool, typer.Option("--needs", help="Say what each needs and what it can not tell.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/methods.md.")] = False,
    brief: Annotated[bool, typer.Option("--brief", help="With --markdown: one line a row, as in the README.")] = False,
) -> None:
    """List the methods: the rows of the taxonomy, on which families of models each runs, and what each needs.

    Try: cutaway methods · cutaway methods --needs
    """
    from cutaway.report.methods import markdown as written
    from cutaway.report.methods import overview, print_methods

    if markdown or brief:
        typer.echo(overview() if brief else written())
    else:
        print_methods(needs=needs)


run = typer.Typer(
    cls=Declared, help="One method at a time: a table, and with --out and --plot its files.", no_args_is_help=True
)
app.add_typer(run, name="run")


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
