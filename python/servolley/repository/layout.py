"""What lies on disk. No judgement about what ought to be loaded; blocking, so off the loop.

<repository>/<model>/model.toml, or config.pbtxt    optional
<repository>/<model>/<version>/model.onnx           a file, or
<repository>/<model>/<version>/model.onnx/model.onnx   a folder with external data beside it
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from servolley.config.model import ModelConfig
from servolley.config.strict import ConfigError, load_toml, read_config
from servolley.repository.names import parse_version, valid_model_name
from servolley.repository.stamps import Stamp, Unsettled, stamp_of_file, stamp_of_folder

CONFIG_FILE = "model.toml"
TRITON_CONFIG_FILE = "config.pbtxt"  # read where there is no model.toml
# Whoever copies a version into place may end with this file: then it is loaded at the first look.
COMPLETE_MARKER = ".complete"
_DEEPEST_FOLDER = 6  # below a repository: a model, a version, folders in it
_LARGEST_LABEL_FILE_BYTES = 64 << 20
_FILE_SYSTEMS_OWN = "lost+found"  # at the root of a volume, and readable by root alone

# What a path that is served may be.
_MODEL_FILE = "a model file"
_MODEL_DIRECTORY = "one model's directory"
_REPOSITORY = "a repository of models"

_log = logging.getLogger(__name__)


class RepositoryError(Exception):
    """The path given to the server cannot be served at all."""


@dataclass(frozen=True, slots=True)
class ModelOnDisk:
    """One model as a look found it.

    versions: version -> model file. directory: where label files lie, None for a single file.
    error: why its configuration cannot be used, or names no file that is there, else None.
    empty: no version's folder holds anything. A configuration that cannot be used never makes it so.
    stamps: version -> what tells its content from another; complete: versions that say that they are.
    config_stamp, label_stamp: the same of the configuration, and of the label files that it names.
    unreadable: the look failed, and says nothing about what is there; unreadable_versions: nothing of these.
    """

    name: str
    directory: Path | None
    config: ModelConfig = field(default_factory=ModelConfig)
    versions: dict[int, Path] = field(default_factory=dict)
    error: str | None = None
    empty: bool = False
    stamps: dict[int, Stamp] = field(default_factory=dict)
    complete: frozenset[int] = frozenset()
    config_stamp: Stamp = None
    label_stamp: Stamp = None
    unreadable: bool = False
    unreadable_versions: frozenset[int] = frozenset()


class Scanner:
    """Looks again and again at ``path``: a repository, one model's directory, or one model file.

    ``name`` renames a single model. What is said about a file is said once, as long as it stays as it is, and
    a configuration is only read when it has changed. Which of the three it is, the first look that finds a
    model settles: what turns into another later is not believed.
    """

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        triton_message: Callable[[], Any] | None = None,
        complete: Callable[[ModelConfig], ModelConfig] | None = None,
    ) -> None:
        """``triton_message`` makes an empty ModelConfig of Triton's; without it config.pbtxt is not read.
        ``complete``: fills in what a configuration leaves to the server."""
        if name is not None and not valid_model_name(name):
            raise RepositoryError(f"not a model name: {name!r}")
        self._path = path
        self._name = name
        self._triton_message = triton_message
        self._complete = complete or (lambda config: config)
        self._configs: dict[Path, tuple[Stamp, ModelConfig, str | None]] = {}
        self._kind: str | None = None
        self._said: set[tuple[str, ...]] = set()
        self._quiet = False
        self._saying: set[tuple[str, ...]] = set()

    def look(self) -> dict[str, ModelOnDisk]:
        """Models by name. Raises RepositoryError: no such path, not what it was, or ``name`` does not fit."""
        self._saying = set()
        try:
            kind = self._kind_now()
            models = self._look(kind)
        except OSError as error:
            raise RepositoryError(f"{self._path}: {error.strerror}") from error
        self._said = self._saying
        if models:
            self._kind = kind
        return models

    def folders(self) -> list[tuple[Path, int]]:
        """Where it looks: the folder, and how deep."""
        return [(self._path.parent, 0)] if self._path.is_file() else [(self._path, _DEEPEST_FOLDER)]

    def look_at(self, name: str, config: ModelConfig | None = None) -> ModelOnDisk | None:
        """One model of a repository; None if there is none of that name. ``config``: holds instead of the
        model's own. Raises RepositoryError."""
        if self._holds_models():
            folder = self._path / name
            return self._folder(folder, name, config) if folder.is_dir() else None
        found = self.look().get(name)
        return found if found is None or config is None else replace(found, config=config, error=None)

    def look_into(self, folders: Mapping[str, Path], *, quietly: bool = False) -> dict[str, ModelOnDisk]:
        """These models, each in its folder. One of which there is nothing has an error. ``quietly``: nothing
        is said of what is ignored; a look that counts will say it."""
        self._saying, self._quiet = set(), quietly
        models = {}
        for name, folder in folders.items():
            nothing = ModelOnDisk(name, folder, error="its folder holds no version", empty=True)
            models[name] = self._folder(folder, name) or nothing
        if not quietly:
            self._said = self._saying
        self._quiet = False
        return models

    def names(self) -> list[str]:
        """Models that could be loaded, by what the folders are called. Raises RepositoryError."""
        if not self._holds_models():
            return list(self.look())
        return sorted(
            entry.name
            for entry in _entries(self._path)
            if not entry.name.startswith(".") and valid_model_name(entry.name) and _may_be_folder(entry)
        )

    def _holds_models(self) -> bool:
        """Raises RepositoryError."""
        try:
            return self._kind_now() == _REPOSITORY
        except OSError as error:
            raise RepositoryError(f"{self._path}: {error.strerror}") from error

    def _kind_now(self) -> str:
        """Raises RepositoryError and OSError."""
        path = self._path
        if path.is_file():
            kind = _MODEL_FILE
        elif not path.is_dir():
            raise RepositoryError(f"{path}: no such file or directory")
        elif self._kind == _MODEL_DIRECTORY or _is_model_directory(path):
            kind = _MODEL_DIRECTORY
        else:
            kind = _REPOSITORY
        if self._kind not in {None, kind}:
            raise RepositoryError(f"{path} was {self._kind}, and has become {kind}")
        return kind

    def _look(self, kind: str) -> dict[str, ModelOnDisk]:
        """Raises RepositoryError and OSError."""
        path = self._path
        if kind == _MODEL_FILE:
            model = self._single_file(path)
            return {model.name: model}
        if kind == _MODEL_DIRECTORY:
            model = self._read_model(path, self._name or path.resolve().name)
            return {model.name: model}
        if self._name is not None:
            raise RepositoryError(f"{path} is a repository of models: a name fits only a single model")
        return self._look_into_repository(path)

    def _single_file(self, path: Path) -> ModelOnDisk:
        name = self._name or path.stem
        if not valid_model_name(name):
            raise RepositoryError(f"{path}: give the model a name (--name)")
        stamp = stamp_of_file(path)
        config = self._complete(ModelConfig())
        return ModelOnDisk(
            name, None, config, versions={1: path}, stamps={1: stamp}, unreadable=stamp is None
        )

    def _look_into_repository(self, path: Path) -> dict[str, ModelOnDisk]:
        models = {}
        for entry in sorted(_entries(path), key=lambda entry: entry.name):
            if entry.name.startswith(".") or entry.name == _FILE_SYSTEMS_OWN:
                continue  # hidden folders are how files are put into place
            try:
                if not entry.is_dir():
                    continue  # plain files are readmes
            except OSError as error:
                if valid_model_name(entry.name):
                    models[entry.name] = self._unreadable(Path(entry.path), entry.name, error)
                continue
            if not valid_model_name(entry.name):
                self._say("ignored: not a model name", directory=entry.name)
                continue
            model = self._folder(Path(entry.path), entry.name)
            if model is not None:
                models[model.name] = model
        return models

    def _folder(self, directory: Path, name: str, given: ModelConfig | None = None) -> ModelOnDisk | None:
        try:
            model = self._read_model(directory, name, given)
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._unreadable(directory, name, error)
        if model.versions or model.error is not None or model.unreadable_versions:
            return model
        self._say("ignored: no version with a model file", directory=name)
        return None

    def _unreadable(self, directory: Path, name: str, error: OSError) -> ModelOnDisk:
        why = error.strerror or ""
        self._say("cannot list", directory=name, error=why)
        return ModelOnDisk(name, directory, error=f"its folder cannot be read: {why}", unreadable=True)

    def _read_model(self, directory: Path, name: str, given: ModelConfig | None = None) -> ModelOnDisk:
        """``given``: a configuration that holds instead of its own. Raises OSError."""
        config, error, stamp = (given, None, None) if given else self._read_config(directory, name)
        labels = tuple(stamp_of_file(directory / file) for file in config.class_labels.values())
        versions, stamps, complete, unreadable, empty = {}, {}, set(), set(), True
        # Sorted, so that of two names for one version ("7", "007") the later wins, as in TensorFlow Serving.
        for entry in sorted(_entries(directory), key=lambda entry: entry.name):
            version = parse_version(entry.name)
            try:
                if entry.name.startswith(".") or not entry.is_dir():
                    continue
                folder = Path(entry.path)
                file = None if version is None else _model_file(folder, config.filename)
                empty = empty and file is None and (version is None or not _holds_anything(folder))
            except OSError as problem:
                self._say("cannot list", model=name, directory=entry.name, error=problem.strerror or "")
                if version is not None:
                    unreadable.add(version)
                continue
            if version is None or file is None:
                why = "not a version" if version is None else f"no {config.filename} in it"
                self._say(f"ignored: {why}", model=name, directory=entry.name)
                continue
            versions[version] = file
            stamp_of_version = stamps[version] = stamp_of_folder(folder)
            complete.discard(version)
            unreadable.discard(version)
            if not isinstance(stamp_of_version, Unsettled) and (folder / COMPLETE_MARKER).exists():
                complete.add(version)
        if error is None and not versions and not unreadable and (stamp is not None or given is not None):
            error = f"no version directory holds {config.filename}"
        return ModelOnDisk(
            name,
            directory,
            config,
            versions,
            error,
            empty and not unreadable,
            stamps,
            frozenset(complete),
            stamp,
            labels,
            unreadable_versions=frozenset(unreadable - versions.keys()),
        )

    def _read_config(self, directory: Path, name: str) -> tuple[ModelConfig, str | None, Stamp]:
        """The configuration, why it cannot be used, and its stamp. With a reason, the configuration is the
        last one that could be: it says what the files that are there are called. Raises OSError."""
        path = directory / CONFIG_FILE
        if not _is_there(path) and self._triton_message is not None:
            path = directory / TRITON_CONFIG_FILE
        if not _is_there(path):
            return self._complete(ModelConfig()), None, None
        stamp = stamp_of_file(path)
        known = self._configs.get(path)
        if known is None or known[0] != stamp:
            config, error = ModelConfig() if known is None else known[1], None
            try:
                config = self._complete(self._parse_config(path, name))
            except ConfigError as problem:
                error = f"{path.name}: {str(problem).removeprefix(f'{path}: ')}"
                if isinstance(problem.__cause__, OSError):
                    # Whoever makes it readable need not change it: it is tried again at every look.
                    return config, error, (path.name, stamp)
            known = self._configs[path] = (stamp, config, error)
        _, config, error = known
        return config, error, (path.name, stamp)

    def _parse_config(self, path: Path, name: str) -> ModelConfig:
        if path.name == CONFIG_FILE:
            return load_toml(path, ModelConfig)
        assert self._triton_message is not None
        from servolley.config import triton  # only who has such a file pays for it

        config, remarks = triton.parse_text(read_config(path), self._triton_message(), name)
        for remark in remarks:
            _log.warning(f"{TRITON_CONFIG_FILE} %s", remark, extra={"fields": {"model": name}})
        return config

    def _say(self, message: str, **fields: str) -> None:
        remark = (message, *fields.values())
        self._saying.add(remark)
        if remark not in self._said and not self._quiet:
            _log.warning(message, extra={"fields": fields})


def scan(path: Path, name: str | None = None) -> dict[str, ModelOnDisk]:
    """One look. Raises RepositoryError."""
    return Scanner(path, name).look()


def read_class_labels(model: ModelOnDisk) -> dict[str, list[str]]:
    """Class labels by output name. Raises ConfigError: unreadable, or outside the directory."""
    labels = {}
    for output, file_name in model.config.class_labels.items():
        if model.directory is None:
            raise ConfigError(f"{file_name}: a single model file has no label files")
        try:
            directory = model.directory.resolve()
            path = (directory / file_name).resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise ConfigError(f"class_labels.{output}: cannot read '{file_name}'") from error
        if not path.is_relative_to(directory):
            raise ConfigError(f"class_labels.{output}: '{file_name}' lies outside the model's directory")
        try:
            if path.stat().st_size > _LARGEST_LABEL_FILE_BYTES:
                raise ConfigError(f"class_labels.{output}: '{file_name}' is too large")
            labels[output] = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise ConfigError(f"class_labels.{output}: cannot read '{file_name}'") from error
    return labels


def files_by_compute_capability(model: ModelOnDisk, file: Path) -> dict[str, str]:
    """Where the files of a version lie that GPUs of some kinds need instead of ``file``."""
    in_folder = file.parent.name == model.config.filename  # with its external data
    version = file.parent.parent if in_folder else file.parent
    return {
        capability: str(_model_file(version, name) or version / name)
        for capability, name in model.config.filename_by_compute_capability.items()
    }


def _is_model_directory(path: Path) -> bool:
    """Raises OSError."""
    return any((path / file).is_file() for file in (CONFIG_FILE, TRITON_CONFIG_FILE)) or any(
        parse_version(entry.name) is not None
        and _model_file(Path(entry.path), ModelConfig().filename) is not None
        for entry in _entries(path)
    )


def _model_file(version_directory: Path, filename: str) -> Path | None:
    path = version_directory / filename
    if path.is_dir():
        path = path / filename
    return path if path.is_file() else None


def _is_there(path: Path) -> bool:
    """Also a link that leads nowhere. Raises OSError."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _holds_anything(folder: Path) -> bool:
    return any(not entry.name.startswith(".") for entry in _entries(folder))


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)
