"""A running service from outside: its metrics read by HTTP, and what happened between two readings."""

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from llumi.errors import AccessError, ServeError

READ_SECONDS = 10.0
"""How long the service may take for one page; it asks Ray for its replicas meanwhile."""

QUANTILES = (0.5, 0.95)
TIMES = {"first_token": "llumi_first_token_seconds", "queue": "llumi_queue_seconds", "guard": "llumi_guard_seconds"}
MAKE_A_KEY = "make one with: llumi keys create NAME --scope admin"

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reading:
    """What the service said at a time of the monotonic clock: by name of a sample and its labels, in order of the labels."""

    at: float
    samples: Mapping[str, Mapping[Labels, float]]

    def of(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """The samples of this name that have these labels."""
        for found, value in self.samples.get(name, {}).items():
            if labels.items() <= dict(found).items():
                yield dict(found), value


class Reader:
    """Reads the metrics of the service at `url` with a key of scope admin."""

    def __init__(self, url: str, secret: str) -> None:
        """Raises AccessError for what cannot be a key, ServeError for what is no address."""
        if not (secret.isascii() and secret.isprintable() and secret):
            raise AccessError(f"the key is no line of ASCII text, such as llumi_...; {MAKE_A_KEY}")
        self.url = url.rstrip("/")
        # The machine's own certificates, for a network with an authority of its own; and no proxy of the environment.
        self._client = httpx.Client(
            trust_env=False,
            verify=ssl.create_default_context(),
            timeout=READ_SECONDS,
            headers={"Authorization": f"Bearer {secret}"},
        )

    def read(self) -> Reading:
        """What the service says now; raises AccessError where the key does not do, ServeError where no service answers."""
        try:
            answer = self._client.get(f"{self.url}/metrics")
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise ServeError(f"{self.url}: not the address of a service, such as http://127.0.0.1:8000") from None
        except httpx.HTTPError as error:
            raise ServeError(
                f"{self.url}: no service answers there ({type(error).__name__}); start one with: llumi serve, "
                "or give its address: llumi top http://HOST:PORT"
            ) from None
        self._check(answer.status_code)
        return self._reading(answer.text)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _check(self, status: int) -> None:
        match status:
            case 200:
                return
            case 401:
                raise AccessError(f"{self.url}: this key does not open (wrong, revoked or expired); {MAKE_A_KEY}")
            case 403:
                raise AccessError(f"{self.url}: this key has no scope admin; {MAKE_A_KEY}")
            case 429:
                raise ServeError(f"{self.url}: this key may not ask so often; take another --every, or a key without a limit")
            case _:
                raise ServeError(f"{self.url}: answers {status}, as no service of LLUMI does; give its address")

    def _reading(self, page: str) -> Reading:
        try:
            families: list[Metric] = list(text_string_to_metric_families(page))
        except ValueError:
            families = []
        samples: dict[str, dict[Labels, float]] = {}
        for family in families:
            for sample in family.samples:
                samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        if "llumi_audit_writable" not in samples:
            raise ServeError(f"{self.url}: has metrics that are none of LLUMI's; give the address of a service")
        return Reading(time.monotonic(), samples)


@dataclass(frozen=True)
class Between:
    """What happened from one reading to a later one; a router that began anew in between counts from its start."""

    before: Reading
    after: Reading

    @property
    def seconds(self) -> float:
        """How long that was."""
        return self.after.at - self.before.at

    def figures(self) -> dict[str, Any]:
        """All that `llumi top` shows: rates and times within these seconds, and how things stand at their end."""
        return {
            "seconds": round(self.seconds, 3),
            "audit_writable": self._now("llumi_audit_writable") == 1,
            "roles": [self._of(role, model) for role, model in self._served()],
            "refusals": self._counts("llumi_refusals_total", "kind"),
        }

    def _served(self) -> list[tuple[str, str]]:
        served = {(labels["role"], labels["model"]) for labels, _ in self.after.of("llumi_guard_decisions_total")}
        return sorted(served)

    def _of(self, role: str, model: str) -> dict[str, Any]:
        mine = {"role": role, "model": model}
        times = {f"{what}_seconds": self._quantiles(name, mine) for what, name in TIMES.items()}
        return {
            **mine,
            "replicas": int(self._now("llumi_replicas_running", role=role)),
            "in_flight": int(self._now("llumi_requests_in_flight", role=role)),
            "requests_per_second": self._rate("llumi_requests_total", mine),
            **times,
            "prompt_tokens_per_second": self._rate("llumi_prompt_tokens_total", mine),
            "completion_tokens_per_second": self._rate("llumi_completion_tokens_total", mine),
            "decisions": self._counts("llumi_guard_decisions_total", "decision", mine),
            "statuses": self._counts("llumi_requests_total", "status", mine),
        }

    def _now(self, name: str, **labels: str) -> float:
        return sum(value for _, value in self.after.of(name, **labels))

    def _grown(self, name: str, labels: Mapping[str, str]) -> Iterator[tuple[dict[str, str], float]]:
        earlier = self.before.samples.get(name, {})
        for found, value in self.after.of(name, **labels):
            was = earlier.get(tuple(sorted(found.items())), 0.0)
            yield found, value - was if value >= was else value

    def _rate(self, name: str, labels: Mapping[str, str]) -> float:
        return round(sum(grown for _, grown in self._grown(name, labels)) / self.seconds, 3)

    def _counts(self, name: str, by: str, labels: Mapping[str, str] | None = None) -> dict[str, int]:
        counts: dict[str, int] = {}
        for found, grown in self._grown(name, labels or {}):
            if grown:
                counts[found[by]] = counts.get(found[by], 0) + int(grown)
        return counts

    def _quantiles(self, name: str, labels: Mapping[str, str]) -> dict[str, float | None]:
        buckets = sorted((float(found["le"]), grown) for found, grown in self._grown(f"{name}_bucket", labels))
        return {f"p{round(q * 100)}": quantile(q, buckets) for q in QUANTILES}


def quantile(q: float, buckets: list[tuple[float, float]]) -> float | None:
    """The value below which the share `q` of what a histogram counted lies, as Prometheus' histogram_quantile tells it.

    `buckets` are upper bounds, the last infinite, and how much lies below each; None where nothing was counted.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    lower, below = 0.0, 0.0
    for upper, count in buckets:
        if count >= q * total:
            break
        lower, below = upper, count
    if upper == float("inf"):
        return lower
    return round(lower + (upper - lower) * (q * total - below) / (count - below), 4)
