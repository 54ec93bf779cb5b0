"""One view of each kind, small and with known numbers."""

import numpy as np

from cutaway.views.boards import Board, Paper, Papers, Part, Remark, Remarks, Square
from cutaway.views.captions import WordMaps
from cutaway.views.films import Gallery, Strip
from cutaway.views.graphs import Layered, Link, Node
from cutaway.views.kinds import (
    Axis,
    Bar,
    Bars,
    Curve,
    Head,
    HeadTable,
    Lens,
    Line,
    Matrix,
    Opening,
    Overlay,
    Phrase,
    Table,
    View,
    WordGrid,
)
from cutaway.views.picture import Picture
from cutaway.views.units import Context, Unit, Units

EVIL = """</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">"""
TEXTS = ("a dog", 'a "cat", sitting', EVIL)
CODE = "model = cutaway.load('tiny:clip')\nif a < b: pass  # </code>"


def picture(width: int = 60, height: int = 40) -> Picture:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Picture.of(ramp.astype(np.uint8), f"a ramp {EVIL}")


def said(title: str) -> dict[str, object]:
    """What every view has, with texts that try to leave their place."""
    origin = {"model": "tiny:clip", "seed": 0, "evil": EVIL, "options": {"a": [1, 2.5]}}
    return {
        "title": title,
        "seen": f"What is seen. {EVIL}",
        "limits": "What it hides.",
        "code": CODE,
        "provenance": origin,
    }


def overlay() -> Overlay:
    values = np.arange(3 * 2 * 3, dtype=np.float32).reshape(3, 2, 3) / 7 - 1
    values[0, 1, 2] = np.nan
    return Overlay(**said("Overlay"), picture=picture(), texts=TEXTS, values=values, unit="cosine", signed=True)


def lens() -> Lens:
    values = np.arange(3 * 4 * 2 * 3, dtype=np.float32).reshape(3, 4, 2, 3) / 100
    token = np.arange(12, dtype=np.float32).reshape(3, 4) / 50
    return Lens(
        **said("Lens"),
        picture=picture(),
        texts=TEXTS,
        layers=tuple("0123"),
        values=values,
        unit="cosine",
        pooled=token,
    )


def strip() -> Strip:
    values = np.arange(3 * 2 * 4 * 2 * 3, dtype=np.float32).reshape(3, 2, 4, 2, 3) / 100
    return Strip(
        **said("Strip"),
        pictures=tuple(picture() for _ in range(4)),
        texts=TEXTS,
        sets=("all layers", "layer 3"),
        frames=tuple("0123"),
        values=values,
        unit="share of attention",
    )


def gallery() -> Gallery:
    return Gallery(
        **said("Gallery"),
        pictures=tuple(picture() for _ in range(3)),
        captions=TEXTS,
        columns=("how far", "fox"),
        cells=((0.5, 1.0), (None, 0.25), (2.0, 0.0)),
        units=("", "probability"),
    )


def heads() -> HeadTable:
    rows = [
        Head(
            layer,
            head,
            (layer * 4 + head) / 100 - 0.1,
            direct=layer / 10,
            low=-0.5,
            high=0.5,
            phrases=(Phrase("dogs" if head == 1 else "cats", 0.25), Phrase(EVIL)),
            extra={"entropy": head * 1.5},
        )
        for layer in range(6)
        for head in range(4)
    ]
    return HeadTable(**said("Heads"), heads=tuple(rows), effect="share of effect")


def bars() -> Bars:
    parts = [Bar(f"layer {n}, head 0", "heads", (-1) ** n * n / 10, n / 10 - 0.05, n / 10 + 0.05) for n in range(20)]
    parts += [Bar(EVIL, "bias", -0.25), Bar("lost", "MLPs", None)]
    return Bars(**said("Bars"), bars=tuple(parts), unit="logits", total=1.0)


def patching() -> Matrix:
    values = np.linspace(-0.2, 0.9, 18).reshape(3, 6).astype(np.float32)
    return Matrix(
        **said("Patching"),
        pictures=(picture(), picture(40, 40)),
        sides=("Clean", "Counterfactual"),
        unit="recovery",
        captions=("a dog", EVIL),
        row_axis=Axis.count("layer", 3),
        column_axis=Axis.patches(2, 3),
        values=values,
        low=values - 0.1,
        high=values + 0.1,
        grid=(2, 3),
    )


def tokens() -> Matrix:
    values = np.linspace(-0.2, 0.9, 15).reshape(3, 5).astype(np.float32)
    return Matrix(
        **said("Tokens"),
        pictures=(picture(), picture()),
        sides=("Clean", "Counterfactual"),
        unit="recovery",
        captions=("a", "b"),
        row_axis=Axis.count("layer", 3),
        column_axis=Axis("token", ("<start>", "a", "dog", EVIL, "<end>")),
        values=values,
    )


def curve() -> Curve:
    line = np.array([0.5, 0.6, np.nan, 0.9], np.float32)
    floor = np.full(4, 0.5, np.float32)
    lines = (Line("probe", line, line - 0.05, line + 0.05), Line(EVIL, floor, baseline=True))
    return Curve(**said("Curve"), x=Axis.count("layer", 4), lines=lines, unit="accuracy")


def table() -> Table:
    rows = (
        ("dog", 3, 0.123456, True),
        ("cat", 10, None, False),
        (EVIL, 2, float("nan"), None),
        ('say "hi", you', -1, 1e-9, True),
    )
    return Table(**said("Table"), columns=("word", "rank", "value", "right"), cells=rows)


def words() -> Overlay:
    """A caption whose words have maps of their own; folded."""
    values = np.arange(3 * 2 * 3, dtype=np.float32).reshape(3, 2, 3) / 10
    return Overlay(
        **said("A word by word"), picture=picture(), texts=("a", "red", "dog"), values=values, unit="cosine",
        signed=True, caption=True, folded=True, warning="This map contradicts another.",
    )  # fmt: skip


def seeing_heads() -> HeadTable:
    """Two heads with what they attend to and the pictures that move them."""
    rows = (Head(0, 0, 0.25, most=(0, 1), least=(2,)), Head(0, 1, -0.5, most=(2,), least=(0,)))
    patterns = np.array([0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0], np.float32).reshape(1, 2, 2, 3) / 15
    shown = tuple(picture(16 + side, 16) for side in range(3))
    return HeadTable(**said("Seeing heads"), heads=rows, picture=picture(), patterns=patterns, pictures=shown)


def opening() -> Opening:
    """The verdict over the first map, two texts of which one opens its words."""
    return Opening(
        verdict="The model takes this for a red dog.", lead=overlay(), columns=("this picture",),
        texts=(("A", "a red dog", "+0.250"), ("B", EVIL, "−0.100")), words=("A word by word", ""),
        evidence=("The heads add +0.250.", EVIL),
    )  # fmt: skip


def grid() -> WordGrid:
    """Two patches on a picture and three tokens, by two layers, with two words each."""
    ranked = np.arange(5 * 2 * 2).reshape(5, 2, 2) % 3
    values = np.linspace(0.9, 0.1, 20, dtype=np.float32).reshape(5, 2, 2)
    return WordGrid(
        **said("Grid"), tokens=("row 0, column 0", "row 0, column 1", "what", EVIL, "?"), layers=("input", "0"),
        words=("dog", EVIL, "  "), ranked=ranked, values=values, unit="probability", picture=picture(),
        patches=np.array([[0.0, 1.0]]),
    )  # fmt: skip


def network() -> Layered:
    """Two towers of two heads and an MLP each, a connector between them, and a true graph of four links."""
    nodes = []
    for tower in ("vision", "text"):
        nodes.append(Node(f"{tower}.embed", tower, 0, "embedding", "begin"))
        nodes += [Node(f"{tower}.0.attn[{head}]", tower, 1, str(head), "head", 0, head) for head in range(2)]
        nodes.append(Node(f"{tower}.0.mlp", tower, 2, "MLP", "MLP", 0))
        ends = {"vision": Node(EVIL, "connector", 0, EVIL), "text": Node("text.end", tower, 3, "end", "end")}
        nodes.append(ends[tower])
    links = (
        Link(0, 1, 2.0, 0, "values", True), Link(1, 4, 1.5, 1, "", True), Link(4, 6, -1.0, 2, "keys", False),
        Link(6, 9, 0.75, 3, "", True), Link(5, 9, -0.5, 4, "", False), Link(0, 3, None, 9, "", True),
    )  # fmt: skip
    carried = np.array([0.0, 0.25, 0.9, 1.0], np.float32)
    return Layered(
        **said("Network"), nodes=tuple(nodes), links=links, total=10, sizes=(0, 2, 4, 10), carried=carried,
        low=carried - 0.125, high=carried + 0.125, chance=carried / 4, unit="share of the gap", score="loss", shown=1,
    )  # fmt: skip


def units() -> Units:
    """Three units: one with pictures and words, one with a curve, one of which little is known."""
    made = (
        Unit(4, EVIL, {"r": 0.5, "largest": 2.0}, (0, 0), (2.0, 1.5), (Context("a ", EVIL, " dog", 1.25),),
             (Phrase("a dog", None),), ((9, 0.75),)),
        Unit(9, "", {"r": 0.25, "largest": 4.0}, (0,), (4.0,), near=((4, 0.75),)),
        Unit(2, "", {"r": None, "largest": 0.0}),
    )  # fmt: skip
    curves = np.array([[0.0, 0.1, 0.3], [0.0, -0.1, -0.2], [np.nan] * 3], np.float32)
    return Units(
        **said("Units"), units=made, columns=("r", "largest"), sorted="r", pictures=(picture(),),
        maps=np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2) / 4, bins=("0", "1"),
        counts=np.array([[3, 1], [0, 5], [0, 0]], np.float32), points=Axis("times its largest", ("0", "1", "2")),
        curves=curves, chance=np.array([[-0.1] * 3, [0.0] * 3, [0.1] * 3], np.float32), effect="cosine",
    )  # fmt: skip


def part() -> Part:
    """A piece of everything that can be told."""
    return Part(
        title=f"Told {EVIL}", text=EVIL, lines=("one", EVIL), formula="a < b", command="cutaway", columns=("what", "n"),
        cells=((EVIL, "1 / 2"),), papers=(("one24", "One 2024"), ("lost", EVIL)),
    )  # fmt: skip


def board() -> Board:
    """Two rows and three columns, one place of which is empty."""
    squares = [Square(row, column, "full" if row else "bare", ("1 way",) * row, (part(),)) for row, column in
               ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))]  # fmt: skip
    return Board(
        **said("Board"), rows=("lens", EVIL), columns=("a", "b", "c"), squares=tuple(squares), groups=("first", ""),
        states=(("full", "it is there"), ("bare", "it is not")), about=((part(),), (Part(text="row"),)),
        more=((Part(title="Behind", folded=True, text=EVIL, lines=("inside",)),), (Part(text="more"),)),
        closed=("bare",), heads=("first column", "", ""),
    )  # fmt: skip


def remarks() -> Remarks:
    return Remarks(**said("Remarks"), remarks=(Remark("One", (part(),), "partly"), Remark(EVIL, (Part(text=EVIL),))))


def papers() -> Papers:
    """Four papers, of which two share a square and one is cited by the one in the centre."""
    made = (
        Paper(key="one24", title="One of lenses", author="One", year=2024, number="2401.00001", rows=(0,),
              columns=(0, 1), uses=(0,), used_by=("word_lens",), entry="@misc{one24}", checked="seen"),
        Paper(key="two25", title=EVIL, author=EVIL, year=2025, number="2501.00001", doubt=True, checked="not checked",
              rows=(0, 1), columns=(1,)),
        Paper(key="old", title="An old one", year=1999, about=("survey",)), Paper(key="none", title="Without a year"),
    )  # fmt: skip
    return Papers(
        **said("Papers"), papers=made, rows=("lens", EVIL), columns=("a", "b", "c"), uses=("use",), centre="old",
        cited=("one24",),
    )  # fmt: skip


def word_maps() -> WordMaps:
    """Two words with a map each way, one of them with bars of two groups."""
    values = np.arange(2 * 2 * 2 * 3, dtype=np.float32).reshape(2, 2, 2, 3) / 8 - 1
    bars = ((Bar("0.1", "heads", 0.5), Bar("7", "features", -0.25)), ())
    return WordMaps(
        **said("Lit"), picture=picture(), words=(EVIL, "dog"), told=("Probability 0.9", EVIL),
        ways=("straight", "any path"), values=values, bars=bars, unit="logits", shown=1,
    )  # fmt: skip


def every() -> list[View]:
    views = [overlay(), lens(), strip(), gallery(), heads(), bars(), patching(), tokens(), curve(), grid(), table()]
    return [*views, network(), units(), board(), remarks(), papers(), word_maps()]


def nothing() -> list[View]:
    """Views without rows, without numbers, and of the smallest sizes."""
    hole, axis = np.full((1, 1), np.nan), Axis("layer", ("0",))
    none = Axis("layer", ())
    two = {
        "pictures": (picture(), picture()),
        "sides": ("Clean", "Counterfactual"),
        "unit": "recovery",
        "captions": ("", ""),
    }
    return [
        Board(**said("No squares"), rows=(), columns=(), squares=(), states=()),
        Remarks(**said("No remarks"), remarks=()),
        Papers(**said("No papers"), papers=(), rows=(), columns=()),
        WordMaps(
            **said("No words"),
            picture=picture(),
            words=(),
            told=(),
            ways=("",),
            values=np.zeros((0, 1, 2, 2)),
            bars=(),
            unit="u",
        ),
        Units(**said("No units"), units=(), columns=("r",), sorted="r"),
        Overlay(**said("No texts"), picture=picture(), texts=(), values=np.zeros((0, 2, 2)), unit="u"),
        Overlay(**said("No numbers"), picture=picture(), texts=("", "x"), values=np.full((2, 3, 2), np.nan), unit="u"),
        WordGrid(
            **said("No grid"),
            tokens=(),
            layers=("0",),
            words=(),
            ranked=np.zeros((0, 1, 1)),
            values=np.zeros((0, 1, 1)),
            unit="u",
        ),
        Lens(
            **said("One layer"),
            picture=picture(),
            texts=("x",),
            layers=("0",),
            values=np.full((1, 1, 1, 7), 2.0),
            unit="u",
        ),
        Lens(**said("No layers"), picture=picture(), texts=("x",), layers=(), values=np.zeros((1, 0, 2, 2)), unit="u"),
        HeadTable(**said("No heads"), heads=()),
        HeadTable(**said("One head"), heads=(Head(3, 0, float("nan")),)),
        Bars(**said("No bars"), bars=(), unit="u"),
        Bars(**said("A bar of zero"), bars=(Bar("a", "g", 0.0),), unit="u"),
        Matrix(**said("Nothing patched"), **two, row_axis=none, column_axis=none, values=np.zeros((0, 0))),
        Matrix(**said("One hole"), **two, row_axis=axis, column_axis=axis, values=hole, grid=(1, 1)),
        Matrix(
            **said("No pictures"),
            pictures=(None, None),
            sides=("Clean", "Counterfactual"),
            unit="recovery",
            captions=("a", "b"),
            row_axis=axis,
            column_axis=axis,
            values=hole,
        ),
        Curve(**said("No lines"), x=none, lines=(), unit="u"),
        Curve(**said("One hole in a line"), x=axis, lines=(Line("a", hole[0]),), unit="u"),
        Layered(**said("No parts"), nodes=(), links=(), total=0, sizes=(0,), carried=np.zeros(1), unit="u", score="s"),
        Layered(
            **said("No links"),
            nodes=(Node("a", "text", 0, "a"),),
            links=(),
            total=0,
            sizes=(0,),
            carried=np.full(1, np.nan),
            unit="u",
            score="s",
        ),
        Table(**said("No rows"), columns=("a",), cells=()),
        Table(**said("No columns"), columns=(), cells=()),
    ]
