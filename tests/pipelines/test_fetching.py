"""Files are fetched once, verified, resumed, and never kept by half."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
import time
import zipfile

import pytest

from pipelines import fetching
from pipelines.fetching import LocalFile, PackageFile, WebFile, cache_folder, fetch
from pipelines.pairs import DataError

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WHEEL = PackageFile(requirement="made-up==1.0", member="made_up/data/words.dict", sha256=SHA256)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFSEQ2SEQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left_over(cache):
    return sorted(
        path.name for path in cache.rglob("*") if path.is_file() and path.name not in ("words.dict", ".lock"))


# The cache folder


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("TFSEQ2SEQ_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tfseq2seq"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "tfseq2seq"


def test_a_cache_that_cannot_be_made_is_one_clear_line(cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot keep the file: Not a directory.*TFSEQ2SEQ_CACHE"):
        fetch(WHEEL)


def test_a_full_disk_is_one_clear_line(cache, monkeypatch, server):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching.os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device. Free some space"):
        fetch(server.file())
    assert not (cache / SHA256[:16] / "words.dict").exists()


# Packages


@pytest.fixture
def pip_from(tmp_path, monkeypatch):
    """Real pip, which finds its packages in a folder and asks no index."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def write_wheel(folder, content=CONTENT, member=WHEEL.member):
    info = "made_up-1.0.dist-info"
    with zipfile.ZipFile(folder / "made_up-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_a_file_comes_out_of_a_wheel_and_then_out_of_the_cache(cache, pip_from, monkeypatch):
    write_wheel(pip_from)
    told = []
    path = fetch(WHEEL, lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert left_over(cache) == []
    monkeypatch.setattr(fetching, "_pip_download", lambda *_: pytest.fail("fetched again"))
    assert fetch(WHEEL) == path


def test_a_cached_file_that_was_changed_is_fetched_again(cache, pip_from):
    write_wheel(pip_from)
    path = fetch(WHEEL)
    path.write_bytes(CONTENT[:-1])
    assert fetch(WHEEL).read_bytes() == CONTENT


def test_another_content_than_expected_is_refused_and_not_kept(cache, pip_from):
    write_wheel(pip_from, CONTENT + b"!")
    with pytest.raises(DataError, match=f"not the file that was expected.*Needed: SHA-256 {SHA256}. Rec"):
        fetch(WHEEL)
    assert left_over(cache) == []
    assert not list(cache.rglob("words.dict"))


def test_a_package_without_the_file_is_refused(pip_from):
    write_wheel(pip_from, member="made_up/other.dict")
    with pytest.raises(DataError, match=r"made-up==1.0 holds no file made_up/data/words.dict.*1.0-py3"):
        fetch(WHEEL)


def test_what_pip_says_is_passed_on(cache, pip_from):
    with pytest.raises(DataError, match="pip cannot download made-up==1.0: ERROR: No matching distribution"):
        fetch(WHEEL)
    assert left_over(cache) == []


def test_a_file_comes_out_of_a_source_archive(cache, monkeypatch):
    def download(requirement, folder, progress):
        with tarfile.open(folder / "made_up-1.0.tar.gz", "w:gz") as archive:
            for name, content in (("PKG-INFO", b""), (f"made_up-1.0/{WHEEL.member}", CONTENT)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return folder / "made_up-1.0.tar.gz"

    monkeypatch.setattr(fetching, "_pip_download", download)
    assert fetch(WHEEL).read_bytes() == CONTENT
    assert left_over(cache) == []


def test_a_damaged_archive_is_one_clear_line(monkeypatch):
    def download(requirement, folder, progress):
        (folder / "made_up-1.0.tar.gz").write_bytes(gzip.compress(CONTENT * 9)[:300])
        return folder / "made_up-1.0.tar.gz"

    monkeypatch.setattr(fetching, "_pip_download", download)
    with pytest.raises(DataError, match="made_up-1.0.tar.gz is damaged"):
        fetch(WHEEL)


def test_of_callers_at_the_same_time_one_fetches(monkeypatch, tmp_path):
    calls = []

    def download(requirement, folder, progress):
        calls.append(requirement)
        time.sleep(0.2)
        write_wheel(folder)
        return next(folder.glob("*.whl"))

    monkeypatch.setattr(fetching, "_pip_download", download)
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(WHEEL).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert calls == ["made-up==1.0"]


# The web, played by a server on loopback


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers["Range"])
        if server.status != 200:
            return self.send_error(server.status)
        start = int(self.headers["Range"][6:-1]) if self.headers["Range"] and server.resumes else 0
        if start and start >= len(server.content):
            return self.send_error(416)
        rest = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: server.breaks.pop(0)] if server.breaks else rest)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.content, made.resumes, made.breaks, made.status, made.ranges = CONTENT, True, [], 200, []
    made.file = lambda: WebFile(url=f"http://127.0.0.1:{made.server_port}/a/words.dict?raw=1", sha256=SHA256)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def leave_half(cache, content):
    folder = cache / SHA256[:16]
    folder.mkdir(parents=True)
    (folder / "words.dict.partial").write_bytes(content)


def test_a_file_comes_from_the_web(cache, server):
    told = []
    path = fetch(server.file(), lambda done, total: told.append((done, total)))
    assert (path.name, path.read_bytes()) == ("words.dict", CONTENT)
    assert told[-1] == (10240, 10240)
    assert left_over(cache) == []


def test_a_download_goes_on_where_a_killed_one_stopped(cache, server):
    leave_half(cache, CONTENT[:5000])
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == ["bytes=5000-"]


def test_a_broken_connection_is_resumed(server):
    server.breaks = [3000, 2000]
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=3000-", "bytes=5000-"]


def test_a_server_that_cannot_resume_starts_again(cache, server):
    leave_half(cache, CONTENT[:5000])
    server.resumes = False
    assert fetch(server.file()).read_bytes() == CONTENT
    assert len(server.ranges) == 1


def test_a_half_of_another_file_is_thrown_away(cache, server):
    leave_half(cache, b"x" * 5000)
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == ["bytes=5000-", None]


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"])
def test_a_download_that_only_was_not_renamed_is_verified(cache, server, left):
    leave_half(cache, left)
    assert fetch(server.file()).read_bytes() == CONTENT


def test_a_server_that_breaks_every_time_keeps_what_came(cache, server):
    server.breaks = [1000] * 4
    with pytest.raises(DataError, match="broke 4 times .*Run the same command again"):
        fetch(server.file())
    assert (cache / SHA256[:16] / "words.dict.partial").read_bytes() == CONTENT[:4000]
    assert not (cache / SHA256[:16] / "words.dict").exists()


def test_a_refusal_of_the_server_is_passed_on(server):
    server.status = 404
    with pytest.raises(DataError, match="refuses it: 404 Not Found"):
        fetch(server.file())
    assert len(server.ranges) == 1


def test_another_content_on_the_web_is_refused(cache, server):
    server.content = CONTENT[::-1]
    with pytest.raises(DataError, match="not the file that was expected"):
        fetch(server.file())
    assert left_over(cache) == []


# Local files


def test_a_local_file_is_verified_where_it_lies(cache, tmp_path):
    path = tmp_path / "words.dict"
    path.write_bytes(CONTENT)
    assert fetch(LocalFile(path=str(path), sha256=SHA256)) == path
    assert not cache.exists()
    with pytest.raises(DataError, match="words.dict: not the file that was expected"):
        fetch(LocalFile(path=str(path), sha256="0" * 64))
    with pytest.raises(DataError, match="none.dict: no such file"):
        fetch(LocalFile(path=str(tmp_path / "none.dict"), sha256=SHA256))
