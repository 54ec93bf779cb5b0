"""What circuits take, need and can not tell: edges, how much they carry, paths, and places to first order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing import circuit_views
from cutaway.methods.causal_tracing.activation_patching import usual_sites
from cutaway.methods.causal_tracing.alignment import distributed_alignment_search
from cutaway.methods.causal_tracing.attribution_patching import attribution_patching
from cutaway.methods.causal_tracing.completeness import completeness
from cutaway.methods.causal_tracing.edges import edge_attribution
from cutaway.methods.causal_tracing.faithfulness import SHARES, faithfulness
from cutaway.methods.causal_tracing.head_attribution import head_attribution
from cutaway.methods.causal_tracing.minimality import minimality
from cutaway.methods.causal_tracing.path_patching import path_patching
from cutaway.methods.method import Entry, Method
from cutaway.model.graph import readers
from cutaway.model.weights import readout
from cutaway.questions.pairs import same_positions
from cutaway.questions.question import Question

ROW = "causal tracing and circuits"
TAKES = {"model": "model", "clean": "inputs", "counterfactual": "counterpart.inputs", "target": "target"}
CARRIED = {**TAKES, "clean": "from_words", "counterfactual": "along"}
READ = {"cls": 0, "last": -1}  # where a tower is read, as a position; all of them where it is read otherwise
MANY = 250  # receivers of a graph on a page: each may need a copy of the inputs in every run


def _uneven(question: Question, towers: Iterable[str]) -> str:
    """Why positions of the two inputs do not line up; "" where they do, or where there are not two."""
    other = question.counterpart
    if question.inputs is None or other is None or other.inputs is None:
        return ""
    try:
        for tower in towers:
            same_positions(question.inputs, other.inputs, tower, 0)
    except MethodError as error:
        return error.failed
    return ""


def _same(question: Question) -> str:
    """Why there is nothing between the two to share out: the model's own numbers."""
    return question.alike and f"{question.alike}, so nothing can be shared out"


def _fits(question: Question) -> str:
    """Why a pair has no graph that tells it apart: positions, blocks, then the model's own numbers; "" where it has."""
    if why := _uneven(question, question.streams or ()):
        return why
    try:
        if question.from_words is not None:
            readers(question.model, question.from_words)
    except MethodError as error:
        return error.failed
    return _same(question)


def _routes(question: Question) -> str:
    """The same for what runs the rows several times side by side."""
    packed = [tower for tower in question.streams or () if question.model.towers[tower.split(".")[0]].packed]
    return _fits(question) or (f"the rows of '{packed[0]}' lie behind one another" if packed else "")


def _page(question: Question) -> str:
    """The same for what a page has of it, where every receiver may need a copy of the inputs."""
    why = _routes(question)
    count = 0 if why or question.from_words is None else readers(question.model, question.from_words)
    much = f"its graph has {count} receivers, more than a page takes; `cutaway run faithfulness` keeps its best edges"
    return why or (much if count > MANY else "")


def _lines_up(question: Question) -> str:
    """Why places of the two inputs can not be compared: positions, or the model's own numbers; "" where they can."""
    return _uneven(question, () if question.inputs is None else question.inputs.tokens) or _same(question)


def _copies(_: Question, given: Mapping[str, Any]) -> str:
    """How many circuits are run."""
    return f"{(1 + given.get('draws', 3)) * len(given.get('shares', SHARES))} circuits"


def _middle(question: Question, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The residual stream of the middle layer of the tower that is answered from, where that tower is read."""
    sites = question.model.sites[usual_sites(question.model)]
    site = question.model.sites.one(given.get("site", sites[len(sites) // 2]))
    usual: dict[str, Any] = {"site": str(site)}
    if site.tower == sites[0].tower:
        usual["at"] = READ.get(readout(question.model, site.tower).at)
    return {name: value for name, value in usual.items() if name not in given}


METHODS = (
    Method(
        function=edge_attribution,
        row=ROW,
        takes=CARRIED,
        needs=("streams",),
        fitting=_fits,
        options={
            "how": "eap, eap-ig or eap-ig-activations: by gradients; exact: every edge by a run of its own.",
            "points": "At how many points between the two inputs gradients are taken.",
        },
        cannot="Edges are judged one at a time: copies that stand in for one another all look unneeded, and a gradient "
        "does not see what a softmax does over a long way.",
    ),
    Method(
        function=faithfulness,
        row=ROW,
        takes=CARRIED,
        needs=("streams",),
        fitting=_page,
        cost=_copies,
        options={
            "order": "A circuit in a file, whose edges are measured; else the best of this pair.",
            "signed": "Rank edges by score, not by size: those that speak for the answer first.",
            "draws": "How many orders by chance stand beside it.",
        },
        cannot="Measured on the pairs that made the order it flatters the order, and a faithful circuit need not be "
        "the only one, or minimal.",
        reported=(Entry(name="circuit", options={"draws": 1}),),
        show=circuit_views.show,
        tell=circuit_views.tell,
    ),
    Method(
        function=completeness,
        row=ROW,
        takes=CARRIED,
        needs=("streams",),
        fitting=_routes,
        options={
            "circuit": "A circuit in a file; else the fewest edges that keep 90 % on this pair.",
            "draws": "How many parts of it are cut at each share.",
        },
        cannot="A part of the circuit that no draw cuts may still have a stand-in outside.",
    ),
    Method(
        function=minimality,
        row=ROW,
        takes=CARRIED,
        needs=("streams",),
        fitting=_routes,
        options={
            "circuit": "A circuit in a file; else the fewest edges that keep 90 % on this pair.",
            "tried": "How many of its edges are taken away, by chance, where it has more.",
            "parts": "How many halves of it each edge is also taken from.",
            "draws": "How many edges by chance are added in comparison.",
        },
        cannot="An edge whose copy no drawn part takes away counts as not needed.",
    ),
    Method(
        function=path_patching,
        row=ROW,
        takes=CARRIED,
        needs=("streams",),
        fitting=_routes,
        options={
            "senders": "Who is heard otherwise: a name or pattern, such as text.*.mlp.",
            "receivers": "By whom: a name or pattern, such as text.2.attn*.q; *.end gives direct effects.",
        },
        cannot="What several senders do together, and whether a receiver would have heard the same elsewhere.",
    ),
    Method(
        function=head_attribution,
        row=ROW,
        takes=TAKES,
        fitting=_lines_up,
        cost=lambda _, given: f"{given.get('draws', 256)} runs with some heads as in the other input",
        options={
            "draws": "How many random sets of heads.", "share": "How many of all heads are in a set.",
            "sites": "Heads of which sites; by default of the tower that the answer comes out of.",
        },
        spreads=True,
        cannot="Who stands in for whom: the surrogate is linear, and weights depend on how many heads are gone.",
    ),
    Method(
        function=attribution_patching,
        row=ROW,
        takes=TAKES,
        fitting=_lines_up,
        options={
            "over": "Score by head, token or unit.", "sites": "Sites to score; by default what fits --over.",
            "points": "At how many points between the two inputs gradients are taken; 0: at this one alone.",
        },
        cannot="How far the first order holds: behind a saturated softmax or beside a copy a place that matters can "
        "score nothing.",
    ),
    Method(
        function=distributed_alignment_search,
        row=ROW,
        takes={"model": "model", **{name: f"opposed.{name}" for name in ("clean", "source", "target", "labels")}},
        needs=("pictures", "target", "opposed"),
        chosen=_middle,
        cost=lambda _, given: f"{given.get('steps', 100)} steps of a fit to pictures of the crowd",
        options={
            "site": "Whose state: vision.4.resid_post, say; else the residual stream in the middle.",
            "dims": "Of how many dimensions the subspace is.",
            "steps": "Steps of the fit.",
        },
        many=128,
        cannot="That the model has the variable: with enough dimensions a fit finds a way through states that it "
        "never uses. Read it against the whole state, and the model before training.",
    ),
)  # fmt: skip
