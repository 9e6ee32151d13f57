"""One stage of one model on the cluster: its parent and pairs/<name> -> models/<role>-<stage>.

ray job submit --working-dir . -- python jobs/train.py gm sft
"""

from llumi.config import Stage
from llumi.job import ConfigOption, SetOption, job, run, show_artifact
from llumi.prompts import Role
from llumi.train.run import train


def main(role: Role, stage: Stage, config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Train one stage of GM or IM."""
    with job(config, overrides) as here:
        manifest = train(here.config, role, stage, here.progress)
        show_artifact(manifest, here.config)


if __name__ == "__main__":
    run(main)
