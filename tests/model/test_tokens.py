"""Token maps: what a position is, how positions are selected, and how values fold back onto the picture."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from cutaway import TokenMap, Where
from cutaway.errors import InputError

quick = settings(max_examples=60, deadline=None)
sides = st.integers(1, 6)


def words(*texts):
    made = TokenMap.blank(1, len(texts))
    made.text[0] = texts
    return made


@quick
@drawn(st.integers(1, 3), sides, sides, st.lists(st.sampled_from(["cls", "register"]), max_size=3))
def test_patches_lie_behind_their_prefix_in_reading_order(batch, height, width, prefix):
    made = TokenMap.patches(batch, height, width, prefix)
    assert (made.batch, len(made)) == (batch, len(prefix) + height * width)
    assert made.kind[-1].tolist() == [*prefix, *["image"] * (height * width)]
    for row in range(batch):
        places = list(zip(made.row[row], made.col[row], strict=True))
        assert places == [(-1, -1)] * len(prefix) + [(r, c) for r in range(height) for c in range(width)]
        assert set(made.image[row][len(prefix) :]) == {row}


@quick
@drawn(sides, sides, st.integers(0, 2))
def test_folding_is_the_inverse_of_reading_order(height, width, image):
    made = TokenMap.patches(3, height, width, ("cls",))
    values = torch.arange(3.0 * len(made)).reshape(3, -1)
    assert torch.equal(made.grid(values, image), values[image, 1:].reshape(height, width))


@quick
@drawn(sides, sides, st.data())
def test_positions_are_selected_by_any_coordinate(height, width, data):
    made = TokenMap.patches(2, height, width, ("cls",))
    rows = data.draw(st.lists(st.integers(0, height - 1), min_size=1, unique=True))
    col = data.draw(st.integers(0, width - 1))
    expected = np.isin(made.row, rows) & (made.col == col)
    assert np.array_equal(made.where("image", row=rows, col=col).numpy(), expected)
    assert np.array_equal(Where(row=rows, col=col).resolve(made).numpy(), expected)


def test_words_are_found_without_the_marks_a_tokenizer_leaves():
    made = words("<s>", "▁dog", "Ġdog", "dog</w>", " Dog", "dogs", "")
    assert made.where(text="dog")[0].tolist() == [False, True, True, True, True, False, False]
    assert made.where(text=["dog", "dogs"]).sum() == 5


def test_an_unknown_coordinate_names_those_that_exist():
    with pytest.raises(InputError, match="image, tile, row, col, time, text"):
        words("a").where(colour=3)


def test_what_is_not_there_lists_the_kinds_and_the_nearest_words():
    with pytest.raises(InputError) as caught:
        words("a", "dog", "cat").where(text="dig")
    assert "positions of kind text" in str(caught.value)
    assert "dog" in str(caught.value)
    assert "Where(text='dig')" in str(caught.value)


def test_a_grid_has_holes_where_it_has_no_position_and_refuses_a_picture_that_is_not_there():
    made = TokenMap.patches(1, 2, 2)
    made.row[0, 3] = made.col[0, 3] = made.image[0, 3] = -1
    folded = made.grid(torch.tensor([[1.0, 2.0, 3.0, 9.0]]))
    assert folded[0].tolist() == [1.0, 2.0]
    assert folded[1, 0] == 3.0
    assert folded[1, 1].isnan()
    with pytest.raises(InputError, match="Picture 4 has no patches"):
        made.grid(torch.zeros(1, 4), image=4)


def test_crops_of_a_picture_fold_one_at_a_time():
    made = TokenMap.patches(1, 2, 3)
    made.tile[0] = [0, 0, 0, 1, 1, 1]
    made.row[0] = 0
    values = torch.arange(6.0)[None]
    assert made.grid(values).tolist() == [[0.0, 1.0, 2.0]]
    assert made.grid(values, tile=1).tolist() == [[3.0, 4.0, 5.0]]


def test_a_selection_is_a_value_that_prints_as_it_is_written():
    chosen = Where("image", row=3, col=range(2, 5))
    assert repr(chosen) == "Where('image', col=range(2, 5), row=3)"
    assert pickle.loads(pickle.dumps(chosen)) == chosen
    assert eval(repr(chosen)) == chosen  # noqa: S307


def test_a_map_prints_runs_of_one_kind_as_one():
    made = TokenMap.patches(1, 2, 2, ("cls",))
    assert str(made) == "TokenMap(1 x 5)\n  0: 0:cls 1-4:image"
    assert str(words("a", "dog")) == "TokenMap(1 x 2)\n  0: 0:text='a' 1:text='dog'"
