"""The small demonstration: a tiny random model, its sites, and what cutting attention edges does to its answer."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from cutaway.errors import InputError
from cutaway.model.edits import Edit, Knockout, Patch, Scale
from cutaway.model.load import load
from cutaway.model.tokens import Where
from cutaway.report.tables import heading, print_sites, print_tokens
from cutaway.source import Source
from cutaway.views.words import number
from cutaway.zoo import tiny


def run_tiny_demo(
    name: Source | str = "tiny:llava", out: Path | None = None, *, overwrite: bool = False,
    console: Console | None = None,
) -> None:  # fmt: skip
    """Open a tiny model, ask it about a picture, and compare its answer under four edits; no report, so no `out`."""
    console = console or Console(emoji=False)
    if out is not None or overwrite:
        raise InputError(
            f"the demonstration of '{name}' writes no report", expected="neither --out nor --overwrite",
            exists="a table in the terminal", do="leave them out, or `cutaway explain` the model into a folder",
        )  # fmt: skip
    model = load(name)
    if model.family.kind != "generative" or "vision" not in model.towers:
        raise InputError(
            f"'{name}' does not answer questions about pictures", expected="a `tiny:` model that takes both",
            exists="tiny:llava, tiny:llava-next, tiny:qwen2-vl, tiny:paligemma, …", do="name one of these",
        )  # fmt: skip
    print_sites(model, console=console)
    inputs = model.inputs(image=tiny.picture(), text="what is on the left ?")
    other = model.inputs(image=tiny.picture(seed=1), text="what is on the left ?")
    console.print("\nWhat each position is:")
    print_tokens(inputs, console)
    last = model.sites.towers()["text"] - 1
    donor = model.run(other, record=["text.*.attn.z", "text.0.resid_pre"])
    edits: dict[str, list[Edit]] = {
        "nothing": [],
        "identity: every residual times 1": [Scale("text.*.resid_post", 1.0)],
        "the last token no longer sees the picture": [Knockout("text.*.attn", query=-1, key=Where("image"))],
        "the top row of patches, from another picture": [Patch("text.0.resid_pre", donor, token=Where("image", row=0))],
        f"head 0 of layer {last}, from another picture": [Patch(f"text.{last}.attn.z", donor, head=0)],
    }
    heading(console, "\nOne answer, five runs (random weights: the words mean nothing)")
    table = Table("edit", "answer", "largest change of a logit")
    base = model.run(inputs).logits[:, -1]
    for what, given in edits.items():
        change = (model.run(inputs, edits=given).logits[:, -1] - base).abs().max().item()
        answer = model.generate(inputs, edits=given, max_new_tokens=5, do_sample=False)
        table.add_row(what, answer.texts[0], number(change))
    console.print(table)
