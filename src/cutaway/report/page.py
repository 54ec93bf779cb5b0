"""The report: one HTML file with everything inside, which opens offline, on a phone, and years from now.

Nothing is fetched: a content security policy in the page forbids every connection, and every script that is not the
page's own. Texts from users reach the page as escaped HTML or as JSON that no parser can take for markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from cutaway.errors import InputError
from cutaway.views.encode import encode
from cutaway.views.kinds import Opening, View

STYLES = ("page.css", "boards.css")
SCRIPTS = ("page.js", "colour.js", "heatmap.js", "figure.js", "maps.js", "charts.js", "grid.js",
           "heads.js", "units.js", "words.js", "captions.js", "graph.js", "boards.js", "papers.js",
           "start.js")  # fmt: skip
MOUNT = "cutaway.mount(document.currentScript)"


def page(
    title: str, views: Iterable[View], *, summary: str = "", provenance: Mapping[str, object] | None = None,
    opening: Opening | None = None,
) -> str:  # fmt: skip
    """The whole report as one HTML text. Empty lines in `summary` part its paragraphs; `opening` stands before all."""
    views = list(views)
    pool: dict[str, str] = {}
    names = _anchors(views)
    titles = dict(zip([view.title for view in views], names, strict=True))
    begin = "" if opening is None else _opening(opening, titles, pool)
    sections = [_section(view, name, pool) for view, name in zip(views, names, strict=True)]
    style = "\n".join(map(_asset, STYLES))
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(name) for name in SCRIPTS) + "\n})();"
    links = (f'<li><a href="#{name}">{_text(view.title)}</a></li>' for view, name in zip(views, names, strict=True))
    return Template(_asset("page.html")).substitute(
        policy=_policy(style, script),
        title=_text(title),
        style=style,
        script=script,
        mount=MOUNT,
        pictures=_inert({key: uri for uri, key in pool.items()}),
        opening=begin,
        summary="".join(f"<p>{_text(part)}</p>" for part in re.split(r"\n\s*\n", summary) if part.strip()),
        provenance=_details("How this report was made", _pairs(provenance or {})) if provenance else "",
        cited=_cited(views),
        contents="".join(links),
        count=len(views),
        sections="\n".join(sections) or '<p class="empty">This report has no views.</p>',
    )


def write(
    path: str | Path,
    title: str,
    views: Iterable[View],
    *,
    summary: str = "",
    provenance: Mapping[str, object] | None = None,
    overwrite: bool = False,
    opening: Opening | None = None,
) -> Path:
    """Write the report to `path` and return it. A file that is already there is kept, unless `overwrite`."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(
            f"there is no folder '{path.parent}' to write '{path.name}' into",
            expected="a path in a folder that exists",
            do="make the folder first",
        )
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(
            f"'{path}' is already there",
            expected="a path where there is no file yet",
            do="choose another name" if path.is_dir() else "choose another name, or pass overwrite=True",
        )
    text = page(title, views, summary=summary, provenance=provenance, opening=opening)
    with path.open("w" if overwrite else "x", encoding="utf-8", newline="\n") as file:
        file.write(text)
    return path


def _opening(opening: Opening, names: Mapping[str, str], pool: dict[str, str]) -> str:
    """The verdict, its map, the texts and the evidence; a word of a text is a link to its map."""
    lead = (
        ""
        if opening.lead is None
        else f"""<figure class="lead"><div class="stage"></div>
<script type="application/json">{_inert(encode(opening.lead, pool))}</script>
<script>{MOUNT}</script>
<figcaption>{_text(opening.lead.seen)}</figcaption></figure>"""
    )
    head = "".join(f'<th scope="col" class="number">{_text(name)}</th>' for name in opening.columns)
    rows = []
    for at, (letter, text, *numbers) in enumerate(opening.texts):
        view = names.get(opening.words[at] if at < len(opening.words) else "", "")
        linked = (f'<a href="#{view}" data-word="{place}">{_text(word)}</a>' for place, word in enumerate(text.split()))
        said = " ".join(linked) if view else _text(text)
        cells = "".join(f'<td class="number">{_text(number)}</td>' for number in numbers)
        rows.append(f'<tr><th scope="row"><b>{_text(letter)}</b> <span dir="auto">{said}</span></th>{cells}</tr>')
    hint = " <small>(a word opens its map)</small>" if any(opening.words) else ""
    texts = f"""<div class="scroller"><table class="texts">
<thead><tr><th scope="col">{_text(opening.heading)}{hint}</th>{head}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>"""
    evidence = "".join(f"<li>{_text(said)}</li>" for said in opening.evidence)
    return f"""<p class="verdict">{_text(opening.verdict)}</p>
{lead}
{texts if rows else ""}
{f'<ul class="evidence">{evidence}</ul>' if evidence else ""}"""


def _section(view: View, name: str, pool: dict[str, str]) -> str:
    kind = type(view).__name__
    copy = '<button type="button" class="quiet" data-do="copy">Copy as Python</button>' if view.code.strip() else ""
    code = _details("Python", f"<pre><code>{_text(view.code.strip())}</code></pre>") if copy else ""
    origin = _details("Origin", _pairs(view.provenance)) if view.provenance else ""
    warning = f'<p class="warning">{_text(view.warning)}</p>' if view.warning else ""
    return f"""<section class="view {kind.lower()}" id="{name}" aria-labelledby="{name}-title">
<details class="fold"{"" if view.folded else " open"}><summary><h2 id="{name}-title">{_text(view.title)}</h2>
<span class="gist" aria-hidden="true">{_text(view.warning or view.seen)}</span></summary>
{warning}<p class="seen">{_text(view.seen)}</p>
<div class="stage"></div>
<script type="application/json">{_inert(encode(view, pool))}</script>
<script>{MOUNT}</script>
<p class="limits"><b>What this can not tell.</b> {_text(view.limits)}</p>
<div class="tools"><button type="button" class="quiet" data-do="csv">Save CSV</button>{copy}
{code}{origin}<span class="said" role="status"></span></div>
</details></section>"""


def _anchors(views: Sequence[View]) -> list[str]:
    """A name for each view that survives adding others: its title in plain letters, numbered when taken."""
    names: list[str] = []
    for view in views:
        base = "-".join(re.findall(r"[a-z0-9]+", view.title.lower()))[:60].strip("-") or "view"
        name, number = f"v-{base}", 2
        while name in names:
            name, number = f"v-{base}-{number}", number + 1
        names.append(name)
    return names


def _cited(views: Iterable[View]) -> str:
    """The works behind the views, from the sources that their results carry, and a button that copies them."""
    sources = dict.fromkeys(str(view.provenance["source"]) for view in views if view.provenance.get("source"))
    if not sources:
        return ""
    from cutaway.atlas.cite import cite
    from cutaway.atlas.mentions import works_of

    works = works_of(sources)
    lines = "".join(f"<li>{_text(work.said)}</li>" for work in works)
    copy = '<button type="button" class="quiet" data-do="cite">Copy BibTeX</button>'
    entries = _details("BibTeX", f"<pre><code>{_text(cite(works))}</code></pre>")
    inside = f'<ul>{lines}</ul>{copy}<span class="said" role="status"></span>{entries}'
    return f'<details class="cited"><summary>What to cite ({len(works)})</summary>{inside}</details>'


def _pairs(items: Mapping[str, object]) -> str:
    """A dictionary as a list of terms; what is nested is shown as JSON."""

    def said(value: object) -> str:
        plain = encode(value)
        return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)

    rows = (f"<dt>{_text(str(key))}</dt><dd>{_text(said(value))}</dd>" for key, value in items.items())
    return f"<dl>{''.join(rows)}</dl>"


def _details(label: str, inside: str) -> str:
    return f"<details><summary>{label}</summary>{inside}</details>"


def _text(words: str) -> str:
    return html.escape(words, quote=True)


def _inert(value: object) -> str:
    """JSON that stays JSON inside a script element, whatever the texts in it say."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(style: str, script: str) -> str:
    """No connection at all; of styles and scripts only these, known by their hashes."""

    def known(source: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {known(style)}; "
        f"script-src {known(script)} {known(MOUNT)}; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return (files("cutaway.report") / "assets" / name).read_text(encoding="utf-8").strip()
