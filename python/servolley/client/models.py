"""`servolley models ...`: what a running server has, and changing it."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from servolley.client.connection import ClientError, Refused, ServerConnection, read_token, segment

_SHARE = re.compile(r"(?P<version>[1-9][0-9]{0,18})=(?P<weight>[0-9]{1,9})", re.ASCII)

_EXIT_REFUSED = 1
_EXIT_USAGE = 2
_EXIT_NOT_REACHED = 3

Rows = list[tuple[str, ...]]


def run(parsed: argparse.Namespace) -> int:
    """The exit code."""
    try:
        work = _ACTIONS[parsed.action]
        token = None if parsed.token_file is None else read_token(parsed.token_file)
        connection = ServerConnection(parsed.server, token, parsed.ca_file)
        try:
            document, rows = work(connection, parsed)
        finally:
            connection.close()
    except _UsageError as error:
        return _fail(error, _EXIT_USAGE)
    except Refused as error:
        return _fail(error, _EXIT_REFUSED)
    except ClientError as error:
        return _fail(error, _EXIT_NOT_REACHED)
    if parsed.json:
        print(json.dumps(document, indent=2))
    else:
        _print_table(rows)
    return 0


class _UsageError(Exception):
    pass


def _fail(error: Exception, code: int) -> int:
    print(f"servolley: {error}", file=sys.stderr)
    return code


# --- actions: what JSON shows, and what people see ---


def _list(server: ServerConnection, parsed: argparse.Namespace) -> tuple[Any, Rows]:
    index = server.call("POST", "/v2/repository/index", {})
    labels = {model["name"]: model.get("labels", {}) for model in server.call("GET", "/v2/models")["models"]}
    if parsed.model is not None:
        index = [entry for entry in index if entry["name"] == parsed.model]
        if not index:
            raise Refused(404, f"no model '{parsed.model}'")
    for entry in index:
        version = entry.get("version", "")
        entry["labels"] = sorted(
            label for label, routed in labels.get(entry["name"], {}).items() if str(routed) == version
        )
    index.sort(key=lambda entry: (entry["name"], int(entry.get("version") or 0)))
    rows: Rows = [("MODEL", "VERSION", "STATE", "LABELS", "REASON")]
    rows += [
        (
            entry["name"],
            entry.get("version", "-"),
            entry.get("state", "-"),
            ",".join(entry["labels"]) or "-",
            entry.get("reason", ""),
        )
        for entry in index
    ]
    return index, rows


def _load(server: ServerConnection, parsed: argparse.Namespace) -> tuple[Any, Rows]:
    parameters = {}
    if parsed.config is not None:
        try:
            parameters["config"] = Path(parsed.config).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _UsageError(f"{parsed.config}: {getattr(error, 'strerror', None) or 'not text'}") from error
    server.call("POST", f"/v2/repository/models/{segment(parsed.model)}/load", {"parameters": parameters})
    return {"model": parsed.model, "loaded": True}, [(f"{parsed.model}: loaded",)]


def _unload(server: ServerConnection, parsed: argparse.Namespace) -> tuple[Any, Rows]:
    server.call("POST", f"/v2/repository/models/{segment(parsed.model)}/unload", {})
    return {"model": parsed.model, "loaded": False}, [(f"{parsed.model}: unloaded",)]


def _label(server: ServerConnection, parsed: argparse.Namespace) -> tuple[Any, Rows]:
    path = f"/v2/repository/models/{segment(parsed.model)}/labels"
    if parsed.label is None:
        if parsed.remove:
            raise _UsageError("--remove needs a LABEL")
        labels = server.call("GET", path)["labels"]
        rows: Rows = [("LABEL", "VERSION", "LEADS TO")]
        rows += [
            (label, str(at["version"]), str(at["routed"] or "-")) for label, at in sorted(labels.items())
        ]
        return labels, rows
    path += f"/{segment(parsed.label)}"
    if parsed.remove == (parsed.to_version is not None):
        raise _UsageError("give the VERSION that the label is to lead to, or --remove")
    if parsed.remove:
        server.call("DELETE", path)
        return {"label": parsed.label, "version": None}, [(f"{parsed.model}: no label {parsed.label}",)]
    at = server.call("PUT", path, {"version": parsed.to_version})
    now = (
        ""
        if at["routed"] == at["version"]
        else f" as soon as it is available, now to {at['routed'] or 'none'}"
    )
    text = f"{parsed.model}: {parsed.label} leads to {at['version']}{now}"
    return {"label": parsed.label} | at, [(text,)]


def _split(server: ServerConnection, parsed: argparse.Namespace) -> tuple[Any, Rows]:
    split = {}
    for share in parsed.shares:
        match = _SHARE.fullmatch(share)
        if match is None or match["version"] in split:
            raise _UsageError(
                f"not a share, or a second one: {share!r} (write VERSION=WEIGHT, e.g. 1=90 2=10)"
            )
        split[match["version"]] = int(match["weight"])
    return _traffic_of(server, parsed.model, {"split": split})


def _traffic(server: ServerConnection, parsed: argparse.Namespace) -> tuple[Any, Rows]:
    change = None if parsed.change is None else {"action": parsed.change}
    return _traffic_of(server, parsed.model, change)


def _traffic_of(server: ServerConnection, model: str, change: Any) -> tuple[Any, Rows]:
    path = f"/v2/repository/models/{segment(model)}/traffic"
    state = server.call("GET", path) if change is None else server.call("POST", path, change)
    return state, list(_flat(state))


def _flat(document: Any, prefix: str = "") -> Iterable[tuple[str, ...]]:
    """A nested document as lines of two columns."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from _flat(value, f"{prefix}.{number}")
    else:
        yield (prefix, "-" if document is None else str(document))


_ACTIONS: dict[str, Callable[[ServerConnection, argparse.Namespace], tuple[Any, Rows]]] = {
    "list": _list,
    "load": _load,
    "unload": _unload,
    "label": _label,
    "split": _split,
    "traffic": _traffic,
}


def _print_table(rows: Rows) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    for row in rows:
        # A reason may quote anything: what is not printable does not reach the terminal.
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print("".join(char if char.isprintable() else "?" for char in line))
