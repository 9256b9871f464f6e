"""A manager over the stand-in core, and what it is told to load."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from servolley.config.model import ModelConfig, Versions
from servolley.config.settings import Repository
from servolley.repository.layout import ModelOnDisk
from servolley.repository.manager import Manager
from servolley.repository.versions import State
from unit import fake_core

if TYPE_CHECKING:
    from servolley._core import Engine


def on_disk(name: str, *versions: int, **changes: Any) -> ModelOnDisk:
    return ModelOnDisk(
        name, Path("/models") / name, versions={v: Path(f"/models/{name}/{v}") for v in versions}, **changes
    )


ALL = ModelConfig(versions=Versions(all=True))


class Fixture:
    def __init__(self, **settings: Any) -> None:
        self.engine = fake_core.Engine()
        self.loop = asyncio.get_running_loop()
        self.manager = Manager(cast("Engine", self.engine), Repository(**settings), self.loop)

    def states(self, model: str) -> dict[int, State]:
        return {v: r.state for v, r in self.manager.models[model].versions.items()}

    async def settle(self, *models: ModelOnDisk) -> None:
        await self.manager.load_first({model.name: model for model in models})
