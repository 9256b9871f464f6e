from __future__ import annotations

import logging
from pathlib import Path

import pytest

from servolley.config.strict import ConfigError
from servolley.repository.layout import RepositoryError, Scanner, read_class_labels, scan
from servolley.repository.names import LARGEST_VERSION, parse_version, valid_model_name


def put(root: Path, *paths: str, text: str = "") -> None:
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


@pytest.mark.parametrize(
    "name", ["resnet50", "a b", "модель", "a.b", "x" * 255, "A-Z_0", "m@1", "stats", "a:b", "-x"]
)
def test_model_names(name: str) -> None:
    assert valid_model_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        " a",
        "a ",
        "a\n",
        "a\x00b",
        "\x7f",
        "x" * 256,
        "é" * 128,
        "\ud800",
    ],
)
def test_not_model_names(name: str) -> None:
    assert not valid_model_name(name)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1", 1),
        ("00000123", 123),
        (str(LARGEST_VERSION), LARGEST_VERSION),
        (str(LARGEST_VERSION + 1), None),
        ("9" * 5000, None),
        ("0", None),
        ("00", None),
        ("-1", None),
        ("+1", None),
        ("1a", None),
        ("1.0", None),
        (" 1", None),
        ("\u0661", None),  # a digit, but not one of ours
        ("", None),
    ],
)
def test_version_names(name: str, version: int | None) -> None:
    assert parse_version(name) == version


def test_a_repository(tmp_path: Path) -> None:
    put(
        tmp_path,
        "plain/1/model.onnx",
        "plain/2/model.onnx",
        "plain/readme.txt",
        "external/7/model.onnx/model.onnx",
        "external/7/model.onnx/weights.bin",
        "README.md",
        ".git/1/model.onnx",
        "lost+found/x",
    )
    found = scan(tmp_path)
    assert list(found) == ["external", "plain"]
    assert found["plain"].versions == {1: tmp_path / "plain/1/model.onnx", 2: tmp_path / "plain/2/model.onnx"}
    assert found["external"].versions == {7: tmp_path / "external/7/model.onnx/model.onnx"}
    assert found["plain"].error is None


def test_what_is_not_a_version_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "m/1/model.onnx", "m/v2/model.onnx", "m/3/other.txt", "m/.4/model.onnx")
    with caplog.at_level(logging.WARNING):
        assert list(scan(tmp_path)["m"].versions) == [1]
    assert [(r.getMessage(), r.__dict__["fields"]["directory"]) for r in caplog.records] == [
        ("ignored: no model.onnx in it", "3"),
        ("ignored: not a version", "v2"),
    ]


def test_zero_padded_versions_and_the_later_of_two_wins(tmp_path: Path) -> None:
    put(tmp_path, "m/00000123/model.onnx", "m/123/model.onnx")
    assert scan(tmp_path)["m"].versions == {123: tmp_path / "m/123/model.onnx"}


def test_a_bad_configuration_stops_only_its_model(tmp_path: Path) -> None:
    put(tmp_path, "good/1/model.onnx", "bad/1/model.onnx")
    put(tmp_path, "bad/model.toml", text="max_batch = 3")
    found = scan(tmp_path)
    assert found["good"].error is None
    assert found["bad"].error is not None
    assert found["bad"].error.startswith("model.toml: unknown key 'max_batch'")
    assert str(tmp_path) not in found["bad"].error  # it is shown to clients


def test_a_configured_model_without_versions_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "m/model.toml", text="filename = 'net.onnx'")
    assert scan(tmp_path)["m"].error == "no version directory holds net.onnx"


def test_a_configured_file_name(tmp_path: Path) -> None:
    put(tmp_path, "m/1/net.onnx")
    put(tmp_path, "m/model.toml", text="filename = 'net.onnx'")
    assert scan(tmp_path)["m"].versions == {1: tmp_path / "m/1/net.onnx"}


@pytest.mark.parametrize(
    "broken", ["filename = 'net.onnx'\nthis is not TOML", "filename = 3", "max_batch = 1"]
)
def test_a_configuration_that_breaks_hides_no_version(tmp_path: Path, broken: str) -> None:
    put(tmp_path, "m/1/net.onnx")
    put(tmp_path, "m/model.toml", text="filename = 'net.onnx'")
    scanner = Scanner(tmp_path)
    whole = scanner.look()["m"]
    put(tmp_path, "m/model.toml", text=broken)
    for _ in range(2):
        found = scanner.look()["m"]
        assert found.versions == whole.versions
        assert (found.stamps, found.empty) == (whole.stamps, False)
        assert found.error is not None
        assert found.error.startswith("model.toml: ")
    put(tmp_path, "m/model.toml", text="filename = 'net.onnx'\n")
    assert scanner.look()["m"].error is None


def test_a_broken_configuration_is_no_absence_of_versions(tmp_path: Path) -> None:
    put(tmp_path, "m/1/net.onnx")
    put(tmp_path, "m/model.toml", text="filename = 'net.onnx'\nthis is not TOML")
    found = scan(tmp_path)["m"]
    assert (found.versions, found.empty) == ({}, False)
    put(tmp_path, "n/model.toml", text="this is not TOML")
    assert scan(tmp_path)["n"].empty


def test_a_file_name_that_no_file_has_is_no_absence_of_versions(tmp_path: Path) -> None:
    put(tmp_path, "m/1/net.onnx", "m/2/.complete")
    put(tmp_path, "m/model.toml", text="filename = 'nett.onnx'")
    found = scan(tmp_path)["m"]
    assert (found.versions, found.error) == ({}, "no version directory holds nett.onnx")
    assert not found.empty
    (tmp_path / "m/1/net.onnx").unlink()
    assert scan(tmp_path)["m"].empty


@pytest.mark.parametrize("kind", ["folder", "link to nothing"])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "m/1/net.onnx")
    put(tmp_path, "m/model.toml", text="filename = 'net.onnx'")
    scanner = Scanner(tmp_path)
    whole = scanner.look()["m"]
    path = tmp_path / "m/model.toml"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "absent")
    found = scanner.look()["m"]
    assert (found.versions, found.empty) == (whole.versions, False)
    assert found.error in {"model.toml: Is a directory", "model.toml: No such file or directory"}


def test_a_configuration_that_becomes_readable_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after chmod: neither its size nor its time says so."""
    put(tmp_path, "m/1/model.onnx")
    put(tmp_path, "m/model.toml", text="[batching]\nmax_batch_size = 3")
    scanner = Scanner(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", forbidden)
        assert scanner.look()["m"].error == "model.toml: Permission denied"
    found = scanner.look()["m"]
    assert (found.error, found.config.batching.max_batch_size) == (None, 3)


def forbidden(*_: object, **__: object) -> str:
    raise PermissionError(13, "Permission denied")


def loop(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.name)


def test_a_link_that_leads_back_to_itself_stops_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "good/1/model.onnx")
    for name in ("readme", "7", "8"):
        loop(tmp_path / "good" / name)
    loop(tmp_path / "bad")
    loop(tmp_path / "not a name ")
    scanner = Scanner(tmp_path)
    found = scanner.look()
    assert found["good"].versions.keys() == {1}
    assert found["good"].unreadable_versions == {7, 8}
    assert found.keys() == {"good", "bad"}
    assert found["bad"].unreadable
    assert found["bad"].error == "its folder cannot be read: Too many levels of symbolic links"
    said = [record.__dict__["fields"]["directory"] for record in caplog.records]
    assert said == ["bad", "7", "8", "readme"]
    assert scanner.names() == ["good"]


def test_a_model_of_which_no_version_can_be_read_is_not_absent(tmp_path: Path) -> None:
    loop(tmp_path / "m" / "7")
    found = scan(tmp_path)["m"]
    assert (found.versions, found.empty) == ({}, False)
    assert found.unreadable_versions == {7}


def test_the_folder_of_the_file_system_is_no_model(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx", "lost+found/1/model.onnx")
    assert list(scan(tmp_path)) == ["m"]


def test_one_file(tmp_path: Path) -> None:
    put(tmp_path, "net.onnx")
    assert scan(tmp_path / "net.onnx")["net"].versions == {1: tmp_path / "net.onnx"}
    assert list(scan(tmp_path / "net.onnx", "m")) == ["m"]
    with pytest.raises(RepositoryError, match="not a model name"):
        scan(tmp_path / "net.onnx", "../m")


def test_one_model_directory(tmp_path: Path) -> None:
    put(tmp_path, "resnet/1/model.onnx")
    assert list(scan(tmp_path / "resnet")) == ["resnet"]
    assert list(scan(tmp_path / "resnet", "other")) == ["other"]


def test_paths_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no such file or directory"):
        scan(tmp_path / "absent")
    with pytest.raises(RepositoryError, match="a name fits only a single model"):
        scan(tmp_path, "m")
    assert scan(tmp_path) == {}


@pytest.mark.parametrize("file_name", ["../labels.txt", "/etc/passwd", "sub/../../labels.txt", "link"])
def test_label_files_stay_inside_the_model(tmp_path: Path, file_name: str) -> None:
    put(tmp_path, "labels.txt", "m/1/model.onnx")
    (tmp_path / "m/link").symlink_to(tmp_path / "labels.txt")
    put(tmp_path, "m/model.toml", text=f"[class_labels]\ny = '{file_name}'")
    with pytest.raises(ConfigError, match="lies outside the model's directory"):
        read_class_labels(scan(tmp_path)["m"])


def test_a_repository_stays_one(tmp_path: Path) -> None:
    root = tmp_path / "r"
    root.mkdir()
    scanner = Scanner(root)
    assert scanner.look() == {}
    put(root, "m/1/model.onnx", "n/2/model.onnx")
    assert scanner.look().keys() == {"m", "n"}
    for stray in ("model.toml", "config.pbtxt", "3/model.onnx"):
        put(root, stray)
        with pytest.raises(RepositoryError, match="has become one model's directory"):
            scanner.look()
        with pytest.raises(RepositoryError, match="has become one model's directory"):
            scanner.look_at("m")
        (root / stray).unlink()
        assert scanner.look().keys() == {"m", "n"}
    root.rename(tmp_path / "elsewhere")
    root.write_text("")
    with pytest.raises(RepositoryError, match="has become a model file"):
        scanner.look()


def test_a_model_directory_stays_one(tmp_path: Path) -> None:
    root = tmp_path / "m"
    put(root, "1/model.onnx")
    scanner = Scanner(root)
    assert scanner.look()["m"].versions.keys() == {1}
    (root / "1" / "model.onnx").unlink()
    found = scanner.look()["m"]
    assert (found.versions, found.empty) == ({}, True)
    put(root, "2/model.onnx")
    assert scanner.look()["m"].versions.keys() == {2}


def test_a_label_file_that_leads_back_to_itself(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    loop(tmp_path / "m" / "labels.txt")
    put(tmp_path, "m/model.toml", text="[class_labels]\ny = 'labels.txt'")
    with pytest.raises(ConfigError, match=r"class_labels\.y: cannot read 'labels.txt'"):
        read_class_labels(scan(tmp_path)["m"])


def test_label_files(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    put(tmp_path, "m/labels.txt", text="cat\nhot dog\n")
    put(tmp_path, "m/model.toml", text="[class_labels]\ny = 'labels.txt'")
    model = scan(tmp_path)["m"]
    assert read_class_labels(model) == {"y": ["cat", "hot dog"]}
    (tmp_path / "m/labels.txt").unlink()
    with pytest.raises(ConfigError, match=r"class_labels\.y: cannot read 'labels.txt'"):
        read_class_labels(model)
