"""`headrace diff`: what changed between two versions, against a comparison of every record with every other."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from small_dataset import entry_of, example, frame

from beam_jobs import diff_bytes, diff_walk, run
from beam_jobs.diff import Change, Diff, diff
from schemas import Books, HeadraceError, Manifest, parse_spec
from schemas.hashing import as_sortable, fingerprint, shard_bounds
from schemas.index import encode_index
from schemas.manifest import ShardEntry, SplitEntry
from schemas.naming import MANIFEST, index_name, shard_name
from tests.jobs.small_job import RECORDS, encoded_image, make_data, make_job
from tests.servers import FileServer

Content = dict[str, tuple[str, bytes]]  # by key hash in hex: split and frame


# --- the oracle ---


def content(version: Path) -> Content:
    """Every record of a version, found by its shards' frames and the key hashes of their indexes."""
    held: Content = {}
    for split, entry in json.loads((version / MANIFEST).read_text("utf-8"))["splits"].items():
        for shard in entry["shards"]:
            data = (version / shard["path"]).read_bytes()
            with pa.ipc.open_file(version / shard["index"]["path"]) as reader:
                hashes = reader.read_all()["key_hash"].to_pylist()
            place = 0
            for key_hash in hashes:
                end = place + 16 + struct.unpack_from("<Q", data, place)[0]
                assert key_hash.hex() not in held
                held[key_hash.hex()] = split, data[place:end]
                place = end
            assert place == len(data)
    return held


def brute_force(old: Content, new: Content) -> dict[str, Any]:
    """What `Diff` says of the records, by looking at each."""
    kinds: Counter[tuple[str, str]] = Counter()
    moves: Counter[tuple[str, str, bool]] = Counter()
    for key in {*old, *new}:
        if key not in old:
            kinds[new[key][0], "added"] += 1
        elif key not in new:
            kinds[old[key][0], "removed"] += 1
        elif old[key][0] != new[key][0]:
            kinds[old[key][0], "moved_out"] += 1
            kinds[new[key][0], "moved_in"] += 1
            moves[old[key][0], new[key][0], old[key][1] != new[key][1]] += 1
        else:
            kinds[new[key][0], "unchanged" if old[key] == new[key] else "changed"] += 1
    return {
        "kinds": dict(kinds),
        "moves": {
            (one, other): (moves[one, other, False] + moves[one, other, True], moves[one, other, True])
            for one, other, _ in moves
        },
    }


def told(found: Diff) -> dict[str, Any]:
    kinds = {
        (split, kind): count
        for split, counts in found.records.splits.items()
        for kind, count in vars(counts).items()
        if count
    }
    return {"kinds": kinds, "moves": found.records.moves}


def checked(before: Path, after: Path, records: int = 0) -> Diff:
    """The difference, once it is what brute force finds, in both directions."""
    old, new = content(before), content(after)
    back = diff(after, before)
    assert told(back) == brute_force(new, old)
    found = diff(before, after, records=records)
    assert told(found) == brute_force(old, new)
    assert found.equal == back.equal
    for example_ in found.records.examples:
        here, there = old.get(example_.key_hash), new.get(example_.key_hash)
        kind = "added" if here is None else "removed" if there is None else ""
        kind = kind or ("moved" if here[0] != there[0] else "changed")  # type: ignore[index]
        assert (example_.kind, here != there) == (kind, True)
        for directory, spot, held in ((before, example_.before, here), (after, example_.after, there)):
            assert (spot is None) == (held is None)
            if spot is not None:
                data = (directory / spot.shard).read_bytes()
                assert (spot.split, data[spot.offset : spot.offset + spot.length]) == held
    return found


# --- real jobs ---


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), faults=True)


@pytest.fixture(scope="module")
def base(data: Path) -> Path:
    return run(make_job(data), data / "out").path


def second(data: Path, folder: Path, edit: Callable[[Path], None] = lambda _: None, **changes: str) -> Path:
    """Version 1.1.0 of the job on a copy of the data that `edit` has changed."""
    copy = Path(shutil.copytree(data, folder / "data", ignore=shutil.ignore_patterns("out")))
    edit(copy)
    return run(make_job(copy, **{"version: 1.0.0": "version: 1.1.0", **changes}), folder / "out").path


def edit_rows(folder: Path, edit: Callable[[list[str]], None]) -> None:
    rows = (folder / "labels.csv").read_text().splitlines()
    edit(rows)
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def test_a_version_with_another_number_is_equal(data: Path, base: Path, tmp_path: Path) -> None:
    found = checked(base, second(data, tmp_path))
    assert found.equal
    assert found.totals == {"added": 0, "removed": 0, "changed": 0, "moved": 0, "unchanged": RECORDS - 10}
    assert {name: counts.identical for name, counts in found.shards.items()} == {
        "train": 3,
        "validation": 1,
        "test": 2,
    }


def test_what_is_written_out_in_a_job_is_no_difference(data: Path, base: Path, tmp_path: Path) -> None:
    assert checked(base, second(data, tmp_path, **{"label: label\n": "label: label\nseed: 0\n"})).equal


def test_records_added_changed_and_removed(data: Path, base: Path, tmp_path: Path) -> None:
    def edit(folder: Path) -> None:
        rng = np.random.default_rng(1)
        for number in range(3):
            (folder / f"photos/a/new{number}.jpg").write_bytes(encoded_image(rng))
        (folder / "photos/b/photo0001.jpg").write_bytes(encoded_image(rng))
        (folder / "photos/a/photo0002.jpg").unlink()
        new = [f"a/new{number}.jpg,0.5,{number},24,20,used,new" for number in range(3)]
        edit_rows(folder, lambda rows: rows.extend(new))

    found = checked(base, second(data, tmp_path, edit), records=10)
    assert found.totals == {"added": 3, "removed": 1, "changed": 1, "moved": 0, "unchanged": RECORDS - 12}
    assert not found.equal
    assert not found.job
    assert not found.features
    assert Change("photos.read", 200, 202) in found.books
    assert Change("join.unmatched", 3, 4) in found.dead_letters  # the row of the photo that is gone
    rewritten = {name: counts.rewritten for name, counts in found.shards.items()}
    assert all(
        bool(rewritten[name]) == any(v for k, v in vars(c).items() if k != "unchanged")
        for name, c in found.records.splits.items()
    )
    (changed,) = [e for e in found.to_json()["examples"] if e["kind"] == "changed"]
    assert list(changed["values"]) == ["image"]
    assert changed["values"]["image"]["after"]["format"] == "jpeg"


def test_one_field_of_the_joined_table_changes_one_record(data: Path, base: Path, tmp_path: Path) -> None:
    def edit(rows: list[str]) -> None:
        assert rows[3].endswith(",note 2")
        rows[3] = rows[3].removesuffix("note 2") + "note 3"  # as long as before

    found = checked(base, second(data, tmp_path, lambda folder: edit_rows(folder, edit)), records=5)
    assert found.totals == {"added": 0, "removed": 0, "changed": 1, "moved": 0, "unchanged": RECORDS - 11}
    assert sum(counts.rewritten for counts in found.shards.values()) == 1
    (example_,) = found.to_json()["examples"]
    assert example_["values"] == {"note": {"before": "note 2", "after": "note 3"}}
    assert not found.books
    assert not found.files


def test_other_fractions_move_records(data: Path, base: Path, tmp_path: Path) -> None:
    other = {"train: 0.6, validation: 0.2, test: 0.2": "train: 0.5, validation: 0.3, test: 0.2"}
    found = checked(base, second(data, tmp_path, **other), records=3)
    assert found.totals["moved"] > 3
    assert found.totals["moved"] + found.totals["unchanged"] == RECORDS - 10
    assert [example_.kind for example_ in found.records.examples] == ["moved"] * 3
    assert {change.field for change in found.job} == {"split.fractions.train", "split.fractions.validation"}


def test_a_split_of_another_name_moves_all_its_records(data: Path, base: Path, tmp_path: Path) -> None:
    other = {"validation: 0.2": "dev: 0.2", "validation: 1": "dev: 1"}
    found = checked(base, second(data, tmp_path, **other))
    held = sum(split == "validation" for split, _ in content(base).values())
    assert found.records.moves == {("validation", "dev"): (held, 0)}
    assert found.shards["dev"].identical == 1


def test_other_numbers_of_shards_change_no_record(data: Path, base: Path, tmp_path: Path) -> None:
    other = {"train: 3, validation: 1, test: 2": "train: 7, validation: 2, test: 1"}
    found = checked(base, second(data, tmp_path, **other))
    assert found.totals == {"added": 0, "removed": 0, "changed": 0, "moved": 0, "unchanged": RECORDS - 10}
    assert not found.equal
    assert Change("write.shards.train", 3, 7) in found.job


def test_another_index_is_seen_and_reads_no_record(data: Path, base: Path, tmp_path: Path) -> None:
    after = second(data, tmp_path, **{"index: [label, probability, note, words]": "index: [label]"})
    found = checked(base, after)
    assert {name: counts.reindexed for name, counts in found.shards.items()} == {
        "train": 3,
        "validation": 1,
        "test": 2,
    }
    assert not found.equal
    for shard in after.glob("*.tfrecord-*"):
        shard.unlink()
    assert diff(base, after).totals["unchanged"] == RECORDS - 10


def test_another_feature_changes_every_record(data: Path, base: Path, tmp_path: Path) -> None:
    found = checked(base, second(data, tmp_path, **{"  module: {type: int64}\n": ""}), records=1)
    assert found.totals["changed"] == RECORDS - 10
    assert Change("module.type", "int64", None) in found.features
    assert found.totals["added"] == 1  # it was a dead letter for that feature's sake
    (changed,) = [e for e in found.to_json()["examples"] if e["kind"] == "changed"]
    assert list(changed["values"]) == ["module"]
    assert changed["values"]["module"]["after"] is None


def test_another_seed_is_told(data: Path, base: Path, tmp_path: Path) -> None:
    found = checked(base, second(data, tmp_path, **{"label: label\n": "label: label\nseed: 7\n"}))
    assert (found.totals["added"], found.totals["removed"]) == (RECORDS - 10, RECORDS - 10)
    assert "seed" in found.notes[0]


# --- versions made by chance ---

JOB = """
name: pond
version: 1.0.0
sources: {rows: {kind: csv, path: rows.csv, key: id}}
features: {raw: {type: bytes}}
split: {fractions: {train: 0.75, test: 0.25}}
"""


def write(root: Path, records: Mapping[str, tuple[str, bytes]], shards: Mapping[str, int]) -> Path:
    """A version of `records`, by key hash in hex their split and value, from the contract alone."""
    spec = parse_spec(JOB)
    (root / "index").mkdir(parents=True)
    splits = {}
    for split, count in shards.items():
        own = sorted(key for key, (where, _) in records.items() if where == split)
        hashes = np.frombuffer(bytes.fromhex("".join(own)), np.uint8).reshape(-1, 16)
        shard_of = np.searchsorted(shard_bounds(count), as_sortable(hashes), side="right") - 1
        entries = []
        for number in range(count):
            rows = np.flatnonzero(shard_of == number).tolist()
            frames = [frame(example({"raw": [records[own[row]][1]]})) for row in rows]
            path = shard_name(spec.name, split, number, count)
            (root / path).write_bytes(b"".join(frames))
            lengths = np.array([len(data) for data in frames], np.uint64)
            (root / index_name(path)).write_bytes(encode_index(lengths, hashes[rows]))
            index = entry_of(root, index_name(path))
            entries.append(ShardEntry(**entry_of(root, path).model_dump(), records=len(rows), index=index))
        size = sum(entry.bytes for entry in entries)
        splits[split] = SplitEntry(records=len(own), bytes=size, shards=entries)
    shas = {name: [shard.sha256 for shard in entry.shards] for name, entry in splits.items()}
    manifest = Manifest(
        headrace_version="0.1.0",
        name=spec.name,
        version=spec.version,
        fingerprint=fingerprint(spec.fingerprint, shas),
        spec_fingerprint=spec.fingerprint,
        spec=spec.model_dump(by_alias=True, mode="json", exclude_unset=True),
        features=spec.features,
        splits=splits,
        books={"rows": Books(read=len(records), written=len(records))},
        dead_letters={},
        files=[],
    )
    (root / MANIFEST).write_text(manifest.to_json(), "utf-8")
    return root


def chance(rng: random.Random, known: Mapping[str, tuple[str, bytes]]) -> dict[str, tuple[str, bytes]]:
    """A few records: some of `known`, changed, moved or as they were, and some of their own. Hashes share halves."""
    records = {}
    for key, (split, was) in known.items():
        what = rng.choice(
            ["keep", "keep", "keep", "gone", "same length", "longer", "move", "move and change"]
        )
        value = was if what in ("keep", "move") else bytes(rng.randrange(256) for _ in was)
        tail = b"!" if what == "longer" else b""
        if what != "gone":
            records[key] = "test" if what.startswith("move") and split == "train" else split, value + tail
    for _ in range(rng.choice([0, 1, 30])):
        half = rng.choice([0, 1, 2**63, 2**64 - 1, rng.randrange(2**64)])
        key = f"{half:016x}{rng.choice([rng.randrange(4), rng.randrange(2**64)]):016x}"
        value = bytes(rng.randrange(256) for _ in range(rng.choice([0, 1, 5, 5, 300])))
        records[key] = rng.choice(["train", "test"]), value
    return records


def test_it_finds_what_brute_force_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    for turn in range(80):
        monkeypatch.setattr(diff_walk, "_STEP_RECORDS", rng.choice([1, 3, 1 << 20]))
        monkeypatch.setattr(diff_bytes, "_WINDOW_BYTES", rng.choice([1, 100, 16 << 20]))
        records = chance(rng, chance(rng, {}))
        sides = []
        shards: dict[str, int] = {}
        for side in ("before", "after"):
            if not shards or rng.random() < 0.7:
                shards = {"train": rng.choice([1, 2, 3, 8, 13]), "test": rng.choice([1, 2, 5])}
            sides.append(write(tmp_path / f"{turn}-{side}", records, shards))
            few = dict(rng.sample(sorted(records.items()), min(len(records), rng.choice([1, 3, 10**6]))))
            rest = {key: value for key, value in records.items() if key not in few}
            records = {**chance(rng, few), **rest}
        checked(*sides, records=4)


def test_equal_crcs_prove_nothing(tmp_path: Path) -> None:
    value = b"twelve bytes"
    # The generator polynomial itself, bits in the order of the wire: any CRC is blind to it.
    mask = (0x82F63B78 << 1 | 1).to_bytes(5, "little")
    other = bytes(a ^ b for a, b in zip(value, mask.ljust(len(value), b"\0"), strict=True))
    assert value != other
    assert google_crc32c.value(value) == google_crc32c.value(other)
    key = "7" * 32
    before = write(tmp_path / "before", {key: ("train", value)}, {"train": 1})
    after = write(tmp_path / "after", {key: ("train", other)}, {"train": 1})
    assert (before / "pond-train.tfrecord-00000-of-00001").read_bytes()[-4:] == (
        after / "pond-train.tfrecord-00000-of-00001"
    ).read_bytes()[-4:]
    assert checked(before, after).totals["changed"] == 1


def test_one_index_of_each_split_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many shards there are: each index is read once, and gone when the next one comes."""
    rng = random.Random(5)
    records = {f"{rng.randrange(2**128):032x}": (rng.choice(["train", "test"]), b"a") for _ in range(300)}
    changed = {key: (split, b"b") for key, (split, _) in records.items()}
    before = write(tmp_path / "before", records, {"train": 16, "test": 5})
    after = write(tmp_path / "after", changed, {"train": 7, "test": 1})
    asked: list[tuple[str, int]] = []
    real = diff_walk.Version.index

    def index(self: diff_walk.Version, split: str, number: int) -> Any:
        asked.append((f"{self.place}/{split}", number))
        return real(self, split, number)

    monkeypatch.setattr(diff_walk.Version, "index", index)
    assert diff(before, after).totals["changed"] == 300
    assert len(asked) == len(set(asked)) == 16 + 5 + 7 + 1
    for split in {split for split, _ in asked}:
        numbers = [number for name, number in asked if name == split]
        assert numbers == sorted(numbers)


# --- damage ---

SHARD = "pond-train.tfrecord-00000-of-00002"


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two versions whose shards all differ."""
    rng = random.Random(3)
    records = {f"{rng.randrange(2**128):032x}": ("train", b"value %d" % k) for k in range(40)}
    shards = {"train": 2, "test": 1}
    before = write(tmp_path / "before", records, shards)
    for number, key in enumerate(sorted(records)):
        if number in (5, 35):
            records[key] = "train", records[key][1][::-1]
    return before, write(tmp_path / "after", records, shards)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_damaged_index_is_named(two: tuple[Path, Path]) -> None:
    flip(two[1] / index_name(SHARD), 300)
    with pytest.raises(HeadraceError, match=r"(?s)index is damaged.*after/index/.*SHA-256 differs.*verify"):
        diff(*two)


def test_an_index_that_contradicts_the_manifest_is_named(two: tuple[Path, Path]) -> None:
    """Even if its SHA-256 is right: nobody merges what is out of order."""
    path, manifest = two[1] / index_name(SHARD), json.loads((two[1] / MANIFEST).read_text("utf-8"))
    other = two[1] / index_name(SHARD.replace("00000-of", "00001-of"))
    path.write_bytes(other.read_bytes())
    entry = manifest["splits"]["train"]["shards"][0]
    entry["index"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (two[1] / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(HeadraceError, match=r"(?s)index is damaged.*outside the shard's range"):
        diff(*two)


def test_a_missing_index_is_named(two: tuple[Path, Path]) -> None:
    (two[0] / index_name(SHARD)).unlink()
    with pytest.raises(HeadraceError, match=r"(?s)is missing.*before/index/"):
        diff(*two)


def test_a_missing_shard_is_named(two: tuple[Path, Path]) -> None:
    (two[0] / SHARD).unlink()
    with pytest.raises(HeadraceError, match=rf"(?s)is missing.*before/{SHARD}"):
        diff(*two)


def test_a_flipped_byte_is_damage_and_no_change(two: tuple[Path, Path]) -> None:
    """Of the data, of either CRC, and of the length: each byte of the first record."""
    size = int.from_bytes((two[0] / SHARD).read_bytes()[:8], "little") + 16
    for place in range(size):
        flip(two[0] / SHARD, place)
        with pytest.raises(HeadraceError, match=r"(?s)record is damaged.*train.*verify"):
            diff(*two)
        flip(two[0] / SHARD, place)
    assert diff(*two).totals["changed"] == 2


def test_a_shard_cut_short_is_damage(two: tuple[Path, Path]) -> None:
    os.truncate(two[1] / SHARD, (two[1] / SHARD).stat().st_size - 1)
    with pytest.raises(HeadraceError, match=r"(?s)record is damaged.*the file ends within the record"):
        diff(*two)


def test_a_damaged_manifest_is_named(two: tuple[Path, Path]) -> None:
    os.truncate(two[1] / MANIFEST, 100)
    with pytest.raises(HeadraceError, match=r"(?s)not JSON.*after/manifest.json"):
        diff(*two)
    with pytest.raises(HeadraceError, match="no manifest"):
        diff(two[0], two[0].parent / "nowhere")


def test_a_job_that_is_none_is_named(two: tuple[Path, Path]) -> None:
    manifest = json.loads((two[1] / MANIFEST).read_text("utf-8"))
    manifest["spec"]["label"] = "nothing"
    (two[1] / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(HeadraceError, match=r"(?s)job in the manifest is not valid.*after/manifest.json"):
        diff(*two)


def test_a_key_in_two_splits_is_refused(tmp_path: Path) -> None:
    key = "8" * 32
    before = write(tmp_path / "before", {key: ("train", b"a")}, {"train": 1, "test": 1})
    after = write(tmp_path / "after", {key: ("test", b"a")}, {"train": 1, "test": 1})
    manifests = [json.loads((side / MANIFEST).read_text("utf-8")) for side in (before, after)]
    for path in (name := shard_name("pond", "test", 0, 1)), index_name(name):
        shutil.copy(after / path, before / path)
    manifests[0]["splits"]["test"] = manifests[1]["splits"]["test"]
    (before / MANIFEST).write_text(json.dumps(manifests[0]), "utf-8")
    empty = write(tmp_path / "empty", {}, {"train": 1, "test": 1})
    for sides in ((before, empty), (empty, before)):
        with pytest.raises(HeadraceError, match=rf"(?s)two splits.*before.*{key}"):
            diff(*sides)


# --- the command ---


def headrace(*arguments: str | Path) -> tuple[int, str, str]:
    command = [sys.executable, "-c", "from beam_jobs.cli import entry; entry()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_says_it_and_its_exit_code_too(two: tuple[Path, Path]) -> None:
    code, out, _ = headrace("diff", *two, "--records", "1")
    assert code == 1
    assert "2 changed, 38 unchanged" in out
    assert 'raw       "' not in out  # bytes are hex
    assert "Changed: record 5 of" in out
    code, out, _ = headrace("diff", two[0], two[0])
    assert (code, out) == (0, "pond 1.0.0 → pond 1.0.0\nNothing differs: 40 records in 3 shards.\n")


def test_the_command_for_scripts(two: tuple[Path, Path]) -> None:
    code, out, _ = headrace("diff", *two, "--json", "--records", "5")
    found = json.loads(out)
    assert (code, found["equal"]) == (1, False)
    assert found["records"] == {"added": 0, "removed": 0, "changed": 2, "moved": 0, "unchanged": 38}
    assert found["splits"]["train"]["shards"] == {
        "before": 2,
        "after": 2,
        "identical": 0,
        "rewritten": 2,
        "reindexed": 0,
    }
    assert found["examples"][0]["before"]["record"] == 5
    flip(two[0] / index_name(SHARD), 300)
    code, out, _ = headrace("diff", *two, "--json")
    assert (code, json.loads(out)["error"]["what"]) == (1, "A shard's index is damaged.")
    assert headrace("diff", two[0])[0] == 2
    assert "negative" in headrace("diff", *two, "--records", "-1")[2]


def test_versions_behind_urls(two: tuple[Path, Path]) -> None:
    with FileServer(two[0].parent) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert told(diff(f"{url}/before", f"{url}/after")) == told(diff(*two))
        assert diff(f"{url}/before", two[0]).equal
