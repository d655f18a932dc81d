from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import lzma
import uuid
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_jobs.sources import Source, open_source
from beam_jobs.sources import csv as csv_module
from schemas.errors import HeadraceError
from schemas.sources import CsvSource

from .conformance import SourceSuite, faults_of, read_all, records_of


def table(path: Path | str, **options: object) -> Source:
    spec = CsvSource(kind="csv", path="${data}", **options)  # type: ignore[arg-type]
    return open_source("labels", spec, str(path))


def text(tmp_path: Path, content: str | bytes, **options: object) -> Source:
    file = tmp_path / "t.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return table(file, **options)


def values(source: Source) -> list[tuple[object, ...]]:
    return [tuple(record.values()) for record in records_of(source)]


def keys(source: Source) -> list[bytes | None]:
    return [key for batch in read_all(source) for key in batch.keys.to_pylist()]


class TestCsv(SourceSuite):
    name = "rows.csv"
    header = "id,text,number\n"

    def row(self, i: int) -> str:
        return f'r{i:04d},"two\nlines, ""{i}""",{i}\n'

    def write(self, place: Path, count: int) -> None:
        (place / self.name).write_bytes((self.header + "".join(map(self.row, range(count)))).encode())

    def append(self, place: Path) -> None:
        with open(place / self.name, "ab") as file:
            file.write(self.row(9999).encode())

    def spoil(self, place: Path) -> set[str]:
        with open(place / self.name, "ab") as file:
            file.write(b"r5000,one too many,5,x\nr5001,\xff\xfe,1\n\nr5002,text,many\nr5003,fine,3")
        return {"ragged_row", "bad_encoding", "bad_type"}

    def change(self, place: Path) -> None:
        file = place / self.name
        file.write_bytes(file.read_bytes().replace(b"r0007", b"r000X"))

    def open(self, place: Path) -> Source:
        return table(place / self.name, key="id", types={"number": "int64"}, partition_bytes=500)


class TestSeveralCsvs(TestCsv):
    """Two files, and keys made of row numbers."""

    name = "rows-1.csv"

    def write(self, place: Path, count: int) -> None:
        (place / "rows-0.csv").write_bytes((self.header + "".join(map(self.row, range(count // 2)))).encode())
        super().write(place, count - count // 2)

    def change(self, place: Path) -> None:
        file = place / "rows-0.csv"
        file.write_bytes(file.read_bytes().replace(b"r0007", b"r000X"))

    def open(self, place: Path) -> Source:
        return table(place / "rows-*.csv", types={"number": "int64"}, partition_bytes=500)


class TestWhitespaceCsv(TestCsv):
    """Columns of blanks, in an encoding of one byte a letter, without header."""

    header = ""

    def row(self, i: int) -> str:
        return f"  r{i:04d}\tcaf\N{LATIN SMALL LETTER E WITH ACUTE}   {i} \r\n"

    def spoil(self, place: Path) -> set[str]:
        with open(place / self.name, "ab") as file:
            file.write(b"r5000 one too many\n  \t \nr5001 text many\r\n   r5002 fine 3")
        return {"ragged_row", "bad_type"}

    def open(self, place: Path) -> Source:
        options = {"header": False, "columns": ["id", "text", "number"], "encoding": "latin-1", "key": "id"}
        return table(
            place / self.name,
            delimiter="whitespace",
            types={"number": "float64"},
            partition_bytes=500,
            **options,
        )


class TestRemoteCsv(TestCsv):
    """The same behind fsspec."""

    @pytest.fixture(autouse=True)
    def _bucket(self, tmp_path: Path) -> object:
        self.bucket = f"/{uuid.uuid4().hex}"
        self.fs = fsspec.filesystem("memory")
        yield
        if self.fs.exists(self.bucket):
            self.fs.rm(self.bucket, recursive=True)

    def open(self, place: Path) -> Source:
        file = place / self.name
        target = f"{self.bucket}/{self.name}"
        if file.exists() and not (self.fs.exists(target) and self.fs.cat(target) == file.read_bytes()):
            self.fs.pipe(target, file.read_bytes())
        return table(
            f"memory:/{self.bucket}/{self.name}", key="id", types={"number": "int64"}, partition_bytes=500
        )


def test_rows_and_their_numbers(tmp_path: Path) -> None:
    source = text(tmp_path, 'id,a\n1,x\n\n2,"y\nz"\r\n\r\n3,q')
    assert values(source) == [("1", "x"), ("2", "y\nz"), ("3", "q")]
    (partition,) = source.partitions()
    rows = [row for batch in source.read(partition) for row in batch.rows.tolist()]
    assert [source.origin(partition, row) for row in rows] == ["t.csv, row 1", "t.csv, row 2", "t.csv, row 3"]
    assert partition.records == 3
    assert source.columns() == ["id", "a"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks(tmp_path: Path, end: str, last: bool, bom: bytes) -> None:
    content = end.join(["id,a", "1,x", "", "2,y"]) + (end if last else "")
    assert values(text(tmp_path, bom + content.encode(), key="id", partition_bytes=3)) == [
        ("1", "x"),
        ("2", "y"),
    ]


def test_nulls_are_unquoted(tmp_path: Path) -> None:
    source = text(tmp_path, 'id,a\n1,NA\n2,"NA"\n3,\n4,""\n', nulls=["NA", ""])
    assert [value for _, value in values(source)] == [None, "NA", None, ""]


def test_keys(tmp_path: Path) -> None:
    content = "a,b\nx|,y\nx,|y\nx\\,y\n,y\n"
    assert keys(text(tmp_path, content, key="a")) == [b"x|", b"x", b"x\\", None]
    assert keys(text(tmp_path, content, key=["a", "b"])) == [b"x\\||y", b"x|\\|y", b"x\\\\|y", None]
    assert keys(text(tmp_path, content)) == [b"t.csv:1", b"t.csv:2", b"t.csv:3", b"t.csv:4"]


def test_keys_are_the_text_before_conversion(tmp_path: Path) -> None:
    assert keys(text(tmp_path, "a\n007\n7\n", key="a", types={"a": "int64"})) == [b"007", b"7"]


def test_types(tmp_path: Path) -> None:
    content = 'i,f,b,s\n 1 ,1.5,true,x\n-2,1e3,FALSE,""\n"","nan",0,z\nNA,,NA,NA\n'
    types = {"i": "int64", "f": "float64", "b": "bool", "s": "string"}
    found = values(text(tmp_path, content, types=types, nulls=["", "NA", "nan"]))
    assert found == [
        (1, 1.5, True, "x"),
        (-2, 1000.0, False, ""),
        (None, None, False, "z"),
        (None, None, None, None),
    ]


def test_cells_of_a_wrong_type_are_faults_of_their_rows(tmp_path: Path) -> None:
    lines = ["id,n,b"] + [f"{i},{i},true" for i in range(1, 100)]
    lines[17], lines[40] = "17,seventeen,true", "40,4.5,maybe"
    source = text(
        tmp_path, "\n".join(lines), key="id", types={"n": "int64", "b": "bool"}, partition_bytes=100
    )
    assert faults_of(source) == [
        ("t.csv, row 17", "bad_type", "column 'n': 'seventeen' is no int64"),
        ("t.csv, row 40", "bad_type", "column 'n': '4.5' is no int64"),
    ]
    assert [int(key or b"") for key in keys(source)] == [i for i in range(1, 100) if i not in (17, 40)]


def test_ragged_rows_are_faults(tmp_path: Path) -> None:
    source = text(tmp_path, 'a,b,c\n1,2,3\n\n4,5\n6,7,8,9\n"1\n0",11\n12,13,14\n')
    assert values(source) == [("1", "2", "3"), ("12", "13", "14")]
    assert faults_of(source) == [
        ("t.csv, row 2", "ragged_row", "found 2 fields where the header has 3"),
        ("t.csv, row 3", "ragged_row", "found 4 fields where the header has 3"),
        ("t.csv, row 4", "ragged_row", "found 2 fields where the header has 3"),
    ]
    assert [fault.raw for batch in read_all(source) for fault in batch.faults] == [
        b"4,5",
        b"6,7,8,9",
        b'"1\n0",11',
    ]


def test_bytes_of_another_encoding_are_faults_of_their_rows(tmp_path: Path) -> None:
    content = "id,name\n1,Köln\n".encode() + "2,Köln\n".encode("latin-1") + "3,東京\n".encode() + b"\xff\n"
    source = text(tmp_path, content)
    assert values(source) == [("1", "Köln"), ("3", "東京")]
    (second, fourth) = faults_of(source)
    assert second == ("t.csv, row 2", "bad_encoding", "byte 3 of the row, 0xf6, is no utf-8: set `encoding`")
    assert fourth[0] == "t.csv, row 4"
    assert [fault.raw for batch in read_all(source) for fault in batch.faults] == [b"2,K\xf6ln\n", b"\xff\n"]


def test_a_block_of_nothing_but_wrong_bytes(tmp_path: Path) -> None:
    source = text(tmp_path, b"a\n\xff\n\xfe\n", partition_bytes=2)
    assert values(source) == []
    assert [rule for _, rule, _ in faults_of(source)] == ["bad_encoding", "bad_encoding"]


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "koi8-r", "gbk"]
)
def test_encodings(tmp_path: Path, encoding: str) -> None:
    word = "Привет" if encoding == "koi8-r" else "日本" if encoding == "gbk" else "Köln"
    content = f'id,name\n1,{word}\n2,"{word}\n{word}"\n'.encode(encoding)
    source = text(tmp_path, content, encoding=encoding, key="id", partition_bytes=1)
    assert values(source) == [("1", word), ("2", f"{word}\n{word}")]
    assert faults_of(source) == []


def test_bytes_that_are_undefined_in_an_encoding(tmp_path: Path) -> None:
    source = text(tmp_path, b"id,a\n1,\x81\n2,\x80\n", encoding="cp1252")
    assert values(source) == [("2", "€")]
    assert faults_of(source)[0][:2] == ("t.csv, row 1", "bad_encoding")
    source = text(
        tmp_path,
        "id,a\n1,\N{GRINNING FACE}\n2,b\n".encode("utf-16-le").replace(b"\x3d\xd8", b"b\0"),
        encoding="utf-16-le",
    )
    assert values(source) == [("2", "b")]
    assert faults_of(source)[0][:2] == ("t.csv, row 1", "bad_encoding")


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_files(tmp_path: Path, suffix: str, pack: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_module, "_READ_BYTES", 1000)
    rows = [(f"{i}", "x" * 100) for i in range(100)]
    content = "\ufeffid,a\n" + "".join(f"{a},{b}\n" for a, b in rows)
    file = tmp_path / f"t.csv{suffix}"
    file.write_bytes(pack(content.encode()))  # type: ignore[operator]
    source = table(file, key="id", partition_bytes=10)
    assert len(source.partitions()) == 1
    assert values(source) == rows
    assert len(read_all(source)) > 5
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(HeadraceError, match=r"A file cannot be read\.\n  where:   t\.csv"):
        read_all(source)


def test_blanks_as_delimiter(tmp_path: Path) -> None:
    content = 'file  p\twafer\n a.png   0.5 mono  \n\t\n"b  c.png"\t1 "po""ly"\nd.png 1 x"y\n'
    source = text(tmp_path, content, delimiter="whitespace", key="file")
    assert values(source) == [("a.png", "0.5", "mono"), ("b  c.png", "1", 'po"ly'), ("d.png", "1", 'x"y')]
    assert sum(partition.records or 0 for partition in source.partitions()) == 3


def test_other_delimiters_and_quotes(tmp_path: Path) -> None:
    assert values(text(tmp_path, "a;b\n'x;y';\"z\n", delimiter=";", quote="'")) == [("x;y", '"z')]
    assert values(text(tmp_path, 'a\tb\n"x\t"y\n', delimiter="\t", quote="")) == [('"x', '"y')]


def test_quotes_within_plain_fields(tmp_path: Path) -> None:
    content = 'id,a\n1,6" nail\n2,"quoted\nline"\n3,5" and 6"\n4,"x""y"z"\n'
    expected = [("1", '6" nail'), ("2", "quoted\nline"), ("3", '5" and 6"'), ("4", 'x"yz"')]
    for size in (1, 10, 1000):
        assert values(text(tmp_path, content, partition_bytes=size)) == expected


def test_columns_without_header(tmp_path: Path) -> None:
    assert values(text(tmp_path, "1,2\n3,4\n", header=False, columns=["a", "b"])) == [("1", "2"), ("3", "4")]
    assert text(tmp_path, "x,y\n3,4\n", columns=["a", "b"]).columns() == ["a", "b"]
    with pytest.raises(HeadraceError, match=r"`columns` names 3 columns and the file's first row has 2"):
        text(tmp_path, "1,2\n", header=False, columns=["a", "b", "c"]).partitions()


@pytest.mark.parametrize(
    ("content", "options", "match"),
    [
        ("a,b,a\n1,2,3\n", {}, r"Two columns have one name\.\n.*labels, t\.csv\n.*'a'"),
        ("id,file_name\n1,2\n", {"key": "filename"}, r"(?s)`key` names a column.*Did you mean 'file_name'"),
        ("id,b\n1,2\n", {"key": ["ID"]}, r"Did you mean 'id'"),
        ("id,b\n1,2\n", {"types": {"zzz": "bool"}}, r"(?s)`types` names a column.*id, b.*Check `delimiter`"),
        ("", {}, r"The file has no header: it is empty"),
        ("\n \n", {"delimiter": "whitespace"}, r"The file has no header: it is empty"),
        ("id,a\n\n\n", {}, r"The source holds no row"),
        ('id,a\n1,x\n2,"open\n3,y\n', {}, r"(?s)A quote is left open.*t\.csv, row 2.*2,\"open"),
        (
            'id,a\n1,x\n2,"open\n3,y\n' + "z" * 100,
            {"max_row_bytes": 50},
            r"(?s)A quote is left open.*t\.csv, row 2",
        ),
        (
            "id,a\n1,x\n2," + "y" * 60 + "\n3,z\n",
            {"max_row_bytes": 50},
            r"(?s)A row is too long.*t\.csv, row 2",
        ),
        (b"id,\xff\n1,2\n", {}, r"The first row is in another encoding"),
        ("a,b\n", {"encoding": "klingon"}, r"(?s)There is no such encoding.*klingon"),
        ("a,b\n", {"delimiter": "§"}, r"`delimiter` must be an ASCII character"),
        ("a,b\n", {"quote": "»"}, r"`quote` must be an ASCII character"),
        ("a,b\n", {"delimiter": "'", "quote": "'"}, r"`quote` and `delimiter` are the same"),
        ("a,b\n", {"max_row_bytes": 2 << 30}, r"Rows cannot be that long"),
    ],
)
def test_errors(tmp_path: Path, content: str | bytes, options: dict[str, object], match: str) -> None:
    with pytest.raises(HeadraceError, match=match):
        text(tmp_path, content, **options).partitions()


def test_files_with_different_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,x\n1,2\n")
    (tmp_path / "b.csv").write_text("id,y\n1,2\n")
    with pytest.raises(HeadraceError, match=r"(?s)different columns.*b\.csv.*id, y.*id, x.*as in a\.csv"):
        table(tmp_path / "*.csv").partitions()


def test_files_in_folders(tmp_path: Path) -> None:
    for name in ("2024/a.csv", "2023/a.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f"id\n{name}\n")
    assert keys(table(tmp_path / "*" / "a.csv")) == [b"2023/a.csv:1", b"2024/a.csv:1"]


def test_remote_patterns() -> None:
    fs, bucket = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    fs.pipe({f"{bucket}/y{year}/rows.csv": f"id\n{year}\n".encode() for year in (2024, 2023)})
    source = table(f"memory:/{bucket}/y*/rows.csv")
    assert keys(source) == [b"y2023/rows.csv:1", b"y2024/rows.csv:1"]
    assert values(source) == [("2023",), ("2024",)]
    fs.rm(bucket, recursive=True)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match=r"(?s)is a folder, not a file.*\*\.csv"):
        table(tmp_path).partitions()


def test_a_missing_file_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("a\n1\n")
    with pytest.raises(HeadraceError, match=r"(?s)There is no such file.*holds labels\.csv"):
        table(tmp_path / "label.csv").partitions()


def test_names_with_newlines_and_patterns(tmp_path: Path) -> None:
    for name in ("two\nlines.csv", "a[1].csv", "köln.csv"):
        (tmp_path / name).write_text("id\n1\n")
        assert keys(table(tmp_path / name)) == [f"{name}:1".encode()]


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.csv").write_text("id\n1\n")
    source = table(tmp_path / "*.csv")
    assert keys(source) == [b"caf\xe9.csv:1"]
    assert source.origin(source.partitions()[0], 1) == r"caf\xe9.csv, row 1"


def test_rows_changed_since_planning_are_an_error_and_appended_ones_are_not(tmp_path: Path) -> None:
    source = text(tmp_path, "id\n1\n2\n3\n", partition_bytes=4)
    partitions = source.partitions()
    with open(tmp_path / "t.csv", "a") as file:
        file.write("4\n")
    found = [
        record
        for partition in partitions
        for batch in source.read(partition)
        for record in batch.records.to_pylist()
    ]
    assert [record["id"] for record in found] == ["1", "2", "3"]
    (tmp_path / "t.csv").write_text("id\n1\n9\n3\n4\n")
    list(source.read(partitions[0]))
    with pytest.raises(HeadraceError, match=r"was changed while.*\n.*t\.csv"):
        list(source.read(partitions[1]))
    (tmp_path / "t.csv").unlink()
    with pytest.raises(HeadraceError, match=r"cannot be read.*\n.*t\.csv"):
        list(source.read(partitions[0]))


def test_copying_a_file_changes_nothing(tmp_path: Path) -> None:
    source = text(tmp_path, "id\n1\n2\n3\n", partition_bytes=4)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/t.csv").write_bytes((tmp_path / "t.csv").read_bytes())
    copies = table(tmp_path / "copy/t.csv", partition_bytes=4).partitions()
    assert [p.identity for p in copies] == [p.identity for p in source.partitions()]


# No lone carriage return: the csv module writes it without quotes and then reads two rows.
CELLS = st.text(alphabet='ab,"\n |\\é東', max_size=6).map(lambda cell: cell.replace("a\n", "\r\n"))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=30),
    st.integers(1, 200),
    st.integers(1, 100),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_cells_come_back_as_the_csv_module_wrote_them(
    tmp_path: Path, rows: list[tuple[str, str, str]], partition: int, chunk: int, end: str, quoting: int
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end, quoting=quoting)
    writer.writerows([("x", "y", "z"), *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_module, "_READ_BYTES", chunk)
        patch.setattr(csv_module, "_SCAN_BYTES", chunk)
        source = text(tmp_path, out.getvalue(), partition_bytes=partition, nulls=[])
        assert values(source) == rows
        assert keys(source) == [f"t.csv:{i}".encode() for i in range(1, len(rows) + 1)]
        assert sum(part.records or 0 for part in source.partitions()) == len(rows)


WORDS = st.text(alphabet='ab"é,', min_size=1, max_size=4).filter(lambda word: word[0] != '"')


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=20),
    st.lists(st.sampled_from([" ", "\t", "  ", " \t "]), min_size=1, max_size=7),
    st.sampled_from(["\n", "\r\n", "\n \n", "\r"]),
    st.integers(1, 50),
    st.booleans(),
)
def test_blanks_of_any_number_are_one_delimiter(
    tmp_path: Path, rows: list[tuple[str, str]], blanks: list[str], end: str, partition: int, edges: bool
) -> None:
    gaps = itertools.cycle(blanks)
    edge = (lambda: next(gaps)) if edges else (lambda: "")
    lines = [f"{edge()}{left}{next(gaps)}{right}{edge()}{end}" for left, right in [("x", "y"), *rows]]
    source = text(tmp_path, "".join(lines), delimiter="whitespace", partition_bytes=partition, nulls=[])
    assert values(source) == rows
