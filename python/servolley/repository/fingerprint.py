"""Tells the weights of a version from others wherever and whenever they lie, by their bytes: those of a copy
are the same, its times and inodes are not. Blocking, and as slow as the disk; see stamps.py for every day."""

import hashlib
from pathlib import Path

import msgspec

from servolley.repository.content import weights_options
from servolley.repository.layout import ModelOnDisk
from servolley.repository.stamps import files_under, stamp_of_file, stamp_of_folder


def fingerprint_of(model: ModelOnDisk, version: int) -> str | None:
    """A digest of the version's files and of how they are loaded. None if they are not, or not any more, what
    the look at the model found."""
    file, stamp = model.versions.get(version), model.stamps.get(version)
    if file is None or stamp is None:
        return None
    # The name of a file that is a model by itself is the model's: it says nothing about the weights.
    folder, files = None, {"": file}
    if model.directory is not None:
        folder = model.directory / file.relative_to(model.directory).parts[0]
        files = {str(Path(path).relative_to(folder)): Path(path) for path in files_under(stamp)}
    try:
        digests = {name: _digest(path) for name, path in files.items()}
    except OSError:
        return None
    if stamp != (stamp_of_file(file) if folder is None else stamp_of_folder(folder)):
        return None
    return digest_of([digests, weights_options(model.config)])


def digest_of(document: object) -> str:
    """Of what msgspec can write as JSON."""
    return hashlib.sha256(msgspec.json.encode(document, enc_hook=int, order="deterministic")).hexdigest()


def _digest(path: Path) -> str:
    """Raises OSError."""
    if not path.is_file():
        raise FileNotFoundError(path)  # a pipe would never end
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
