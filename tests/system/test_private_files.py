"""Private and trusted files: whose they are, who may read them; a reader finds the old content or the new."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmate_async.errors import ConfigurationError, StoreError
from flowmate_async.system.private_files import (
    MAX_BYTES,
    create_private,
    read_private_text,
    replaced_atomically,
    require_private,
    require_trusted,
    write_private_atomically,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can own files as somebody else")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    create_private(path, b" the token \n")
    return path


def in_child(body: Callable[[], None]) -> str:
    """Run something in a child process and return what it writes to standard error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 2)
        body()
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("bits", [0o600, 0o400])
def test_a_file_of_the_owner_alone_is_read(file: Path, bits: int) -> None:
    """Without the white space around its text."""
    file.chmod(bits)
    assert read_private_text(file, what="the token file") == "the token"
    require_private(file, what="the token file")


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o660, 0o602, 0o610, 0o444, 0o777])
def test_a_file_others_can_get_at_is_refused(file: Path, bits: int) -> None:
    """With the file, its mode and the command that puts it right."""
    file.chmod(bits)
    for check in (require_private, read_private_text):
        with pytest.raises(ConfigurationError) as caught:
            check(file, what="the token file")
        assert f"the token file {file} has mode {bits:04o}" in str(caught.value)
        assert str(caught.value).endswith(f"chmod 600 {file}")


@as_root
def test_a_file_as_kubernetes_mounts_it_is_read(file: Path, tmp_path: Path) -> None:
    """Mode 0440, owned by root, behind symbolic links."""
    file.chmod(0o440)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_private_text(link, what="the token file") == "the token"


@as_root
@pytest.mark.parametrize("bits", [0o600, 0o400, 0o440])
def test_a_file_of_another_user_is_refused(file: Path, bits: int) -> None:
    """Its owner could put another token or key into it at any time."""
    file.chmod(bits)
    os.chown(file, 65534, 0)
    for check in (require_private, read_private_text, require_trusted):
        with pytest.raises(ConfigurationError, match="belongs to the user with the id 65534") as caught:
            check(file, what="the token file")
        assert str(caught.value).endswith(f"chown 0 {file}")


@as_root
@pytest.mark.parametrize("owner", [65534, 0])
def test_a_user_reads_its_own_files_and_those_of_root(tmp_path: Path, owner: int) -> None:
    """Private ones of root with mode 0440 only, which the group may read."""
    path = tmp_path / "token"
    create_private(path, b"the token")
    os.chown(path, owner, 65534)
    path.chmod(0o600 if owner else 0o440)
    for folder in path.parents[:-2]:  # pytest's folders are root's alone
        folder.chmod(0o755)

    def read_as_nobody() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            require_trusted(path, what="the token file")
            text = read_private_text(path, what="the token file")
        except ConfigurationError as error:
            text = str(error)
        os.write(2, text.encode())
        os._exit(0)

    assert in_child(read_as_nobody) == "the token"


@pytest.mark.parametrize("bits", [0o600, 0o644, 0o444, 0o755])
def test_a_file_or_folder_that_only_the_owner_can_change_is_trusted(file: Path, bits: int) -> None:
    file.chmod(bits)
    require_trusted(file, what="the CA file")
    require_trusted(file.parent, what="the folder")


@pytest.mark.parametrize("bits", [0o664, 0o646, 0o666, 0o620, 0o602])
def test_a_file_or_folder_that_others_can_change_is_not_trusted(file: Path, bits: int) -> None:
    for path in (file, file.parent):
        path.chmod(bits | (0o700 if path.is_dir() else 0))
        with pytest.raises(
            ConfigurationError, match=r"so other users of this machine can change it"
        ) as caught:
            require_trusted(path, what="the CA file")
        assert str(caught.value).endswith(f"chmod go-w {path}")
        path.chmod(0o700)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["", "\n", "\r\n", " \r\n\r\n"])
def test_text_is_read_in_the_encodings_of_windows(tmp_path: Path, encoding: str, ending: str) -> None:
    """Editors and PowerShell write byte order marks."""
    create_private(tmp_path / "token", f"the-töken{ending}".encode(encoding))
    assert read_private_text(tmp_path / "token", what="the token file") == "the-töken"


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """A folder; and a named pipe, without waiting for its writer."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigurationError, match="not a regular file"):
            require_private(path, what="the token file")
    with pytest.raises(ConfigurationError, match="not a regular file"):
        read_private_text(tmp_path / "pipe", what="the token file")


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a regular file"):
        read_private_text(tmp_path, what="the token file")


def test_a_symbolic_link_can_be_refused(file: Path, tmp_path: Path) -> None:
    """Where what it points to is not what was meant."""
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(StoreError, match="not a regular file"):
        require_private(tmp_path / "link", what="the store", follow_symlinks=False, error=StoreError)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for check in (require_private, read_private_text):
        with pytest.raises(ConfigurationError, match=r"missing cannot be read: no such file"):
            check(tmp_path / "missing", what="the token file")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00", "not a text"),
        (b"\xef\xbb\xbf\xff", "not a text"),
        (b"x" * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """Bytes that are not text, and far too many of them."""
    create_private(tmp_path / "file", content)
    with pytest.raises(ConfigurationError, match=reason):
        read_private_text(tmp_path / "file", what="the token file")


def test_a_file_is_private_from_the_start(tmp_path: Path) -> None:
    """Whatever the umask, made or replaced."""
    before = os.umask(0)
    try:
        create_private(tmp_path / "made")
        write_private_atomically(tmp_path / "written", b"1")
    finally:
        os.umask(before)
    assert mode(tmp_path / "made") == mode(tmp_path / "written") == 0o600


def test_making_a_file_never_touches_what_is_there(file: Path, tmp_path: Path) -> None:
    """Neither a file nor a symbolic link that points nowhere."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert not create_private(file, b"other")
    assert not create_private(tmp_path / "link", b"other")
    assert file.read_bytes() == b" the token \n"
    assert not (tmp_path / "nowhere").exists()


def test_a_write_replaces_the_whole_content(file: Path, tmp_path: Path) -> None:
    """And leaves no temporary file; a file others could read becomes private."""
    file.chmod(0o644)
    write_private_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert mode(file) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["token"]


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """At whichever step."""
    monkeypatch.setattr(step, fail)
    with pytest.raises(ConfigurationError, match="cannot be written: no space left"):
        write_private_atomically(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b" the token \n"
    assert [one.name for one in tmp_path.iterdir()] == ["token"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_write_that_is_broken_off_leaves_the_old_content(
    file: Path, tmp_path: Path, error: BaseException
) -> None:
    """And no temporary file, which would hold half of the new content."""

    def write_half() -> None:
        with replaced_atomically(file) as half:
            half.write(b"new")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert file.read_bytes() == b" the token \n"
    assert [one.name for one in tmp_path.iterdir()] == ["token"]


def test_making_a_file_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a key file would be taken for a key file."""
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigurationError, match="cannot be made: no space left"):
        create_private(tmp_path / "key", b"content")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [create_private, write_private_atomically])
def test_a_missing_folder_is_an_error(tmp_path: Path, write: Callable[..., object]) -> None:
    with pytest.raises(StoreError, match="Check that its folder exists"):
        write(tmp_path / "missing" / "file", b"content", error=StoreError)


def test_the_content_is_on_disk_before_its_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content synced, then renamed, then the folder synced: in this order a crash loses nothing."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        steps.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_private_atomically(file, b"new")
    assert steps == ["sync file", "rename", "sync folder"]
