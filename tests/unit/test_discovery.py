from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servolley.repository import stamps
from servolley.repository.discovery import Models, Poller, keep_going, settled
from servolley.repository.layout import ModelOnDisk, RepositoryError, Scanner, scan
from servolley.repository.stamps import stamp_of_folder


def model(config: str = "", complete: tuple[int, ...] = (), **versions: str) -> ModelOnDisk:
    """Versions v1="content", v2=..."""
    stamps = {int(key[1:]): content for key, content in versions.items()}
    return ModelOnDisk(
        "m",
        Path("m"),
        versions={version: Path(f"m/{version}") for version in stamps},
        stamps=dict(stamps),
        complete=frozenset(complete),
        config_stamp=config,
    )


def history(*looks: ModelOnDisk | None, first: ModelOnDisk | None = None) -> list[dict[int, Any] | None]:
    """The versions that hold after each look."""
    known: Models = {} if first is None else {"m": first}
    before, out = known, []
    for look in looks:
        now: Models = {} if look is None else {"m": look}
        known = settled(known, before, now)
        before = now
        out.append(dict(known["m"].stamps) if "m" in known else None)
    return out


def test_a_new_version_is_believed_at_the_second_look_that_finds_the_same() -> None:
    old = model(v1="a")
    growing = [model(v1="a", v2=content) for content in ("x", "xy", "xyz", "xyz")]
    assert history(*growing, first=old) == [{1: "a"}, {1: "a"}, {1: "a"}, {1: "a", 2: "xyz"}]


def test_a_new_model_is_believed_at_the_second_look() -> None:
    assert history(model(v1="a"), model(v1="ab"), model(v1="ab")) == [None, None, {1: "ab"}]


def test_a_marker_is_believed_at_once() -> None:
    assert history(model(v1="a", complete=(1,))) == [{1: "a"}]
    assert history(model(v1="a", v2="b", complete=(2,)), first=model(v1="a")) == [{1: "a", 2: "b"}]


def test_changed_weights_hold_when_they_have_settled() -> None:
    looks = [model(v1="b"), model(v1="c"), model(v1="c")]
    assert history(*looks, first=model(v1="a")) == [{1: "a"}, {1: "a"}, {1: "c"}]


def test_absence_is_believed_at_the_second_look() -> None:
    old = model(v1="a", v2="b")
    assert history(model(v1="a"), old, model(v1="a"), model(v1="a"), first=old) == [
        {1: "a", 2: "b"},
        {1: "a", 2: "b"},
        {1: "a", 2: "b"},
        {1: "a"},
    ]
    assert history(None, old, None, None, first=old) == [{1: "a", 2: "b"}] * 3 + [None]


def test_a_configuration_that_is_being_written_changes_nothing() -> None:
    old = model("one", v1="a")
    looks = [model("tw", v1="a", v2="b"), model("two", v1="a", v2="b"), model("two", v1="a", v2="b")]
    assert history(*looks, first=old) == [{1: "a"}, {1: "a"}, {1: "a", 2: "b"}]


def test_what_cannot_be_read_stays_as_it_was() -> None:
    blind = ModelOnDisk("m", Path("m"), unreadable=True)
    assert history(blind, blind, blind, first=model(v1="a")) == [{1: "a"}] * 3
    assert history(blind, blind) == [None, None]


def test_a_version_that_cannot_be_read_stays_as_it_was() -> None:
    old = model(v1="a", v2="b")
    blind = replace(model(v1="c"), unreadable_versions=frozenset({2}))
    looks = [blind, blind, model(v1="c"), model(v1="c")]
    assert history(*looks, first=old) == [{1: "a", 2: "b"}, {1: "c", 2: "b"}, {1: "c", 2: "b"}, {1: "c"}]


def test_a_look_that_failed_is_no_look_at_what_is_absent() -> None:
    blind = ModelOnDisk("m", Path("m"), unreadable=True)
    old, less = model(v1="a", v2="b"), model(v1="a")
    assert history(blind, less, less, first=old) == [{1: "a", 2: "b"}, {1: "a", 2: "b"}, {1: "a"}]


def test_a_marker_says_nothing_about_a_configuration_that_changes() -> None:
    old = model("one", v1="a", complete=(1,))
    looks = [model(text, v1="a", complete=(1,)) for text in ("tw", "two", "two")]
    known: Models = {"m": old}
    before, configs = known, []
    for look in looks:
        known = settled(known, before, {"m": look})
        before = {"m": look}
        configs.append(known["m"].config_stamp)
    assert configs == ["one", "one", "two"]


def test_a_marker_does_not_vouch_for_a_configuration_that_is_broken() -> None:
    broken = replace(model("tw", v1="a", complete=(1,)), error="model.toml: not valid TOML")
    assert history(broken, model("two", v1="a", complete=(1,))) == [None, {1: "a"}]


def test_versions_that_a_broken_configuration_hides_are_not_gone() -> None:
    hidden = replace(model("x"), error="model.toml: not valid TOML", empty=False)
    known = settled({"m": model(v1="a")}, {"m": hidden}, {"m": hidden})["m"]
    assert (known.error, known.empty) == ("model.toml: not valid TOML", False)


class Looks:
    def __init__(self, *looks: dict[str, ModelOnDisk] | Exception) -> None:
        self.looks = list(looks)

    def look(self) -> dict[str, ModelOnDisk]:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, Exception):
            raise look
        return look

    def folders(self) -> list[tuple[Path, int]]:
        return []


async def test_a_poller_tells_changes_only_and_outlives_what_it_cannot_see() -> None:
    told: list[Models] = []
    twice = asyncio.Event()

    def tell(models: Models) -> None:
        told.append(models)
        if len(told) == 2:
            twice.set()

    old, new = {"m": model(v1="a")}, {"m": model(v1="a", v2="b")}
    source = Looks(old, RepositoryError("gone"), RuntimeError("odd"), old, new, new, new, old)
    polling = asyncio.create_task(Poller(source, old, 0.001, tell).run())
    await asyncio.wait_for(twice.wait(), 10)
    polling.cancel()
    assert [list(models["m"].versions) for models in told] == [[1, 2], [1]]


async def test_what_could_not_be_told_is_told_again() -> None:
    told: list[Models] = []
    done = asyncio.Event()

    def tell(models: Models) -> None:
        told.append(models)
        if len(told) == 1:
            raise RuntimeError("odd")
        done.set()

    old, new = {"m": model(v1="a")}, {"m": model(v1="a", v2="b")}
    polling = asyncio.create_task(Poller(Looks(new), old, 0.001, tell).run())
    await asyncio.wait_for(done.wait(), 10)
    polling.cancel()
    assert told == [new, new]


async def test_work_that_fails_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    again = asyncio.Event()
    begun: list[int] = []

    async def work() -> None:
        begun.append(len(begun))
        if len(begun) == 1:
            raise RuntimeError("odd")
        again.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(keep_going("the work", work, 0.001))
    await asyncio.wait_for(again.wait(), 10)
    task.cancel()
    assert [record.getMessage() for record in caplog.records] == ["the work failed: it begins anew"]


def test_models_that_stay_as_they_were_are_the_same_objects() -> None:
    known = {name: replace(model(v1="a"), name=name) for name in "abc"}
    now = {name: replace(model(v1="b" if name == "b" else "a"), name=name) for name in "abc"}
    after = settled(known, now, now)
    assert [after[name] is known[name] for name in "abc"] == [True, False, True]


def put(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_stamps_tell_contents_apart(tmp_path: Path) -> None:
    file = tmp_path / "r" / "m" / "1" / "model.onnx"
    put(file)
    scanner = Scanner(tmp_path / "r")
    first = scanner.look()
    assert scanner.look() == first
    put(file.parent / ".complete", "")
    marked = scanner.look()["m"]
    assert marked.complete == {1}
    assert marked.stamps == first["m"].stamps
    status = file.stat()
    put(tmp_path / "other", "y")
    os.utime(tmp_path / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "other").rename(file)  # the same size and time, but another file
    assert scanner.look()["m"].stamps != first["m"].stamps


def test_a_link_that_leads_nowhere_hides_no_file(tmp_path: Path) -> None:
    put(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    (tmp_path / "loop").symlink_to("loop")
    seen = [stamp_of_folder(tmp_path)]
    for name, text in (("z", "x"), ("a", "longer"), ("absent", "x")):
        put(tmp_path / name, text)
        seen.append(stamp_of_folder(tmp_path))
        assert stamp_of_folder(tmp_path) == seen[-1]
    assert len({repr(stamp) for stamp in seen}) == len(seen)


def test_what_vanishes_during_a_look_makes_no_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "r" / "m" / "1"
    put(folder / "model.onnx")
    put(folder / ".complete")
    listed = stamps._visible_entries

    def listed_before_it_vanished(path: str) -> Any:
        put(folder / "weights.bin")
        entries = listed(path)
        (folder / "weights.bin").unlink()
        return entries

    monkeypatch.setattr(stamps, "_visible_entries", listed_before_it_vanished)
    scanner = Scanner(tmp_path / "r")
    one, other = scanner.look()["m"], scanner.look()["m"]
    assert one.stamps != other.stamps
    assert one.complete == frozenset()  # whatever it says itself


def test_one_look_at_one_model(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1" / "model.onnx")
    put(tmp_path / "b" / "readme")
    scanner = Scanner(tmp_path)
    assert scanner.names() == ["a", "b"]
    found = scanner.look_at("a")
    assert found is not None
    assert found.versions == scan(tmp_path)["a"].versions
    assert scanner.look_at("b") is None
    assert scanner.look_at("c") is None
    assert Scanner(tmp_path / "a").names() == ["a"]


def test_what_is_odd_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "m" / "1" / "model.onnx")
    put(tmp_path / "m" / "v2" / "model.onnx")
    scanner = Scanner(tmp_path)
    for _ in range(3):
        scanner.look()
    assert len(caplog.records) == 1
    shutil.rmtree(tmp_path / "m" / "v2")
    scanner.look()
    put(tmp_path / "m" / "v2" / "model.onnx")
    scanner.look()
    assert len(caplog.records) == 2


def test_a_repository_that_vanishes_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    put(tmp_path / "r" / "m" / "1" / "model.onnx")
    scanner = Scanner(tmp_path / "r")
    scanner.look()
    shutil.rmtree(tmp_path / "r")
    with pytest.raises(RepositoryError):
        scanner.look()
