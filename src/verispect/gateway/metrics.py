"""Counters and latencies in Prometheus' text form, in a registry of their own.

Labels hold routes, statuses and operations, never a model name, a caller or anything a caller
wrote, so that their number is bounded and nothing leaks. Children are looked up once and kept.
"""

from __future__ import annotations

import json
from collections import Counter as Counts
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_LATENCY_BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0,
)  # fmt: skip

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""Content type of `Metrics.render`."""


class _PublishedCoverage(Collector):
    """The latest coverage that this operator published, out of the file that its log wrote."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def collect(self) -> Iterator[Metric]:
        """Yield inferences by outcome, and by claim and source; nothing before the first epoch."""
        try:
            document = json.loads(self._file.read_bytes())
            outcomes, claims = document["outcomes"], document["claims"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        outcome = GaugeMetricFamily(
            "verispect_coverage_outcomes",
            "Inferences of the latest published epoch, by outcome.",
            labels=("outcome",),
        )
        for name, count in outcomes.items():
            outcome.add_metric((name,), count)
        claimed = GaugeMetricFamily(
            "verispect_coverage_inferences",
            "Inferences of the latest published epoch, by claim and achieved source.",
            labels=("claim", "source"),
        )
        for row in claims:
            claimed.add_metric((row["claim"], row["source"]), row["inferences"])
        unmet = GaugeMetricFamily(
            "verispect_coverage_unmet",
            "Inferences of the latest published epoch that failed or were refused, by what was "
            "required.",
            labels=("preset", "outcome"),
        )
        for (preset, name), count in _unmet(document).items():
            unmet.add_metric((preset, name), count)
        yield outcome
        yield claimed
        yield unmet


def _unmet(document: dict[str, Any]) -> Counts[tuple[str, str]]:
    """Add up failures and refusals by preset; all policies of callers' own are one label."""
    counts: Counts[tuple[str, str]] = Counts()
    for row in document.get("unmet", []):
        preset = row["preset"] or "other"
        counts[preset, "failed"] += sum(row["failures"].values())
        counts[preset, "refused"] += sum(row["refusals"].values())
    return counts


class Metrics:
    """The gateway's figures since it started."""

    def __init__(self, *, coverage: Path | None = None) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        if coverage is not None:
            self._registry.register(_PublishedCoverage(coverage))
        self._requests = Counter(
            "verispect_requests",
            "Requests answered, by route and status.",
            ("route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "verispect_request_seconds",
            "Seconds from the head of a request to the last byte of its answer, by route.",
            ("route",),
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._receipts = Counter(
            "verispect_receipts",
            "Receipts issued, by operation.",
            ("operation",),
            registry=self._registry,
        )
        self.active = Gauge(
            "verispect_requests_active", "Requests at work now.", registry=self._registry
        )
        self._request_children: dict[tuple[str, int], Counter] = {}
        self._seconds_children: dict[str, Histogram] = {}
        self._receipt_children: dict[str, Counter] = {}

    def register(self, collector: Collector) -> None:
        """Show the figures of another part of this server too."""
        self._registry.register(collector)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            route: the route's pattern, never the path itself.
            status: HTTP status.
            seconds: time it took.
        """
        child = self._request_children.get((route, status))
        if child is None:
            child = self._requests.labels(route, str(status))
            self._request_children[(route, status)] = child
        child.inc()
        latency = self._seconds_children.get(route)
        if latency is None:
            latency = self._seconds_children[route] = self._seconds.labels(route)
        latency.observe(seconds)

    def issued(self, operation: str) -> None:
        """Count one receipt issued for `operation`."""
        child = self._receipt_children.get(operation)
        if child is None:
            child = self._receipt_children[operation] = self._receipts.labels(operation)
        child.inc()

    def render(self) -> bytes:
        """Return all figures in Prometheus' text form."""
        return generate_latest(self._registry)
