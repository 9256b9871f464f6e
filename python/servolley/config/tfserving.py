"""TensorFlow Serving's model_config_file, made ours.

Nothing here imports protobuf before it is used."""

from dataclasses import dataclass
from typing import Any

import msgspec

from servolley.config.model import Versions
from servolley.config.strict import ConfigError

MESSAGE = "tensorflow.serving.ModelServerConfig"

_PLATFORMS = {"", "tensorflow", "onnx", "onnxruntime_onnx"}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry: a model's folder, and which of its versions are served."""

    name: str
    base_path: str
    versions: Versions


def parse_text(text: str, message: Any) -> list[ServedModel]:
    """``message``: an empty ModelServerConfig. Raises ConfigError naming it."""
    parse_message(text, message, MESSAGE)
    return served_models(message)


def parse_message(text: str, message: Any, name: str) -> None:
    """Text into ``message``, which is empty. Raises ConfigError with its ``name``."""
    from google.protobuf import text_format

    try:
        text_format.Parse(text, message, descriptor_pool=message.DESCRIPTOR.file.pool)
    except (text_format.ParseError, RecursionError) as error:
        raise ConfigError(f"not a {name}: {error}") from error


def served_models(message: Any) -> list[ServedModel]:
    """Raises ConfigError."""
    if message.WhichOneof("config") == "custom_model_config":
        raise ConfigError(f"{MESSAGE}: custom_model_config is not supported")
    models: dict[str, ServedModel] = {}
    for entry in message.model_config_list.config:
        if entry.name in models:
            raise ConfigError(f"{MESSAGE}: two models are called '{entry.name}'")
        if not entry.base_path:
            raise ConfigError(f"{MESSAGE}: model '{entry.name}' has no base_path")
        if "\0" in entry.base_path:
            raise ConfigError(f"{MESSAGE}: the base_path of model '{entry.name}' is no path")
        if "://" in entry.base_path:
            raise ConfigError(
                f"{MESSAGE}: the base_path of model '{entry.name}' is a URL, and a list has folders of this "
                "machine only: serve the URL as PATH"
            )
        if entry.model_platform not in _PLATFORMS:
            raise ConfigError(f"{MESSAGE}: model_platform '{entry.model_platform}' is not supported")
        models[entry.name] = ServedModel(entry.name, entry.base_path, _versions(entry))
    return list(models.values())


def _versions(entry: Any) -> Versions:
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    document: dict[str, Any] = {"labels": dict(entry.version_labels)}
    if choice == "all":
        document["all"] = True
    elif choice == "specific":
        document["specific"] = list(policy.specific.versions)
    elif choice == "latest":
        document["latest"] = policy.latest.num_versions or 1
    try:
        return msgspec.convert(document, type=Versions)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{MESSAGE}: model '{entry.name}': {error}") from error
