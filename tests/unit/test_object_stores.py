"""What the mirror makes of the clients' libraries for object stores, each against a store of its own here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from object_stores import BUCKET, REPOSITORY, GoogleStorage, Hub, ObjectStore, need, object_store
from servolley.mirror.cache import Cache
from servolley.mirror.folder import open_repository
from servolley.mirror.listing import RemoteFile
from servolley.mirror.mirror import Mirror
from servolley.mirror.names import MirrorError

pytestmark = pytest.mark.usefixtures("written_through")


@dataclass
class Far:
    """A repository in a store. Each ``mirror`` is another life of the mirror's process."""

    store: ObjectStore
    root: Path
    url: str
    options: dict[str, Any]
    cache: Path

    def put(self, path: str, text: str) -> None:
        target = self.root / "models" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        # Clocks of file systems are coarse.
        self.clock = getattr(self, "clock", 1_700_000_000) + 1
        os.utime(target, (self.clock, self.clock))

    def mirror(self) -> Mirror:
        return Mirror(
            open_repository(self.url, None, self.options),
            Cache(self.cache, self.url),
            url=self.url,
            max_bytes=1 << 20,
            downloads=2,
            triton_message=lambda: None,
        )

    def file(self, path: str) -> RemoteFile:
        """Of version 1 of the model m."""
        files, _ = open_repository(self.url, None, self.options).look().version("m", "1")
        return files[path]

    def contents(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.cache)): path.read_text()
            for path in sorted(self.cache.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(self.cache).parts)
        }


@pytest.fixture(params=["gs", "hf"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Far]:
    library = {"gs": "gcsfs", "hf": "huggingface_hub"}[request.param]
    need(library)
    root = tmp_path / "store"
    root.mkdir()
    handler = GoogleStorage if request.param == "gs" else Hub
    with object_store(handler, root) as store:
        if request.param == "gs":
            url = f"gs://{BUCKET}/models"
            options: dict[str, Any] = {"endpoint_url": store.url, "token": "anon"}
        else:
            url, options = f"hf://{REPOSITORY}/models", {"endpoint": store.url, "token": False}
        yield Far(store, root, url, options, tmp_path / "cache")


def test_following_replacing_and_vanishing(far: Far) -> None:
    far.put("m/model.toml", "")
    for name in ("model.onnx", "data/a b%", "data/b", "data/c"):  # more than one page
        far.put(f"m/1/{name}", f"1 {name}")
    far.put("n/7/model.onnx", "seven")
    mirror = far.mirror()
    assert mirror.sync().problems == {}
    first = {
        "m/1/data/a b%": "1 data/a b%",
        "m/1/data/b": "1 data/b",
        "m/1/data/c": "1 data/c",
        "m/1/model.onnx": "1 model.onnx",
        "m/model.toml": "",
        "n/7/model.onnx": "seven",
    }
    assert far.contents() == first
    far.store.requests.clear()
    outcome = mirror.sync()
    assert (outcome.changed, outcome.unsettled) == (False, False)
    assert not [each for each in far.store.requests if "alt=media" in each or "/resolve/" in each]
    # A new version, and a file replaced by one of the same size.
    far.put("m/2/model.onnx", "2 model.onnx")
    far.put("n/7/model.onnx", "SEVEN")
    assert mirror.sync().unsettled
    assert mirror.sync().changed
    second = first | {"m/2/model.onnx": "2 model.onnx", "n/7/model.onnx": "SEVEN"}
    assert far.contents() == second
    assert not far.mirror().sync().changed
    # Nothing to be seen takes nothing away.
    far.store.gone.set()
    for life in (mirror, far.mirror()):
        with pytest.raises(MirrorError, match="://"):
            life.sync()
    assert far.contents() == second
    far.store.gone.clear()
    (far.root / "models" / "m" / "2" / "model.onnx").unlink()
    assert mirror.sync().unsettled
    assert mirror.sync().changed
    assert far.contents() == first | {"n/7/model.onnx": "SEVEN"}


def test_what_tells_one_content_from_another(far: Far) -> None:
    for name in ("model.onnx", "labels"):
        far.put(f"m/1/{name}", "one")
        before = far.file(name)
        assert (before.size, far.file(name)) == (3, before)
        far.put(f"m/1/{name}", "two")
        after = far.file(name)
        assert after.size == 3
        assert after.fingerprint != before.fingerprint
        if far.url.startswith("hf") and name == "model.onnx":
            assert before.sha256 is not None
            assert before.sha256 != after.sha256
        else:
            assert before.sha256 is None


def test_content_that_is_not_what_the_hub_says(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    if not far.url.startswith("hf"):
        pytest.skip("buckets do not say the SHA-256 of what they hold")
    far.put("m/1/model.onnx", "one")
    send = Hub.send_file
    monkeypatch.setattr(Hub, "send_file", lambda self, _, headers: send(self, b"two", headers))
    assert "SHA-256" in far.mirror().sync().problems["m"]
    assert far.contents() == {}
