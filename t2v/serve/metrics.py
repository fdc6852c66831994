"""Measurements of the server, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from t2v.queue.folder import Queue
from t2v.queue.job import STATES

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counts of requests and workers, and the jobs of a queue at the time they are asked for."""

    def __init__(self, queue: Queue) -> None:
        self.queue, self.registry = queue, CollectorRegistry()
        self.workers = self.streams = 0
        self.requests = Counter(
            "t2v_requests", "Requests answered.", ("endpoint", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "t2v_request_seconds",
            "Seconds until an answer begins.",
            ("endpoint",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.restarts = Counter(
            "t2v_worker_restarts", "Workers started again.", registry=self.registry
        )
        self.registry.register(self)

    def note(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request whose answer begins."""
        self.requests.labels(endpoint, status).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures of now: jobs in each state, workers that are alive, streams that are open."""
        jobs = GaugeMetricFamily("t2v_jobs", "Jobs in a state.", labels=["state"])
        for state in STATES:
            jobs.add_metric([state], len(self.queue.store.names(state)))
        yield jobs
        yield GaugeMetricFamily("t2v_workers", "Workers that are alive.", value=self.workers)
        yield GaugeMetricFamily("t2v_streams", "Event streams that are open.", value=self.streams)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return bytes(generate_latest(self.registry))
