"""The tables name classes that the libraries have: one that was renamed there would be looked up in vain."""

from pathlib import Path

import diffusers
import pytest
import transformers

from cutaway.model.blocks import IMAGE_PROMPTED, TRANSPOSED
from cutaway.model.towers import FAMILIES, PIPELINES, READ_THEIR_PADDING, TOWERS


@pytest.mark.parametrize(
    ("library", "names"), [(diffusers, PIPELINES), (transformers, READ_THEIR_PADDING), (transformers, FAMILIES)]
)
def test_whole_models_are_names_of_their_library(library, names):
    assert not [name for name in names if name not in dir(library)]


def test_parts_are_classes_of_their_library():
    homes = (Path(diffusers.__file__).parent / "models" / "attention_processor.py").read_text()
    homes += (Path(diffusers.__file__).parent / "models" / "transformers" / "transformer_flux.py").read_text()
    homes += (Path(transformers.__file__).parent / "pytorch_utils.py").read_text()
    assert not [name for name in (*IMAGE_PROMPTED, *TRANSPOSED) if f"class {name}" not in homes]


def test_a_denoiser_that_attends_to_both_streams_says_how_they_lie():
    assert all((row.tokens == "joint") == (row.joint is not None) for row in TOWERS.values())
