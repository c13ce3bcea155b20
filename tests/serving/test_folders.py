"""Versions side by side, and their labels."""

import json
import shutil

import pytest

from serving.folders import LABELS, change_labels, find_version, read_labels


@pytest.fixture
def folder(tmp_path):
    for name in ("2", "10", "9", "notes", ".export-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    return tmp_path


def test_the_latest_version_is_the_highest_number(folder):
    assert find_version(folder) == find_version(folder, "latest") == folder / "10"
    assert find_version(folder, "9") == folder / "9"


def test_a_label_is_moved_and_taken_away(folder):
    assert read_labels(folder) == {}
    assert change_labels(folder, {"stable": 2, "canary": 10}) == {"canary": 10, "stable": 2}
    assert find_version(folder, "stable") == folder / "2"
    assert change_labels(folder, {"stable": 9}, ["canary"]) == {"stable": 9} == read_labels(folder)
    assert json.loads((folder / LABELS).read_text()) == {"stable": 9}
    assert find_version(folder) == folder / "10"


@pytest.mark.parametrize(
    ("give", "remove", "message"),
    [
        ({"latest": 2}, [], "not 'latest', which is the highest version"),
        ({"12": 2}, [], "not digits alone"),
        ({"a b": 2}, [], "needs letters, digits"),
        ({"stable": 3}, [], r"needs one of the versions 2, 9, 10. Received: 3"),
        ({"new": 10}, ["old"], "has no label 'old'; it has: stable"),
    ])
def test_what_cannot_be_a_label_changes_nothing(folder, give, remove, message):
    change_labels(folder, {"stable": 2})
    with pytest.raises(ValueError, match=message):
        change_labels(folder, give, remove)
    assert read_labels(folder) == {"stable": 2}


def test_an_unknown_version_is_told_beside_those_there_are(folder):
    change_labels(folder, {"stable": 2})
    with pytest.raises(ValueError, match=r"versions 2, 9, 10, 'latest' or 'stable'. Received: 'best'"):
        find_version(folder, "best")
    with pytest.raises(ValueError, match="Received: '3'"):
        find_version(folder, "3")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "Received: '{'"), ("[1]", "Received: '.1.'"), ('{"stable": "2"}', "needs an object")])
def test_a_broken_file_of_labels_is_one_clear_line_and_stays_as_it_is(folder, text, message):
    (folder / LABELS).write_text(text)
    for call in (read_labels, lambda folder: change_labels(folder, {"new": 2})):
        with pytest.raises(ValueError, match=message):
            call(folder)
    assert (folder / LABELS).read_text() == text


def test_a_label_whose_version_is_gone_harms_no_other(folder):
    change_labels(folder, {"old": 2, "stable": 9})
    shutil.rmtree(folder / "2")
    assert read_labels(folder) == {"stable": 9}
    assert find_version(folder, "stable") == folder / "9"
    with pytest.raises(ValueError, match="'latest' or 'stable'. Received: 'old'"):
        find_version(folder, "old")
    assert change_labels(folder, {"stable": 10}) == {"stable": 10} == read_labels(folder)
