"""A remote repository's mirror as metric families."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric


@dataclass(frozen=True, slots=True)
class MirrorSnapshot:
    """The mirror at one moment. syncs: looks at the remote side by what came of them. last_success_s: seconds
    of the epoch, 0 = none yet. problems: models of which something could not be copied."""

    syncs: Mapping[str, int]
    last_success_s: float
    bytes: int
    problems: int
    restarts: int


def mirror_families(mirror: MirrorSnapshot) -> Iterator[Metric]:
    syncs = CounterMetricFamily(
        "servolley_mirror_syncs", "Looks at the remote repository, by what came of them", labels=("result",)
    )
    for result, count in mirror.syncs.items():
        syncs.add_metric((result,), count)
    yield syncs
    for name, value, text in (
        ("servolley_mirror_received_bytes", mirror.bytes, "Bytes copied from the remote repository"),
        ("servolley_mirror_restarts", mirror.restarts, "Times that the mirror's process was started anew"),
    ):
        yield CounterMetricFamily(name, text, value=value)
    yield GaugeMetricFamily(
        "servolley_mirror_last_success_timestamp_seconds",
        "When the remote repository was last seen, in seconds of the epoch; 0: never",
        value=mirror.last_success_s,
    )
    yield GaugeMetricFamily(
        "servolley_mirror_problems",
        "Models of which something could not be copied at the last look at all of them",
        value=mirror.problems,
    )
