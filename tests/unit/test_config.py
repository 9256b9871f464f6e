from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servolley.config.model import ModelConfig, servable_options
from servolley.config.settings import ServerSettings
from servolley.config.sizes import parse_size
from servolley.config.strict import ConfigError, apply_flags, load_toml, parse_toml


def model(text: str) -> ModelConfig:
    return parse_toml(text, ModelConfig, source="m/model.toml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("filenam = 'x'", "unknown key 'filenam', did you mean 'filename'?"),
        (
            "[batching]\nmax_batchsize = 3",
            "unknown key 'batching.max_batchsize', did you mean 'max_batch_size'?",
        ),
        ("[runtime]\nintra_op_thread_count = 3", "did you mean 'intra_op_threads'?"),
        (
            "zebra = 1",
            "unknown key 'zebra' (known: batching, ",
        ),
        ("[batching]\nmax_batch_size = '3'", "'batching.max_batch_size': Expected `int | null`, got `str`"),
        ("[batching]\nmax_batch_size = -1", "'batching.max_batch_size': Expected `int` >= 0"),
        ("[batching]\nmax_batch_size = true", "'batching.max_batch_size'"),
        ("[batching]\npreferred_batch_sizes = [4, 2]", "must ascend"),
        ("[batching]\nmax_batch_size = 4\npreferred_batch_sizes = [8]", "preferred batch size 8 exceeds"),
        ("[runtime]\ndevice = 'gpu'", "'runtime.device'"),
        ("[runtime]\nexecution = 'fast'", "'runtime.execution'"),
        ("[versions]\nlatest = 2\nall = true", "give at most one of latest, all and specific"),
        ("[versions]\nspecific = [0]", "'versions.specific"),
        ("filename = '../../etc/passwd'", "'filename'"),
        ("filename = '..'", "must name a file"),
        ("a = [", "not valid TOML"),
        ("[traffic]\nsplit = { 1 = 0 }", "a split needs a weight above 0"),
        ("[traffic]\nsplit = { one = 1 }", "'traffic.split': Expected `int`, got `str`: a key"),
        ("[traffic]\nsplit = { 0 = 1 }", "'traffic.split': Expected `int` >= 1: a key"),
        ("[traffic]\nsplit = { 1 = -1 }", "'traffic.split"),
        ("[traffic]\nsplit = { 1 = 0.5 }", "'traffic.split"),
        ("[traffic]\nspilt = {}", "unknown key 'traffic.spilt', did you mean 'split'?"),
        ("[traffic]\nsplit = { 1 = 1, 2 = 1 }", "need 2 versions, of which [versions] keeps 1"),
        (
            "[versions]\nspecific = [1, 2]\n[traffic]\nsplit = { 1 = 1, 3 = 1 }",
            "names version 3, which is not in [versions] specific",
        ),
        ("[canary]", "need 2 versions, of which [versions] keeps 1: give latest = 2, specific or all"),
        ("[versions]\nspecific = [1]\n[shadow]", "need 2 versions, of which [versions] keeps 1"),
        ("[versions]\nall = true\n[canary]\nversion = 'newest'", "'canary.version'"),
        ("[versions]\nall = true\n[canary]\nversion = 2\nstable = 2", "must not be the same"),
        ("[versions]\nall = true\n[canary]\nweight = 100", "'canary.weight'"),
        ("[versions]\nall = true\n[canary]\nmax_latency_ratio = 0.5", "at least 1, or 0 for any"),
        ("[versions]\nall = true\n[shadow]\nfraction = 0", "'shadow.fraction'"),
        ("[versions]\nall = true\n[shadow]\nmax_memory = 'much'", "not a size in bytes"),
        (
            "[versions]\nall = true\n[canary]\n[traffic]\nsplit = { 1 = 1 }",
            "give [traffic] split or [canary], not both",
        ),
        ("batching = 3", "'batching': Expected `object`, got `int`"),
    ],
)
def test_model_toml_refuses(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model(text)
    assert str(caught.value).startswith("m/model.toml: ")
    assert complaint in str(caught.value)


def test_every_unknown_key_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"'filenam'.*'batching\.max_queu_size'"):
        model("filenam = 'x'\n[batching]\nmax_queu_size = 1")


def test_model_toml_reads_everything() -> None:
    config = model(
        """
        filename = "net.onnx"
        [batching]
        max_batch_size = 16
        max_queue_delay_us = 500
        preferred_batch_sizes = [4, 8]
        max_queue_size = 32
        default_timeout_us = 1000
        allow_timeout_override = false
        [runtime]
        device = "cuda:1"
        execution = "threads"
        instances = 2
        graph_optimization = "basic"
        warmup = false
        [versions]
        specific = [1, 3]
        labels = { stable = 1 }
        [class_labels]
        y = "labels.txt"
        """
    )
    assert config.filename == "net.onnx"
    assert config.versions.specific == [1, 3]
    assert config.versions.labels == {"stable": 1}
    options = servable_options(config, {"y": ["cat", "dog"]})
    assert options["devices"] == ["cuda:1"]
    assert options["max_batch_size"] == 16
    assert options["graph_optimization"] == 1
    assert options["labels"] == {"y": ["cat", "dog"]}


def test_where_a_model_runs() -> None:
    def runtime(text: str) -> ModelConfig:
        return model(f"[runtime]\n{text}")

    assert servable_options(ModelConfig(), {})["devices"] == ["cpu"]
    config = runtime('devices = ["cuda:1", "cuda:0"]\nlanes = 3\ncuda_graphs = true\ngpu_memory_limit = 1024')
    options = servable_options(config, {})
    assert options["devices"] == ["cuda:1", "cuda:0"]
    assert (options["lanes"], options["cuda_graphs"], options["gpu_memory_bytes"]) == (3, True, 1024)
    assert options["tensorrt"] is None
    config = runtime(
        'device = "auto"\ntensorrt = { precision = "fp16", cache = "/c", options = { a = "1" } }'
    )
    assert servable_options(config, {})["devices"] == ["auto"]
    assert servable_options(config, {})["tensorrt"] == {
        "precision": "fp16",
        "cache": "/c",
        "options": {"a": "1"},
    }
    by_default = servable_options(runtime("tensorrt = {}"), {})["tensorrt"]
    assert by_default is not None
    assert by_default["cache"].endswith("servolley/tensorrt")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('device = "gpu"', "device"),
        ('devices = ["cpu"]', "devices"),
        ('devices = ["cuda:0", "cuda:0"]', "twice"),
        ('device = "cuda:0"\ndevices = ["cuda:1"]', "either"),
        ("lanes = 0", "lanes"),
        ('tensorrt = { precision = "fp4" }', "precision"),
        ("tensorrt = { }\ncuda_graphs = true", "trt_cuda_graph_enable"),
    ],
)
def test_where_a_model_cannot_run(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        model(f"[runtime]\n{text}")


def test_absent_batch_size_means_infer() -> None:
    assert servable_options(ModelConfig(), {})["max_batch_size"] == -1
    assert servable_options(model("[batching]\nmax_batch_size = 0"), {})["max_batch_size"] == 0


def test_options_are_exactly_the_contract() -> None:
    contract = (Path(__file__).parents[2] / "python/servolley/_core.pyi").read_text()
    listed = contract.split("class ServableOptions")[1].split("class ")[0].splitlines()
    names = {line.split(":")[0].strip() for line in listed if line.startswith("    ") and '"' not in line[:8]}
    assert set(servable_options(ModelConfig(), {})) == names - {""}


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "servolley.toml"
    with pytest.raises(ConfigError, match=f"{path}: No such file"):
        load_toml(path, ServerSettings)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_toml(path, ServerSettings)
    path.write_text("[htttp]\nport = 1\n")
    with pytest.raises(ConfigError, match="did you mean 'http'"):
        load_toml(path, ServerSettings)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("1.5GB", 1_500_000_000),
        ("2 KiB", 2048),
        ("7", 7),
        ("3b", 3),
        (12, 12),
        ("1g", 10**9),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "0", 0, "64 potatoes", "1e9", True, 1.5, None, "9" * 40])
def test_bad_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_size(text) > 0
    except ValueError as error:
        assert "size" in str(error)  # noqa: PT017 - either outcome is right


def test_flags_win_over_the_file_and_are_checked() -> None:
    settings = parse_toml("[http]\nport = 1234\nhost = '::1'\n", ServerSettings, source="s")
    changed = apply_flags(
        settings, {"http": {"port": 80, "host": None}, "limits": {"max_body_size": "1MiB", "pool_size": None}}
    )
    assert (changed.http.port, changed.http.host, changed.limits.max_body_size) == (80, "::1", 1 << 20)
    with pytest.raises(ConfigError, match=r"'http\.port'"):
        apply_flags(settings, {"http": {"port": 70_000}})
    with pytest.raises(ConfigError, match=r"'limits\.max_body_size': not a size"):
        apply_flags(settings, {"limits": {"max_body_size": "many"}})


def test_every_key_is_documented() -> None:
    pending: list[type[msgspec.Struct]] = [ServerSettings, ModelConfig]
    while pending:
        struct = pending.pop()
        for name in struct.__struct_fields__:
            kind = struct.__annotations__[name]
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                pending.append(kind)
            else:
                assert name in (struct.__doc__ or ""), f"{struct.__name__}.{name}"


# --- [signatures] of model.toml


def test_signatures_in_model_toml() -> None:
    config = parse_toml(
        """
        [signatures.serving_default]
        method = "classify"
        scores = "p"
        features = { INPUT0 = "age" }
        defaults = { age = [1, 2.5], name = "x", flag = true }
        """,
        ModelConfig,
        source="model.toml",
    )
    signature = config.signatures["serving_default"]
    assert (signature.method, signature.scores, signature.features) == ("classify", "p", {"INPUT0": "age"})
    assert signature.defaults == {"age": [1, 2.5], "name": "x", "flag": True}


@pytest.mark.parametrize(
    "text",
    [
        'method = "predict"',
        "",
        'method = "regress"\nscores = "p"',
        'method = "classify"\nvalue = "p"',
        'method = "classify"\nscore = "p"',
        'method = "regress"\ndefaults = { a = { b = 1 } }',
        'method = "regress"\nfeatures = { a = 1 }',
    ],
)
def test_bad_signatures_in_model_toml(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_toml(f"[signatures.s]\n{text}", ModelConfig, source="model.toml")


def test_model_toml_traffic() -> None:
    found = model(
        "[versions]\nlatest = 3\n[traffic]\nsplit = { 1 = 90, 2 = 10 }\n"
        "[shadow]\nversion = 3\nfraction = 0.25\nmax_memory = '1MiB'\n"
    )
    assert found.traffic.split == {1: 90, 2: 10}
    assert found.shadow is not None
    assert (found.shadow.version, found.shadow.fraction, found.shadow.max_memory) == (3, 0.25, 1 << 20)
    assert found.named_versions() == {1, 2, 3}
    canary = model("[versions]\nall = true\n[canary]\nstable = 4\nwindow_s = 5\n").canary
    assert canary is not None
    assert (canary.version, canary.stable, canary.window_s, canary.weight) == ("latest", 4, 5.0, 10)
