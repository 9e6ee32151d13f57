"""A teacher's revisions to IM's pairs: pairs/<name> and generations/<generations> -> pairs/<name>-taught.

ray job submit --working-dir . -- python jobs/teach.py im-teacher-drafts
"""

from llumi.job import ConfigOption, SetOption, job, run, show_artifact
from llumi.pairs.teach import teach


def main(generations: str, config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Keep the revisions that are whole, safe and near their drafts."""
    with job(config, overrides) as here:
        manifest = teach(here.config, generations, here.progress)
        show_artifact(manifest, here.config)


if __name__ == "__main__":
    run(main)
