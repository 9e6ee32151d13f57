"""Whatever a client sends, by the OpenAPI document or against it, is answered, and never with a defect of our own."""

import pytest

pytest.importorskip("ray")

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

from llumi.serve.router import build_app
from tests.serve.keyed import KEY
from tests.serve.test_router import service

EXAMPLES = 60
"""For each route; what has failed once is found by far fewer."""

ROUTES = schemathesis.openapi.from_asgi("/openapi.json", build_app(service()), headers=KEY)


@ROUTES.parametrize()
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_no_request_meets_a_defect(case: schemathesis.Case):
    answer = case.call(headers=KEY)
    case.validate_response(answer, checks=[not_a_server_error])
    if answer.status_code >= 400 and case.method != "HEAD":
        assert set(answer.json()) == {"error"}
