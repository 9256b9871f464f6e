"""Following a remote repository, and the copy that is kept of it."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from servolley.mirror.cache import Cache
from servolley.mirror.folder import RemoteFolder
from servolley.mirror.names import MirrorError
from unit.mirror_bench import Bench

pytestmark = pytest.mark.usefixtures("written_through")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.put("m/1/model.onnx", "one")
    return bench


def test_what_lies_there_lies_here(bench: Bench) -> None:
    bench.put("m/model.toml", "[versions]\nall = true\n")
    bench.put("m/labels.txt", "a")
    bench.put("m/more/labels.txt", "b")
    bench.put("m/2/model.onnx/model.onnx", "two")
    bench.put("m/2/model.onnx/data/weights", "many")
    bench.put("m/.hidden", "no")
    bench.put("n/7/model.onnx", "seven")
    bench.put("readme", "no")
    assert bench.sync().changed
    assert bench.contents() == {
        "m/1/model.onnx": "one",
        "m/2/model.onnx/data/weights": "many",
        "m/2/model.onnx/model.onnx": "two",
        "m/labels.txt": "a",
        "m/model.toml": "[versions]\nall = true\n",
        "m/more/labels.txt": "b",
        "n/7/model.onnx": "seven",
    }
    served = bench.served()
    assert {name: set(model.versions) for name, model in served.items()} == {"m": {1, 2}, "n": {7}}
    assert served["m"].complete == {1, 2}  # the server need not look twice
    assert bench.leftovers() == []


def test_nothing_is_copied_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.sync()
    monkeypatch.setattr(RemoteFolder, "open", None)
    for _ in range(3):
        outcome = bench.sync()
        assert (outcome.changed, outcome.unsettled, outcome.problems) == (False, False, {})
    assert not bench.begin().sync().changed  # nor by the next process


def test_a_new_version_counts_when_it_was_found_twice(bench: Bench) -> None:
    bench.sync()
    bench.put("m/2/model.onnx", "tw")
    outcome = bench.sync()
    assert (outcome.changed, outcome.unsettled) == (False, True)
    bench.put("m/2/model.onnx", "two")
    assert bench.sync().unsettled
    assert set(bench.served()["m"].versions) == {1}
    outcome = bench.sync()
    assert (outcome.changed, outcome.unsettled) == (True, False)
    assert bench.contents()["m/2/model.onnx"] == "two"


def test_a_marker_is_believed_at_once(bench: Bench) -> None:
    bench.sync()
    bench.put("m/2/model.onnx", "two")
    bench.put("m/2/.complete", "")
    outcome = bench.sync()
    assert (outcome.changed, outcome.unsettled) == (True, False)
    assert bench.contents()["m/2/model.onnx"] == "two"


def test_a_new_model_is_seen_with_its_versions_only(bench: Bench) -> None:
    bench.sync()
    bench.put("n/model.toml", "")
    bench.put("n/1/model.onnx")
    assert not bench.sync().changed
    assert set(bench.served()) == {"m"}
    assert bench.sync().changed
    assert set(bench.served()) == {"m", "n"}


def test_what_the_policy_wants_is_copied_and_one_before_it(bench: Bench) -> None:
    for version in (2, 3, 4):
        bench.put(f"m/{version}/model.onnx", str(version))
    bench.sync()
    assert set(bench.served()["m"].versions) == {4}  # nobody asks for the others
    for version in (5, 6):
        bench.put(f"m/{version}/model.onnx", str(version))
        bench.settle()
    assert set(bench.served()["m"].versions) == {5, 6}
    bench.put("m/model.toml", "[versions]\nspecific = [2, 6]\n")
    bench.settle()
    assert set(bench.served()["m"].versions) == {2, 5, 6}


def test_a_rollback(bench: Bench) -> None:
    bench.put("m/2/model.onnx", "two")
    bench.sync()
    assert set(bench.served()["m"].versions) == {2}
    bench.delete("m/2")
    outcome = bench.sync()
    assert outcome.unsettled
    assert 2 in bench.served()["m"].versions
    bench.settle()
    assert set(bench.served()["m"].versions) == {1}


def test_what_changed_without_being_wanted_does_not_stay(bench: Bench) -> None:
    bench.sync()
    bench.put("m/2/model.onnx", "two")
    bench.settle()
    assert set(bench.served()["m"].versions) == {1, 2}
    bench.put("m/1/model.onnx", "another one")
    bench.sync()
    assert set(bench.served()["m"].versions) == {2}


def test_changed_weights_and_configuration(bench: Bench) -> None:
    bench.put("m/model.toml", "")
    bench.put("m/labels.txt", "a")
    bench.sync()
    bench.put("m/1/model.onnx", "another")
    bench.put("m/model.toml", "[batching]\nmax_batch_size = 2\n")
    bench.delete("m/labels.txt")
    bench.settle()
    assert bench.contents() == {
        "m/1/model.onnx": "another",
        "m/model.toml": "[batching]\nmax_batch_size = 2\n",
    }
    assert bench.served()["m"].config.batching.max_batch_size == 2


def test_a_bad_configuration_is_shown_and_takes_nothing_away(bench: Bench) -> None:
    bench.sync()
    bench.put("m/model.toml", "nonsense")
    bench.settle()
    served = bench.served()["m"]
    assert served.error is not None
    assert set(served.versions) == {1}


def test_a_model_that_goes(bench: Bench) -> None:
    bench.put("n/1/model.onnx")
    bench.sync()
    bench.delete("n")
    assert bench.sync().unsettled
    assert set(bench.served()) == {"m", "n"}
    assert bench.sync().changed
    assert set(bench.served()) == {"m"}


def test_one_model_now(bench: Bench) -> None:
    """As a load asks for it: as it is at this moment, and nothing else."""
    bench.put("n/1/model.onnx")
    bench.sync(["n"])
    assert set(bench.contents()) == {"n/1/model.onnx"}
    bench.put("n/2/model.onnx")
    assert bench.sync(["n"]).changed
    assert 2 in bench.served()["n"].versions
    assert not bench.sync(["nobody"]).changed
    assert bench.mirror.names() == ["m", "n"]


# --- roots that are no repository


def test_a_models_own_folder(tmp_path: Path) -> None:
    bench = Bench(tmp_path, below="/m")
    bench.put("m/1/model.onnx", "one")
    bench.put("m/model.toml", "")
    bench.sync()
    assert bench.contents() == {"m/1/model.onnx": "one", "m/model.toml": ""}
    named = Bench(tmp_path / "named", name="other", below="/m")
    named.put("m/3/model.onnx", "three")
    named.sync()
    assert bench.served().keys() | named.served().keys() == {"m", "other"}


def test_a_single_file_with_what_belongs_to_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, name="net", below="/onnx/big.onnx")
    bench.put("onnx/big.onnx", "graph")
    bench.put("onnx/big.onnx_data", "weights")
    bench.put("onnx/other.onnx", "no")
    bench.sync()
    assert bench.contents() == {"net/1/big.onnx_data": "weights", "net/1/model.onnx": "graph"}


def test_what_it_is_stays_what_it_was(bench: Bench) -> None:
    """A repository of which all but a model called 7 is missing is no model of its own."""
    bench.put("7/1/model.onnx", "seven")
    bench.sync()
    assert set(bench.served()) == {"m", "7"}
    bench.delete("m")
    for _ in range(3):
        with pytest.raises(MirrorError, match="it looks like one model now"):
            bench.sync()
    assert set(bench.contents()) == {"7/1/model.onnx", "m/1/model.onnx"}
    bench.put("m/1/model.onnx", "one")
    assert bench.sync().problems == {}


# --- the copy


def test_a_copy_that_is_not_as_it_was_written_is_made_again(bench: Bench) -> None:
    bench.put("m/model.toml", "")
    bench.sync()
    (bench.cache.root / "m" / "1" / "model.onnx").write_text("eno")  # as long as before
    outcome = bench.sync()
    assert (outcome.changed, outcome.repaired) == (False, [])  # once per process is enough
    outcome = bench.begin().sync()
    assert (outcome.changed, outcome.repaired) == (True, ["m/1"])
    assert bench.contents()["m/1/model.onnx"] == "one"


def test_a_spoiled_copy_is_not_served_where_nothing_else_can_be_had(bench: Bench) -> None:
    bench.sync()
    bench.delete("m")
    (bench.cache.root / "m" / "1" / "model.onnx").write_text("eno")
    with pytest.raises(MirrorError):
        bench.begin().sync()
    assert bench.contents() == {}


def test_what_another_process_left_behind_is_thrown_away(bench: Bench) -> None:
    stale = bench.cache.staging("gone", "1", "0123")
    (stale / "model.onnx").write_text("half")
    bench.sync()
    assert bench.leftovers() == []


def test_nothing_is_seen_before_it_is_on_the_disk(bench: Bench, written_through: list[str]) -> None:
    bench.sync()
    bench.put("m/2/model.onnx", "two")
    bench.sync()
    written_through.clear()
    bench.sync()
    log = written_through
    (published,) = [number for number, entry in enumerate(log) if entry.endswith(" 2")]
    before = log[:published]
    assert before.index("fsync .model.onnx.part") < before.index("rename .model.onnx.part model.onnx")
    assert before.index("fsync .mirror.json.new") < before.index("rename .mirror.json.new .mirror.json")
    assert before[-1].startswith("fsync 2-")  # the folder
    assert log[published + 1] == "fsync m"


def test_a_folder_of_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    with pytest.raises(MirrorError, match="no mirror's"):
        Cache(tmp_path / "mine", "memory://x")
    (tmp_path / "file").touch()
    with pytest.raises(MirrorError, match="File exists"):
        Cache(tmp_path / "file", "memory://x")


def test_two_mirrors_of_the_same_take_turns(bench: Bench, tmp_path: Path) -> None:
    other = Cache(bench.cache.root, bench.url)
    waited = 0

    def waiting() -> None:
        nonlocal waited
        waited += 1
        release.close()

    release = (bench.cache.root / ".lock").open("w")
    fcntl.flock(release, fcntl.LOCK_EX)
    with other.locked(waiting):
        assert waited == 1


def test_states_that_are_none(bench: Bench) -> None:
    bench.sync()
    for text in ("", "[]", '{"digest": 1}', '{"digest": "x", "files": {"model.onnx": {"size": -1}}}'):
        (bench.cache.root / "m" / "1" / ".mirror.json").write_text(text)
        assert bench.cache.versions("m") == {}
        bench.begin().sync()
        assert bench.cache.versions("m").keys() == {1}


# --- names that change what they are


def test_a_file_that_becomes_a_folder_and_back(bench: Bench) -> None:
    for before, after in (("m/labels", "m/labels/en/a.txt"), ("m/x/y/z", "m/x")):
        bench.put(before, "file")
        bench.sync()
        for there, gone in ((after, before), (before, after)):
            bench.delete(gone.removesuffix("/y/z") if gone == before else gone.removesuffix("/en/a.txt"))
            bench.put(there, "other")
            assert bench.settle().problems == {}
            assert bench.contents()[there] == "other"
            assert gone not in bench.contents()
            assert bench.leftovers() == []
        assert bench.begin().sync().repaired == []


def test_a_version_that_becomes_a_file_and_back(bench: Bench) -> None:
    bench.put("m/2/model.onnx", "two")
    bench.sync()
    for _ in range(2):
        bench.delete("m/2")
        bench.put("m/2", "file")
        for _ in range(3):
            assert bench.sync().problems == {}
        assert bench.contents() == {"m/1/model.onnx": "one", "m/2": "file"}
        bench.delete("m/2")
        bench.put("m/2/model.onnx", "two")
        for _ in range(3):
            assert bench.sync().problems == {}
        assert bench.contents() == {"m/1/model.onnx": "one", "m/2/model.onnx": "two"}
    assert bench.begin().sync().repaired == []
