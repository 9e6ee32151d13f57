"""What a router tells Prometheus: counts and times by role, model and route.

No text and no name of a person or a key is in it, and no label holds a word that a client chose: roles, models, routes,
statuses and kinds of refusal are the service's own, so that nobody outside can make the list of series grow.
"""

from collections import Counter as Tally
from collections.abc import Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from llumi.prompts import Role
from llumi.serve.api import ServedModel
from llumi.serve.call import Call
from llumi.serve.guarded import Decision

PATH = "/metrics"
NONE = "none"
"""In the place of a role or model that a request did not get to, and of a route that there is not."""

REFUSALS = {
    "invalid_api_key": 401,
    "insufficient_scope": 403,
    "model_not_found": 404,
    "body_too_slow": 408,
    "body_too_large": 413,
    "invalid_body": 422,
    "rate_limit_exceeded": 429,
    "tokens_exceeded": 429,
    "queue_full": 429,
    "context_length_exceeded": 400,
    "invalid_messages": 400,
    "invalid_timeout": 400,
    "audit_unavailable": 503,
}
"""Kinds of refusal and their statuses; any other is `other`."""

FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
QUEUE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
GUARD_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
ANSWER_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which no query of ours reads


class Metrics:
    """The figures of one router, from its start; `begun` and `ended` are told of each request."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._running: dict[int, Call] = {}
        of_model = ("role", "model")
        self._requests = Counter("llumi_requests", "Requests that ended", (*of_model, "route", "status"), registry=registry)
        self._refusals = Counter(
            "llumi_refusals", "Requests that were refused before a model wrote", ("kind", "status"), registry=registry
        )
        self._decisions = Counter(
            "llumi_guard_decisions", "What the guard decided about answers", (*of_model, "decision"), registry=registry
        )
        self._prompt_tokens = Counter("llumi_prompt_tokens", "Tokens of prompts", of_model, registry=registry)
        self._completion_tokens = Counter(
            "llumi_completion_tokens", "Tokens that models wrote, in every draw", of_model, registry=registry
        )
        self._first_token = Histogram(
            "llumi_first_token_seconds",
            "From the request's arrival to the model's first token",
            of_model,
            buckets=FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self._queue = Histogram(
            "llumi_queue_seconds",
            "How long a request waited until a replica took it, on the way there and back",
            of_model,
            buckets=QUEUE_BUCKETS,
            registry=registry,
        )
        self._guard = Histogram(
            "llumi_guard_seconds",
            "How long an answer waited for its judges",
            of_model,
            buckets=GUARD_BUCKETS,
            registry=registry,
        )
        self._answer = Histogram(
            "llumi_answer_seconds",
            "From the request's arrival to the end of an answer with status 200",
            of_model,
            buckets=ANSWER_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge("llumi_requests_in_flight", "Requests that are being answered", ("role",), registry=registry)
        self._replicas = Gauge("llumi_replicas_running", "Replicas that run", ("role",), registry=registry)
        self._audit = Gauge("llumi_audit_writable", "1 while the audit log takes lines, else 0", registry=registry)
        for kind, status in REFUSALS.items():
            self._refusals.labels(kind, str(status))

    def serves(self, role: Role, model: ServedModel) -> None:
        """Begin at 0 for `model`: a counter that only appears with its first event hides that event from `rate`."""
        of_model = (role, str(model))
        for decision in get_args(Decision):
            self._decisions.labels(*of_model, decision)
        for counted in (self._prompt_tokens, self._completion_tokens):
            counted.labels(*of_model)
        for timed in (self._first_token, self._queue, self._guard, self._answer):
            timed.labels(*of_model)

    def begun(self, call: Call) -> None:
        """A request is here."""
        self._running[id(call)] = call

    def ended(self, call: Call, seconds: float) -> None:
        """It was answered, or is gone, after so many seconds."""
        del self._running[id(call)]
        role, model = call.role or NONE, str(call.model or NONE)
        self._requests.labels(role, model, call.route or NONE, str(call.status)).inc()
        if call.refusal is not None:
            kind = "invalid_body" if call.status == REFUSALS["invalid_body"] else call.refusal
            self._refusals.labels(kind if kind in REFUSALS else "other", str(call.status)).inc()
        if call.guard is not None:
            self._decisions.labels(role, model, call.guard).inc()
            self._prompt_tokens.labels(role, model).inc(call.prompt_tokens or 0)
            self._completion_tokens.labels(role, model).inc(call.completion_tokens or 0)
            self._guard.labels(role, model).observe(call.guard_seconds)
            if call.status == 200:
                self._answer.labels(role, model).observe(seconds)
        if call.first_token_seconds is not None:
            self._first_token.labels(role, model).observe(call.first_token_seconds)
        if call.queue_seconds is not None:
            self._queue.labels(role, model).observe(call.queue_seconds)

    def page(self, replicas: Mapping[Role, int], *, audit_writable: bool) -> bytes:
        """All of it in Prometheus' text format; `replicas` are those that run now."""
        running = Tally(call.role or NONE for call in self._running.values())
        for role in (*replicas, NONE):
            self._in_flight.labels(role).set(running[role])
        for role, number in replicas.items():
            self._replicas.labels(role).set(number)
        self._audit.set(audit_writable)
        return generate_latest(self._registry)
