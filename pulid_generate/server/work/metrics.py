"""What /metrics tells, in Prometheus' text format. Knows no model. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pulid_generate.server.work.queue import JobQueue

# seconds of a picture
BUCKETS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 900)


class Metrics:
    """Counts for one server; nothing of what is drawn, and of nobody."""

    def __init__(self, queue: JobQueue):
        self.queue = queue
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        self.waiting = Gauge("pulid_jobs_waiting", "Jobs in the queue.", **own)
        self.working = Gauge("pulid_jobs_working", "Jobs in work.", **own)
        self.ended = Gauge("pulid_jobs_ended", "Jobs that have ended, by state.", ["state"], **own)
        self.pictures = Counter("pulid_pictures", "Pictures drawn.", **own)
        self.steps = Counter("pulid_steps", "Denoising steps done.", **own)
        self.seconds = Histogram(
            "pulid_picture_seconds", "Seconds of a picture.", buckets=BUCKETS, **own
        )
        self.ready = Gauge("pulid_devices_ready", "Devices that take jobs.", **own)
        self.loaded = Gauge("pulid_models_loaded", "Devices with models in memory.", **own)
        self.memory = Gauge("pulid_memory_bytes", "Memory in use, by device.", ["device"], **own)

    def text(self, ready: int, loaded: int, memory: Mapping[str, int]) -> bytes:
        """ready, loaded: devices that take jobs, and that have models in memory. memory: device ->
        bytes.
        """
        self.waiting.set(len(self.queue))
        self.working.set(len(self.queue.working))
        self.ready.set(ready)
        self.loaded.set(loaded)
        # a worker that has gone has none
        self.memory.clear()
        for device, used in memory.items():
            self.memory.labels(device).set(used)
        for state, count in self.queue.ended.items():
            self.ended.labels(state).set(count)
        return generate_latest(self.registry)
