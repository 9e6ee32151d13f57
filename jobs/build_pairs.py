"""Community dumps to preference pairs: corpus -> pairs/<name>.

ray job submit --working-dir . -- python jobs/build_pairs.py --set corpus.uri=/dumps
"""

from llumi.corpus.dump import open_corpus
from llumi.job import ConfigOption, SetOption, job, run, show_artifact
from llumi.pairs.build import build_pairs


def main(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Build SFT examples and DPO pairs from a corpus."""
    with job(config, overrides, check=open_corpus) as here:
        manifest = build_pairs(here.config, here.progress)
        show_artifact(manifest, here.config)


if __name__ == "__main__":
    run(main)
