"""`cutaway dictionary` as a user types it."""

import re

import pytest
from typer.testing import CliRunner

from cutaway.cli import app
from cutaway.errors import CutawayError
from cutaway.methods.sparse_autoencoders.autoencoder import Crosscoder, SparseAutoencoder

QUICK = ["--width", "64", "--k", "4", "--steps", "4", "--batch", "32"]
VISION = [
    "dictionary",
    "train",
    "tiny:clip",
    "--site",
    "vision.1.resid_post",
    "--data",
    "emojiworld:test",
    "--n",
    "24",
    *QUICK,
]


def said(*typed):
    """What a command prints, in one line of single blanks; an error as it is."""
    done = CliRunner().invoke(app, [str(one) for one in typed], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return re.sub(r"\s+", " ", done.output)


def test_one_is_trained_shown_given_away_and_taken_back(tmp_path):
    out, work = tmp_path / "sae", tmp_path / "work"
    told = said(*VISION, "--out", out, "--work", work)
    assert "explained" in told and "SparseAutoencoder(64 features, batch_topk, k 4 at vision.1.resid_post" in told
    assert (work / "training.json").is_file()
    shown = said("dictionary", "show", out)
    assert "fitted on 'tiny:clip'" in shown and "its training ended at step 4" in shown
    assert "SAE.load_from_disk" in said("dictionary", "export", out, "--out", tmp_path / "theirs")
    assert "64 features, jumprelu at vision.1" in said("dictionary", "show", tmp_path / "theirs")
    again = said("dictionary", "import", tmp_path / "theirs", "--out", tmp_path / "again", "--model", "tiny:clip")
    assert "64 features, jumprelu at vision.1.resid_post of 'tiny:clip'" in again
    assert SparseAutoencoder.load(tmp_path / "again").on.content == SparseAutoencoder.load(out).on.content


def test_a_transcoder_and_a_crosscoder_learn_from_a_store(tmp_path):
    kept = ["--store", tmp_path / "kept"]
    across = ["--target", "vision.1.mlp.out", "--skip", "--architecture", "topk"]
    assert "→ vision.1.mlp.out" in said(*VISION, *across, *kept, "--where", "image", "--out", tmp_path / "transcoder")
    several = [
        "dictionary",
        "train",
        "tiny:clip",
        "--site",
        "vision.1.resid_post",
        "--site",
        "vision.1.mlp.out",
        *QUICK,
    ]
    said(*several, *kept, "--out", tmp_path / "both", "--by-modality")
    both = Crosscoder.load(tmp_path / "both")
    assert both.asks == ("kind",) and both.lengths.shape == (2, 64)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([*VISION[:5], *QUICK], "there are no rows to learn from"),
        ([*VISION, "--architecture", "dense"], "no architecture is called 'dense'"),
        ([*VISION[:5], *QUICK, "--store", "nowhere"], "no store lies at"),
        (["dictionary", "train", "tiny:clip", "--site", "vision.9.mlp.out", "--data", "emojiworld"], "vision"),
    ],
)
def test_what_cannot_be_done_is_said(typed, message, tmp_path):
    with pytest.raises(CutawayError, match=f"(?i){message}"):
        said(*typed, "--out", tmp_path / "kept")


def test_one_is_known_by_its_name_and_whoever_wrote_it(tmp_path):
    shown = said("dictionary", "show", "zoo:emoji-clip-sae")
    assert "at vision.4.resid_post of 'zoo:emoji-clip'" in shown
    with pytest.raises(CutawayError, match="by the kind of a position"):
        said("dictionary", "export", "zoo:emoji-clip-sae", "--out", tmp_path / "theirs")
    for typed, match in (
        ("zoo:emoji-clap-sae", "comes with the package"),
        (tmp_path / "none", "No dictionary lies at"),
    ):
        with pytest.raises(CutawayError, match=match):
            said("dictionary", "show", typed)


def test_what_cannot_be_learned_from_is_said_before_it_fails(tmp_path):
    with pytest.raises(CutawayError, match="No position is a 'pictures'"):
        said(*VISION, "--where", "pictures", "--out", tmp_path / "sae")
    with pytest.raises(CutawayError, match="not the same positions"):
        said(*VISION, "--target", "text.1.resid_post", "--out", tmp_path / "sae")
