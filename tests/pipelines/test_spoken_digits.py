"""The spoken digits come out of their archive, verified, in the official split."""

import zipfile

import numpy as np
import pytest
import soundfile

from pipelines.fetching import TRUST, Unverified, WebFile, fetch
from pipelines.pairs import DataError
from pipelines.spoken_digits import checksum, read_spoken_digits
from tests.pipelines.test_fetching import server  # noqa: F401  # a fixture


@pytest.fixture
def archive(tmp_path):
    """Recordings 0 to 9 of two digits by one speaker, as the repository holds them."""
    samples = np.arange(100) / 1000
    with zipfile.ZipFile(tmp_path / "v1.0.10.zip", "w") as packed:
        packed.writestr("digits-1.0.10/README.md", "read me")
        for digit in (0, 7):
            for number in range(10):
                name = f"{digit}_theo_{number}.wav"
                soundfile.write(tmp_path / name, samples * (1 + digit), 8000, subtype="PCM_16")
                packed.write(tmp_path / name, f"digits-1.0.10/recordings/{name}")
    return tmp_path / "v1.0.10.zip"


def test_the_official_test_recordings_are_the_first_five(archive):
    names = sorted(path.name for path in archive.parent.glob("*.wav"))
    right = checksum(archive.parent, names)
    for _ in range(2):  # unpacked, then found
        splits = read_spoken_digits(archive, sha256=right)
        assert [len(pairs) for pairs in splits] == [4, 6, 10]
        assert {target for _, target in splits.test} == {"zero", "seven"}
        numbers = [sorted({int(path[-5]) for path, _ in pairs}) for pairs in splits]
        assert numbers == [[8, 9], [5, 6, 7], [0, 1, 2, 3, 4]]
        for path, target in splits.train:
            assert soundfile.info(path).frames == 100 and f"recordings/{'07'[target == 'seven']}_theo" in path


def test_other_recordings_are_refused(archive):
    with pytest.raises(DataError, match="holds 20 recordings, and not those of the data set's version"):
        read_spoken_digits(archive)


def test_an_archive_whose_reader_verifies_it_is_fetched_without_a_word(server, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("TFSEQ2SEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(TRUST, raising=False)
    server.content = b"packed anew"
    url = f"http://127.0.0.1:{server.server_port}/v1.zip"
    assert fetch(WebFile(url=url, read_verifies=True)).read_bytes() == b"packed anew"
    with pytest.raises(Unverified):
        fetch(WebFile(url=url + "?another"))
