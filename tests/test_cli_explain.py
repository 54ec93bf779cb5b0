"""`explain`, `demo` and `run`, as a user types them."""

import importlib
import inspect
import itertools
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import cutaway
from cutaway import data
from cutaway.cli import app, main
from cutaway.methods.causal_tracing import declared as patching
from cutaway.methods.result import load
from cutaway.questions import given
from cutaway.zoo import tiny
from cutaway.zoo.spec import MODELS

run = CliRunner(env={"COLUMNS": "160"}).invoke
PAIR = ["--image", "a.png", "--counterfactual", "b.png"]
TEXTS = ["--text", "a red dog", "--text", "a cat"]
trained_here = pytest.mark.skipif(not (MODELS / "emoji-clip").is_dir(), reason="zoo:emoji-clip is not in the package")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "b.png")):
        tiny.picture(seed).save(name)
    return tmp_path


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


def test_explain_asks_a_model_that_answers(photos):
    told = run(app, ["explain", "tiny:llava", "--image", "a.png", "--text", "what is this", "--answer", "dog",
                     "--rival", "cat", "--counterfactual", "what is that"])  # fmt: skip
    assert told.exit_code == 0, told.output
    assert "“dog” rather than “cat”" in told.output
    assert (photos / "reports" / "tiny-llava-a" / "patching_token.nc").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "tiny:clip", "--image", "a.png"],
        ["explain", "tiny:clip", "--image", "none.png", *TEXTS],
        ["explain", "tiny:vit", "--image", "a.png", *TEXTS],
        ["run", "logit-lens", "tiny:clip", *TEXTS],
        ["run", "logit-lens", "tiny:clip", "--image", "a.png", *TEXTS, "--out", "lens.txt"],
        ["run", "linear-probing", "tiny:clip", "--label", "mood"],
        ["run", "linear-probing", "tiny:clip", "--pictures", "."],
        ["run", "activation-patching", "tiny:clip", "--image", "a.png", "--counterfactual", "b.png"],
        ["explain", "tiny:clip", "--image", ".", *TEXTS],
        ["explain", "tiny:clip", "--image", "a.png", *TEXTS, "--pictures", "a.png"],
        ["explain", "tiny:clip", "--image", "a.png", *TEXTS, "--bank", "empty.txt"],
        ["explain", "tiny:clip", "--image", "a.png", *TEXTS, "--out", "a.png/report"],
        ["explain", "tiny:clip", "--image", "a.png", *TEXTS, *TEXTS[:2]],
        ["run", "head-texts", "tiny:clip", "--pictures", "emojiworld", "--bank", "empty.txt"],
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_paragraph_before_a_model_is_opened(arguments, photos, capsys, monkeypatch):
    (photos / "empty.txt").write_text("")
    if arguments[1] != "tiny:vit":
        for module in (given, sys.modules["cutaway.questions.asked"]):
            monkeypatch.setattr(module, "load", lambda *_: pytest.fail("what is cheap to check comes first"))
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and said and "\n" not in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["logit-lens", "tiny:clip", "--image", "a.png", "--text", "a dog", "--centre"], "mean of one picture"),
        (["activation-patching", "tiny:clip", *PAIR, *TEXTS, "--over", "layer"], "go over layer"),
        (["head-texts", "tiny:clip"], "needs many pictures: --pictures FOLDER"),
        (["head-texts", "tiny:clip", "--pictures", "emojiworld", "--count", "4"], "needs a bank of texts"),
        (["logit-lens", "tiny:llava", "--image", "a.png", "--text", "what is it"], "ends in the space of texts"),
        (["activation-patching", "tiny:llava", *PAIR, *TEXTS],
         "2 texts to 'tiny:llava', which answers one"),
        (["activation-patching", "tiny:clip", "--prompt", "a dog", "--counterfactual", "b.png"], "draws nothing"),
    ],
)  # fmt: skip
def test_what_a_method_lacks_is_said(arguments, said, photos, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", *arguments])
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and said in told and "Traceback" not in told


def test_patching_asks_a_llava_and_a_pipeline_with_the_same_command(photos):
    llava = ["tiny:llava", "--image", "a.png", "--text", "what is this", "--counterfactual", "b.png"]
    for arguments in (llava, ["tiny:sd", "--prompt", "a red dog", "--counterfactual", "a red cat"]):
        told = run(app, ["run", "activation-patching", *arguments, "--over", "head"])
        assert told.exit_code == 0, told.output or told.exception
        assert table_of(told.output)[0][:2] == ["layer", "head"]


def table_of(output):
    """The header and the rows of the table, numbers as numbers."""
    lines = [[cell.strip() for cell in line[1:-1].split(line[0])] for line in output.splitlines() if line[:1] in "┃│"]

    def number(cell):
        try:
            return float(cell)
        except ValueError:
            return cell

    return [[number(cell) for cell in line] for line in lines if line]


def summary_of(found, arguments, columns):
    """Where a table is the summary of a result, it shows the numbers of the arrays that were kept."""
    frame = found.summary()
    numbers = frame.select_dtypes("number")
    assert len(numbers.columns) and (len(frame) or not columns)
    for name in numbers if len(frame) else ():
        cells = [np.nan if cell == "" else cell for cell in columns[str(name)]]
        assert cells == pytest.approx(list(numbers[name]), abs=1e-3, nan_ok=True), name


def cosines(arguments):
    """The texts, and the model's own cosine of each picture with each."""
    files = [word for flag, word in itertools.pairwise(arguments) if flag == "--image"]
    texts = [word for flag, word in itertools.pairwise(arguments) if flag == "--text"]
    model = cutaway.load("tiny:clip")
    outputs = model.run(model.inputs(image=files, text=texts)).outputs
    return texts, (outputs.image_embeds @ outputs.text_embeds.T).numpy()


def sums_to_the_models_own(found, arguments, columns):
    """The terms of the decomposition add up to the model's cosines, mean over the pictures; layer 0 is no zero."""
    texts, own = cosines(arguments)
    for at, text in enumerate(texts):
        assert sum(columns[text]) == pytest.approx(own[:, at].mean(), abs=2e-3)
        assert sum(abs(cell) > 1e-3 for cell in columns[text]) > 5


def ends_in_the_models_own(found, arguments, columns):
    """The last row of the lens is what the model gives out, unless means were taken away; the rows differ."""
    texts, own = cosines(arguments)
    for at, text in enumerate(texts):
        last = found["pooled"].isel(picture=0, layer=-1, text=at) if "--centre" in arguments else own[0, at]
        assert columns[text][-1] == pytest.approx(float(last), abs=1e-3)
        assert len(set(columns[text])) > 2


TRUTHS = {"representation-decomposition": sums_to_the_models_own, "logit-lens": ends_in_the_models_own}


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("representation-decomposition", ["--image", "a.png", "--image", "b.png", *TEXTS]),
        ("representation-decomposition", ["--image", "a.png", "--by-token", *TEXTS]),
        ("logit-lens", ["--image", "a.png", "--text", "a dog"]),
        ("logit-lens", ["--image", "a.png", "--image", "b.png", *TEXTS, "--centre"]),
        ("head-texts", ["--pictures", "emojiworld", "--bank", "words.txt", "--count", "6"]),
        ("picture-texts", ["--pictures", "emojiworld", "--bank", "words.txt", "--count", "6", "--image", "a.png"]),
        ("linear-probing", ["--label", "x", "--count", "40"]),
        ("activation-patching", ["--image", "a.png", "--counterfactual", "b.png", *TEXTS]),
        ("activation-patching", ["--image", "a.png", "--counterfactual", "b.png", *TEXTS, "--over", "head"]),
    ],
)
def test_each_method_prints_a_table_and_keeps_and_draws_its_numbers(method, arguments, photos):
    (photos / "words.txt").write_text("a dog\na cat\na red car\n")
    told = run(app, ["run", method, "tiny:clip", *arguments, "--out", "found.nc", "--plot", "found.png"])
    assert told.exit_code == 0, told.output or told.exception
    assert "wrote found.nc" in told.output
    with Image.open("found.png") as figure:
        assert len(np.unique(np.asarray(figure.convert("L")))) > 10
    found = load("found.nc")
    assert found.provenance.model == "tiny:clip"
    printed = table_of(told.output)
    columns = {name: [row[at] for row in printed[1:]] for at, name in enumerate(printed[0])} if printed else {}
    assert printed or "Nothing to list" in told.output
    TRUTHS.get(method, summary_of)(found, arguments, columns)
    with pytest.raises(SystemExit):
        main(["run", method, "tiny:clip", *arguments, "--out", "found.nc"])


def test_one_pair_has_no_empty_columns_and_says_why(photos):
    told = run(
        app, ["run", "activation-patching", "tiny:clip", "--image", "a.png", "--counterfactual", "b.png", *TEXTS]
    )
    assert "nan" not in told.output and "One pair has no interval" in told.output
    assert table_of(told.output)[0] == ["layer", "token", "mean", "effect"]


def test_pictures_that_cannot_be_read_are_all_named_or_left_out(photos):
    folder = photos / "many"
    folder.mkdir()
    for seed in range(4):
        tiny.picture(seed).save(folder / f"{seed}.png")
    whole = (folder / "0.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    command = ["explain", "tiny:clip", "--image", "a.png", *TEXTS, "--pictures", "many", "--bank", "words.txt"]
    (photos / "words.txt").write_text("a dog\na cat\nbirds\n")
    told = run(app, command)
    assert re.search(r"1 cannot be read: half.png.*--skip-bad", str(told.exception), re.S)
    (folder / "words.jpg").write_text("no picture")
    assert re.search(r"2 cannot be read: half.png, words.jpg", str(run(app, command).exception))
    told = run(app, [*command, "--skip-bad"])
    assert told.exit_code == 0 and "Left out because they cannot be read: half.png, words.jpg" in " ".join(
        told.output.split()
    )


def test_probing_takes_folders_as_classes(photos):
    for seed in range(16):
        folder = photos / "many" / ("even", "odd")[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        tiny.picture(seed).save(folder / f"{seed}.png")
    told = run(app, ["run", "linear-probing", "tiny:clip", "--pictures", "many"])
    assert told.exit_code == 0 and "folder" in told.output


@trained_here
def test_demo_writes_a_report_and_says_what_it_found(tmp_path, monkeypatch):
    monkeypatch.setattr(
        importlib.import_module("cutaway.questions.asked"), "crowd", lambda *_, **__: list(data.scenes("test", 12))
    )  # as it is, but sooner
    monkeypatch.setattr(patching, "RUNS", 130)
    told = run(app, ["demo", "--out", str(tmp_path / "demo")])
    assert told.exit_code == 0, told.output
    again = run(app, ["demo", "--out", str(tmp_path / "demo")])
    assert again.exit_code != 0 and "--overwrite" in str(again.exception)
    assert (tmp_path / "demo" / "report.html").is_file()
    found = [line for line in told.output.splitlines() if line.startswith("- ")]
    assert len(found) == 4 and found[0].startswith("- The model takes this picture for")


def test_all_demonstrations_are_a_report_of_each_family_with_a_line_for_each(tmp_path, monkeypatch):
    """Asked so that `explained` takes them; the reports themselves are tested one by one."""
    demo, seen = importlib.import_module("cutaway.report.demo"), {}
    real = inspect.signature(demo.explained)

    def explained(model, **how):
        seen[model] = real.bind(model, **how).arguments
        return SimpleNamespace(page=how["out"] / "report.html", findings=(f"found by {model}", "more"))

    monkeypatch.setattr(demo, "explained", explained)
    told = run(app, ["demo", "--all", "--out", str(tmp_path), "--overwrite"])
    assert told.exit_code == 0, told.output or told.exception
    names = ["emoji-clip", "emoji-llava", "emoji-sd"]
    assert [*seen] == [f"zoo:{name}" for name in names] and all(one["overwrite"] for one in seen.values())
    assert re.findall(r"([\w-]+).report.html", told.output) == names and told.output.count("- found by") == 3
    asked = seen["zoo:emoji-llava"]
    assert asked["answer"] != asked["rival"] and asked["image"] != asked["counterfactual"]
    assert seen["zoo:emoji-sd"]["word"] in seen["zoo:emoji-sd"]["prompt"].split()
    with pytest.raises(SystemExit):
        main(["demo", "tiny:llava", "--all"])


def test_help_loads_nothing_heavy():
    code = (
        "import sys, cutaway.cli; print([name for name in ('torch', 'xarray', 'rich.progress') if name in sys.modules])"
    )
    started = time.perf_counter()
    here = Path(cutaway.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout and "xarray" not in done.stdout
    assert time.perf_counter() - started < 5
