"""`cutaway harvest` and `cutaway store` as a user types them."""

import re

import pytest
from typer.testing import CliRunner

from cutaway import store
from cutaway.cli import app
from cutaway.errors import CutawayError
from cutaway.store.spec import Entry

VISION = ["harvest", "tiny:clip", "--sites", "vision.*.resid_post", "--data", "emojiworld:test", "--n", "6"]


def said(*typed):
    """What a command prints, in one line of single blanks; an error as it is."""
    done = CliRunner().invoke(app, [str(one) for one in typed], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return re.sub(r"\s+", " ", done.output)


def test_a_harvest_is_written_gone_on_with_shown_and_checked(tmp_path):
    out, page = tmp_path / "kept", tmp_path / "kept.html"
    assert re.search(r"6 items, 3 sites: .* kB; 102 rows in 'vision'", said(*VISION, "--out", out, "--dry"))
    assert not out.exists()
    typed = [*VISION, "--out", out, "--items", "2", "--keep", "float16"]
    assert "Store(6 items of 'tiny:clip'; vision: 102 rows of vision.0.resid_post" in said(*typed)
    (out / Entry.names(1)[1]).unlink()
    assert "2 files of" in said("store", "check", out) and "1 are not made yet" in said("store", "check", out)
    assert "of which 4 items were there" in said(*typed)
    shown = said("store", "show", out, "--rows", "3", "--out", page)
    assert "6 scenes of emojiworld (test, seed 0)" in shown and "in 3 of 3 files, 2 items each" in shown
    assert re.search(r"vision.2.resid_post │ image │ 96 │", shown) and f"wrote {page}" in shown
    html = page.read_text(encoding="utf-8")
    for title in ("How long rows are: vision", "How far rows spread", "over the picture", "Length, mean and spread"):
        assert title in html
    assert "3 files of" in said("store", "check", out)


def test_prompts_are_drawn_and_some_steps_kept(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red dog\na cat\n", encoding="utf-8")
    typed = ["harvest", "tiny:sd", "--sites", "denoiser.1.resid_post", "--data", tmp_path / "prompts.txt"]
    said(*typed, "--out", tmp_path / "kept", "--steps", "3", "--at", "0", "--at", "2", "--row", "cond", "--seed", "1")
    found = store.open(tmp_path / "kept")
    frame = found.index()
    assert set(frame["step"]) == {0, 2} and set(frame["guidance"]) == {"cond"} and len(found) == 2
    html = tmp_path / "drawn.html"
    said("store", "show", tmp_path / "kept", "--out", html)
    assert "step by step" in html.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([*VISION[:-2], "--where", "patch"], "No position is of kind 'patch'"),
        ([*VISION[:5], "nowhere"], "nothing lies at 'nowhere'"),
        ([*VISION, "--steps", "3"], "'tiny:clip' draws nothing"),
        (["store", "show"], "No store lies at"),
        (["store", "check"], "No store lies at"),
    ],
)
def test_what_cannot_be_done_is_said(typed, message, tmp_path):
    ends = [tmp_path] if typed[0] == "store" else ["--out", str(tmp_path / "kept")]
    with pytest.raises(CutawayError, match=f"(?i){message}"):
        said(*typed, *ends)
