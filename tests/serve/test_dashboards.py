"""The files for Prometheus and Grafana speak of what `/metrics` really gives, and Prometheus' own tool takes them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ray")

from tests.serve.test_metrics import after, drafted, improved, seen

CLUSTER = Path(__file__).parents[2] / "cluster"
PROMETHEUS = CLUSTER / "prometheus"
DASHBOARD = json.loads((CLUSTER / "grafana" / "llumi-serving.json").read_text(encoding="utf-8"))
ALERTS = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
METRIC = re.compile(r"\bllumi_\w+")
SELECTOR = re.compile(r"\b(llumi_\w+)\{([^}]*)\}")
MATCHER = re.compile(r"(\w+)=~?")
OF_PROMETHEUS = {"instance", "job"}
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (apt-get install prometheus)")


def panel_expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def expressions() -> list[str]:
    asked = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    return [*panel_expressions(), *asked, *(rule["expr"] for rule in ALERTS)]


def test_every_metric_and_label_of_dashboard_and_alerts_is_there():
    figures = after(seen(), drafted(), improved(), drafted(post=7))
    labels: dict[str, set[str]] = {}
    for sample in figures.samples:
        labels.setdefault(sample.name, set()).update(sample.labels)
    used = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(used) > 10
    assert used <= set(labels)
    for expression in expressions():
        for name, matchers in SELECTOR.findall(expression):
            assert set(MATCHER.findall(matchers)) <= labels[name] | OF_PROMETHEUS, expression


def test_every_metric_is_on_the_dashboard():
    shown = {name for expression in panel_expressions() for name in METRIC.findall(expression)}
    families = {family.name for family in after(seen()).families}
    assert families == {name.removesuffix("_total").removesuffix("_bucket") for name in shown}


def test_panels_have_places_of_their_own():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]):
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert re.search(r"(?i)\b(look at|free|ask|raise|find|read|restart|lower|go back)\b", rule["annotations"]["summary"])


def test_every_alert_is_tried_in_both_states():
    well, ill = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    assert well["promql_expr_test"][0]["exp_samples"] == []
    fired = "".join(sample["labels"] for sample in ill["promql_expr_test"][0]["exp_samples"])
    assert set(re.findall(r'alertname="(\w+)"', fired)) == {rule["alert"] for rule in ALERTS}


def promtool(*arguments: str, folder: Path) -> str:
    done = subprocess.run([str(PROMTOOL), *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_takes_the_configuration_and_the_rules_fire_when_they_should(tmp_path: Path):
    for file in PROMETHEUS.glob("*.yml"):
        shutil.copy(file, tmp_path)
    for secret in ("llumi.key", "minio.token"):
        (tmp_path / secret).write_text("secret")
    assert f"{len(ALERTS)} rules found" in promtool("check", "config", "prometheus.yml", folder=tmp_path)
    promtool("test", "rules", "alerts_test.yml", folder=tmp_path)


@needs_promtool
def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path):
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(panel_expressions())
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", "rules.yml", folder=tmp_path)
