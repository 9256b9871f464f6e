"""The judge of the lifecycle tests finds what it is there to find, and nothing where there is doubt."""

from __future__ import annotations

import pytest

from integration.witness import Asked, Look, contradictions


def looks(*rows: tuple[float, dict[int, str]]) -> list[Look]:
    """Each takes one second."""
    return [Look(began, began + 1, states) for began, states in rows]


SWAP = looks(
    (0, {1: "AVAILABLE"}),
    (10, {1: "AVAILABLE", 2: "LOADING"}),
    (20, {1: "AVAILABLE", 2: "AVAILABLE"}),
    (30, {1: "AVAILABLE", 2: "AVAILABLE"}),
    (40, {1: "END", 2: "AVAILABLE"}),
    (50, {1: "END", 2: "AVAILABLE"}),
)


@pytest.mark.parametrize(
    "asked",
    [
        Asked(2, 3, None, 1),
        Asked(12, 19, None, 2),  # it may have become available meanwhile
        Asked(20.5, 32, None, 1),  # sent while the look was under way
        Asked(22, 23, 1, 1),
        Asked(39, 42, 1, None),
        Asked(42, 43, 1, None),
        Asked(42, 43, None, 2),
        Asked(60, 61, None, 1),  # nobody has looked
    ],
)
def test_what_fits(asked: Asked) -> None:
    assert contradictions(SWAP, [asked]) == []


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (Asked(2, 3, None, 2), "not available"),
        (Asked(2, 3, 2, 2), "not available"),
        (Asked(42, 43, 1, 1), "not available"),
        (Asked(22, 23, None, 1), "old version"),
        (Asked(2, 3, None, None), "refused"),
        (Asked(22, 23, 1, None), "refused"),
        (Asked(22, 43, None, None), "refused"),
    ],
)
def test_what_does_not(asked: Asked, word: str) -> None:
    (found,) = contradictions(SWAP, [asked])
    assert word in found


def test_a_life_that_no_look_saw() -> None:
    hidden = looks((0, {1: "LOADING"}), (10, {1: "END"}), (20, {1: "END"}))
    assert contradictions(hidden, [Asked(5, 6, None, 1)]) == []
    assert contradictions(hidden, [Asked(12, 13, None, 1)])
