"""What server and mirror process say to each other: JSON, one message a line. The first line is the job."""

from typing import Any

import msgspec


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """url: the remote repository. name: the model's, where there is one only. cache: this URL's folder.
    options: the file system's."""

    url: str
    name: str | None
    cache: str
    max_bytes: int
    downloads: int
    options: dict[str, Any]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """number: comes back with the answer. what: "sync" the models (None: all of them, and take away what is
    gone), "names" of the remote side's models, or "verify" what was copied before."""

    number: int
    what: str
    models: list[str] | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """number: of what was asked; 0: something is still going on. error: nothing came of it. came: bytes from
    the remote side. See mirror.Outcome."""

    number: int = 0
    error: str | None = None
    came: int = 0
    names: list[str] = []
    changed: bool = False
    unsettled: bool = False
    problems: dict[str, str] = {}
    repaired: list[str] = []
