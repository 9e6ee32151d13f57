"""Replies in bulk for the held-out posts: models/<model> -> generations/<role>-<model>.

ray job submit --working-dir . -- python jobs/generate.py gm base gm-sft gm-dpo1
"""

from llumi.generate.run import generate
from llumi.job import ConfigOption, SetOption, job, run, show_artifact
from llumi.prompts import Role


def main(
    role: Role, models: list[str], *, drafts: bool = False, config: ConfigOption = None, overrides: SetOption = None
) -> None:
    """Generate replies (gm) or revisions (im) with each model; --drafts: revisions of all drafts, for jobs/teach.py."""
    with job(config, overrides) as here:
        for model in models:
            manifest = generate(here.config, role, model, here.progress, drafts=drafts)
            here.progress.finish()
            show_artifact(manifest, here.config)


if __name__ == "__main__":
    run(main)
