"""What failures cost a run: how often to write a checkpoint, and which share of the time is lost all the same."""

import math


def best_interval(write_seconds: float, between_failures: float) -> float:
    """Seconds of work between two checkpoints that lose the least time.

    Daly, A higher order estimate of the optimum checkpoint interval for restart dumps (Future Generation Computer Systems 22,
    2006, eq. 37); its first term is Young's sqrt(2 d M) (Communications of the ACM 17(9), 1974), for a checkpoint of d
    seconds and a failure every M. Where writing takes longer than half of M, M itself.
    """
    if write_seconds >= 2 * between_failures:
        return between_failures
    ratio = write_seconds / (2 * between_failures)
    young = math.sqrt(2 * write_seconds * between_failures)
    return young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - write_seconds


def lost_share(interval: float, write_seconds: float, between_failures: float, restart_seconds: float) -> float:
    """The share of wall time that is lost to checkpoints, to work done twice, and to restarts, at most 1.

    To first order, as in Young: each interval pays one checkpoint, each failure half an interval and one restart.
    """
    checkpoints = write_seconds / (interval + write_seconds)
    repeated = (interval / 2 + restart_seconds) / between_failures
    return min(1.0, checkpoints + repeated)
