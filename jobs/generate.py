"""Replies in bulk: models/<model> -> generations/<role>-<model>.

ray job submit --working-dir . -- python jobs/generate.py gm base gm-sft gm-dpo1
"""

from llumi.generate.names import Posts
from llumi.generate.run import generate
from llumi.job import ConfigOption, SetOption, job, run, show_artifact
from llumi.prompts import Role


def main(
    role: Role, models: list[str], *, posts: Posts = "held-out", config: ConfigOption = None, overrides: SetOption = None
) -> None:
    """Generate replies (gm) or revisions (im) with each model: to held-out posts, train posts, or (im) all drafts."""
    with job(config, overrides) as here:
        for model in models:
            manifest = generate(here.config, role, model, here.progress, posts=posts)
            here.progress.finish()
            show_artifact(manifest, here.config)


if __name__ == "__main__":
    run(main)
