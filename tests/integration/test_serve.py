"""scripts/serve, run as a user runs it."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import requests

from tests.servers import SERVE, ServerError, nginx_server, read_url, running_serve, stop, wait_until

UPLOADS = ".shardtools-tmp"

WITHOUT_NGINX = """
import runpy, shutil, sys
shutil.which = lambda *_, **__: None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

AS_NOBODY = """
import encodings.idna, os, pwd, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="import")  # while the interpreter's own files can be read
nobody = pwd.getpwnam("nobody")
os.setgroups([]), os.setgid(nobody.pw_gid), os.setuid(nobody.pw_uid)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_serve(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/serve until it ends by itself."""
    command = [sys.executable, SERVE, *arguments]
    return subprocess.run(
        command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_serves_until_a_signal_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    data, scratch = tmp_path / "data", tmp_path / "scratch"
    data.mkdir()
    scratch.mkdir(mode=0o755)
    with running_serve(data, "0", env={"TMPDIR": str(scratch)}) as process:
        url = read_url(process)
        assert requests.put(url + "a.tar", data=b"x", timeout=60).status_code == 201
        assert list(scratch.iterdir())
        (server,) = children(process.pid)
        workers = children(server)
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "", "")
    assert not any(map(is_running, [server, *workers]))
    assert [path.name for path in data.iterdir()] == ["a.tar"]
    assert list(scratch.iterdir()) == []


def test_it_says_what_it_serves_and_where(tmp_path: Path) -> None:
    with running_serve(tmp_path, "0") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.partition(" ")[0]
        assert line == f"{url} serves {tmp_path}\n"
        assert url.startswith("http://127.0.0.1:") and url.endswith("/")
        assert requests.get(url, timeout=60).json() == []


@pytest.mark.parametrize("name", ["with space", 'quo"te', "dol$lar;{}", "schön", "back\\slash", "new\nline"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with nginx_server(folder) as server:
        assert requests.put(server.url + "a.tar", data=b"x", timeout=60).status_code == 201
        assert (folder / "a.tar").read_bytes() == b"x"


def test_a_relative_and_a_linked_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    for name in ("real", "link"):
        with nginx_server(Path(name)) as server:
            requests.put(server.url + name, data=b"x", timeout=60).raise_for_status()
    assert sorted(path.name for path in Path("real").iterdir()) == ["link", "real"]


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    done = run_serve(tmp_path / "none", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"serve: error: {tmp_path}/none: there is no such folder; make it with mkdir\n"


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_serve(tmp_path, str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"serve: error: 127.0.0.1 port {port}: address already in use; give another PORT, or 0\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", ["70000", "-1", "x"])
def test_what_is_no_port_is_a_usage_error(tmp_path: Path, port: str) -> None:
    assert run_serve(tmp_path, port).returncode == 2


def test_a_missing_nginx_is_one_line_that_names_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_NGINX, str(SERVE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("serve: error: nginx is not installed; install the package nginx-light")
    assert done.stderr.count("\n") == 1


def test_an_nginx_that_refuses_the_config_is_one_line(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "nginx"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'nginx: [emerg] unknown directive \"dav_methods\" in nginx.conf:9' >&2\nexit 1\n")
    fake.chmod(0o755)
    data = tmp_path / "data"
    data.mkdir()
    done = run_serve(data, "0", PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert done.stderr == 'serve: error: nginx stopped: unknown directive "dav_methods" in nginx.conf:9\n'
    assert list(data.iterdir()) == []


def test_when_nginx_is_killed_it_says_so_and_ends(tmp_path: Path) -> None:
    with running_serve(tmp_path, "0") as process:
        read_url(process)
        (server,) = children(process.pid)
        os.kill(server, signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert errors == "serve: error: nginx stopped: it was stopped from outside\n"


def test_what_goes_wrong_later_is_said_on_stderr(tmp_path: Path) -> None:
    with running_serve(tmp_path, "0") as process:
        url = read_url(process)
        (tmp_path / UPLOADS).rmdir()
        assert requests.put(url + "a.tar", data=b"x", timeout=60).status_code == 500
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert "No such file or directory" in errors and '"PUT /a.tar HTTP/1.1"' in errors
    assert list(tmp_path.iterdir()) == []


def test_a_writer_from_the_environment(tmp_path: Path) -> None:
    with running_serve(tmp_path, "0", env={"SERVE_USER": "ann:se:cret ö"}) as process:
        url = read_url(process)
        assert "cret" not in Path(f"/proc/{process.pid}/cmdline").read_text()
        assert requests.put(url + "a.tar", data=b"x", timeout=60).status_code == 401
        header = {"Authorization": "Basic " + base64.b64encode("ann:se:cret ö".encode()).decode()}
        assert requests.put(url + "a.tar", data=b"x", headers=header, timeout=60).status_code == 201
        assert requests.get(url + "a.tar", timeout=60).content == b"x"


@pytest.mark.parametrize("writer", ["ann", ":secret", "ann:"])
def test_a_writer_without_name_or_password_is_one_line(tmp_path: Path, writer: str) -> None:
    done = run_serve(tmp_path, "0", SERVE_USER=writer)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "serve: error: SERVE_USER: not NAME:PASSWORD; set it to both, with a colon\n"


def test_a_missing_password_file_is_one_line(tmp_path: Path) -> None:
    done = run_serve(tmp_path, "0", "--htpasswd", tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"serve: error: {tmp_path}/none: no such file or directory; ")


def test_uploads_that_a_killed_server_left_are_removed(tmp_path: Path) -> None:
    uploads = tmp_path / UPLOADS
    uploads.mkdir()
    (uploads / "0000000001").write_bytes(b"half")
    with nginx_server(tmp_path):
        assert list(uploads.iterdir()) == []
        (uploads / "0000000002").write_bytes(b"under way")
        with nginx_server(tmp_path) as second:
            assert [path.name for path in uploads.iterdir()] == ["0000000002"]
            requests.put(second.url + "a.tar", data=b"x", timeout=60).raise_for_status()
        assert [path.name for path in uploads.iterdir()] == ["0000000002"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_uploads_are_kept_while_nginx_outlives_its_starter(tmp_path: Path) -> None:
    data, scratch = tmp_path / "data", tmp_path / "scratch"
    data.mkdir()
    scratch.mkdir()
    with running_serve(data, "0", env={"TMPDIR": str(scratch)}) as process:
        url = read_url(process)
        (server,) = children(process.pid)
        try:
            process.kill()
            process.wait()
            with nginx_server(data):
                pass
            assert requests.put(url + "a.tar", data=b"x", timeout=60).status_code == 201
        finally:
            os.kill(server, signal.SIGTERM)
    wait_until(lambda: not is_running(server), "nginx to stop")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can work as somebody else")
def test_root_writes_as_the_owner_of_the_folder() -> None:
    # Not under tmp_path: pytest closes its folders to everyone else, the owner of this one included.
    with tempfile.TemporaryDirectory(prefix="shardtools-owner-") as name:
        folder = Path(name)
        shutil.chown(folder, "nobody", "nogroup")
        expected = folder.stat()
        with nginx_server(folder, writers={"ann": "secret"}) as server:
            answer = requests.put(server.url + "a/b.tar", data=b"x", auth=("ann", "secret"), timeout=60)
            assert answer.status_code == 201
            for path in (folder / "a", folder / "a/b.tar"):
                assert (path.stat().st_uid, path.stat().st_gid) == (expected.st_uid, expected.st_gid)
        assert [path.name for path in folder.iterdir()] == ["a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_serves_a_folder() -> None:
    with tempfile.TemporaryDirectory(prefix="shardtools-user-") as folder:
        data = Path(folder, "data")
        data.mkdir()
        # A copy, since this user may not be let into the checkout.
        for name in ("scripts/serve", "nginx/nginx.conf.template"):
            Path(folder, name).parent.mkdir()
            shutil.copy(SERVE.parent.parent / name, Path(folder, name))
        for path in (Path(folder), data):
            shutil.chown(path, "nobody", "nogroup")
        command = [sys.executable, "-c", AS_NOBODY, f"{folder}/scripts/serve", str(data), "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                url = read_url(process)
                assert requests.put(url + "a.tar", data=b"x", timeout=60).status_code == 201
                assert (data / "a.tar").stat().st_uid == data.stat().st_uid != 0
                assert Path(f"/proc/{process.pid}").stat().st_uid == data.stat().st_uid
            finally:
                stop(process)
        assert process.returncode == 0


def test_a_server_that_does_not_start_fails_the_test_that_needs_it(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="there is no such folder"), nginx_server(tmp_path / "none"):
        pass
