from __future__ import annotations

import pytest

from servolley.huge_pages import environment_with_huge_pages

ASKED_FOR = "always [madvise] never"
KEY = "GLIBC_TUNABLES"


def test_the_rest_of_the_environment_stays() -> None:
    environment = environment_with_huge_pages({"HOME": "/h"}, "glibc 2.36", ASKED_FOR)
    assert environment == {"HOME": "/h", KEY: "glibc.malloc.hugetlb=1"}


def test_other_tunables_stay() -> None:
    environment = environment_with_huge_pages({KEY: "glibc.malloc.arena_max=2"}, "glibc 3.0", ASKED_FOR)
    assert environment == {KEY: "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize(
    ("tunables", "libc", "setting"),
    [
        ("glibc.malloc.hugetlb=0", "glibc 2.36", ASKED_FOR),
        ("glibc.malloc.hugetlb=1", "glibc 2.36", ASKED_FOR),
        ("", "glibc 2.34", ASKED_FOR),
        ("", "glibc 2.x", ASKED_FOR),
        ("", "glibc", ASKED_FOR),
        ("", "musl 1.2", ASKED_FOR),
        ("", "", ASKED_FOR),
        ("", "glibc 2.36", "[always] madvise never"),
        ("", "glibc 2.36", "always madvise [never]"),
        ("", "glibc 2.36", ""),
    ],
)
def test_where_nothing_changes(tunables: str, libc: str, setting: str) -> None:
    assert environment_with_huge_pages({KEY: tunables}, libc, setting) is None
