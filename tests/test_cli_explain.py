"""`explain`, `demo` and `run`, as a user types them."""

import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from cutaway import data
from cutaway.cli import app, main
from cutaway.methods.result import load
from cutaway.report import battery, explain
from cutaway.zoo import tiny
from cutaway.zoo.trained import MODELS

run = CliRunner(env={"COLUMNS": "160"}).invoke
METHODS = ("representation-decomposition", "logit-lens", "text-explanation", "linear-probing", "activation-patching")
TEXTS = ["--text", "a red dog", "--text", "a cat"]
trained_here = pytest.mark.skipif(not (MODELS / "emoji-clip").is_dir(), reason="zoo:emoji-clip is not in the package")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "b.png")):
        tiny.picture(seed).save(name)
    return tmp_path


@pytest.mark.parametrize("command", [["explain"], ["demo"], *(["run", method] for method in METHODS)])
def test_help_teaches_by_example(command):
    told = run(app, [*command, "--help"])
    assert told.exit_code == 0 and "Try: cutaway " + " ".join(command) in " ".join(told.output.split())


def test_explain_writes_a_report_and_says_where_and_what(photos):
    told = run(app, ["explain", "tiny:clip", "--image", "a.png", *TEXTS, "--counterfactual", "b.png"])
    assert told.exit_code == 0, told.output
    assert (photos / "reports" / "tiny-clip-a" / "report.html").is_file()
    assert "report.html" in told.output and "rather than" in told.output
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "tiny:clip", "--image", "a.png", *TEXTS])
    assert stopped.value.code == 2
    assert run(app, ["explain", "tiny:clip", "--image", "b.png", *TEXTS, "--out", "reports/tiny-clip-a",
                     "--overwrite"]).exit_code == 0  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "tiny:clip", "--image", "a.png"],
        ["explain", "tiny:clip", "--image", "none.png", *TEXTS],
        ["explain", "tiny:vit", "--image", "a.png", *TEXTS],
        ["run", "logit-lens", "tiny:clip", *TEXTS],
        ["run", "logit-lens", "tiny:clip", "--image", "a.png", *TEXTS, "--out", "lens.txt"],
        ["run", "text-explanation", "tiny:clip"],
        ["run", "linear-probing", "tiny:clip", "--label", "mood"],
        ["run", "linear-probing", "tiny:clip", "--pictures", "."],
        ["run", "activation-patching", "tiny:clip", "--image", "a.png", "--counterfactual", "b.png"],
    ],
)
def test_what_goes_wrong_is_one_paragraph(arguments, photos, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and said and "\n" not in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("representation-decomposition", ["--image", "a.png", "--image", "b.png", *TEXTS]),
        ("representation-decomposition", ["--tower", "text", *TEXTS]),
        ("logit-lens", ["--image", "a.png", "--text", "a dog"]),
        ("logit-lens", ["--image", "a.png", "--image", "b.png", *TEXTS, "--centre"]),
        ("text-explanation", ["--pictures", "emojiworld", "--bank", "words.txt", "--count", "6"]),
        ("text-explanation", ["--pictures", "emojiworld", "--bank", "words.txt", "--count", "6", "--image", "a.png"]),
        ("linear-probing", ["--label", "x", "--count", "40"]),
        ("activation-patching", ["--image", "a.png", "--counterfactual", "b.png", *TEXTS]),
        ("activation-patching", ["--image", "a.png", "--counterfactual", "b.png", *TEXTS, "--over", "head"]),
    ],
)
def test_each_method_prints_a_table_and_keeps_and_draws_its_numbers(method, arguments, photos):
    (photos / "words.txt").write_text("a dog\na cat\na red car\n")
    told = run(app, ["run", method, "tiny:clip", *arguments, "--out", "found.nc", "--plot", "found.png"])
    assert told.exit_code == 0, told.output or told.exception
    assert "wrote found.nc" in told.output and (photos / "found.png").stat().st_size > 1000
    assert any(character in told.output for character in "┃│")
    assert load("found.nc").provenance.model == "tiny:clip"
    with pytest.raises(SystemExit):
        main(["run", method, "tiny:clip", *arguments, "--out", "found.nc"])


def test_probing_takes_folders_as_classes(photos):
    for seed in range(16):
        folder = photos / "many" / ("even", "odd")[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        tiny.picture(seed).save(folder / f"{seed}.png")
    told = run(app, ["run", "linear-probing", "tiny:clip", "--pictures", "many"])
    assert told.exit_code == 0 and "folder" in told.output


@trained_here
def test_demo_writes_a_report_with_three_findings(tmp_path, monkeypatch):
    monkeypatch.setattr(explain, "crowd", lambda *_: list(data.scenes("test", 12)))  # as it is, but sooner
    monkeypatch.setattr(battery, "RUNS", 130)
    told = run(app, ["demo", "--out", str(tmp_path / "demo")])
    assert told.exit_code == 0, told.output
    assert (tmp_path / "demo" / "report.html").is_file()
    assert sum(line.startswith("- ") for line in told.output.splitlines()) == 3


def test_help_loads_nothing_heavy():
    code = (
        "import sys, cutaway.cli; print([name for name in ('torch', 'xarray', 'rich.progress') if name in sys.modules])"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout and "xarray" not in done.stdout
    assert time.perf_counter() - started < 5
