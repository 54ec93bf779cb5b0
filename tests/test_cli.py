"""The command line, as a user types it."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cutaway.cli import app, main
from cutaway.zoo import tiny

run = CliRunner(env={"COLUMNS": "160"}).invoke


@pytest.mark.parametrize("command", [[], ["sites"], ["tokens"], ["tiny"], ["demo"]])
def test_help_teaches_with_an_example_or_a_sentence(command):
    told = run(app, [*command, "--help"])
    assert told.exit_code == 0
    assert "Usage" in told.output and len(told.output.splitlines()) > 5


def test_sites_prints_axes_and_sizes_and_why_a_site_is_dead():
    told = run(app, ["sites", "tiny:llava"])
    assert told.exit_code == 0
    assert "text.0-2.attn.k" in told.output and "kv_head=2" in told.output
    assert "vision_feature_layer=-2" in told.output


def test_sites_of_a_pattern_and_of_every_layer():
    told = run(app, ["sites", "tiny:gpt2", "text.*.resid_post", "--all"])
    assert [f"text.{layer}.resid_post" in told.output for layer in range(4)] == [True, True, True, False]
    assert "attn" not in told.output


def test_an_unknown_architecture_says_what_is_missing():
    assert "missing: no row" in run(app, ["sites", "tiny:t5"]).output


def test_tokens_prints_what_each_position_is(tmp_path):
    tiny.picture().save(tmp_path / "photo.png")
    told = run(app, ["tokens", "tiny:llava", "--image", str(tmp_path / "photo.png"), "--text", "a red dog"])
    assert "1-16:image" in told.output and "'dog'" in told.output


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
        if word.count(".") == 1 and word[0].isdigit() and len(word) == 6
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
    told = subprocess.run([sys.executable, "-m", "cutaway.cli", "--help"], capture_output=True, text=True, check=True)
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
    with pytest.raises(SystemExit):
        main(["data", "show", str(tmp_path / "b.png"), "--split", "trian"])
