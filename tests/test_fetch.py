"""`fetch_dataset` against a local server that breaks off, sends damaged files or ignores ranges."""
import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time

import pytest

from medaug.data.datasets import DATASETS, find_patients
from medaug.data.fetch import Download, fetch_dataset
from medaug.data.phantom import write_phantom
from medaug.errors import UserError

HEART = DATASETS["d-heart"]


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `break_after` bytes it drops the connection, `breaks` times at most; `ranges`: whether it knows
    them."""
    daemon_threads = True
    content, break_after, breaks, ranges, status, pause = b"", None, 10**9, True, None, 0.0

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.sent = [], 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def download(self):
        return Download(f"http://127.0.0.1:{self.server_port}/Task02_Heart.tar", hashlib.md5(self.content).hexdigest())

    def handle_error(self, request, address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(asked)
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if server.status or first >= len(server.content):
            self.send_error(server.status or 416)
            return
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(server.content) - first))
        self.end_headers()
        self._send(server.content[first:])

    def _send(self, rest):
        server = self.server
        breaking = server.break_after is not None and server.breaks > 0 and len(rest) > server.break_after
        for start in range(0, server.break_after if breaking else len(rest), 4096):
            block = rest[start:start + 4096]
            self.wfile.write(block)
            server.sent += len(block)
            time.sleep(server.pause)
        if breaking:
            server.breaks -= 1
            self.close_connection = True


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heart")
    root = write_phantom(HEART, folder/"phantom", patients=3, size=64, depth=16, progress_bar=False)
    with tarfile.open(folder/"Task02_Heart.tar", "w") as tar:
        tar.add(root/"Task02_Heart", "Task02_Heart")
    return (folder/"Task02_Heart.tar").read_bytes()


@pytest.fixture
def server(archive):
    server = Server()
    server.content = archive
    yield server
    server.shutdown()
    server.server_close()


def fetch(server, out, download=None):
    return fetch_dataset("d-heart", out, download or server.download, progress_bar=False, wait=0)


def everything_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_connection_that_breaks_off_is_taken_up_where_it_broke(server, tmp_path):
    server.break_after = len(server.content)//6
    fetched = fetch(server, tmp_path)
    assert len(find_patients(HEART, fetched)) == 3
    assert len(server.requests) >= 6 and server.requests[0] is None
    begun = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.requests[1:]]
    assert begun == sorted(begun) and begun[0] > 0
    assert server.sent < 1.1*len(server.content), "what had come must not be sent again"
    assert everything_below(tmp_path) == [f"Task02_Heart/{name}" for name in everything_below(fetched)]


def test_a_server_that_gives_up_is_told_and_the_next_run_continues(server, tmp_path):
    server.break_after = 0
    with pytest.raises(UserError, match="cannot be reached.*run the same command again"):
        fetch(server, tmp_path)
    server.break_after, server.breaks = len(server.content)//2, 1
    fetched = fetch(server, tmp_path)
    assert len(find_patients(HEART, fetched)) == 3 and server.sent < 1.1*len(server.content)


def test_a_killed_download_continues(server, tmp_path):
    server.pause = 0.01
    program = ("import sys; from medaug.data.fetch import Download, fetch_dataset; "
               "fetch_dataset('d-heart', sys.argv[1], Download(*sys.argv[2:4]))")
    child = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path, server.download.url, server.download.md5], stderr=subprocess.DEVNULL
    )
    part = tmp_path/".medaug-fetch"/"Task02_Heart.tar.part"
    deadline = time.monotonic() + 60
    while server.sent < len(server.content)//2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path/"Task02_Heart").exists()
    there = part.stat().st_size if part.exists() else 0
    server.pause, server.requests = 0, []
    fetched = fetch(server, tmp_path)
    assert server.requests[0] == (f"bytes={there}-" if there else None)
    assert everything_below(tmp_path) == [f"Task02_Heart/{name}" for name in everything_below(fetched)]


def test_a_damaged_file_is_refused_and_not_kept(server, tmp_path):
    good = server.download
    damaged = bytearray(server.content)
    damaged[len(damaged)//2] ^= 1
    server.content = bytes(damaged)
    with pytest.raises(UserError, match="arrived damaged: its MD5"):
        fetch(server, tmp_path, good)
    assert everything_below(tmp_path) == []


def test_pieces_of_two_versions_are_fetched_again_as_a_whole(server, tmp_path):
    parts = tmp_path/".medaug-fetch"
    parts.mkdir()
    (parts/"Task02_Heart.tar.part").write_bytes(b"an older version of the file")
    assert len(find_patients(HEART, fetch(server, tmp_path))) == 3
    assert server.requests == ["bytes=28-", None]


def test_a_server_without_ranges_sends_everything(server, tmp_path):
    server.ranges, server.break_after, server.breaks = False, len(server.content)//2, 1
    assert len(find_patients(HEART, fetch(server, tmp_path))) == 3
    assert len(server.requests) == 2 and server.sent > 1.4*len(server.content)


def test_a_partial_file_longer_than_the_archive_is_replaced(server, tmp_path):
    parts = tmp_path/".medaug-fetch"
    parts.mkdir()
    (parts/"Task02_Heart.tar.part").write_bytes(bytes(len(server.content) + 5))
    assert len(find_patients(HEART, fetch(server, tmp_path))) == 3


@pytest.mark.parametrize("status, requests", [(404, 1), (403, 1), (503, 5)])
def test_what_the_server_refuses_is_one_line(server, tmp_path, status, requests):
    server.status = status
    with pytest.raises(UserError) as refusal:
        fetch(server, tmp_path)
    assert "\n" not in str(refusal.value) and server.download.url in str(refusal.value)
    assert len(server.requests) == requests


def test_an_archive_that_reaches_outside_is_refused_though_its_checksum_is_right(server, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("Task02_Heart/dataset.json", "Task02_Heart/../../outside.txt"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    server.content = buffer.getvalue()
    with pytest.raises(UserError, match="outside the folder"):
        fetch(server, tmp_path/"out")
    assert not (tmp_path/"outside.txt").exists() and not (tmp_path/"out"/"Task02_Heart").exists()


def test_a_disk_without_room_is_told_before_it_is_filled(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="GB free"):
        fetch(server, tmp_path)
    assert server.sent < len(server.content)
