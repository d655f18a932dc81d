"""Which sources a job has, what their columns are, and how they are joined: from what lies at some places."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.starter.guess import Guess, guess_bytes, guess_values
from beam_jobs.starter.kinds import (
    HUGGINGFACE,
    Family,
    common_folder,
    examples,
    families_of,
    kind_of,
    media_of,
    tabbed,
)
from beam_jobs.starter.match import Match, key_of, match_paths, match_tables
from beam_jobs.starter.media import Media, media_in
from beam_jobs.starter.place import Place, join, look, stem_of, without_secrets
from beam_jobs.starter.sample import Sample, take
from schemas.errors import HeadraceError, shorten

_LEVELS = 3  # the folder of files that was given, and those above it, from which a table may name them
_FEW_FILES = 3  # beside a table they are an illustration rather than the data
_NULLS = ("", "NA", "NaN", "null", "NULL")  # of a csv source, unless a job says otherwise
_DATABASES = (".db", ".sqlite", ".sqlite3", ".duckdb")
_MARKS = ["?", "-", "--", ".", "N/A", "n/a", "#N/A", "na", "nan", "None", "none", "nil", "\\N"]
_CHOOSES_COLUMNS = ("parquet", "arrow", "orc", "avro", "jsonl")
_ALLOWED = (
    "images, CSV, JSON lines, Parquet, Arrow, ORC, Avro, TFRecords, tars, Hugging Face's folders, text, sound"
)


@dataclass
class Table:
    """A source whose records were looked at.

    Attributes:
      name: in the job.
      guesses: what its columns are.
      key: the column that names its records.
      match: how it is joined; None for the main source.
    """

    name: str
    family: Family
    sample: Sample
    guesses: dict[str, Guess]
    key: str | None = None
    match: Match | None = None

    @property
    def values(self) -> dict[str, pa.ChunkedArray]:
        """The columns that others may be matched with."""
        return self.sample.values


@dataclass
class Findings:
    """What a job is written from.

    Attributes:
      main: the source whose records are written.
      media: its files, where it is a folder of them.
      joined: tables that are looked up in, in order.
      unused: files that no source reads, by the reason.
      notes: what else there is to know.
    """

    places: list[Place]
    main: Table
    media: Media | None = None
    joined: list[Table] = field(default_factory=list)
    unused: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def tables(self) -> list[Table]:
        """The main source and those joined to it."""
        return [self.main, *self.joined]


def find(data: Sequence[str]) -> Findings:
    """What lies at some paths or URLs.

    Raises:
      HeadraceError: there is nothing to read, or it cannot be listed.
    """
    places = [look(given) for given in dict.fromkeys(data)]
    unused: dict[str, list[str]] = {}
    families: list[Family] = []
    media: list[Media] = []
    for place in places:
        if any(name in place.files for name in HUGGINGFACE):
            families.append(_huggingface(place))
            continue
        if (text := tabbed(place)) is not None:
            families.append(text)
            continue
        families += families_of(place, place.files, unused)
        media += media_in(place, place.files).values()
        _note_others(place, unused)
    names: set[str] = set()
    tables = [table for family in families if (table := _table(family, names, unused)) is not None]
    found = _around_media(places, media, tables, names, unused) or _around_tables(places, tables, unused)
    if found is None:
        reasons = "; ".join(f"{why}: {examples(some)}" for why, some in unused.items())
        raise HeadraceError(
            "Nothing here can be read as records.",
            value=", ".join(without_secrets(given) for given in data),
            allowed=_ALLOWED,
            hint=shorten(reasons, 600) or None,
        )
    return found


def _note_others(place: Place, unused: dict[str, list[str]]) -> None:
    for name in place.files:
        if kind_of(name) is None and media_of(name) is None:
            last = name.rpartition("/")[2]
            suffix = f".{last.rpartition('.')[2]}" if "." in last else "files without extension"
            database = suffix.lower() in _DATABASES
            reason = f"no source reads {suffix}"
            if database:
                scheme = "duckdb" if suffix.lower() == ".duckdb" else "sqlite"
                url = f"{scheme}:///{join(place.written, name)}"
                reason = f"a database, which is read by table: `kind: sql, url: {url}, table: NAME`"
            unused.setdefault(reason, []).append(name)


def _huggingface(place: Place) -> Family:
    family = Family(place, "huggingface", place.files, "")
    return replace(family, columns=tuple(family.open().columns()))


def _table(family: Family, names: set[str], unused: dict[str, list[str]]) -> Table | None:
    """A source and a sample of it; None where it cannot be read."""
    try:
        sample = take(family)
    except HeadraceError as error:
        options = family.found.options
        if family.kind == "csv" and "quote" in error.what and options.get("quote", '"'):
            options["quote"] = ""
            family.found.why["quote"] = "a quote is left open in it, so quotes stand for themselves"
            return _table(family, names, unused)
        unused.setdefault(error.what.rstrip("."), []).extend(family.files)
        return None
    marks = _marks(family, sample)
    if marks:
        family.found.options["nulls"] = [*_NULLS, *marks]
        family.found.why["nulls"] = f"columns of numbers hold {', '.join(marks)}, which means no value"
        return _table(family, names, unused)
    if not sample.records:
        unused.setdefault("no record in it can be read", []).extend(family.files)
        return None
    table = Table(unique(identifier(_base_name(family), "rows"), names), family, sample, _guesses(sample))
    if family.kind != "webdataset":
        table.key = key_of(table.guesses, whole=sample.whole)
    return table


def _marks(family: Family, sample: Sample) -> list[str]:
    """Texts that stand for no value in columns that are numbers without them."""
    if family.kind != "csv" or "nulls" in family.found.options:
        return []
    marks: set[str] = set()
    for column in sample.values.values():
        if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
            continue
        trimmed = pc.utf8_trim_whitespace(column)
        marked = pc.is_in(trimmed, value_set=pa.array(_MARKS, column.type))
        if not pc.any(marked).as_py() or column.null_count == len(column):
            continue
        rest = column.filter(pc.invert(marked))
        kind = (
            (guess_values(rest, sample.records, whole=True).feature or {}).get("type") if len(rest) else None
        )
        if kind in ("int64", "float32"):
            marks |= set(column.filter(marked).to_pylist())
    return sorted(marks)


def _base_name(family: Family) -> str:
    if family.kind == "huggingface":
        return family.place.written.rstrip("/").rpartition("/")[2]
    first = stem_of(family.files[0])
    if len(family.files) == 1:
        return first.partition(".")[0]
    return re.split(r"[-_.]?\d", first)[0] or common_folder(family.files).rpartition("/")[2]


def _guesses(sample: Sample) -> dict[str, Guess]:
    guesses = {}
    for name in sample.columns:
        if name in sample.looks:
            guesses[name] = guess_bytes(sample.looks[name], whole=sample.whole)
        elif name in sample.values:
            guesses[name] = guess_values(sample.values[name], sample.records, whole=sample.whole)
    return guesses


def _around_media(
    places: list[Place],
    media: list[Media],
    tables: list[Table],
    names: set[str],
    unused: dict[str, list[str]],
) -> Findings | None:
    """A job of whole files, with the tables that say something of them."""
    chosen: tuple[Media, dict[str, Match]] | None = None
    for each in media:
        files, matches = _matched(each, tables)
        counts = each.media in ("image", "audio", "video") and len(each.files) > _FEW_FILES
        alone = not tables or (counts and not any(_holds_files(table) for table in tables))
        if chosen is None and (matches or alone):
            chosen = files, matches
        else:
            unused.setdefault(f"records of another kind ({each.media})", []).extend(each.files)
    if chosen is None:
        return None
    files, matches = chosen
    for reason, left_out in files.left_out.items():
        unused.setdefault(reason, []).extend(left_out)
    folder = next((match.folder for match in matches.values() if match.left == "path"), "")
    family = files.family(folder)
    base = common_folder(files.files).rpartition("/")[2]
    default = {"image": "images", "text": "texts"}.get(files.media, "files")
    sample = take(family)
    main = Table(unique(identifier(base, default), names), family, sample, _guesses(sample))
    found = Findings(places, main, files, unused=unused)
    direct = [table for table in tables if table.name in matches]
    for table in direct:
        match = matches[table.name]
        if match.left == "path" and match.folder != folder:
            unused.setdefault("paths in it begin at another folder", []).extend(table.family.files)
        else:
            _join(found, table, match)
    _join_others(found, [table for table in tables if table not in direct])
    return found


def _matched(media: Media, tables: list[Table]) -> tuple[Media, dict[str, Match]]:
    """The tables that name files, as seen from their folder or from one above it."""
    seen: Media | None = media
    for _ in range(_LEVELS):
        if seen is None:
            break
        common = common_folder(seen.files)
        matches = {
            table.name: match
            for table in tables
            if (match := match_paths(seen.files, common, table.values)) is not None
        }
        if matches:
            return seen, matches
        seen = seen.raised()
    return media, {}


def _holds_files(table: Table) -> bool:
    return table.family.kind in ("webdataset", "huggingface") or bool(table.sample.looks)


def _around_tables(places: list[Place], tables: list[Table], unused: dict[str, list[str]]) -> Findings | None:
    """A job of the largest table's rows, with the tables that say something of them."""
    if not tables:
        return None
    main = max(tables, key=lambda table: (_holds_files(table), table.family.bytes))
    found = Findings(places, main, unused=unused)
    _join_others(found, [table for table in tables if table is not main])
    return found


def _join_others(found: Findings, tables: list[Table]) -> None:
    """Joins tables by columns of those that are joined already, as long as there are any."""
    waiting = []
    for table in tables:
        reason = _same_columns(found.main, table)
        if reason is None:
            waiting.append(table)
        else:
            found.unused.setdefault(reason, []).extend(table.family.files)
    progress = True
    while waiting and progress:
        progress = False
        for table in list(waiting):
            match = next(
                (
                    match
                    for earlier in found.tables
                    if (match := match_tables(
                        _left(earlier), table.values, table.name, whole=table.sample.whole
                    )) is not None
                ),
                None,
            )  # fmt: skip
            if match is not None:
                waiting.remove(table)
                progress = True
                _join(found, table, match)
    for table in waiting:
        reason = f"no column of it has name and values of one of {found.main.name}"
        found.unused.setdefault(reason, []).extend(table.family.files)


def _same_columns(main: Table, table: Table) -> str | None:
    """Why a table is more records of the main one, such as a test set without labels, rather than one to look up in."""
    have, has = main.sample.columns, table.sample.columns
    differ = [name for name in [*have, *has] if (name in have) != (name in has)]
    if len(differ) * 4 > len(have) or len(has) < 3:
        return None
    return f"its columns are those of {main.name}{' but for ' if differ else ''}{', '.join(differ)}"


def _left(table: Table) -> dict[str, pa.ChunkedArray]:
    """The columns of a table that the records have."""
    right = table.match.right if table.match is not None else None
    return {name: values for name, values in table.values.items() if name != right}


def _join(found: Findings, table: Table, match: Match) -> None:
    """Adds a table, with its columns called so that no two have one name."""
    files = table.family.files
    if match.repeated:
        reason = f"several rows have the same {match.right}, and a record can have one"
        found.unused.setdefault(reason, []).extend(files)
        return
    taken = set(_taken(found))
    clash = [name for name in table.sample.columns if name in taken and name != match.right]
    options, why = table.family.found.options, table.family.found.why
    if clash and table.family.kind == "csv":
        names = {name: unique(f"{table.name}_{name}", taken | set(table.sample.columns)) for name in clash}
        options["columns"] = [names.get(name, name) for name in table.sample.columns]
        why["columns"] = f"called anew, for {', '.join(clash)} is a column of {found.main.name} too"
        _rename(table, names)
    elif clash and table.family.kind in _CHOOSES_COLUMNS:
        options["columns"] = [name for name in table.sample.columns if name not in clash]
        why["columns"] = f"all but {', '.join(clash)}, which {found.main.name} has too"
        for name in clash:
            table.guesses.pop(name, None)
            table.values.pop(name, None)
        table.sample.columns = list(options["columns"])
    elif clash:
        reason = f"it has columns of the same names as {found.main.name}: {', '.join(clash)}"
        found.unused.setdefault(reason, []).extend(files)
        return
    table.match, table.key = match, match.right
    if table.family.kind == "webdataset":
        table.key = None
    found.joined.append(table)


def _rename(table: Table, names: dict[str, str]) -> None:
    sample = table.sample
    sample.columns = [names.get(name, name) for name in sample.columns]
    sample.values = {names.get(name, name): values for name, values in sample.values.items()}
    table.guesses = {names.get(name, name): guess for name, guess in table.guesses.items()}


def _taken(found: Findings) -> Iterator[str]:
    for table in found.tables:
        yield from table.family.columns
        yield from table.sample.columns


def identifier(text: str, default: str) -> str:
    """`text` as the name of a source or feature."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))  # letters, and their accents apart
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    name = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[:80].rstrip("_")
    if not name:
        return default
    return name if name[0].isalpha() else f"{default}_{name}"


def unique(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; it is taken then."""
    number, wanted = 1, name
    while wanted in taken:
        number += 1
        wanted = f"{name}_{number}"
    taken.add(wanted)
    return wanted
