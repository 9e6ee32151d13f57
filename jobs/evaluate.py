"""Models against the human replies: generations/... -> evaluations/<name>/report.html.

ray job submit --working-dir . -- python jobs/evaluate.py gm-base gm-sft gm-dpo1
"""

from typing import Annotated

import typer

from llumi.evaluate.run import evaluate
from llumi.job import ConfigOption, SetOption, job, run, show_artifact


def main(
    generations: Annotated[list[str] | None, typer.Argument(help="Their names; none means all that stand.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Measure and compare generations, and write the report."""
    with job(config, overrides) as here:
        manifest = evaluate(here.config, generations or [], here.progress)
        show_artifact(manifest, here.config)


if __name__ == "__main__":
    run(main)
