"""Where MLflow's store is, and what of its address may be shown.

An address is used and shown only as the parser of those who connect with it reads it, and if that
leaves no doubt where its password ends. Every other one is called by the name of its variable.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from abn.experiments import dvc
from abn.runtime.errors import TrackingError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

VARIABLE = "MLFLOW_TRACKING_URI"
DATABASES = "sqlite", "postgresql", "mysql", "mssql"
FOLDER = re.compile(r"(file:)?[\w./~ -]*")
USE = f"set {VARIABLE} to http://HOST:PORT or sqlite:///FILE.db, or unset it"


def address() -> str:
    """MLFLOW_TRACKING_URI, secrets included, or `mlflow.db` where `mlflow ui` finds it."""
    return os.environ.get(VARIABLE, "").strip() or of_file(dvc.root() / "mlflow.db")


def of_file(path: Path) -> str:
    """The address of an SQLite database, as SQLAlchemy reads it."""
    text = str(path)
    if "%" in text or "?" in text:  # MLflow makes a folder of the quoted name
        text = os.path.relpath(path)
    return "sqlite:///" + text.replace("%", "%25").replace("?", "%3F")


def shown() -> str:
    """The address without user, password and query, or the name of its variable."""
    try:
        return _parsed()
    except ValueError:
        return VARIABLE


def has_secret() -> bool:
    """Whether the address holds more than is shown of it."""
    return "***" in shown() or shown() == VARIABLE


def check() -> None:
    """TrackingError for an address with which nobody could connect."""
    try:
        _parsed()
    except ValueError as error:
        raise TrackingError(f"not an address of MLflow ({error})", VARIABLE, USE) from None
    if _is_folder() and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        remedy = f"{USE}; `mlflow migrate-filestore` moves older runs"
        raise TrackingError("MLflow no longer writes to folders", shown(), remedy)
    if is_database() and _url(address()).drivername.startswith("sqlite") and not database_file():
        raise TrackingError("a database without a file is lost at once", shown(), USE)


def is_database() -> bool:
    """Whether SQLAlchemy connects with it."""
    return _scheme(address()) in DATABASES


def database_file() -> Path | None:
    """The file of an SQLite database; None for every other store."""
    url = _url(address()) if _scheme(address()) == "sqlite" else None
    in_memory = url is None or url.database in (None, "", ":memory:")
    return None if url is None or in_memory else dvc.root() / str(url.database)


def _is_folder() -> bool:
    return _scheme(address()) in ("", "file") and address() != "databricks"


def _scheme(text: str) -> str:
    match = re.match(r"([a-z][\w.-]+)(\+\w+)?:", text, re.I)
    return match[1].lower() if match else ""


def _parsed() -> str:
    """What is shown; ValueError says why it is not an address."""
    text = address()
    if is_database():
        return _database(text)
    if _scheme(text) in ("http", "https"):
        return _server(text)
    if _is_folder() or text == "databricks":
        return _folder(text)
    return VARIABLE  # of a plugin of MLflow, which alone can read it


def _url(text: str) -> "URL":
    """As SQLAlchemy reads it; ValueError where it does not."""
    from sqlalchemy.engine import make_url  # here: it takes a quarter of a second
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("SQLAlchemy cannot read it") from None


def _database(text: str) -> str:
    url = _url(text)
    is_file = url.drivername.startswith("sqlite") and not re.search(r"://.*:.*@", text)
    if not is_file and text.count("@") != (url.username is not None):
        raise ValueError("in a user or password write @ as %40")
    user = "***@" if url.username is not None else ""
    where = f"{url.host or ''}{f':{url.port}' if url.port else ''}"
    name = f"/{url.database}" if url.database else ""
    return f"{url.drivername}://{user}{where}{name}{'?***' if url.query or '?' in text else ''}"


def _server(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port  # checked when it is asked for
    except ValueError:
        raise ValueError("in a user or password write / as %2F, ? as %3F, # as %23") from None
    _, at, host = parts.netloc.rpartition("@")
    if not parts.hostname:
        raise ValueError("no host")
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("in a user or password write / as %2F, ? as %3F, # as %23")
    more = "?***" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{'***@' if at else ''}{host}{parts.path}{more}"


def _folder(text: str) -> str:
    if not FOLDER.fullmatch(text):
        raise ValueError("neither an address nor a path")
    return text
