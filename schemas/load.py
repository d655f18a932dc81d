"""Reading files that people write, jobs and schemas: strict YAML; errors name the line, the value, what is allowed."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from schemas.errors import HeadraceError, shorten
from schemas.spec import JobSpec

_MAX_SPEC_BYTES = 16 << 20
_MAX_DEPTH = 50
Location = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class FileKind(Generic[M]):
    """A kind of file that people write.

    Attributes:
      model: what it holds.
      noun: what it is called.
      allowed: what is in it.
      hint: what checks it.
    """

    model: type[M]
    noun: str
    allowed: str
    hint: str


JOB = FileKind(
    JobSpec,
    "job",
    "a mapping with name, version, sources …",
    "`headrace validate JOB.yaml` checks a job without running it.",
)


def load_spec(path: str | Path) -> JobSpec:
    """The job spec in a YAML file.

    Raises:
      HeadraceError: the file cannot be read, is no YAML, or is no valid job; the error names the line.
    """
    return load_file(path, JOB)


def parse_spec(text: str, where: str = "job") -> JobSpec:
    """The job spec in YAML `text`; `where` names the file in errors. See `load_spec`."""
    return parse_file(text, where, JOB)


def load_file(path: str | Path, kind: FileKind[M]) -> M:
    """What a YAML file of that kind holds. See `load_spec`."""
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_SPEC_BYTES:
            raise HeadraceError(
                f"The {kind.noun} file is too large.", where=str(path), allowed=f"{_MAX_SPEC_BYTES} bytes"
            )
        text = file.read_text("utf-8")
    except FileNotFoundError as error:
        hint = _neighbours(file, kind.noun)
        raise HeadraceError(f"There is no such {kind.noun} file.", where=str(path), hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise HeadraceError(
            f"The {kind.noun} file cannot be read.", where=str(path), value=str(error)
        ) from error
    return parse_file(text, str(path), kind)


def parse_file(text: str, where: str, kind: FileKind[M]) -> M:
    """What YAML `text` of that kind holds; `where` names the file in errors. See `load_spec`."""
    try:
        node = _compose(text, kind.noun)
        data = yaml.SafeLoader("").construct_document(node) if node is not None else None
    except HeadraceError as error:
        error.where = f"{where}{', ' + error.where if error.where else ''}"
        raise error from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise HeadraceError(
            f"The {kind.noun} file is not valid YAML.",
            where=f"{where}:{mark.line + 1}" if mark else where,
            value=getattr(error, "problem", None) or str(error),
        ) from error
    if not isinstance(data, dict):
        raise HeadraceError(f"The {kind.noun} file holds no {kind.noun}.", where=where, allowed=kind.allowed)
    try:
        return kind.model.model_validate(data)
    except ValidationError as error:
        raise _explain(error, node, where, kind) from None


def fill_variables(template: str, values: Mapping[str, str], where: str) -> str:
    """`template` with each ${name} replaced.

    Raises:
      HeadraceError: a variable has no value.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in values:
            raise HeadraceError(
                f"The variable ${{{name}}} has no value.",
                where=where,
                value=template,
                allowed=", ".join(sorted(values)) or None,
                hint=f"Give it with --var {name}=… or under `vars:`{_nearest(name, values)}.",
            )
        return values[name]

    return re.sub(r"\$\{(\w+)\}", value, template)


def job_schema() -> dict[str, Any]:
    """The JSON Schema of job files, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **JobSpec.model_json_schema(by_alias=True),
    }


class _StrictLoader(yaml.SafeLoader):
    """YAML without the two features that surprise: aliases (which can explode) and repeated keys."""

    depth = 0
    noun = "job"

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise HeadraceError(
                f"A {self.noun} file must not use YAML aliases.",
                where=f"line {event.start_mark.line + 1}",
                hint="Write it out.",
            )
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise HeadraceError(f"The {self.noun} file is nested too deeply.", allowed=f"{_MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str, noun: str) -> yaml.Node | None:
    loader = _StrictLoader(text)
    loader.noun = noun
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    _refuse_repeated_keys(node)
    return node


def _refuse_repeated_keys(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise HeadraceError(
                    "A key must be one word, not a list or a mapping.",
                    where=f"line {key.start_mark.line + 1}",
                )
            if key.value in seen:
                raise HeadraceError(
                    "The same key is written twice.",
                    where=f"line {key.start_mark.line + 1}",
                    value=str(key.value),
                )
            seen.add(key.value)
            _refuse_repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item)


def _explain(
    error: ValidationError, node: yaml.Node | None, where: str, file: FileKind[Any]
) -> HeadraceError:
    """The first problem in full, and how many more there are."""
    problems = error.errors(include_url=False)
    # A misspelt field is missing under its right name too; the spelling is what to tell.
    first = (
        min(problems, key=lambda p: p["type"] != "extra_forbidden")
        if problems[0]["type"] == "missing"
        else problems[0]
    )
    location, model = _real_location(first["loc"], file.model)
    kind, context = first["type"], first.get("ctx", {})
    last = str(location[-1]) if location else ""
    what, allowed, value = first["msg"], None, first.get("input")
    if kind == "extra_forbidden":
        names = _field_names(model)
        what, allowed, value = (
            f"There is no field {last!r} here{_nearest(last, names)}",
            ", ".join(names),
            last,
        )
    elif kind == "missing":
        what, value = f"The field {last!r} is missing", None
        field = _find_field(model, last)
        allowed = field.description if field is not None else None
    elif kind in ("literal_error", "union_tag_invalid"):
        allowed = str(context.get("expected") or context.get("expected_tags"))
        tag = (
            value.get(str(context.get("discriminator", "")).strip("'")) if isinstance(value, dict) else value
        )
        value = tag
        known = re.findall(r"'([^']*)'", allowed)
        what = f"{shorten(repr(tag), 60)} is not known here{_nearest(str(tag), known)}"
    elif kind == "union_tag_not_found":
        what, value = f"The field {str(context.get('discriminator', '')).strip(chr(39))!r} is missing", None
    elif kind == "value_error":
        what = str(context.get("error", what))
        value = None if isinstance(value, dict) else value
    elif kind == "string_type" and isinstance(value, bool | int | float):
        # YAML reads 1.0 as a number and yes as true.
        what, allowed = f"YAML reads this as {type(value).__name__}, not as text", "text; put it in quotes"
    more = f" ({len(problems) - 1} more to mend after this one)" if len(problems) > 1 else ""
    path = ".".join(str(part) for part in location)
    line = _line_of(node, location)
    return HeadraceError(
        f"The {file.noun} file is not valid: {_sentence(what + more)}",
        where=f"{where}:{line}, field {path}" if path else f"{where}:{line}",
        value=value,
        allowed=allowed,
        hint=file.hint,
    )


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _real_location(loc: Location, model: Any) -> tuple[Location, Any]:
    """Pydantic's location without the union tags it adds, and the type that holds the last part."""
    annotation: Any = model
    holder: Any = model
    real: list[str | int] = []
    for part in loc:
        options = _options(annotation)
        tagged = [o for o in options if _is_model(o) and _tag(o) == part]
        if tagged and len(options) > 1:
            annotation = tagged[0]
            continue
        named = [o for o in options if getattr(o, "__name__", "") == part]
        if named and len(options) > 1:
            annotation = named[0]
            continue
        models = [o for o in options if _is_model(o)]
        holder = next(
            (m for m in models if _find_field(m, str(part)) is not None), models[0] if models else holder
        )
        field = _find_field(holder, str(part)) if models else None
        real.append(part)
        if field is not None:
            annotation = field.annotation
        elif not models:
            arguments = [a for o in options for a in typing.get_args(o)]
            annotation = arguments[-1] if arguments else None
    # What a union of plain types adds, such as `dict[...]` or `int`, is no place in the file.
    return tuple(
        p
        for p in real
        if isinstance(p, int) or ("[" not in p and p not in ("int", "str", "constrained-str", "float"))
    ), holder


def _options(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [option for argument in typing.get_args(annotation) for option in _options(argument)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tag(model: Any) -> str | None:
    for name in ("kind", "type"):
        field = model.model_fields.get(name)
        if field is not None and typing.get_args(field.annotation):
            return str(typing.get_args(field.annotation)[0])
    return next(iter(model.model_fields), None)  # a rule is known by its first field


def _find_field(model: Any, name: str) -> FieldInfo | None:
    if not _is_model(model):
        return None
    for field_name, field in model.model_fields.items():
        if name in (field_name, field.alias):
            return typing.cast(FieldInfo, field)
    return None


def _field_names(model: Any) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()] if _is_model(model) else []


def _nearest(word: str, words: typing.Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def _line_of(node: yaml.Node | None, location: Location) -> int:
    """The line of the innermost part of `location` that the file holds."""
    line = node.start_mark.line + 1 if node is not None else 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _neighbours(file: Path, noun: str) -> str:
    folder = file.parent
    names = sorted(p.name for p in folder.glob("*.y*ml")) if folder.is_dir() else []
    found = difflib.get_close_matches(file.name, names, n=1, cutoff=0.4)
    return f"Did you mean {folder / found[0]}?" if found else f"Give the path of a YAML {noun} file."
