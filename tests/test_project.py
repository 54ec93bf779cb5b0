"""The house rules that a machine can check: size, layering, docstrings, annotations, a light import."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "cutaway"
FILES = {path.relative_to(SRC).as_posix(): path for path in sorted(SRC.rglob("*.py"))}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# A part of the package may import parts of its own rank and below. A top-level module that is not listed
# (errors.py, for one) is a foundation: rank 0, for everyone to use.
RANKS = {
    "cutaway": 11,  # the lazy front door
    "__main__": 11,
    "cli": 10,
    "report": 9,
    "atlas": 9,  # beside the report: each takes from the other
    "bench": 8,
    "applications": 7,
    "methods": 6,
    "jobs": 5,
    "views": 4,
    "questions": 3,
    "store": 2,
    "model": 1,
    "zoo": 1,
    "data": 1,
}

HEAVY = ("torch", "transformers", "diffusers", "xarray", "pandas", "matplotlib", "sklearn", "rich", "typer")

# Names that only model/ may use. Tensor.register_hook counts: a gradient is read through a site too.
HOOKS = re.compile(r"register_(\w+_)?hook$|register_forward|set_attn_processor$|^AttentionInterface$|^get_submodule$")

# How many class names a file reads that no table could hold: each model of transformers has an RMSNorm class of its
# own, and that they are called so is all they share (`is_rms`).
CLASS_NAMES_READ = {"model/seats.py": 1}

# What holds on one machine only: absolute paths where people keep their files, and hosts that serve packages.
# Written so that no pattern matches itself.
MACHINE_NAMES = re.compile(
    r"(?<![\w./~-])/(?:root|workspace|mnt|media|data\d*|scratch)/[\w.~-]"
    r"|(?<![\w./~-])/(?:home|Users)/[\w.-]+/"
    r"|(?<![\w.])[A-Za-z]:\\\\?Users\\"
    r"|\b(?:pypi|index|wheels|packages|mirrors?|artifactory|nexus|conda|anaconda|registry|download)\.[\w-]+\.(?:org|com|io|net|dev)\b"
    r"|\bpypi[.]org\b|\bpythonhosted[.]org\b"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def over(names: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """A rule asked of these files in one test, which tells every file that breaks it."""

    def asked(rule: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for name in names:
                try:
                    rule(name)
                except AssertionError as error:
                    broken.append(str(error).partition("\nassert ")[0])
            assert not broken, "\n".join(broken)

        test.__doc__, test.__module__ = rule.__doc__, rule.__module__
        return test

    return asked


each_file = over(FILES)


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def functions(name: str) -> Iterator[Function]:
    return (node for node in ast.walk(tree(name)) if isinstance(node, FUNCTION))


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """The classes, functions and methods that a user can name, with their dotted names."""
    for node in body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


def decorators(node: Function | ast.ClassDef) -> set[str]:
    """The last words of a definition's decorators: `typing.overload` and `size.setter` give overload and setter."""
    heads = (deco.func if isinstance(deco, ast.Call) else deco for deco in node.decorator_list)
    return {ast.unparse(head).rpartition(".")[2] for head in heads}


def identifiers(name: str) -> Iterator[tuple[int, str]]:
    """Every name, attribute and imported name in a file, with its line."""
    for node in ast.walk(tree(name)):
        match node:
            case ast.Attribute(attr=word) | ast.Name(id=word):
                yield node.lineno, word
            case ast.ImportFrom(names=aliases):
                yield from ((node.lineno, alias.name) for alias in aliases)


def imports(name: str) -> Iterator[tuple[int, str]]:
    """The dotted cutaway modules (or names in them) that a file imports, relative imports resolved."""
    package = ["cutaway", *Path(name).parent.parts]
    for node in ast.walk(tree(name)):
        match node:
            case ast.Import(names=aliases):
                yield from ((node.lineno, alias.name) for alias in aliases if alias.name.split(".")[0] == "cutaway")
            case ast.ImportFrom(module=module, names=aliases, level=level):
                base = package[: len(package) - level + 1] if level else []
                dotted = ".".join([*base, *([module] if module else [])])
                if dotted == "cutaway":
                    yield from ((node.lineno, f"cutaway.{alias.name}") for alias in aliases)
                elif dotted.startswith("cutaway."):
                    yield node.lineno, dotted


def part_of(dotted: str) -> str:
    """The part that an imported name belongs to; a name that the front door hands out belongs to the front door."""
    top = dotted.split(".")[1] if "." in dotted else "cutaway"
    return top if (SRC / top).is_dir() or (SRC / f"{top}.py").is_file() else "cutaway"


def report(name: str, problems: list[str], advice: str) -> None:
    assert not problems, f"src/cutaway/{name}: {advice}\n  " + "\n  ".join(problems)


@each_file
def test_file_is_short(name: str) -> None:
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, (
        f"src/cutaway/{name} has {lines} lines (at most {MAX_FILE_LINES}): split it by topic"
    )


@each_file
def test_functions_are_short(name: str) -> None:
    sizes = [(node, node.end_lineno - node.lineno + 1) for node in functions(name)]
    long = [f"line {node.lineno}: {node.name} has {size} lines" for node, size in sizes if size > MAX_FUNCTION_LINES]
    report(name, long, f"name a step and move it out; at most {MAX_FUNCTION_LINES} lines, docstring included")


@each_file
def test_public_things_have_docstrings(name: str) -> None:
    exempt = {"overload", "override", "setter", "deleter"}
    bare = [
        f"line {node.lineno}: {what}"
        for what, node in public(tree(name).body)
        if not ast.get_docstring(node) and not exempt & decorators(node)
    ]
    report(name, bare, "say in one line what it gives and in which units, or start the name with an underscore")


@each_file
def test_module_has_a_docstring(name: str) -> None:
    if tree(name).body:
        assert ast.get_docstring(tree(name)), (
            f"src/cutaway/{name}: start with one line that says what the module is for"
        )


@each_file
def test_public_functions_are_annotated(name: str) -> None:
    problems = []
    for what, node in public(tree(name).body):
        if isinstance(node, FUNCTION):
            spec, bound = node.args, "." in what and "staticmethod" not in decorators(node)
            named = [*spec.posonlyargs, *spec.args][bound:] + spec.kwonlyargs
            missing = [arg.arg for arg in (*named, spec.vararg, spec.kwarg) if arg and arg.annotation is None]
            missing += [] if node.returns else ["its result"]
            problems += [f"line {node.lineno}: {what}: {', '.join(missing)}"] if missing else []
    report(name, problems, "annotate these; give tensors their shapes with jaxtyping")


@each_file
def test_no_prints(name: str) -> None:
    calls = (node for node in ast.walk(tree(name)) if isinstance(node, ast.Call))
    prints = [f"line {c.lineno}" for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    report(name, prints, "return the value, or raise; only cli/ talks, and it talks through rich")


@over([name for name in FILES if name.startswith("report/") and not name.startswith("report/findings")])
def test_the_report_names_no_method(name: str) -> None:  # the findings are programmes of their own
    folders = {path.name for path in (SRC / "methods").iterdir() if path.is_dir()}
    parts = [(line, dotted.split(".")) for line, dotted in imports(name)]
    named = [f"line {line}: {'.'.join(words)}" for line, words in parts
             if words[1:2] == ["methods"] and (len(words) < 3 or words[2] in folders)]  # fmt: skip
    report(name, named, "take methods from cutaway.methods.table: what they show stands beside them")


@over([name for name in FILES if name.startswith(("methods/", "report/"))])
def test_the_code_of_a_view_is_written_nowhere(name: str) -> None:
    calls = (node for node in ast.walk(tree(name)) if isinstance(node, ast.Call))
    given = [
        key.value
        for call in calls
        for key in call.keywords
        if key.arg == "code" and ast.unparse(call.func) != "replace"
    ]
    typed = [f"line {value.lineno}" for value in given for part in ast.walk(value) if isinstance(part, ast.Constant)
             and isinstance(part.value, str) and " " in part.value]  # fmt: skip
    report(name, typed, "show what a function makes (`applied.look(function).code`): its own lines are the code")


@each_file
def test_no_broad_except(name: str) -> None:
    handlers = (node for node in ast.walk(tree(name)) if isinstance(node, ast.ExceptHandler))
    broad = {"Exception", "BaseException"}
    found = [
        f"line {handler.lineno}"
        for handler in handlers
        if handler.type is None or broad & {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)}
    ]
    report(name, found, "catch the errors you expect by name; clean up in finally")


@each_file
def test_only_model_touches_hooks(name: str) -> None:
    if not name.startswith("model/"):
        found = [f"line {line}: {word}" for line, word in identifiers(name) if HOOKS.search(word)]
        report(name, found, "read and write through sites (model.run, edits); hooks live in model/")


def is_class_name(node: ast.AST) -> bool:
    """Whether this is `type(x).__name__`, `x.__class__.__name__` or `kind.__name__`."""
    return isinstance(node, ast.Attribute) and node.attr == "__name__"


@each_file
def test_class_names_are_looked_up_and_not_compared(name: str) -> None:
    found = []
    for node in ast.walk(tree(name)):
        match node:
            case ast.Compare(left=left, comparators=others):
                sides = [left, *others]
                said = any(isinstance(part, ast.Constant) for side in sides for part in ast.walk(side))
                sniffs = said and any(map(is_class_name, sides))
            case ast.Call(func=ast.Attribute(value=value, attr="startswith" | "endswith")):
                sniffs = is_class_name(value)
            case _:
                continue
        found += [f"line {node.lineno}"] if sniffs else []
    found = found[CLASS_NAMES_READ.get(name, 0) :]
    report(name, found, "what a class does in its own way is a row or a column of model/table.py, with its reason")


@each_file
def test_imports_point_downward(name: str) -> None:
    own = "cutaway" if name == "__init__.py" else Path(name).parts[0].removesuffix(".py")
    upward = [
        f"line {line}: {dotted}"
        for line, dotted in imports(name)
        if dotted != "cutaway.__version__" and RANKS.get(part_of(dotted), 0) > RANKS.get(own, 0)
    ]
    advice = "import downward only (cli > report, atlas > bench > applications > methods > jobs > views > questions > "
    advice += "store > model, zoo, data > the rest), and from the module that defines the name, not from cutaway itself"
    report(name, upward, advice)


@over([path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob("*.py"))])
def test_tests_use_public_names_of_the_package(path: str) -> None:
    """None is imported from `cutaway` that is private there, read of a module of it, or put in its place."""
    parsed, modules, found = ast.parse((ROOT / path).read_text(encoding="utf-8")), set(), []
    for node in ast.walk(parsed):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cutaway"):
            modules |= {alias.asname or alias.name for alias in node.names}
            found += [f"line {node.lineno}: {alias.name}" for alias in node.names if alias.name.startswith("_")]
    for node in ast.walk(parsed):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=word) if owner in modules:
                found += [f"line {node.lineno}: {owner}.{word}"] if word.startswith("_") and word[1] != "_" else []
            case ast.Call(
                func=ast.Attribute(attr="setattr"), args=[ast.Name(id=owner), ast.Constant(value=str(word)), *_]
            ):
                found += [f"line {node.lineno}: {word}"] if owner in modules and word.startswith("_") else []
    assert not found, f"{path}: test what a user can call, or give the step a public name\n  " + "\n  ".join(found)


def test_importing_cutaway_is_light() -> None:
    code = "import sys, cutaway; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=SRC.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = sorted(set(HEAVY) & set(done.stdout.split()))
    assert not loaded, f"`import cutaway` loads {', '.join(loaded)}: import the module that needs it on first use"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("see /" + "home/ann/models", True), ("/" + "Users/ann/x", True), ("/" + "root/.cache", True),
        ("cd /" + "mnt/big", True), ("C:\\" + "Users\\ann", True), ("https://" + "pypi" + ".org/simple", True),
        ("https://files." + "pythonhosted" + ".org/a", True), ("http://" + "mirror" + ".example.org/pypi", True),
        ("download" + ".pytorch.org/whl/cpu", True), ("~/photos and $HOME/x", False), ("/tmp/x", False),
        ("src/data/x, a/home/b", False), ("https://arxiv.org/abs/1", False), ("https://huggingface.co/a/b", False),
        ("torch.mnt/x", False), ("/usr/bin/env python", False),
    ],
)  # fmt: skip
def test_machine_names_are_known_by_a_general_rule(line: str, found: bool) -> None:
    assert bool(MACHINE_NAMES.search(line)) is found


def test_no_machine_names() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout, so nothing says which files belong to the project")
    problems = []
    for path in (ROOT / name for name in done.stdout.split("\0") if name):
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" not in data[:4096]:
            lines = enumerate(data.decode("utf-8", errors="replace").splitlines(), 1)
            hits = ((number, MACHINE_NAMES.search(line)) for number, line in lines)
            problems += [f"{path.relative_to(ROOT)}:{number}: {hit[0]}" for number, hit in hits if hit]
    assert not problems, "use relative paths, ~ or $HOME, and name no package host:\n  " + "\n  ".join(problems)
