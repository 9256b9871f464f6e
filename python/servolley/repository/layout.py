"""What lies on disk. One scan, no judgement about what ought to be loaded; blocking, so off the loop.

<repository>/<model>/model.toml                     optional
<repository>/<model>/<version>/model.onnx           a file, or
<repository>/<model>/<version>/model.onnx/model.onnx   a folder with external data beside it
"""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from servolley.config.model import ModelConfig
from servolley.config.strict import ConfigError, load_toml
from servolley.repository.names import parse_version, valid_model_name

CONFIG_FILE = "model.toml"
_LARGEST_LABEL_FILE_BYTES = 64 << 20

_log = logging.getLogger(__name__)


class RepositoryError(Exception):
    """The path given to the server cannot be served at all."""


@dataclass(frozen=True, slots=True)
class ModelOnDisk:
    """One model as a scan found it.

    versions: version -> model file. directory: where label files lie, None for a single file.
    error: why its configuration cannot be used, else None.
    """

    name: str
    directory: Path | None
    config: ModelConfig = field(default_factory=ModelConfig)
    versions: dict[int, Path] = field(default_factory=dict)
    error: str | None = None


def scan(path: Path, name: str | None = None) -> dict[str, ModelOnDisk]:
    """Models by name under ``path``: a repository, one model's directory, or one model file.

    ``name`` renames a single model. Raises RepositoryError: no such path, or ``name`` does not fit.
    """
    if name is not None and not valid_model_name(name):
        raise RepositoryError(f"not a model name: {name!r}")
    if path.is_file():
        model = ModelOnDisk(name or _file_model_name(path), None, versions={1: path})
        return {model.name: model}
    if not path.is_dir():
        raise RepositoryError(f"{path}: no such file or directory")
    if _is_model_directory(path):
        model = _read_model(path, name or path.resolve().name)
        return {model.name: model}
    if name is not None:
        raise RepositoryError(f"{path} is a repository of models: a name fits only a single model")
    return _scan_repository(path)


def read_class_labels(model: ModelOnDisk) -> dict[str, list[str]]:
    """Class labels by output name. Raises ConfigError: unreadable, or outside the directory."""
    labels = {}
    for output, file_name in model.config.class_labels.items():
        if model.directory is None:
            raise ConfigError(f"{file_name}: a single model file has no label files")
        directory = model.directory.resolve()
        path = (directory / file_name).resolve()
        if not path.is_relative_to(directory):
            raise ConfigError(f"class_labels.{output}: '{file_name}' lies outside the model's directory")
        try:
            if path.stat().st_size > _LARGEST_LABEL_FILE_BYTES:
                raise ConfigError(f"class_labels.{output}: '{file_name}' is too large")
            labels[output] = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"class_labels.{output}: cannot read '{file_name}'") from error
    return labels


def _file_model_name(path: Path) -> str:
    if not valid_model_name(path.stem):
        raise RepositoryError(f"{path}: give the model a name (--name)")
    return path.stem


def _scan_repository(path: Path) -> dict[str, ModelOnDisk]:
    models = {}
    for entry in sorted(_entries(path), key=lambda entry: entry.name):
        if entry.name.startswith(".") or not entry.is_dir():
            continue  # hidden folders are how files are put into place; plain files are readmes
        if not valid_model_name(entry.name):
            _log.warning("ignored: not a model name", extra={"fields": {"directory": entry.name}})
            continue
        model = _read_model(Path(entry.path), entry.name)
        if model.versions or model.error is not None:
            models[model.name] = model
        else:
            _log.warning("ignored: no version with a model file", extra={"fields": {"directory": entry.name}})
    return models


def _is_model_directory(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file() or any(
        parse_version(entry.name) is not None
        and _model_file(Path(entry.path), ModelConfig().filename) is not None
        for entry in _entries(path)
    )


def _read_model(directory: Path, name: str) -> ModelOnDisk:
    config, error = ModelConfig(), None
    configured = (directory / CONFIG_FILE).exists()
    if configured:
        try:
            config = load_toml(directory / CONFIG_FILE, ModelConfig)
        except ConfigError as problem:
            error = str(problem).removeprefix(f"{directory}{os.sep}")
    versions = {}
    # Sorted, so that of two names for one version ("7", "007") the later wins, as in TensorFlow Serving.
    for entry in sorted(_entries(directory), key=lambda entry: entry.name):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        version = parse_version(entry.name)
        file = None if version is None else _model_file(Path(entry.path), config.filename)
        if version is not None and file is not None:
            versions[version] = file
        else:
            why = "not a version" if version is None else f"no {config.filename} in it"
            _log.warning("ignored: %s", why, extra={"fields": {"model": name, "directory": entry.name}})
    if not versions and error is None and configured:
        error = f"no version directory holds {config.filename}"
    return ModelOnDisk(name, directory, config, versions, error)


def _model_file(version_directory: Path, filename: str) -> Path | None:
    path = version_directory / filename
    if path.is_dir():
        path = path / filename
    return path if path.is_file() else None


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError as error:
        _log.warning("cannot list", extra={"fields": {"directory": str(directory), "error": error.strerror}})
        return []
