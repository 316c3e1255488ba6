"""WebDAV servers other than nginx, for the tests: Apache's mod_dav where it is installed, and one that is careless."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.servers import ServerError, stop, wait_until

APACHE = shutil.which("apache2") or shutil.which("apache2", path="/usr/sbin")
_MODULES = Path("/usr/lib/apache2/modules")
_CONFIG = """
ServerName localhost
ServerRoot {folder}
PidFile {folder}/pid
ErrorLog {folder}/errors
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule dav_module {modules}/mod_dav.so
LoadModule dav_fs_module {modules}/mod_dav_fs.so
DavLockDB {folder}/locks
DocumentRoot {folder}/root
User nobody
Group nogroup
<Directory {folder}/root>
    Dav On
    Require all granted
</Directory>
"""


@contextmanager
def apache_server() -> Iterator[tuple[str, Path]]:
    """Run Apache with mod_dav; give out its URL and the folder that it shows.

    Raises:
        ServerError: it did not start.
    """
    # As root it becomes another user, who cannot look into pytest's own folders.
    with tempfile.TemporaryDirectory(prefix="shardtools-apache-") as name:
        folder = Path(name)
        root = folder / "root"
        root.mkdir()
        for path in (folder, root):
            path.chmod(0o777)
        with _running_apache(folder) as url:
            yield url, root


@contextmanager
def _running_apache(folder: Path) -> Iterator[str]:
    assert APACHE is not None
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    (folder / "apache.conf").write_text(_CONFIG.format(folder=folder, port=port, modules=_MODULES))
    process = subprocess.Popen(
        [APACHE, "-X", "-f", str(folder / "apache.conf")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    def answers() -> bool:
        if process.poll() is not None:
            raise ServerError(f"Apache ended with status {process.returncode}")
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, "Apache")
        yield f"http://127.0.0.1:{port}/"
    finally:
        stop(process)


@contextmanager
def careless_server(root: Path) -> Iterator[str]:
    """Run a server that renames over what is there, whatever ``Overwrite`` says; give out its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...

        def answer(self) -> None:
            file = root / self.path.strip("/")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.command == "PUT":
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(body)
            elif not file.exists():
                self._end(404)
                return
            elif self.command == "MOVE":
                target = root / self.headers["Destination"].strip("/")
                shutil.rmtree(target, ignore_errors=True)
                file.rename(target)
            elif self.command == "DELETE":
                shutil.rmtree(file) if file.is_dir() else file.unlink()
                self._end(204)
                return
            else:
                self._end(200, file.read_bytes())
                return
            self._end(201)

        do_GET = do_HEAD = do_PUT = do_MOVE = do_DELETE = answer

        def _end(self, status: int, data: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}/"
        finally:
            httpd.shutdown()
            thread.join()
