"""Where a database is and who asks: the URL of a job, and a password that nothing shows."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from schemas.errors import HeadraceError, shorten
from schemas.sources import SqlSource, holds_password

KINDS = ("postgresql", "mysql", "sqlite", "duckdb")
_ALIASES = {"postgres": "postgresql", "mariadb": "mysql"}
_FILES = ("sqlite", "duckdb")
_FORMS = "postgresql://user@host/database, mysql://user@host/database, sqlite:///file, duckdb:///file"


@dataclass(frozen=True)
class Place:
    """A database.

    Attributes:
      kind: one of `KINDS`.
      shown: the URL as people may see it.
      password: never shown; see `hidden`.
      options: of the URL's query.
    """

    kind: str
    shown: str
    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def hidden(self, text: str) -> str:
        """`text` without the password, in whatever way it is written there."""
        options = [value for name, value in self.options.items() if "pass" in name.lower()]
        for secret in filter(None, (self.password, *options)):
            for written in (secret, quote(secret, safe="")):
                text = text.replace(written, "***")
        return text


def find_place(spec: SqlSource, root: str, where: str) -> Place:
    """The database that `spec` names; `root` is its `url` with variables filled in.

    Raises:
      HeadraceError: the URL is none, holds a password that does not come from the environment, or a variable of the
        environment is missing.
    """
    url = root
    if spec.url_env is not None:
        url = _from_environment(spec.url_env, f"{where}.url_env")
    elif holds_password(url):
        raise HeadraceError(
            "A password stands in the URL, which a variable of the job may have brought.",
            where=f"{where}.url",
            hint="Leave it out of the URL, and name the environment variable that holds it: `password_env: NAME`.",
        )
    place = _parse(url, f"{where}.url")
    if spec.password_env is None:
        return place
    password = _from_environment(spec.password_env, f"{where}.password_env")
    return Place(**{**vars(place), "password": password})


def _from_environment(name: str, where: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise HeadraceError(
            "An environment variable is not set.",
            where=where,
            value=name,
            hint=f"Workers need it too: export {name}=… before `headrace run`.",
        )
    return value


def _parse(url: str, where: str) -> Place:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # whose text shows the URL
        raise HeadraceError("This is no URL of a database.", where=where, allowed=_FORMS) from None
    name = parsed.drivername.partition("+")[0]
    kind = _ALIASES.get(name, name)
    if kind not in KINDS:
        raise HeadraceError(
            "There is no such kind of database.", where=where, value=shorten(name, 40), allowed=_FORMS
        )
    options = {key: value if isinstance(value, str) else value[-1] for key, value in parsed.query.items()}
    if kind in _FILES and (not parsed.database or parsed.database == ":memory:" or parsed.host):
        raise HeadraceError(
            "A file must be named.",
            where=where,
            value=parsed.drivername,
            allowed=f"{kind}:///relative, {kind}:////absolute",
        )
    if kind not in _FILES and not (parsed.host and parsed.database):
        raise HeadraceError("The URL names no host or no database.", where=where, allowed=_FORMS)
    shown = parsed.set(password=None, query={}, drivername=kind).render_as_string(hide_password=True)
    password = None if parsed.password is None else str(parsed.password)
    return Place(kind, shown, parsed.host, parsed.port, parsed.username, password, parsed.database, options)


# What clients say of a connection that is not there, for now: worth another attempt.
_LOST = re.compile(
    r"connection (was )?(refused|reset|killed|timed out|closed)|closed the connection|no connection to the server"
    r"|lost connection|server has gone away|terminating connection|connection not open|broken pipe|timeout expired"
    r"|disconnected by the server|query execution was interrupted(?!.*exceeded)"
    r"|shutdown in progress|starting up|shutting down|in recovery mode|too many (clients|connections)"
    r"|can't connect to mysql|database is locked|could not set lock|deadlock",
    re.IGNORECASE,
)


_MISSING = re.compile(
    r"relation .* does not exist|no such table|table .* doesn't exist|table with name .* does not exist",
    re.IGNORECASE,
)


class LostConnectionError(Exception):
    """A connection broke, or was not to be had: another attempt may do."""


def explained(error: Exception, place: Place, where: str) -> Exception:
    """The client's error as one that shows no secret: `LostConnectionError`, or what a user can act on."""
    text = place.hidden(str(error).strip()) or type(error).__name__
    if _LOST.search(text):
        return LostConnectionError(text)
    if _MISSING.search(text):
        return HeadraceError(
            "There is no such table.", where=f"{where}, {place.shown}", value=shorten(text, 600)
        )
    return HeadraceError(
        "The database refuses.", where=f"{where}, {place.shown}", value=shorten(text, 600), hint=_hint(text)
    )


def _hint(text: str) -> str | None:
    if re.search(r"password|access denied|authentication", text, re.IGNORECASE):
        return (
            "Passwords come from the environment: `password_env: NAME`, or `url_env: NAME` for the whole URL."
        )
    if re.search(r"operator does not exist|could not determine", text):
        return "Parameters have the type of their YAML value; CAST(:name AS …) makes another of it."
    return None


@contextlib.contextmanager
def explaining(place: Place, where: str, *kinds: type[Exception]) -> Iterator[None]:
    """What a client raises within becomes what `explained` makes of it; no cause is kept, whose text might tell."""
    try:
        yield
    except kinds as error:
        raise explained(error, place, where) from None
