"""The command line, as a user types it."""

import re
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from scipy.io import wavfile
from typer.main import get_command
from typer.testing import CliRunner

import cutaway
from cutaway.cli import app, main
from cutaway.methods.table import METHODS
from cutaway.report.positions import read_sound
from cutaway.report.run import show
from cutaway.zoo import tiny

run = CliRunner(env={"COLUMNS": "160"}).invoke


def commands(group=None, path=()):
    """Every command a user can type, with its words."""
    group = group or get_command(app)
    for name in group.list_commands(None):  # those of `run` are made when they are asked for
        command = group.get_command(None, name)
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield pytest.param((*path, name), command, id=" ".join((*path, name)))


@pytest.mark.parametrize(("path", "command"), list(commands()))
def test_help_teaches_by_examples_that_parse(path, command):
    """Each option says what it is; each example of a command is one that the command line takes."""
    told = run(app, [*path, "--help"])
    assert told.exit_code == 0 and "Usage" in told.output
    assert all(option.help for option in command.params if option.name != "help")
    if not command.params:
        return
    text = " ".join((command.help or "").split())
    examples = re.findall(r"cutaway ([^·]+)", text.partition("Try: ")[2])
    assert examples or path[0] in ("zoo", "tiny")
    for example in examples:
        words = shlex.split(re.sub(r"\([^)]*\)", "", example))
        assert tuple(words[: len(path)]) == path
        command.make_context(" ".join(path), words[len(path) :])  # a UsageError for what is no option


def test_the_example_of_a_method_has_what_the_method_takes():
    """A prompt for what draws, a second input for what compares, and a model of the family."""
    group = get_command(app).commands["run"]
    for one in METHODS:
        _, _, shown = group.get_command(None, one.name.replace("_", "-")).help.partition("Try: ")
        assert any(part.endswith("drawing") for part in one.takes.values()) == ("--prompt" in shown)
        compares = any(part.startswith(("counterpart", "along")) for part in one.takes.values())
        assert compares == ("--counterfactual" in shown)
        assert "--prompt" not in shown or "zoo:emoji-sd" in shown or "zoo:emoji-mmdit" in shown
        assert (one.kinds == ("diffusion",)) == ("zoo:emoji-sd" in shown or "zoo:emoji-mmdit" in shown)


def test_an_option_that_is_a_number_or_nothing_is_a_number(monkeypatch):
    seen = {}
    monkeypatch.setattr("cutaway.report.run.answer", lambda one, model, given, settled, **_: seen.update(settled))
    assert run(app, ["run", "diffusion-lens", "tiny:sd", "--prompt", "a dog", "--levels", "2"]).exit_code == 0
    assert seen == {"levels": 2}


def test_the_version_is_told():
    assert run(app, ["--version"]).output.strip() == f"cutaway {cutaway.__version__}"


def test_sites_prints_axes_and_sizes_and_why_a_site_is_dead():
    told = run(app, ["sites", "tiny:llava"])
    assert told.exit_code == 0
    assert "text.0-2.attn.k" in told.output and "kv_head=2" in told.output
    assert "vision_feature_layer=-2" in told.output


def test_sites_of_a_pattern_and_of_every_layer():
    told = run(app, ["sites", "tiny:gpt2", "text.*.resid_post", "--all"])
    assert [f"text.{layer}.resid_post" in told.output for layer in range(4)] == [True, True, True, False]
    assert "attn" not in told.output


def test_an_unknown_architecture_says_what_is_missing_and_draws_no_empty_box():
    told = run(app, ["sites", "tiny:t5"]).output
    assert "missing: no row" in told and "raw.encoder" in told
    assert not set("┃│└") & set(told)


def test_tokens_prints_what_each_position_is(tmp_path):
    tiny.picture().save(tmp_path / "photo.png")
    told = run(app, ["tokens", "tiny:llava", "--image", str(tmp_path / "photo.png"), "--text", "a red dog"])
    assert "1-16:image" in told.output and "'dog'" in told.output


def test_tokens_names_unknown_words_and_says_what_a_recording_takes():
    told = " ".join(run(app, ["tokens", "tiny:llama", "--text", "a xylograph dog"]).output.split())
    assert "no entry for “xylograph”" in told
    model = cutaway.load("tiny:llama")
    wanted = model.estimate(model.inputs(text="a xylograph dog"), "*").total
    number, unit = re.search(r"sites on this takes ([\d.]+) (\w+);", told).groups()
    assert float(number) * {"kB": 1e3, "MB": 1e6}[unit] == pytest.approx(wanted, rel=0.01)


def wav(path, rate=16_000, channels=1):
    """A second of a tone as 16-bit samples."""
    tone = (np.sin(np.arange(rate) / 20) * 30_000).astype(np.int16)
    wavfile.write(path, rate, np.stack([tone] * channels, 1).squeeze())
    return str(path)


def test_tokens_takes_a_sound_and_keeps_its_text(tmp_path):
    told = run(app, ["tokens", "tiny:whisper", "--audio", wav(tmp_path / "a.wav"), "--text", "a red dog"])
    assert told.exit_code == 0, told.exception
    assert "audio" in told.output and "'dog'" in told.output
    samples, rate = read_sound(tmp_path / "a.wav")
    assert rate == 16_000 and samples.dtype == np.float32 and 0.9 < abs(samples).max() < 1


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ("whisper", ["--text", "a red dog"], "there is no sound.*--audio.*16000"),
        ("whisper", ["--audio", "none.wav"], "no sound at 'none.wav'"),
        ("whisper", ["--audio", "words.wav"], "'words.wav' cannot be read.*ffmpeg"),
        ("whisper", ["--audio", "slow.wav"], "8000 samples a second.*16000"),
        ("whisper", ["--audio", "two.wav"], "2 channels.*one channel"),
        ("clip", ["--audio", "good.wav"], "hears nothing.*tiny:whisper.*vision"),
        ("clip", ["--image", "."], "is a folder.*one picture file"),
    ],
)
def test_sounds_that_do_not_fit_say_what_would(model, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wav("good.wav"), wav("slow.wav", 8000), wav("two.wav", channels=2)
    Path("words.wav").write_text("no sound at all")
    told = run(app, ["tokens", f"tiny:{model}", *arguments])
    assert told.exit_code != 0 and re.search(f"(?s){said}", str(told.exception), re.I)


def test_tiny_lists_every_model():
    told = run(app, ["tiny"]).output
    assert all(f"tiny:{name}" in told for name in tiny.names())


def test_demo_shows_that_an_identity_edit_changes_nothing_and_others_do():
    told = run(app, ["demo", "tiny:llava"])
    assert told.exit_code == 0
    changes = [
        float(word)
        for line in told.output.splitlines()
        for word in line.split()
        if word.count(".") == 1 and word[0].isdigit() and len(word) == 5
    ]
    assert changes[:2] == [0.0, 0.0] and all(change > 0.01 for change in changes[2:]) and len(changes) == 5


@pytest.mark.parametrize(
    "arguments", [["sites", "tiny:foo"], ["sites", "tiny:clip", "vision.9.resid_post"], ["demo", "tiny:llama"]]
)
def test_what_goes_wrong_is_one_paragraph_and_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert said and "\n" not in said and "Traceback" not in said


def test_the_installed_command_runs():
    here = Path(cutaway.__file__).parents[1]
    command = [sys.executable, "-m", "cutaway", "--help"]
    told = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    assert "sites" in told.stdout


def test_data_show_writes_a_contact_sheet_once(tmp_path):
    from PIL import Image

    out = tmp_path / "sheet.png"
    told = run(app, ["data", "show", str(out), "--n", "6", "--size", "64"])
    assert told.exit_code == 0
    with Image.open(out) as page:
        assert page.width > 6 * 64
    with pytest.raises(SystemExit) as stopped:
        main(["data", "show", str(out)])
    assert stopped.value.code == 2
    assert run(app, ["data", "show", str(out), "--n", "2", "--size", "32", "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none/sheet.png"], "no folder 'none'"),
        (["sheet.xyz"], "ends in '.xyz'.*.png.*sheet.png"),
        (["sheet"], "no ending.*.png"),
        (["b.png", "--split", "trian"], "'trian'.*train"),
    ],
)
def test_a_sheet_that_cannot_be_written_says_why(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run(app, ["data", "show", *arguments])
    assert told.exit_code != 0 and re.search(said, str(told.exception)) and not list(tmp_path.iterdir())


def test_narrow_tables_do_not_break_words():
    """At 48 columns every word of a title and of a header is whole, and what is too wide goes on below."""
    frame = pd.DataFrame({"layer": [0, 1], **{f"selectivity {n}": [0.123456, -7.0] for n in "abcdef"}})
    out = StringIO()
    show(frame, "Decomposition(representation_decomposition of tiny:clip)", Console(file=out, width=48))
    told = out.getvalue()
    assert told.count("selectivity") == 6 and told.count("-7.000") == 6 and told.count("layer") > 1
    assert max(map(len, told.splitlines())) <= 48 and "Decomposition(representation_decomposition" in told


# Commands of the zoo open weights of the package by a name of their own: what they do not offer, their help explains.
WITHOUT = {("zoo", "eval"): {"revision"}, ("zoo", "train"): {"dtype", "revision"},
           ("dictionary", "import"): {"device", "dtype", "revision"}}  # fmt: skip


@pytest.mark.parametrize(("path", "command"), list(commands()))
def test_every_command_that_opens_a_model_says_how(path, command):
    """Device, dtype and revision are options of each, and go with the name to where it is opened."""
    takes_a_model = any(one.name == "model" or one.metavar == "MODEL" for one in command.params)
    if not takes_a_model and path not in WITHOUT:
        assert not any(one.name in ("device", "dtype", "revision") for one in command.params)
        return
    lacking = {"device", "dtype", "revision"} - {one.name for one in command.params}
    assert lacking == WITHOUT.get(path, set())
    assert all(f"--{one}" in command.help for one in lacking)


def test_the_commands_that_open_a_model_are_known():
    opening = {path for path, command in (one.values for one in commands())
               if path in WITHOUT or any(one.name == "model" for one in command.params)}  # fmt: skip
    others = {path for path, _ in (one.values for one in commands())} - opening
    data, stores = {("data", "show"), ("zoo", "list"), ("zoo", "card")}, {("store", "show"), ("store", "check")}
    dictionaries = {("dictionary", "show"), ("dictionary", "export")}
    atlas = {("cite",), *(("atlas", name) for name in ("search", "related", "cite", "gaps"))}
    assert others == {("tiny",), ("methods",)} | data | stores | dictionaries | atlas


@pytest.mark.parametrize("option", [["--out", "here"], ["--overwrite"]])
def test_a_demonstration_without_a_report_takes_no_folder(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run(app, ["demo", "tiny:llava", *option])
    assert told.exit_code != 0 and "writes no report" in str(told.exception) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "there", "not_there"),
    [
        ("logit-lens", ["--image", "takes several"], ["--prompt", "--step", "--answer", "--raw"]),
        ("word-lens", ["--answer", "--raw", "What is asked."], ["--prompt", "--step", "takes several"]),
        ("latent-lens", ["--bank"], ["--prompt"]),
        ("activation-patching", ["--prompt", "--step", "--answer", "--raw"], []),
    ],
)
def test_the_help_of_a_method_lists_what_it_can_be_asked_with(command, there, not_there):
    told = " ".join(run(app, ["run", command, "--help"], env={"COLUMNS": "200"}).output.split())
    assert all(one in told for one in there) and not any(one in told for one in not_there)


def test_names_in_tables_stay_names():
    out = StringIO()
    show(pd.DataFrame({"word": ["a"]}), "tiny:llama: a :dog: of tiny:cat:", Console(file=out, width=80))
    assert "tiny:llama: a :dog: of tiny:cat:" in out.getvalue()


def test_tokens_of_a_text_are_those_of_a_question():
    for more, begins in (([], "user"), (["--raw"], "a dog")):
        told = run(app, ["tokens", "zoo:emoji-llava", "--text", "a dog", *more]).output
        assert ("<|user|>" in told) == (begins == "user"), told


def test_the_dtype_and_device_are_those_asked_for(monkeypatch):
    seen = []
    monkeypatch.setattr("cutaway.report.tables.print_sites", lambda model, *rest, **more: seen.append(model))
    assert run(app, ["sites", "tiny:clip", "--dtype", "bfloat16", "--device", "cpu"]).exit_code == 0
    assert (seen[0].dtype, seen[0].device.type, seen[0].name) == (torch.bfloat16, "cpu", "tiny:clip")
    wrong = run(app, ["sites", "tiny:clip", "--device", "cuda:99"])
    assert wrong.exit_code != 0 and "no device 'cuda:99'" in str(wrong.exception).lower()
