"""Flags that say what is served, and those of other servers' start scripts that ask for nothing here or have
their own way to say what ours say."""

import argparse
import re
from collections.abc import Sequence

import msgspec

from servolley.config.settings import ServerSettings
from servolley.config.strict import ConfigError

# TensorFlow Serving's: about TensorFlow itself, or threads that are not needed here. Written as there:
# a name alone, or "=" and a value.
_IGNORED = re.compile(
    r"--(?:tensorflow_\w+|xla_\w+|\w*tflite\w*|enable_profiler|flush_filesystem_caches|saved_model_tags"
    r"|mixed_precision|skip_initialize_tpu|platform_config_file|remove_unused_fields_from_bundle_metagraph"
    r"|use_alts_credentials|rest_api_num_threads|grpc_max_threads|num_unload_threads"
    r"|per_process_gpu_memory_fraction)(?:=.*)?",
    re.ASCII | re.DOTALL,
)
# What they switch on is always so.
_GRANTED = re.compile(
    r"--(?:enable_grpc_healthcheck_service|allow_version_labels_for_unavailable_models)(?:=(?:true|1))?"
)
_UNLIMITED = 1 << 31  # TensorFlow Serving's own limit


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that are to be read, and the names of those that have no effect."""
    kept, ignored = [], []
    for argument in arguments:
        if _IGNORED.fullmatch(argument):
            ignored.append(argument.partition("=")[0])
        elif not _GRANTED.fullmatch(argument):
            kept.append(argument)
    return kept, ignored


def channel_arguments(text: str) -> tuple[dict[str, int], list[str]]:
    """TensorFlow Serving's --grpc_channel_arguments, "key=value,key=value": the settings that they are here
    (max_body_size, reuse_port), and the names of those that have no effect. Raises ConfigError."""
    settings: dict[str, int] = {}
    ignored = []
    for argument in filter(None, text.split(",")):
        key, separator, value = argument.partition("=")
        if not separator or not key:
            raise ConfigError(f"--grpc_channel_arguments: '{argument}' is not key=value")
        if key not in {"grpc.max_receive_message_length", "grpc.so_reuseport"}:
            ignored.append(key)
            continue
        try:
            number = int(value)
        except ValueError:
            raise ConfigError(f"--grpc_channel_arguments: '{key}' must be a number") from None
        if key == "grpc.so_reuseport":
            settings["reuse_port"] = int(number != 0)
        else:
            settings["max_body_size"] = number if number > 0 else _UNLIMITED
    return settings, ignored


def served_paths(parsed: argparse.Namespace) -> list[str]:
    """What is to be served, as the flags say. Raises ConfigError."""
    paths: list[str] = parsed.model_repository or []
    if parsed.path and paths:
        raise ConfigError("give PATH or --model-repository, not both")
    paths = [parsed.path] if parsed.path else paths
    check_source(paths[0] if paths else None, parsed.model_config_file)
    if parsed.model_config_file is not None:
        return []  # as in TensorFlow Serving the file goes before --model_base_path
    if paths and parsed.model_base_path:
        raise ConfigError("give PATH, --model-repository or --model_base_path, only one of them")
    return paths or ([parsed.model_base_path] if parsed.model_base_path else [])


def check_source(path: str | None, model_config_file: str | None) -> None:
    """Raises ConfigError."""
    if path is not None and model_config_file is not None:
        raise ConfigError("give a repository or a model_config_file, not both")


def with_source(settings: ServerSettings, paths: Sequence[str], listed: str | None) -> ServerSettings:
    """What flags say is served, in the place of all that the file of settings says of it. Raises ConfigError:
    several, of which one is a URL."""
    repository = settings.repository
    if paths:
        repository = msgspec.structs.replace(
            repository, path=paths[0], more_paths=list(paths[1:]), model_config_file=None
        )
    elif listed is not None:
        repository = msgspec.structs.replace(repository, path=None, more_paths=[], name=None)
    several = [path for path in (repository.path, *repository.more_paths) if path is not None]
    if len(several) > 1 and any("://" in path for path in several):
        raise ConfigError("a URL is served alone, not beside other repositories")
    if repository.more_paths and repository.path is None:
        raise ConfigError("repository.more_paths needs repository.path")
    return msgspec.structs.replace(settings, repository=repository)
