"""The server that all who are measured talk to: nginx on this machine, as scripts/serve runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serve(folder: str, access_log: str = "") -> Iterator[str]:
    """Serve ``folder`` and yield its URL; with ``access_log``, requests are noted in that file."""
    program = Path(__file__).resolve().parent.parent / "serve"
    options = ["--access-log", access_log] if access_log else []
    command = [sys.executable, str(program), folder, "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            found = re.search(r"http://\S+", server.stdout.readline() if server.stdout else "")
            if found is None:
                raise RuntimeError("scripts/serve did not start")
            yield found[0]
        finally:
            server.terminate()


def use_as_s3(url: str) -> str:
    """Let this process take the server at ``url`` for S3, where each folder is a bucket; return the URL of all."""
    os.environ.update(
        AWS_ENDPOINT_URL=url.rstrip("/"),
        AWS_ACCESS_KEY_ID="benchmark",
        AWS_SECRET_ACCESS_KEY="benchmark",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    )
    return "s3://"
