"""The server against its own OpenAPI: whatever is sent, it answers as described there."""

import pytest
from hypothesis import HealthCheck, settings

from abn.inference.server.app import Settings, create
from tests.inference.test_server import model

schemathesis = pytest.importorskip("schemathesis")

APP = create(model(), Settings())
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_openapi_says(case) -> None:
    checks = schemathesis.checks
    case.call_and_validate(excluded_checks=[checks.positive_data_acceptance])
