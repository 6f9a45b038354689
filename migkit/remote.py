"""Traces that lie elsewhere: URLs of any file system that fsspec knows (s3://, gs://, https://, memory:// ...)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from migkit.errors import MigkitError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_LOCAL = "file://"


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is a URL rather than a path."""
    return "://" in str(place)


def local_path(place: str | os.PathLike[str]) -> str:
    """The place as text; a file:// URL as the path that it is."""
    return str(place).removeprefix(_LOCAL)


@contextlib.contextmanager
def opened(url: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A remote file, to be read. Raises MigkitError when it cannot be reached, FileNotFoundError when it is none."""
    system, path = _file_system(str(url))
    with _explained(str(url)):
        file = system.open(path, "rb")
    with file:
        yield file


def listing(url: str) -> dict[str, int]:
    """The sizes of the files below a URL by their own URLs; of the one file that it is; empty when there is none."""
    system, root = _file_system(url)
    with _explained(url):
        if system.isfile(root):
            return {url: int(system.size(root) or 0)}
        try:
            inside = system.find(root, detail=True)
        except FileNotFoundError:
            return {}
    begin = url.rstrip("/")
    return {begin + path[len(root.rstrip("/")) :]: int(info.get("size") or 0) for path, info in inside.items()}


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    try:
        import fsspec
    except ImportError:
        raise MigkitError(f"{url}: reading URLs needs the package fsspec: pip install 'migkit[remote]'") from None
    with _explained(url):
        system, path = fsspec.core.url_to_fs(url)
    return system, str(path)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[Any]:
    """Any file system may be behind a URL, each with errors of its own: here they become one line."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except ImportError as error:
        raise MigkitError(f"{url}: a package is missing for this kind of URL ({_one_line(error)})") from None
    except Exception as error:
        raise MigkitError(f"{url}: cannot be reached ({_one_line(error)})") from None


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
