"""[traffic], [canary] and [shadow] of model.toml: how requests that name neither a version nor a label are
spread over versions."""

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from servolley.config.sizes import ByteSize

if TYPE_CHECKING:
    from collections.abc import Iterator

Version = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Weight = Annotated[int, Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=1, le=86_400)]
Rate = Annotated[float, Meta(ge=0, le=1)]

MOST_VERSIONS = 64


def check_split(split: dict[int, int]) -> None:
    """Raises ValueError."""
    if len(split) > MOST_VERSIONS:
        raise ValueError(f"a split has at most {MOST_VERSIONS} versions")
    if split and not any(split.values()):
        raise ValueError("a split needs a weight above 0")


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[traffic]: a split that stays as it is.

    split: version -> its share of all weights. A version that is not available leaves its share to the
        others.
    """

    split: dict[Version, Weight] = {}

    def __post_init__(self) -> None:
        check_split(self.split)


class Canary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[canary]: a version that gets a part of the requests and is judged against the stable one.

    version: which one; "latest" is the highest that is available.
    stable: the version that it is compared with. Absent: the one that had the requests before, or the highest
        other one; it stays loaded, also where [versions] would let it go.
    weight: of a hundred requests, those that go to the canary.
    window_s: what is judged is what happened in the last so many seconds.
    min_requests: a rate is one of at least so many requests; latencies are compared when both versions have
        answered so many, and a canary is promoted when it has.
    max_error_rate_increase: how much larger a part of the canary's requests may fail than of the stable's.
        Requests that clients cancel do not count. What chance makes of two samples of the window's size is
        allowed besides, for this and for what follows.
    max_nonfinite_rate_increase: the same for answers that hold NaN or infinity; 1: they are not looked for.
    latency: "mean", or "p99", which is estimated from the histogram and wants a min_requests of a thousand.
    max_latency_ratio: how many times the stable's latency the canary's may be; told by how it varies from
        second to second, of which a window should have ten. 0 = any.
    promote_after_s: a canary that has been fine for so long, with min_requests in the window, gets all
        requests, unless it seems worse than is allowed just then. 0 = never by itself.
    """

    version: Version | Literal["latest"] = "latest"
    stable: Version | None = None
    weight: Annotated[int, Meta(ge=1, le=99)] = 10
    window_s: Seconds = 60.0
    min_requests: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 100
    max_error_rate_increase: Rate = 0.01
    max_nonfinite_rate_increase: Rate = 0.0
    latency: Literal["mean", "p99"] = "mean"
    max_latency_ratio: Annotated[float, Meta(ge=0, le=1_000_000)] = 2.0
    promote_after_s: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 0.0

    def __post_init__(self) -> None:
        if self.version == self.stable:
            raise ValueError("'version' and 'stable' must not be the same")
        if 0 < self.max_latency_ratio < 1:
            raise ValueError("max_latency_ratio is at least 1, or 0 for any")


class Shadow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[shadow]: a version that gets copies of requests when they have been answered. What it answers goes
    nowhere: it is compared.

    version: which one; "latest" is the highest that is available. It answers requests only where no other
        version can.
    fraction: of the requests that are copied.
    max_in_flight: copies that wait or run; more are dropped.
    max_memory: what the copies may keep of the tensor memory; more are dropped.
    """

    version: Version | Literal["latest"] = "latest"
    fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0
    max_in_flight: Annotated[int, Meta(ge=1, le=65_536)] = 64
    max_memory: ByteSize = ByteSize(64 << 20)


def named_versions(traffic: Traffic, canary: Canary | None, shadow: Shadow | None) -> set[int]:
    """Those that the configuration cannot do without."""
    return set(_named(traffic, canary, shadow))


def _named(traffic: Traffic, canary: Canary | None, shadow: Shadow | None) -> "Iterator[int]":
    yield from (version for version, weight in traffic.split.items() if weight > 0)
    if canary is not None:
        if canary.version != "latest":
            yield canary.version
        if canary.stable is not None:
            yield canary.stable
    if shadow is not None and shadow.version != "latest":
        yield shadow.version
