"""Ray's Jobs API as a person meets it: one line where it refuses, and a log that survives a cut connection."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from llumi.errors import ConfigError, JobError, JobUnreachableError

PATIENCE_SECONDS = 60
"""How long one question to the dashboard may take."""

HEARTBEAT_SECONDS = 20
"""How often a followed log's connection is tried: without it, one that was cut without a word would be waited on for ever."""

GIVE_UP_SECONDS = 900
"""How long a dashboard that is gone is asked again while a log is followed: longer than a node takes to start anew."""

_LONGEST_PAUSE_SECONDS = 10
_LONGEST_REASON = 200


class JobsClient(JobSubmissionClient):  # type: ignore[misc]  # ray is untyped
    """Ray's client with an end to each wait, and with errors of LLUMI's tree."""

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"--address {address}: give the dashboard's URL, such as http://head:8265")
        self.given_address = address
        # Ray takes the variable before the argument.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        try:
            super().__init__(address)
        except AuthenticationError:  # a token is asked for here, and there is none to send
            raise self._refused() from None
        except (RuntimeError, ValueError, requests.RequestException):
            raise self._no_dashboard() from None

    def submitted(self) -> list[JobDetails]:
        """Every job that was submitted to the cluster, the newest first."""
        jobs = [details for details in self.list_jobs() if details.submission_id is not None]
        return sorted(jobs, key=lambda details: details.start_time or 0, reverse=True)

    async def tail_job_logs(self, job_id: str) -> AsyncGenerator[str, None]:
        """The log from its first line, as it comes, until the job's end; raises JobUnreachableError where it is cut before."""
        url = f"{self._address}/api/jobs/{job_id}/logs/tail"
        try:
            async with (
                aiohttp.ClientSession(cookies=self._cookies, headers=self._headers) as session,
                session.ws_connect(url, heartbeat=HEARTBEAT_SECONDS, ssl=self._ssl_context or True, max_msg_size=0) as socket,
            ):
                async for message in socket:
                    if message.type == aiohttp.WSMsgType.TEXT:
                        yield message.data
                if socket.close_code != aiohttp.WSCloseCode.OK:
                    raise self._no_dashboard()
        except (aiohttp.ClientError, OSError):
            raise self._no_dashboard() from None

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        try:
            response: requests.Response = super()._do_request(method, endpoint, timeout=PATIENCE_SECONDS, **options)
        except AuthenticationError:
            raise self._refused() from None
        except requests.RequestException:
            raise self._no_dashboard() from None
        if response.status_code in (requests.codes.bad_gateway, requests.codes.service_unavailable):
            raise self._no_dashboard()
        return response

    def _raise_error(self, response: requests.Response) -> None:
        path = response.request.path_url
        if response.status_code == requests.codes.not_found and path.startswith("/api/jobs/"):
            job_id = path.removeprefix("/api/jobs/").partition("/")[0]
            raise JobError(f"{job_id}: the cluster at {self.given_address} knows no such job; see: llumi jobs list")
        # Of a traceback its error, and nothing of what stood around it.
        reason = response.text.strip().rpartition("\n")[2][:_LONGEST_REASON]
        raise JobError(
            f"--address {self.given_address}: the dashboard answered {response.status_code} to "
            f"{response.request.method} {path}: {reason}"
        )

    def _no_dashboard(self) -> JobUnreachableError:
        return JobUnreachableError(
            f"--address {self.given_address}: no Ray dashboard answers; start a cluster, or correct the address"
        )

    def _refused(self) -> JobError:
        return JobError(
            f"--address {self.given_address}: the cluster asks for a token, and none or a wrong one was sent; "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE to the cluster's own"
        )


async def follow(client: JobsClient, job_id: str, write: Callable[[str], None], tell: Callable[[str], None]) -> JobDetails:
    """Give a job's log to `write` as it comes, each character once, and return how the job ended.

    A connection that is cut is made anew, and `tell` is told; raises JobUnreachableError after GIVE_UP_SECONDS without one.
    """
    written, pause, heard = 0, 1.0, time.monotonic()
    while True:
        skip = written
        try:
            await asyncio.to_thread(client.get_job_info, job_id)  # one that the cluster does not know has no log to wait for
            async with contextlib.aclosing(client.tail_job_logs(job_id)) as chunks:
                async for chunk in chunks:
                    # Each tail begins at the log's first line.
                    fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                    write(fresh)
                    written += len(fresh)
                    pause, heard = 1.0, time.monotonic()
            details = await asyncio.to_thread(client.get_job_info, job_id)
            if details.status.is_terminal():
                return details
        except JobUnreachableError:
            if time.monotonic() - heard > GIVE_UP_SECONDS:
                raise
            if pause == 1.0:
                tell("the connection to the cluster was cut; the job goes on, and so does this log once the cluster answers")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
