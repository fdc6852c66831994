"""A checkpoint folder is whole, or it does not count."""

import errno
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from t2v.errors import UserError
from t2v.io.checkpoint import newest_checkpoint, save_checkpoint, verify_checkpoint


def write(folder):
    (folder / "vae").mkdir()
    (folder / "vae" / "weights").write_bytes(b"weights")


def test_the_newest_complete_checkpoint_is_found_and_old_ones_are_dropped(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step in (5, 10, 1_000_000):
        saved = save_checkpoint(tmp_path, step, write, keep=2)
    assert newest_checkpoint(tmp_path) == saved == tmp_path / "checkpoint-1000000"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-000010",
        "checkpoint-1000000",
    ]
    verify_checkpoint(saved)


def test_a_half_written_folder_does_not_count(tmp_path):
    good = save_checkpoint(tmp_path, 5, write, keep=2)
    half = tmp_path / "checkpoint-000010"
    half.mkdir()
    write(half)
    assert newest_checkpoint(tmp_path) == good
    with pytest.raises(UserError, match="checkpoint-000010 could not be written"):
        save_checkpoint(tmp_path, 10, write, keep=2)


def test_a_write_that_dies_leaves_nothing_that_counts(tmp_path):
    def die(folder):
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 5, die, keep=2)
    assert newest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 5, write, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000005"]


def test_a_kill_while_an_old_one_is_dropped_leaves_no_half_of_it(tmp_path, monkeypatch):
    def die(folder, **options):
        (folder / "vae" / "weights").unlink(missing_ok=True)
        raise KeyboardInterrupt

    save_checkpoint(tmp_path, 5, write, keep=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", die)
        save_checkpoint(tmp_path, 10, write, keep=1)
    for folder in tmp_path.glob("checkpoint-*"):
        verify_checkpoint(folder)
    save_checkpoint(tmp_path, 15, write, keep=1)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000015"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "{", "[" * 100_000, '{"../x": "0"}', '{"/etc/x": "0"}']
)
def test_a_list_of_files_that_is_none_is_one_message(text, tmp_path):
    folder = save_checkpoint(tmp_path, 5, write, keep=1)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is not the list .* Remove .*000005"):
        verify_checkpoint(folder)


def test_a_full_disk_names_the_last_good_checkpoint(tmp_path):
    def fill(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    save_checkpoint(tmp_path, 5, write, keep=2)
    with pytest.raises(UserError, match=r"No space left.*checkpoint-000005.*Make room"):
        save_checkpoint(tmp_path, 10, fill, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000005"]


@contextmanager
def files_up_to(size):
    """No file may grow beyond `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_really_refuses_leaves_the_last_good_checkpoint(tmp_path):
    def weights(folder):
        save_file({"weight": torch.zeros(100_000)}, folder / "weights.safetensors")

    save_checkpoint(tmp_path, 5, weights, keep=2)
    refused = pytest.raises(UserError, match=r"checkpoint-000010 could not.*checkpoint-000005")
    with files_up_to(50_000), refused:
        save_checkpoint(tmp_path, 10, weights, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000005"]
    verify_checkpoint(newest_checkpoint(tmp_path))
    assert save_checkpoint(tmp_path, 10, weights, keep=2).is_dir()


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_is_named(tmp_path, damage):
    saved = save_checkpoint(tmp_path, 5, write, keep=2)
    file = saved / "vae" / "weights"
    file.unlink() if damage == "missing" else file.write_bytes(b"weight5")
    with pytest.raises(UserError, match=r"checkpoint-000005/vae/weights is .*Remove"):
        verify_checkpoint(saved)
