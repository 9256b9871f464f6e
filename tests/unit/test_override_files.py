"""Files that come with a load: which names they may have, where they lie, and that they go."""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servolley.config.model import ModelConfig
from servolley.config.settings import Repository
from servolley.repository import override_files
from servolley.repository.explicit import ExplicitControl
from servolley.repository.layout import Scanner
from servolley.repository.manager import Manager
from servolley.repository.override_files import MOST_FILES, OverrideStore, take_files, write_files
from servolley.status import Code, StatusError
from unit import fake_core


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def entries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- names

BAD_NAMES = [
    "",
    "1",
    "1/",
    "model.onnx",
    "/1/model.onnx",
    "0/model.onnx",
    "-1/model.onnx",
    "1a/model.onnx",
    "99999999999999999999/model.onnx",
    "../1/model.onnx",
    "1/../model.onnx",
    "1/../../../etc/cron.d/x",
    "1//model.onnx",
    "1/./model.onnx",
    "1/a/../../../x",
    "1/.complete",
    "1/.hidden/model.onnx",
    "1/a\\..\\b",
    "1/a\0b",
    "1/a\nb",
    "1/\ud800",
    "1/" + "a" * 256,
    "1/" + "\u00e9" * 200,
    "1/" + "a/" * 20 + "b",
    "1/" + "/".join(["a" * 200] * 8),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(StatusError, match="<version>/<file name>") as refused:
        take_files({f"file:{name}": b"x"})
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert len(refused.value.message) < 300


@given(st.text(), st.lists(st.sampled_from(["..", ".", "", "a", "/", "1", "\\", "\0"]), max_size=6))
def test_whatever_is_taken_stays_inside(text: str, parts: list[str]) -> None:
    for name in (text, "1/" + text, "/".join(parts), "1/" + "/".join(parts)):
        try:
            (path,) = take_files({f"file:{name}": b"x"})
        except StatusError:
            continue
        inside = os.path.normpath(f"/root/m/{path}")
        assert inside == f"/root/m/{path}"
        assert not path.is_absolute()


def test_what_is_taken() -> None:
    files = take_files({"config": "{}", "file:1/model.onnx": b"a", "file:007/a/b.bin": "Yg=="})
    assert files == {PurePosixPath("1/model.onnx"): b"a", PurePosixPath("7/a/b.bin"): "Yg=="}
    for parameters, word in (
        ({"file:1/a": b"", "file:01/a": b""}, "twice"),
        ({"file:1/a": b"", "file:1/a/b": b""}, "below another"),
        ({"file:1/a": 7}, "base64"),
        ({"file:1/a": True}, "base64"),
        ({f"file:1/{number}": b"" for number in range(MOST_FILES + 1)}, str(MOST_FILES)),
    ):
        with pytest.raises(StatusError, match=word):
            take_files(parameters)


# --- contents


def test_what_is_written(temporary: Path) -> None:
    store = OverrideStore(1 << 20)
    large = os.urandom(700_001)
    files = take_files(
        {
            "file:1/model.onnx": base64.b64encode(large).decode(),
            "file:1/raw.bin": large[:1000],
            "file:2/sub/empty": "",
        }
    )
    written = store.begin(files)
    write_files(written, "m", files)
    assert written.root.parent == temporary
    assert written.root.stat().st_mode & 0o777 == 0o700
    assert (written.root / "m/1/model.onnx").read_bytes() == large
    assert (written.root / "m/1/raw.bin").read_bytes() == large[:1000]
    assert (written.root / "m/2/sub/empty").read_bytes() == b""
    written.remove()
    assert entries(temporary) == []


@pytest.mark.parametrize("text", ["a", "ab=", "YWJj!", "YWJj\n", "=YWJ", "\u00e9" * 4, "YQ==" * (1 << 17)])
def test_text_that_is_not_base64(temporary: Path, text: str) -> None:
    files = take_files({"file:1/model.onnx": text})
    written = OverrideStore(1 << 30).begin(files)
    with pytest.raises(StatusError, match="not base64") as refused:
        write_files(written, "m", files)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_full_disk(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(override_files, "_write", full)
    files = take_files({"file:1/model.onnx": b"x"})
    written = OverrideStore(1 << 30).begin(files)
    with pytest.raises(StatusError, match="No space left") as refused:
        write_files(written, "m", files)
    assert refused.value.code is Code.RESOURCE_EXHAUSTED


# --- as loads


def parse(_: str, text: str) -> ModelConfig:
    return ModelConfig(filename=text or "model.onnx")


class Fixture:
    def __init__(self, root: Path, limit_bytes: int = 100) -> None:
        self.engine = fake_core.Engine()
        settings = Repository(load_retries=0)
        self.manager = Manager(cast("Any", self.engine), settings, asyncio.get_running_loop())
        self.control = ExplicitControl(self.manager, Scanner(root), parse, limit_bytes)

    async def load(self, name: str = "m", /, **parameters: Any) -> Code | None:
        try:
            await self.control.load(name, parameters)
        except StatusError as error:
            return error.code
        return None


@pytest.fixture
async def f(tmp_path: Path, temporary: Path) -> Fixture:
    path = tmp_path / "r" / "m" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_text("on disk")
    fixture = Fixture(tmp_path / "r")
    await fixture.manager.load_first({})
    return fixture


def routes(f: Fixture, name: str) -> Any:
    return f.engine.routes[name]


def path_of(f: Fixture, name: str = "m", version: int = 1) -> Path:
    return f.manager.models[name].versions[version].path


async def test_files_take_the_place_of_the_folder_until_a_plain_load(f: Fixture, temporary: Path) -> None:
    assert await f.load() is None
    on_disk = path_of(f)
    assert await f.load(config="", **{"file:3/model.onnx": b"three"}) is None
    assert f.engine.routes["m"] == ([3], 3, {})
    first = path_of(f, version=3)
    assert first.is_relative_to(temporary)
    assert first.read_bytes() == b"three"
    assert await f.load(config="net.onnx", **{"file:4/net.onnx": "Zm91cg=="}) is None
    assert path_of(f, version=4).read_bytes() == b"four"
    assert not first.exists()
    assert len(entries(temporary)) == 1
    assert await f.load() is None
    assert f.engine.routes["m"] == ([1], 1, {})
    assert path_of(f) == on_disk
    assert entries(temporary) == []


async def test_a_model_that_is_on_no_disk(f: Fixture, temporary: Path) -> None:
    assert await f.load("new", config="", **{"file:1/model.onnx": b"x"}) is None
    assert routes(f, "new") == ([1], 1, {})
    await f.control.unload("new", {})
    assert routes(f, "new") == ([], None, {})
    assert entries(temporary) == []
    assert await f.load("new") is Code.NOT_FOUND


async def test_what_fails_leaves_nothing_and_what_was_serves(f: Fixture, temporary: Path) -> None:
    good: dict[str, Any] = {"file:1/model.onnx": b"good"}
    assert await f.load(config="", **good) is None
    serving = path_of(f)
    f.engine.failures["m", 2] = fake_core.core_error("INVALID_ARGUMENT", 400, "no")
    for parameters in (
        {"config": "", "file:2/model.onnx": b"bad"},
        {"config": "", "file:2/model.onnx": "not base64!"},
        {"config": "", "file:2/other.onnx": b"x"},
        {"config": "other.onnx", "file:2/model.onnx": b"x"},
        {"config": "", "file:../2/model.onnx": b"x"},
        {"file:2/model.onnx": b"x"},
    ):
        assert await f.load(**parameters) is Code.INVALID_ARGUMENT, parameters
        assert f.engine.routes["m"] == ([1], 1, {})
        assert path_of(f) == serving
        assert len(entries(temporary)) == 1
    assert serving.read_bytes() == b"good"


async def test_there_is_a_limit_to_all_of_them(f: Fixture, temporary: Path) -> None:
    sixty: dict[str, Any] = {"config": "", "file:1/model.onnx": b"x" * 60}
    assert await f.load("a", **sixty) is None
    assert await f.load("b", **sixty) is Code.RESOURCE_EXHAUSTED
    assert await f.load("a", config="", **{"file:1/model.onnx": b"x" * 40}) is None  # beside the one before
    assert await f.load("b", **sixty) is None
    await f.control.unload("a", {})
    await f.control.unload("b", {})
    assert await f.load("c", config="", **{"file:1/model.onnx": b"x" * 100}) is None
    assert len(entries(temporary)) == 1


async def test_nothing_is_left_at_the_end(f: Fixture, temporary: Path) -> None:
    for name in ("a", "b"):
        assert await f.load(name, config="", **{"file:1/model.onnx": b"x"}) is None
    assert len(entries(temporary)) == 2
    f.control.close()
    assert entries(temporary) == []
