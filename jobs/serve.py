"""GM and IM behind one router, until the job is stopped.

ray job submit --working-dir . --no-wait -- python jobs/serve.py --set serve.host=0.0.0.0
"""

from llumi.job import ConfigOption, SetOption, job, run, say_who_gets_in, serve_until_stopped
from llumi.serve.app import serve, stop_serving


def main(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Serve both models."""
    with job(config, overrides) as here:
        url = serve(here.config, here.progress, here.tell).url
        here.progress.finish()
        try:
            say_who_gets_in(here.config, url)
            serve_until_stopped(url)
        finally:
            stop_serving()


if __name__ == "__main__":
    run(main)
