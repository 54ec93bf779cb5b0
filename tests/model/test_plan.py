"""Which cells of a sweep share a forward."""

from itertools import combinations, pairwise

import pytest

from cutaway.model.plan import READ, Need, chunked

LAYERS = 8


def needs(cells: int, positions: int, way: str = "suffix") -> list[Need]:
    """Some cells in each layer, all from one position on; the work is what lies behind the layer."""
    return [
        Need(way, "text", since=layer, start=3, flops=float(LAYERS - layer) * positions, positions=positions)  # type: ignore[arg-type]
        for layer in range(LAYERS)
        for _ in range(cells)
    ]


def taken(groups: list[tuple[Need, tuple[int, ...]]], positions: int) -> float:
    return sum(need.flops * (len(cells) + READ / positions) for need, cells in groups)


@pytest.mark.parametrize(("cells", "positions"), [(1, 1), (3, 1), (9, 1), (9, 4), (9, 40)])
def test_layers_share_a_forward_where_that_is_fastest(cells: int, positions: int) -> None:
    given = needs(cells, positions)
    made = chunked(given, 3 + positions, {"suffix": 1000})
    assert sorted(cell for _, members in made for cell in members) == list(range(len(given)))
    assert all(need.since == min(given[cell].since for cell in members) for need, members in made)
    every = []
    for count in range(LAYERS):
        for cut in combinations(range(1, LAYERS), count):
            edges = [0, *cut, LAYERS]
            every.append(sum((LAYERS - a) * positions * ((b - a) * cells + READ / positions)
                             for a, b in pairwise(edges)))  # fmt: skip
    assert taken(made, positions) == pytest.approx(min(every))


def test_many_positions_share_with_their_own_layer_only() -> None:
    assert len(chunked(needs(9, 1000), 1003, {"suffix": 10**6})) == LAYERS


def test_no_forward_has_more_rows_than_memory_allows() -> None:
    made = chunked(needs(3, 1), 4, {"suffix": 7})
    assert max(len(members) for _, members in made) == 6


def test_cells_that_must_stay_with_their_layer_do() -> None:
    apart = [Need("whole", "vision", since=layer, flops=1.0) for layer in range(LAYERS)]
    assert len(chunked(apart, 0, {"whole": 100})) == LAYERS
