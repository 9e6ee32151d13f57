"""One stage for every combination of the lists in --set: its parent and pairs/<name> -> models/<role>-<stage>-<point>.

ray job submit --working-dir . -- python jobs/sweep.py gm dpo1 --set train.dpo1.beta=[0.05,0.1,0.3]
"""

import typer

from llumi.config import Stage
from llumi.job import ConfigOption, SetOption, job, run, show_sweep
from llumi.prompts import Role
from llumi.train.grid import MAX_POINTS, grid
from llumi.train.sweep import sweep


def main(
    role: Role,
    stage: Stage,
    *,
    max_points: int = MAX_POINTS,
    keep_best: bool = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Train one stage of GM or IM once for each point, and compare."""
    points = grid(config, overrides or [], role, stage, max_points)
    with job(config, list(points[0].overrides)) as here:
        report = sweep(points, role, stage, here.progress, keep_best=keep_best)
        show_sweep(report, here.config)
    raise typer.Exit(1 if report.failed else 0)


if __name__ == "__main__":
    run(main)
