#!/usr/bin/env python3
"""What rules for texts, numbers and times cost: a table's job with them against the same job without.

The table has as many rows as `--rows`: a sentence, a price and a time, each text different from all others, which is
the worst for rules that look at each distinct text once.

Examples:
  python scripts/bench/clean_rules.py
  python scripts/bench/clean_rules.py --rows 100000 --rounds 1
"""

from __future__ import annotations

import sys
from pathlib import Path

import common

_JOB = """
name: sentences
version: 1.0.0
vars: {{data: unset}}
sources:
  rows: {{kind: csv, path: "${{data}}", key: id, delimiter: ";"}}
clean: {clean}
features:
  text: {{type: text}}
  price: {{type: {number}}}
  made: {{type: {time}}}
split: {{fractions: {{train: 0.9, test: 0.1}}}}
statistics: false
"""
_TEXT = "- {normalize_text: text, max_length: 200, too_long: truncate}"
_NUMBER = '- {parse_number: price, thousands: ".", decimal: ",", currency: ["€"]}'
_TIME = (
    '- {parse_time: made, formats: ["%d.%m.%Y %H:%M:%S"], zone: Europe/Berlin, '
    "ambiguous: earlier, nonexistent: shift}"
)
_LANGUAGE = "- {tag_language: text}"
_SURVEY = "- {impute: price, with: median}\n- {outliers: price, iqr: 3}"
_WORDS = "der alte Wärter öffnet morgens langsam das schwere Tor des Gartens und grüßt die Gäste"
_RULES = {
    "without": [],
    "text": [_TEXT],
    "number": [_NUMBER],
    "time": [_TIME],
    "language": [_LANGUAGE],
    "survey": [_NUMBER, _SURVEY],
}


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        _one_job(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    data = args.work / f"sentences-{args.rows}.csv"
    if not data.exists():
        _write_table(data, args.rows)
    contenders = []
    for name, rules in _RULES.items():
        job = args.work / f"sentences-{name}.yaml"
        clean = "[]" if not rules else "\n" + "\n".join(rules)
        number, time = ("float32" if _NUMBER in rules else "text"), ("int64" if _TIME in rules else "text")
        job.write_text(_JOB.format(clean=clean, number=number, time=time))
        command: list[str | Path] = [sys.executable, __file__, "one", job, data, args.work / "out_rules"]
        contenders.append(common.Contender(name, command, output=args.work / "out_rules"))
    runs = common.alternate(contenders, args.rounds)
    table = common.medians(runs)
    before = table["without"]["cpu_seconds"]
    for name in _RULES:
        now = table[name]["cpu_seconds"]
        speed = (
            f"{args.rows / (now - before):,.0f} rows a second of one core" if now > before else "no cost seen"
        )
        common.note(f"{name}: {now / before:.2f} × the processor time of the job without; {speed}")
    common.report(args, runs, [])


def _write_table(path: Path, rows: int) -> None:
    words = _WORDS.split()
    with path.open("w", encoding="utf-8") as file:
        file.write("id;text;price;made\n")
        for n in range(rows):
            text = " ".join(words[(n * k) % len(words)] for k in range(1, 9))
            day = f"{n % 28 + 1:02}.{n // 28 % 12 + 1:02}.{1990 + n // 336 % 30}"
            file.write(f"r{n};{text}  {n};{n % 900 + 1}.{n % 1000:03},{n % 100:02} €;")
            file.write(f"{day} {n % 24:02}:{n % 60:02}:{n // 60 % 60:02}\n")


def _one_job(job: Path, data: Path, out: Path) -> None:
    from beam_jobs import load_job, run

    def work() -> int:
        manifest = run(load_job(job, {"data": str(data)}), out).manifest
        return sum(split.records for split in manifest.splits.values())

    common.timed(work)


if __name__ == "__main__":
    main()
