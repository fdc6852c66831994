"""Hashes of weights are looked up, and never those of a file that has changed."""

import os

import pytest

from t2v.io.files import file_sha256
from t2v.models import folder
from t2v.models.folder import file_hash, kept_hash


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A cache of its own for small files too; counts the files that are read."""
    seen = []
    monkeypatch.setattr(folder, "LARGE", 1)
    monkeypatch.setattr(folder, "HASHES", tmp_path / "cache")

    def counted(path):
        seen.append(path)
        return file_sha256(path)

    monkeypatch.setattr(folder, "file_sha256", counted)
    return seen


def test_a_file_is_read_once_and_again_when_anything_of_it_changed(read, tmp_path):
    path, other = tmp_path / "w.safetensors", tmp_path / "other"
    path.write_bytes(b"aaaa")
    assert kept_hash(path) == kept_hash(path) == file_sha256(path)
    assert len(read) == 1
    first = path.stat()
    os.utime(path, ns=(0, first.st_mtime_ns + 1))  # touched
    assert kept_hash(path) == file_sha256(path) and len(read) == 2
    other.write_bytes(b"bbbb")
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.replace(path)  # by one of the same size and time
    assert kept_hash(path) == file_sha256(path) and len(read) == 3
    now = path.stat()
    while path.stat().st_ctime_ns == now.st_ctime_ns:  # written in place, and the time put back
        path.write_bytes(b"cccc")
        os.utime(path, ns=(0, now.st_mtime_ns))
    assert kept_hash(path) == file_sha256(path) and len(read) == 4
    assert file_hash(path) == file_hash(path) == file_sha256(path) and len(read) == 4
    path.write_bytes(b"dddd!")
    assert file_hash(path) == file_sha256(path) and len(read) == 5
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_only_time(read, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"aaaa")
    kept_hash(path)
    (kept,) = (tmp_path / "cache").iterdir()
    for damaged in (
        b"",
        b"\xff",
        b"[]",
        kept.read_bytes().replace(b'"sha256": "', b'"sha256": "x'),
    ):
        kept.write_bytes(damaged)
        assert kept_hash(path) == file_sha256(path)
    assert len(read) == 5
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("in the way of a folder")
    assert kept_hash(path) == kept_hash(path) == file_sha256(path)
    assert len(read) == 7


def test_small_files_are_not_kept(read, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "LARGE", 5)
    (tmp_path / "w.safetensors").write_bytes(b"aaaa")
    kept_hash(tmp_path / "w.safetensors")
    assert not (tmp_path / "cache").exists()
