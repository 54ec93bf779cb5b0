"""What the pages and docstrings show runs, and what they name exists."""

import doctest
import importlib
import linecache
import pkgutil
import re
import sys
import types
from pathlib import Path

import pytest

import cutaway
from cutaway.zoo.trained import trained

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(cutaway.__path__, "cutaway.")
    if not module.name.endswith("__main__")
)


def test_the_readme_example_runs(capsys):
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[:2])
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102, the page is ours
    assert "Knockout" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["methods.md", "adding-a-method.md"])
def test_the_pages_on_methods_run(page, capsys):
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S))
    for needs in set(re.findall(r"zoo:([\w-]+)", code)):
        if not trained(needs).here:
            pytest.skip(f"zoo:{needs} is not in this checkout")
    code = re.sub(r"(?m)^from cutaway.methods.neuron_descriptions.*$", "", code)  # a page is one file
    module = types.ModuleType("page")
    sys.modules["page"] = module  # where dataclasses look up their own names
    code = code.replace("from __future__", "#")
    linecache.cache[page] = (len(code), None, code.splitlines(keepends=True), page)  # a view prints its own lines
    exec(compile(code, page, "exec"), module.__dict__)  # noqa: S102, the page is ours
    assert "question." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "needs", "said"),
    [
        ("lenses.md", "", "rank of dog"),
        ("guide.md", "emoji-clip", "without the named heads"),
        ("guide-sides.md", "emoji-llava", r"(?s)2: [^:]* 1.00, .*layer 3: without the look of the names 0\.\d+, .* 1"),
        ("circuits.md", "", r"(?s)190 edges.*text.embed.*Circuit\(\d+ edges of 'tiny:llama'\) True 1.0.*190\]"),
        ("task-vectors.md", "emoji-llava", "a picture alone"),
        ("word-maps.md", "emoji-sd", "fox  "),
        ("guide-drawing.md", "emoji-sd", r"(?s)without “fox”: 1.*embed: a fox 0.*: a fox 1.*edit:.*': 1.0.*': 1"),
        ("concept-edits.md", "emoji-sd", "a fox → a duck"),
        ("pipelines.md", "", r"(?s)\[False, False, True, True\].*cond.*uncond.*takes no `prompt=`"),
        ("tracing-drawings.md", "emoji-sd", "the word"),
        ("causal-tracing.md", "emoji-llava", r"(?s)attention.*picture->last"),
        ("relevance.md", "emoji-llava", r"(?s)the patch at row.*Located.*by chance.*token.*\(8, 8\)"),
        ("velocity.md", "emoji-mmdit", r"(?s)times chance.*Heads bring .* from words"),
        ("probing-drawings.md", "", "background"),
        ("attend-and-excite.md", "emoji-sd", r"(?s)excited.*'side': 3"),
        ("planted-circuits.md", "planted-text", r"(?s)text.2.attn\[2\] → text.end.*text.2.attn\[2\] *1\.0"),
        ("jobs.md", "", r"(?s)\('site', 'head', 'token', 'row'\) \(3, 4, 3, 1\).*\[0, 1, 2, 3\] \(8, 1\)"),
        ("head-relevance.md", "emoji-sd", r"(?s)colour .*\(64, 64\)"),
        ("attribution-truth.md", "emoji-clip", r"(?s)\(64, 192\) \(64, 40\).*0\.2"),
        (
            "dictionaries.md",
            "emoji-clip",
            r"(?s)384 features.*True.*\(130, 384\) \(130, 128\).*mlp.out .*\('kind',\).*0.0.*True",
        ),
        ("dictionary-measures.md", "emoji-clip", r"(?s)topk.*neurons, as sparse.*recovered.*oracle +1\.0"),
        ("neurons.md", "emoji-clip", r"(?s)labelled_null.*'pearson'.*shuffled.*others ablated.*both .*drawn \+ other"),
        ("concept-dictionaries.md", "emoji-llava", r"(?s)semi-nmf.*states.*words"),
        ("features.md", "emoji-clip", r"(?s)\(1, 65, 1024\).*True.*attribution.*concept.*shuffled pictures"),
        ("atlas.md", "", r"(?s)cyw25.*@misc\{gandel23.*syed23.*measured.*for sounds.*3 .bad key. is no.*atlas.html"),
        ("data-attribution.md", "emoji-clip", r"(?s)\[4, .*16480 \[.*16480 \["),
        ("store.md", "emoji-clip", r"(?s)6240 in 'vision'.*\(96, 128\).*1 +3 +cond.*resid_post image +6144"),
    ],
)
def test_a_page_runs_from_top_to_bottom(page, needs, said, capsys):
    if needs and not trained(needs).here:
        pytest.skip(f"zoo:{needs} is not in this checkout")
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S))
    exec(compile(code, page, "exec"), {})  # noqa: S102, the page is ours
    assert re.search(said, capsys.readouterr().out)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


def test_some_docstring_has_an_example():
    finder = doctest.DocTestFinder()
    examples = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(examples) >= 3


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
)
def test_links_between_pages_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_architecture_page_names_every_file():
    """Each by its name, behind its folder or not; `declared.py` and `views.py` are those of every method."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"(?<=[`/ ])(\w+\.py)\b", text))
    here = {path.name for path in (ROOT / "src" / "cutaway").rglob("*.py")} - {"__init__.py"}
    assert here <= named, f"docs/architecture.md does not name {', '.join(sorted(here - named))}"
    gone = named - here - {"__init__.py", "second.py", "test_project.py", "devices.py"}
    assert not gone, f"docs/architecture.md names {', '.join(sorted(gone))}, which are not there"
