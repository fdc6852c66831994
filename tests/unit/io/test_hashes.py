"""Hashes: SHA-256, the same as ever, because caches and recipes are found by them."""

from t2v.io.files import digest, file_sha256, sha256

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


def test_a_text_its_bytes_and_a_file_of_them_hash_alike(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256("abc") == sha256(b"abc") == file_sha256(tmp_path / "abc") == ABC


def test_a_path_of_undecodable_bytes_hashes_by_its_bytes():
    assert sha256(b"\xff".decode(errors="surrogateescape")) == sha256(b"\xff")


def test_a_digest_tells_parts_apart():
    assert digest("a", 1) == digest("a", 1)
    assert len(digest("a")) == 32
    assert len({digest("a", 1), digest("a", "1"), digest("a1"), digest(("a", 1))}) == 4
