"""Files with secrets or security settings: required owner and permissions, and how they are written.

A private file is a regular file of this user or of root that no other user may read. One exception: mode 0440
and owned by root, as Kubernetes mounts a secret. Everybody may read a trusted file, but only this user or
root may own it and write to it. Nothing here knows what the files are for, or keeps what it read.
"""

import codecs
import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flowmate_async.errors import ConfigurationError, FlowMateError
from flowmate_async.redaction import Redacted, one_line

MAX_BYTES = 65_536
"""Larger than any key or token; a larger file is the wrong file."""

_CHECK_PATH = "Check the path and its permissions"
_CHECK_FOLDER = "Check that its folder exists and is writable"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MOUNTED_BY_ROOT = 0o440
_CHECKS_MODES = os.name == "posix"
# Opening a named pipe must not wait for its writer; the check that follows refuses it.
_READING = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_CREATING = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class _Content(Redacted, frozen=True):
    """Bytes that must not show in a traceback."""

    data: bytes


def require_private(
    path: str | os.PathLike[str],
    *,
    what: str,
    follow_symlinks: bool = True,
    error: type[FlowMateError] = ConfigurationError,
) -> None:
    """Refuse a file that is not private, without opening it.

    Args:
        path: the file.
        what: what it is, for the message: ``the key file``.
        follow_symlinks: whether a symbolic link is judged by what it points to, or refused.
        error: the error to raise.

    Raises:
        FlowMateError: missing, not a regular file, another user's, or readable by others.
    """
    found = _status(path, what=what, follow_symlinks=follow_symlinks, error=error)
    _require_private_status(found, path, what=what, error=error)


def require_trusted(path: str | os.PathLike[str], *, what: str) -> None:
    """Refuse a file or folder that another user could change; anybody may read it.

    Args:
        path: the file or folder; a symbolic link is judged by what it points to.
        what: what it is, for the message: ``the CA file``.

    Raises:
        ConfigurationError: missing, another user's, or writable by others.
    """
    found = _status(path, what=what, follow_symlinks=True, error=ConfigurationError)
    _require_own(found, path, what=what, error=ConfigurationError)
    mode = stat.S_IMODE(found.st_mode)
    # In a sticky folder others can make files, but not replace those of other users.
    sticky = stat.S_ISDIR(found.st_mode) and mode & stat.S_ISVTX
    if _CHECKS_MODES and mode & _WRITABLE_BY_OTHERS and not sticky and not _is_read_only(path):
        raise ConfigurationError(
            f"{what} {_shown(path)} has mode {mode:04o}, so other users of this machine can change it",
            advice=f"chmod go-w {_shown(path)}",
        )


def home_folder() -> Path | None:
    """Return the user's home folder; ``None`` without one, or if ``HOME`` is relative.

    A relative one would be in the working directory. An empty ``HOME`` counts as unset.
    """
    try:
        home = Path.home() if os.environ.get("HOME") or os.name != "posix" else _home_of_user()
    except (RuntimeError, KeyError):  # a user id without a name, as containers have
        return None
    return home if home.is_absolute() else None


def is_file(path: Path) -> bool:
    """Return whether there is such a file; ``False`` where this user may not look."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_private_text(path: str | os.PathLike[str], *, what: str) -> str:
    """Return the text of a private file, without a byte order mark and surrounding white space.

    Args:
        path: the file; a symbolic link is followed, as Kubernetes mounts are made of them.
        what: what it is, for the message: ``the admin token file``.

    Raises:
        ConfigurationError: missing, not a regular file, another user's, readable by others, too large, or
            not text.
    """
    content, reason = _read(path, what=what)
    text = _text(content) if content is not None else None
    if text is not None:
        return text
    del content
    raise ConfigurationError(
        f"{what} {_shown(path)} cannot be read: {reason or 'it is not a text file'}",
        advice=_CHECK_PATH,
    )


def create_private(
    path: str | os.PathLike[str], data: bytes = b"", *, error: type[FlowMateError] = ConfigurationError
) -> bool:
    """Create a private file, unless there is something of that name already.

    Args:
        path: the file.
        data: what it holds from the start.
        error: the error to raise.

    Returns:
        Whether the file was made.

    Raises:
        FlowMateError: the file cannot be made; nothing is left behind.
    """
    content = _Content(data)
    del data
    try:
        descriptor = os.open(path, _CREATING, 0o600)
    except FileExistsError:
        return False
    except OSError as failure:
        reason = _reason(failure)
    else:
        reason = _fill(descriptor, path, content)
    if not reason:
        return True
    raise error(f"{_shown(path)} cannot be made: {reason}", advice=_CHECK_FOLDER)


def write_private_atomically(
    path: str | os.PathLike[str], data: bytes, *, error: type[FlowMateError] = ConfigurationError
) -> None:
    """Write a private file so that a reader, or a crash, finds the old content or the new, never a mixture.

    Args:
        path: the file; its folder must exist.
        data: the whole new content.
        error: the error to raise.

    Raises:
        FlowMateError: it cannot be written; the old content stays and no temporary file is left behind.
    """
    content = _Content(data)
    del data
    with replaced_atomically(path, error=error) as file:
        file.write(content.data)


@contextlib.contextmanager
def replaced_atomically(
    path: str | os.PathLike[str], *, error: type[FlowMateError] = ConfigurationError
) -> Iterator[BinaryIO]:
    """Write a private file piece by piece; it takes effect once the block ends without an error.

    Args:
        path: the file; its folder must exist.
        error: the error to raise.

    Raises:
        FlowMateError: it cannot be written; the old content stays and no temporary file is left behind.
    """
    target = Path(path)
    reason = temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(target)
        _sync_folder(target.parent)
    except OSError as failure:
        reason = _reason(failure)
        _discard(temporary)
    except BaseException:
        _discard(temporary)
        raise
    if reason:
        raise error(f"{_shown(path)} cannot be written: {reason}", advice=_CHECK_FOLDER)


def require_replaceable(path: str | os.PathLike[str], *, begins: bytes, what: str) -> None:
    """Refuse, before any work is done, to replace a file of another kind.

    Args:
        path: the file that will be written; it may be missing.
        begins: how every file of its kind begins.
        what: what it will be, for the message.

    Raises:
        ConfigurationError: its folder cannot be written to, or something else has its name.
    """
    target = Path(path)
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise ConfigurationError(f"{what} {_shown(path)} cannot be written there", advice=_CHECK_FOLDER)
    if not os.path.lexists(target):
        return
    found = b""
    if target.is_file() and not target.is_symlink():
        with contextlib.suppress(OSError), target.open("rb") as file:
            found = file.read(len(begins))
    if found != begins:
        raise ConfigurationError(
            f"{_shown(path)} exists and is not {what}", advice="Name a file that does not exist yet"
        )


def _read(path: str | os.PathLike[str], *, what: str) -> tuple[_Content | None, str]:
    """Return the content, or the reason there is none."""
    try:
        descriptor = os.open(path, _READING)
    except OSError as failure:
        return None, _reason(failure)
    try:
        _require_private_status(os.fstat(descriptor), path, what=what, error=ConfigurationError)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = _Content(file.read(MAX_BYTES + 1))
    except OSError as failure:
        return None, _reason(failure)
    finally:
        os.close(descriptor)
    return (content, "") if len(content.data) <= MAX_BYTES else (None, f"it is larger than {MAX_BYTES} bytes")


def _text(content: _Content) -> str | None:
    # PowerShell writes UTF-16 with a byte order mark, other Windows editors UTF-8 with one.
    utf_16 = content.data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.data.decode("utf-16" if utf_16 else "utf-8-sig").strip()
    except UnicodeDecodeError:
        return None


def _home_of_user() -> Path:
    import pwd  # noqa: PLC0415 - POSIX only

    return Path(pwd.getpwuid(os.getuid()).pw_dir)


def _status(
    path: str | os.PathLike[str], *, what: str, follow_symlinks: bool, error: type[FlowMateError]
) -> os.stat_result:
    try:
        return Path(path).stat(follow_symlinks=follow_symlinks)
    except OSError as failure:
        reason = _reason(failure)
    raise error(f"{what} {_shown(path)} cannot be read: {reason}", advice=_CHECK_PATH)


def _is_read_only(path: str | os.PathLike[str]) -> bool:
    """Return whether the file system is read-only, as for a Kubernetes ConfigMap (with mode 0777)."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _require_own(
    found: os.stat_result, path: str | os.PathLike[str], *, what: str, error: type[FlowMateError]
) -> None:
    """Refuse what belongs to neither this user nor root: its owner can change it at any time."""
    if _CHECKS_MODES and found.st_uid not in (os.geteuid(), 0):
        raise error(
            f"{what} {_shown(path)} belongs to the user with the id {found.st_uid}, not to you or root",
            advice=f"Use a file of your own, or, if you trust it: chown {os.geteuid()} {_shown(path)}",
        )


def _require_private_status(
    found: os.stat_result, path: str | os.PathLike[str], *, what: str, error: type[FlowMateError]
) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{what} {_shown(path)} is not a regular file", advice="Name a regular file")
    _require_own(found, path, what=what, error=error)
    mode = stat.S_IMODE(found.st_mode)
    mounted = mode == _MOUNTED_BY_ROOT and found.st_uid == 0
    if _CHECKS_MODES and mode & _OTHERS and not mounted:
        raise error(
            f"{what} {_shown(path)} has mode {mode:04o}, so other users of this machine can get at it",
            advice=f"chmod 600 {_shown(path)}",
        )


def _fill(descriptor: int, path: str | os.PathLike[str], content: _Content) -> str:
    """Write and sync. If that fails, remove the file and return the reason."""
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.data)
            file.flush()
            os.fsync(descriptor)
    except OSError as failure:
        _discard(path)
        return _reason(failure)
    return ""


def _sync_folder(folder: Path) -> None:
    """Sync a folder: a rename is only durable after that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: str | os.PathLike[str]) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


def _reason(failure: OSError) -> str:
    return one_line(failure.strerror or "unknown reason").lower()


def _shown(path: str | os.PathLike[str]) -> str:
    return one_line(os.fspath(path), limit=1000)
