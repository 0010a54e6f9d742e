"""Files and folders are replaced as a whole, wherever the process is killed."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from functools import partial

import pytest

from scssl._errors import ScsslWarning
from scssl._io._files import find_previous, recover, replace_file, replace_folder


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "deep" / "folder"
    for content in ("one", "two"):
        with replace_folder(path) as folder:
            (folder / "a").write_text(content)
        (path / "mine").write_text("kept")
    assert (path / "a").read_text() == "two"
    assert sorted(entry.name for entry in path.iterdir()) == ["a", "mine"]
    assert [entry.name for entry in path.parent.iterdir()] == ["folder"]


def test_a_failure_leaves_the_folder_as_it_was(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a").write_text("one")
    with (
        pytest.raises(RuntimeError, match="disk full"),
        replace_folder(path) as folder,
    ):
        (folder / "a").write_text("two")
        raise RuntimeError("disk full")
    assert (path / "a").read_text() == "one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_failed_rename_puts_the_folder_back(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a").write_text("one")
    with pytest.raises(FileNotFoundError), replace_folder(path) as folder:
        folder.rmdir()
    assert (path / "a").read_text() == "one"
    assert find_previous(path) is None


def test_the_working_directory_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(ValueError, match="is the working directory: save into a folder"),
        replace_folder(tmp_path),
    ):
        pass


def write_folder(path, content):
    with replace_folder(path) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(content)


def write_file(path, content):
    with replace_file(path) as file:
        file.write_text(content)


def killed_at(step, function):
    """Do something in a process that is killed at one of the steps that Python can see."""
    child = os.fork()
    if not child:
        left = [step]

        def count(event, arguments):
            if event.startswith(("open", "os.", "shutil.", "fcntl.")):
                left[0] -= 1
                # Killing is an event, too.
                if left[0] == -1:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            function()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Saving .* what it held before is back")
def test_a_kill_at_any_step_leaves_the_old_or_the_new_folder(tmp_path):
    path, step = tmp_path / "folder", 0
    write_folder(path, "old")
    (path / "mine").write_text("kept")
    known = "old"
    while killed_at(step, partial(write_folder, path, f"{step}")):
        recover(path)
        contents = {entry.name: entry.read_text() for entry in path.iterdir()}
        assert contents.pop("mine") == "kept"
        assert contents["a"] == contents["b"]
        assert contents["a"] in (known, f"{step}")
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
        known, step = contents["a"], step + 1
    assert step > 20
    assert known not in ("old", "0"), "some were killed when the new one was there"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_at_any_step_leaves_the_old_or_the_new_file(tmp_path):
    path, step = tmp_path / "cells.h5ad", 0
    write_file(path, "old")
    while killed_at(step, lambda: write_file(path, "new")):
        step += 1
        assert path.read_text() in ("old", "new")
        recover(path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["cells.h5ad"]
    assert step > 8
    assert path.read_text() == "new"


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "cells.h5ad"
    write_file(path, "old")
    with pytest.raises(OSError, match="No space left"), replace_file(path) as file:
        file.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["cells.h5ad"]


def test_what_a_kill_left_is_put_right_by_the_next_to_write(tmp_path):
    path = tmp_path / "folder"
    write_folder(path, "old")
    path.rename(tmp_path / ".folder.previous-00")
    (tmp_path / ".folder.saving-11").mkdir()
    (tmp_path / ".folder of others.saving-11").mkdir()
    with pytest.warns(ScsslWarning, match="folder was interrupted: what it held before is back"):
        write_folder(path, "new")
    assert (path / "a").read_text() == "new"
    there = sorted(entry.name for entry in tmp_path.iterdir())
    assert there == [".folder of others.saving-11", "folder"]


def test_what_others_are_writing_is_left_alone(tmp_path):
    path, staging = tmp_path / "folder", tmp_path / ".folder.saving-11"
    staging.mkdir()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    write_folder(path, "new")
    assert staging.is_dir()
    assert (path / "a").read_text() == "new"
    os.close(descriptor)
    recover(path)
    assert not staging.exists()
