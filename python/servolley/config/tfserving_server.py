"""TensorFlow Serving's batching_parameters_file and monitoring_config_file, made ours.

Nothing here imports protobuf before it is used."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from servolley.config.model import Batching, ModelConfig
from servolley.config.strict import ConfigError
from servolley.config.tfserving import parse_message

BATCHING = "tensorflow.serving.BatchingParameters"
MONITORING = "tensorflow.serving.MonitoringConfig"

# TensorFlow Serving's own defaults, of a file that does not say.
_BATCH_ROWS = 1000
_ENQUEUED_BATCHES = 10
_MOST_REQUESTS = 1 << 31

DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+", re.ASCII)
_TAKEN = re.compile(r"/v[12](?:/|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BatchingDefaults:
    """What holds for every model whose own configuration says nothing about batching.

    instances: 0 = chosen for the device. sizes: batches that are warmed up.
    """

    batching: Batching
    instances: int = 0
    sizes: tuple[int, ...] = ()

    def __call__(self, config: ModelConfig) -> ModelConfig:
        if config.batching == Batching():
            config = msgspec.structs.replace(config, batching=self.batching)
        if self.instances and not config.runtime.instances:
            runtime = msgspec.structs.replace(config.runtime, instances=self.instances)
            config = msgspec.structs.replace(config, runtime=runtime)
        if self.sizes and not config.warmup.batch_sizes:
            warmup = msgspec.structs.replace(config.warmup, batch_sizes=list(self.sizes))
            config = msgspec.structs.replace(config, warmup=warmup)
        return config


NO_BATCHING = BatchingDefaults(Batching(max_batch_size=0))


def parse_batching(text: str, message: Any) -> tuple[BatchingDefaults, list[str]]:
    """``message``: an empty BatchingParameters. Returns the defaults, and remarks on what has no effect here.

    Raises ConfigError naming the field.
    """
    parse_message(text, message, BATCHING)

    def number(field: str, default: int, least: int, most: int) -> int:
        value: int = getattr(message, field).value if message.HasField(field) else default
        if not least <= value <= most:
            raise ConfigError(f"{BATCHING}: {field} must be {least} to {most}")
        return value

    rows = number("max_batch_size", _BATCH_ROWS, 1, 1 << 31)
    batches = number("max_enqueued_batches", _ENQUEUED_BATCHES, 1, _MOST_REQUESTS)
    splitting = message.enable_large_batch_splitting.value
    largest = number("max_execution_batch_size", rows, 1, rows) if splitting else rows
    sizes = list(message.allowed_batch_sizes)
    if sizes and (sizes[0] < 1 or sizes != sorted(set(sizes)) or sizes[-1] != largest):
        name = "max_execution_batch_size" if splitting else "max_batch_size"
        raise ConfigError(f"{BATCHING}: allowed_batch_sizes must ascend and end with {name}, {largest}")
    batching = Batching(
        max_batch_size_if_batchable=rows,
        max_queue_delay_us=number("batch_timeout_micros", 0, 0, 1 << 53),
        # TensorFlow Serving counts whole batches of waiting rows; a request has at least one.
        max_queue_size=min(batches * rows, _MOST_REQUESTS),
    )
    given = {
        "allowed_batch_sizes: batches are not filled up to them, only warmed up": bool(sizes),
        "pad_variable_length_inputs: what differs in length runs apart": message.pad_variable_length_inputs,
        "enable_large_batch_splitting: a large request runs whole": splitting,
    }
    instances = number("num_batch_threads", 0, 0, 1024)
    return BatchingDefaults(batching, instances, tuple(sizes)), [
        what for what, is_given in given.items() if is_given
    ]


def parse_monitoring(text: str, message: Any) -> str | None:
    """``message``: an empty MonitoringConfig. The path for metrics, None where none is asked for.

    Raises ConfigError.
    """
    parse_message(text, message, MONITORING)
    wanted = message.prometheus_config
    if not wanted.enable:
        return None
    path: str = wanted.path or DEFAULT_METRICS_PATH
    if not _PATH.fullmatch(path) or len(path) > 1024:
        raise ConfigError(f"{MONITORING}: path must be like '{DEFAULT_METRICS_PATH}', not {path[:100]!r}")
    if _TAKEN.match(path):
        raise ConfigError(f"{MONITORING}: '{path}' is among the paths of the APIs")
    return path
