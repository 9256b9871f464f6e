from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servolley.config import tfserving, triton
from servolley.config.model import Versions
from servolley.config.strict import ConfigError
from servolley.config.tfserving import ServedModel
from servolley.front.grpc.messages import Messages
from servolley.repository.config_file import ConfigFile
from servolley.repository.layout import RepositoryError, Scanner
from servolley.repository.model_list import ModelList


@pytest.fixture(scope="module")
def messages() -> Messages:
    return Messages.built()


def parsed(messages: Messages, text: str) -> list[ServedModel]:
    message: Any = messages.message(tfserving.MESSAGE)()
    return tfserving.parse_text(text, message)


def test_what_is_read(messages: Messages) -> None:
    text = """
    model_config_list {
      config { name: "a" base_path: "/a" model_platform: "tensorflow" }
      config { name: "b" base_path: "/b" model_version_policy { all {} }
               version_labels { key: "stable" value: 3 } }
      config { name: "c" base_path: "/c" model_version_policy { specific { versions: 4 versions: 2 } } }
      config { name: "d" base_path: "/d" model_version_policy { latest { num_versions: 2 } } }
    }"""
    assert parsed(messages, text) == [
        ServedModel("a", "/a", Versions()),
        ServedModel("b", "/b", Versions(all=True, labels={"stable": 3})),
        ServedModel("c", "/c", Versions(specific=[4, 2])),
        ServedModel("d", "/d", Versions(latest=2)),
    ]
    assert parsed(messages, "") == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nonsense", "nonsense"),
        ('config { name: "a" }', "base_path"),
        ('config { name: "a" base_path: "/a" model_platform: "pytorch" }', "pytorch"),
        ('config { name: "a" base_path: "s3://bucket/a" }', "base_path of model 'a' is a URL"),
        (r'config { name: "a" base_path: "/a\000b" }', "no path"),
        ('config { name: "a" base_path: "/a" } config { name: "a" base_path: "/b" }', "two models"),
        ('config { name: "a" base_path: "/a" version_labels { key: "l" value: -1 } }', "'a'"),
        ('config { name: "a" base_path: "/a" logging_config { } }', "logging_config"),
    ],
)
def test_what_is_refused(messages: Messages, text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as refused:
        parsed(messages, f"model_config_list {{ {text} }}")
    assert tfserving.MESSAGE in str(refused.value)


def put(folder: Path, *versions: int) -> Path:
    for version in versions:
        (folder / str(version)).mkdir(parents=True, exist_ok=True)
        (folder / str(version) / "model.onnx").write_text("x")
    return folder


@pytest.mark.parametrize(
    ("folder", "policy", "why"),
    [
        ("typo", "", "typo does not exist"),
        ("hollow", "", "hollow holds no version"),
        ("a", "specific { versions: 9 }", "a holds no version that the policy wants"),
        ("a/1/model.onnx", "", "cannot be read"),
    ],
)
@pytest.mark.parametrize("once", [False, True])
def test_a_list_with_nothing_to_serve_waits(
    tmp_path: Path,
    messages: Messages,
    caplog: pytest.LogCaptureFixture,
    folder: str,
    policy: str,
    why: str,
    once: bool,
) -> None:
    put(tmp_path / "a", 1)
    put(tmp_path / "c", 1)
    (tmp_path / "hollow").mkdir()
    file, now = tmp_path / "models.config", 0.0

    def entry(name: str, folder: str, policy: str = "") -> str:
        where = f'name: "{name}" base_path: "{tmp_path / folder}"'
        return f"config {{ {where} model_version_policy {{ {policy} }} }}"

    def write(*entries: str) -> None:
        file.write_text(f"model_config_list {{ {' '.join(entries)} }}")

    def complaints() -> list[str]:
        said = "the model configuration stays as it was"
        return [record.fields["error"] for record in caplog.records if record.msg == said]  # type: ignore[attr-defined]

    def message() -> Any:
        return messages.message(tfserving.MESSAGE)()

    write(entry("a", "a"), entry("gone", "gone"))
    source = ConfigFile(file, message, ModelList(Scanner(Path()), once=once), 1, lambda: now)
    first = source.look()  # the first is taken as it is
    assert (list(first["a"].versions), first["gone"].error is None) == ([1], False)
    write(entry("a", folder, policy), entry("c", "c"), entry("gone", "gone"))
    for _ in range(3):
        now += 2
        assert source.look() == first
    (complaint,) = complaints()
    assert complaint.startswith("model 'a': base_path ")
    assert complaint.endswith(why)

    # What is as it was does not keep the rest back.
    write(entry("a", "a"), entry("c", "c"), entry("gone", "gone"))
    now += 2
    assert list(source.look()) == ["a", "c", "gone"]
    # Nor does anything once it is there.
    write(entry("a", "late"))
    now += 2
    assert list(source.look()) == ["a", "c", "gone"]
    put(tmp_path / "late", 5)
    now += 2
    assert {name: list(model.versions) for name, model in source.look().items()} == {"a": [5]}
    assert len(complaints()) == 2


def test_a_model_that_cannot_be_configured_is_no_reason(tmp_path: Path) -> None:
    (put(tmp_path / "a", 1) / "model.toml").write_text("oops")
    assert ModelList(Scanner(Path())).refusal([ServedModel("a", str(tmp_path / "a"), Versions())]) is None


def test_a_refused_list_says_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (put(tmp_path / "a", 1) / "notes").mkdir()
    served = [ServedModel("a", str(tmp_path / "a"), Versions())]
    listed = ModelList(Scanner(Path()))
    for _ in range(2):
        listed.refusal(served)
        listed.look()
    assert not caplog.records
    listed.served = served
    for _ in range(2):
        listed.look()
        listed.refusal(served)
    assert [record.getMessage() for record in caplog.records] == ["ignored: not a version"]


def test_the_file_is_read_again_when_it_is_time(tmp_path: Path, messages: Messages) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "a" / "1" / "model.onnx").write_text("x")
    (tmp_path / "a" / "model.toml").write_text(
        "[versions]\npreserve = 'memory'\n[batching]\nmax_batch_size = 3"
    )
    file = tmp_path / "models.config"
    now = 0.0

    def source(interval_s: float) -> ConfigFile:
        return ConfigFile(
            file,
            lambda: messages.message(tfserving.MESSAGE)(),
            ModelList(Scanner(Path(), triton_message=lambda: messages.message(triton.MESSAGE)())),
            interval_s,
            lambda: now,
        )

    file.write_text("oops")
    with pytest.raises(RepositoryError, match=tfserving.MESSAGE):
        source(1).look()
    entry = f'config {{ name: "a" base_path: "{tmp_path / "a"}" }}'
    file.write_text(f"model_config_list {{ {entry} }}")
    watching, once = source(10), source(0)
    found = watching.look()["a"]
    assert once.look() == {"a": found}
    assert found.config.versions == Versions(preserve="memory")
    assert found.config.batching.max_batch_size == 3
    put(tmp_path / "b", 1)
    file.write_text(f'model_config_list {{ {entry} config {{ name: "b" base_path: "{tmp_path / "b"}" }} }}')
    now = 9.0
    assert list(watching.look()) == ["a"]
    now = 11.0
    both = watching.look()
    assert both["a"] == found
    assert list(both["b"].versions) == [1]
    now = 100.0
    assert list(once.look()) == ["a"]
    file.write_text("model_config_list { oops }")
    assert watching.look() == both


def test_folders_that_are_looked_at_once(tmp_path: Path) -> None:
    for number in "12":
        (tmp_path / "a" / number).mkdir(parents=True)
        (tmp_path / "a" / number / "model.onnx").write_text("x")
    listed = ModelList(Scanner(Path()), [ServedModel("a", str(tmp_path / "a"), Versions())], once=True)
    found = listed.look()
    (tmp_path / "a" / "2" / "model.onnx").unlink()
    assert listed.look() == found
    listed.served = [ServedModel("b", str(tmp_path / "a"), Versions())]
    assert list(listed.look()["b"].versions) == [1]
