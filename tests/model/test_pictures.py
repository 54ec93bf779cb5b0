"""Pictures: one rule for each type of number, and no picture that is quietly another one."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cutaway.errors import InputError
from cutaway.model.pictures import picture

RAMP = np.arange(64 * 4, dtype=np.uint16).reshape(16, 16) * 257  # every 16-bit grey that is a byte exactly
FLOATS = (RAMP / 65535).astype(np.float32)


def grey(source):
    return np.asarray(picture(source))[..., 0]


def stored(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    file.seek(0)
    return Image.open(file)


@pytest.mark.parametrize(
    "source",
    [
        RAMP, RAMP.astype(">u2"), torch.from_numpy(RAMP), (RAMP // 257).astype(np.uint8), RAMP / 65535,
        FLOATS, torch.from_numpy(RAMP / 65535), RAMP.astype(np.int64) // 257,
        torch.from_numpy(RAMP.astype(np.int32) // 257), (RAMP // 257).astype(np.uint32), RAMP[..., None],
        Image.fromarray(RAMP), Image.fromarray(RAMP.astype(np.int32)), Image.fromarray(FLOATS),
        stored(Image.fromarray(RAMP)), stored(Image.fromarray(RAMP), "TIFF"),
        stored(Image.fromarray(FLOATS), "TIFF"), stored(Image.fromarray(RAMP), "PPM"),
        Image.frombytes("I;16B", (16, 16), RAMP.astype(">u2").tobytes()), torch.from_numpy(FLOATS).requires_grad_(),
    ],
)  # fmt: skip
def test_grey_levels_of_any_type_are_the_same_picture(source):
    assert np.array_equal(grey(source), RAMP // 257)


def test_true_is_white_and_half_is_grey_in_any_precision():
    assert set(grey(np.eye(8, dtype=bool)).ravel()) == {0, 255}
    assert set(grey(torch.eye(8).bool()).ravel()) == {0, 255}
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert set(grey(torch.full((8, 8, 3), 0.5, dtype=dtype)).ravel()) == {128}


def test_a_picture_two_pixels_high_keeps_its_colours():
    assert picture(np.zeros((2, 3, 3), np.uint8)).size == (3, 2)
    assert picture(np.zeros((3, 2, 1), np.uint8)).size == (2, 3)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (RAMP.astype(np.int64), "int64 from 0 to 65535 does not say what white is"),
        (np.full((8, 8), -1), "from -1 to -1"),
        (np.full((8, 8), 300, np.uint32), "uint32 from 300"),
        (np.ones((8, 8), complex), "complex128"),
        (np.full((8, 8), np.nan), "0 to 1"),
        (Image.new("F", (8, 8), 100.0), "0 to 1"),
        (Image.new("I", (8, 8), 70_000), "runs from 70000"),
        (Image.new("I", (8, 8), 200), "does not say what white is"),
        ({"a": 1}, "type dict"),
    ],
)
def test_numbers_that_do_not_say_what_white_is_are_refused(source, says):
    with pytest.raises(InputError, match=says):
        picture(source)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_a_film_is_refused_and_one_of_its_pictures_is_taken(form, tmp_path):
    first, second = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")
    path = tmp_path / f"film.{form.lower()}"
    first.save(path, form, save_all=True, append_images=[second])
    with pytest.raises(InputError, match=r"'film.*holds 2 pictures.*seek"):
        picture(path)
    with Image.open(path) as film:
        film.seek(1)
        assert set(grey(film.copy()).ravel()) == {0}
    assert set(grey(stored(first, form)).ravel()) == {255}


def test_a_photo_with_its_preview_behind_it_is_one_picture():
    first = Image.new("RGB", (8, 8), "white")
    assert set(grey(stored(first, "MPO", save_all=True, append_images=[first.resize((4, 4))])).ravel()) == {255}
