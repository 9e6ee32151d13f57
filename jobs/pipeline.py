"""The whole line: corpus -> pairs -> SFT -> DPO1 for GM and IM -> generations -> evaluation, resumed where it stopped.

ray job submit --working-dir . -- python jobs/pipeline.py --set corpus.uri=/dumps
"""

from llumi.job import ConfigOption, FromOption, SetOption, UntilOption, job, run, show_steps
from llumi.pipeline import pipeline


def main(start: FromOption = None, until: UntilOption = None, config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Run every step whose artifact does not stand yet."""
    with job(config, overrides) as here:
        show_steps(pipeline(here.config, here.progress, start=start, until=until), here)


if __name__ == "__main__":
    run(main)
