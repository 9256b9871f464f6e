"""What the benchmark on a GPU measures, in which order, and when it has to stop: what the promises are about
comes first, so that a GPU that is lent for minutes answers that."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: The promises are about these; the first has rows of 602 KB.
IMAGES: Final = "resnet50"
ENCODER: Final = "bert"
#: At least so many connections are "saturation".
MANY: Final = 64


@dataclass(frozen=True, slots=True)
class Variant:
    lanes: int
    graphs: bool

    def __str__(self) -> str:
        return f"lanes {self.lanes or '-'}, graphs {'yes' if self.graphs else 'no'}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    transport: str
    connections: int


@dataclass(frozen=True, slots=True)
class Serving:
    """One server, started once, and the lines that are measured on it."""

    model: str
    variant: Variant
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """``full``: everything with every variant; else of the later ones what tells them apart."""

    connections: Sequence[int]
    on_gpu: bool
    full: bool = False

    def transports(self) -> list[str]:
        return ["http", "grpc", "cuda-shm"] if self.on_gpu else ["http", "grpc"]

    def variants(self) -> list[Variant]:
        if not self.on_gpu:
            return [Variant(0, graphs=False)]
        return [Variant(lanes, graphs) for lanes in (2, 1) for graphs in (False, True)]

    def first(self, model: str) -> Iterator[Serving]:
        """The lines that the promises are about, and of every model what says most."""
        alone = [count for count in self.connections if count == 1]
        many = next((count for count in self.connections if count >= MANY), self.connections[-1])
        plain, *others = self.variants()
        transports = self.transports() if model == IMAGES else ["http"]
        lines = [Line(transport, count) for transport in transports for count in alone]
        lines += [Line(transport, many) for transport in ("http", "grpc")]
        yield Serving(model, plain, tuple(dict.fromkeys(lines)))
        one_lane, graphs = Variant(1, graphs=False), Variant(2, graphs=True)
        if model == IMAGES and one_lane in others:
            yield Serving(model, one_lane, (Line("http", many),))
        if model == ENCODER and graphs in others and alone:
            yield Serving(model, graphs, (Line("http", 1),))

    def rest(self, model: str) -> Iterator[Serving]:
        """Everything that `first` has left out."""
        done = {serving.variant: serving.lines for serving in self.first(model)}
        for index, variant in enumerate(self.variants()):
            every = self.full or index == 0
            transports = self.transports() if every else ["http"]
            counts = self.connections if every else _telling(self.connections)
            lines = [Line(transport, count) for transport in transports for count in counts]
            left = tuple(line for line in lines if line not in done.get(variant, ()))
            if left:
                yield Serving(model, variant, left)


def _telling(connections: Sequence[int]) -> list[int]:
    """What shows lanes and graphs: alone, and plenty."""
    return [count for count in connections if count in (1, MANY)] or [connections[-1]]


class Budget:
    """Seconds that all may take together; None: no limit."""

    def __init__(self, seconds: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = None if seconds is None else now() + seconds

    def left(self) -> float:
        return float("inf") if self._end is None else self._end - self._now()

    def fits(self, seconds: float) -> bool:
        return self.left() >= seconds
