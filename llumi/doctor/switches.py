"""Whether anything on a node may speak to somebody outside, as far as its switches say."""

from collections.abc import Iterator, Sequence

from llumi.doctor.check import Check, Reports, verdict
from llumi.environment import HUBS_OFF, OUTBOUND_OFF

RAYS_OWN_SWITCHES = ("RAY_USAGE_STATS_ENABLED", "RAY_USAGE_STATS_REPORT_URL")
"""What Ray's processes read themselves; they start before LLUMI can say it to them."""


def judge_telemetry(reports: Reports) -> Check:
    """Every switch of a library that reports home is off in the workers, and Ray's own in Ray's processes."""
    reporting = [name for name in OUTBOUND_OFF if name not in HUBS_OFF]
    problems = [*_open(reports, "worker_environment", reporting)]
    problems += _open(reports, "raylet_environment", RAYS_OWN_SWITCHES, "set it there before ray start")
    return verdict("telemetry", problems, f"off by {len(reporting)} switches on every node")


def judge_outbound(reports: Reports) -> Check:
    """The hub clients are offline; whether the network would let anything out is not tried."""
    problems = list(_open(reports, "worker_environment", tuple(HUBS_OFF), "LLUMI_OFFLINE=0 opened it"))
    found = f"closed by {len(HUBS_OFF)} switches on every node; no connection was tried, so the firewall is not judged"
    return verdict("outbound paths", problems, found)


def _open(reports: Reports, where: str, switches: Sequence[str], cure: str = "set it there") -> Iterator[str]:
    for name, report in reports.items():
        environment = report[where]
        for switch in switches if environment is not None else ():
            if environment[switch] != OUTBOUND_OFF[switch]:
                yield f"{switch} is not {OUTBOUND_OFF[switch]} on {name}; {cure}"
