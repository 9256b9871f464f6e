"""What is served, as the settings say: where models are looked for, and the files of Triton's and TensorFlow
Serving's that are read for it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servolley.config.strict import ConfigError, read_config
from servolley.front.grpc.services import built_messages
from servolley.repository.layout import RepositoryError, Scanner
from servolley.repository.model_list import ModelList

if TYPE_CHECKING:
    from collections.abc import Sequence

    from servolley.config.model import ModelConfig
    from servolley.config.settings import Repository as RepositorySettings
    from servolley.config.settings import ServerSettings
    from servolley.config.tfserving import ServedModel
    from servolley.config.tfserving_server import BatchingDefaults
    from servolley.repository.config_file import ConfigFile
    from servolley.repository.several import SeveralRepositories

_log = logging.getLogger(__name__)


class Sources:
    """``metrics_path``: one more for metrics, that monitoring_config_file names."""

    def __init__(self, settings: "ServerSettings") -> None:
        """Raises ConfigError."""
        self._repository = settings.repository
        self._complete = _batching_defaults(settings.repository)
        self.metrics_path = _metrics_path(settings.http.monitoring_config_file)

    def first(self) -> "Scanner | SeveralRepositories | ConfigFile":
        """What the server starts with. Raises RepositoryError."""
        repository = self._repository
        if repository.model_config_file is not None:
            from servolley.repository.config_file import ConfigFile

            file, interval_s = Path(repository.model_config_file), repository.model_config_poll_interval_s
            return ConfigFile(file, _tfserving_message, self.listed(()), interval_s)
        if repository.path is None:
            raise RepositoryError("no model repository given")
        first = self.repository(Path(repository.path), repository.name)
        if not repository.more_paths:
            return first
        from servolley.repository.several import SeveralRepositories

        return SeveralRepositories([first, *(self.repository(Path(path)) for path in repository.more_paths)])

    def repository(self, path: Path, name: str | None = None) -> Scanner:
        return Scanner(path, name, triton_message, self._complete)

    def listed(self, served: "Sequence[ServedModel]") -> ModelList:
        """A list of TensorFlow Serving's; its folders are looked at as often as the settings say."""
        repository = self._repository
        once = repository.control_mode != "poll" or repository.poll_interval_s == 0
        return ModelList(Scanner(Path(), None, triton_message, self._complete), served, once=once)


def _batching_defaults(repository: "RepositorySettings") -> "BatchingDefaults | None":
    if repository.enable_batching is None:
        return None
    from servolley.config import tfserving_server

    if not repository.enable_batching:
        return tfserving_server.NO_BATCHING
    if repository.batching_parameters_file is None:
        return None
    path = Path(repository.batching_parameters_file)
    text, message = read_config(path), _empty(tfserving_server.BATCHING)
    try:
        defaults, remarks = tfserving_server.parse_batching(text, message)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for remark in remarks:
        _log.warning("%s: has no effect: %s", path, remark)
    return defaults


def _metrics_path(file: str | None) -> str | None:
    if file is None:
        return None
    from servolley.config import tfserving_server

    text, message = read_config(Path(file)), _empty(tfserving_server.MONITORING)
    try:
        return tfserving_server.parse_monitoring(text, message)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def override(name: str, text: str) -> "ModelConfig":
    """A load's configuration in Triton's JSON. Raises ConfigError."""
    from servolley.config import triton

    config, remarks = triton.parse_json(text, triton_message(), name)
    for remark in remarks:
        _log.warning("config of a load %s", remark, extra={"fields": {"model": name}})
    return config


def _tfserving_message() -> Any:
    from servolley.config import tfserving

    return _empty(tfserving.MESSAGE)


def triton_message() -> Any:
    """An empty ModelConfig of Triton's."""
    from servolley.config import triton

    return _empty(triton.MESSAGE)


def _empty(message: str) -> Any:
    """A message of that name. Only who has one to read pays for protobuf."""
    return built_messages().message(message)()
