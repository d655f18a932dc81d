"""Rules for texts: brought into one form, tagged with their language; each distinct text of a batch once."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Batch, Ledger, Problem
from beam_jobs.rules.distinct import as_mask, distinct_texts, map_texts, problems_at
from beam_jobs.rules.languages import Languages
from schemas.value_rules import NormalizeTextRule, TagLanguageRule

# Control characters but for white space; then what is as invisible: zero-width spaces, byte order marks, and marks that
# set the direction of what follows. Joiners stay: scripts and emoji need them.
_CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")


def normalize_texts(batch: Batch, rule: NormalizeTextRule, ledger: Ledger) -> Batch:
    """Brings the texts of columns into one form; what is too long or empty goes as the rule says.

    Raises:
      HeadraceError: a column holds no texts.
    """
    problems: list[Problem] = []
    dropped = {}
    cut = {}
    for name in rule.normalize_text:
        where = f"clean, normalize_text {name}"
        whole = map_texts(batch.records.column(name), lambda text: normalized(text, rule), where)
        if rule.max_length is not None:
            count = pc.utf8_length if rule.length_in == "characters" else pc.binary_length
            long = as_mask(pc.greater(count(whole), rule.max_length))
            if rule.too_long == "truncate":
                whole = map_texts(whole, lambda text: truncated(text, rule), where) if long.any() else whole
                cut[f"truncate {name}"] = long
            elif rule.too_long == "drop":
                dropped[f"too long: {name}"] = long
            else:
                what = f"is longer than {rule.max_length} {rule.length_in}"
                problems += problems_at(long, "normalize_text", name, whole, what)
        empty = as_mask(pc.equal(whole, ""))
        if rule.empty == "null":
            whole = pc.if_else(pa.array(empty), pa.scalar(None, whole.type), whole)
        elif rule.empty == "drop":
            dropped[f"empty: {name}"] = empty
        elif rule.empty == "dead_letter":
            problems += problems_at(empty, "normalize_text", name, batch.records.column(name), "is empty")
        batch = batch.with_column(name, whole)
    refused = np.zeros(len(batch), np.bool_)
    refused[[problem.place for problem in problems]] = True
    for book, mask in cut.items():
        ledger.repair(batch, book, mask & ~refused)
    return ledger.leave_out(batch, "clean", problems, dropped)


def normalized(text: str, rule: NormalizeTextRule) -> str:
    """A text as the rule wants it, of any length.

    >>> normalized(" Stra\\u00dfe\\t 1\\0 ", NormalizeTextRule(normalize_text=["a"], case="fold"))
    'strasse 1'
    """
    if rule.unicode != "keep" and not text.isascii():
        text = unicodedata.normalize(rule.unicode, text)
    if rule.control != "keep":
        text = _CONTROL.sub(" " if rule.control == "space" else "", text)
    if rule.case != "keep":
        text = {"fold": str.casefold, "lower": str.lower, "upper": str.upper}[rule.case](text)
    if (rule.control != "keep" or rule.case != "keep") and rule.unicode != "keep" and not text.isascii():
        text = unicodedata.normalize(
            rule.unicode, text
        )  # letters may have come together, or been taken apart
    if rule.whitespace != "keep":
        text = " ".join(text.split()) if rule.whitespace == "collapse" else text.strip()
    return text


def truncated(text: str, rule: NormalizeTextRule) -> str:
    """The start of a text that is no longer than the rule allows; it ends with a whole code point."""
    assert rule.max_length is not None
    if rule.length_in == "characters":
        text = text[: rule.max_length]
    else:
        text = text.encode()[: rule.max_length].decode("utf-8", "ignore")
    return text if rule.whitespace == "keep" else text.rstrip()


def tag_language(batch: Batch, rule: TagLanguageRule) -> Batch:
    """Adds a column with the language of each text; null where the text is.

    Raises:
      HeadraceError: the column holds no texts.
    """
    texts, places = distinct_texts(
        batch.records.column(rule.tag_language), f"clean, tag_language {rule.tag_language}"
    )
    languages = Languages.of(tuple(rule.languages or ()))
    tags = [languages.tag(text, rule.min_confidence) or rule.unknown for text in texts.to_pylist()]
    return batch.with_column(rule.into, pa.array(tags, pa.string()).take(places))
