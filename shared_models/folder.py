"""What every party's folder on its machine has: settings in TOML, and the charter it signed."""

import json
import tomllib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from shared_models.records import entry as entries
from shared_models.records.entry import Entry
from shared_models.records.kinds import Charter
from shared_models.records.refusals import Refusal, Refused

S = TypeVar("S")


@dataclass(frozen=True)
class Folder:
    """A folder with a charter in it: what its owner trusts, and all of it."""

    path: Path  # Absolute, whatever it was given as: the programs that are started for it run elsewhere.

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path.resolve())

    @cached_property
    def charter_entry(self) -> Entry:
        """The charter that was signed here. Raises `Refused`."""
        try:
            return entries.open_charter((self.path / "charter.note").read_bytes())
        except FileNotFoundError:
            raise Refused(Refusal.NOT_SET_UP, f"there is no charter at {self.path / 'charter.note'}") from None

    @property
    def charter(self) -> Charter:
        record = self.charter_entry.record
        assert isinstance(record, Charter)
        return record


def read_settings(path: Path, cls: type[S]) -> S:
    """The settings in this file. Raises `Refused`: NOT_SET_UP, BAD_FIELD if a name or a type is not the dataclass's."""
    try:
        found = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise Refused(Refusal.NOT_SET_UP, f"there is no {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise Refused(Refusal.BAD_FIELD, f"{path}: {error}") from None
    known = {field.name: field.type for field in fields(cls)}  # type: ignore[arg-type]
    for name, value in found.items():
        if known.get(name) is not type(value):
            raise Refused(Refusal.BAD_FIELD, f"{path}: {name} = {value!r} is not a setting, or not of its type")
    try:
        return cls(**found)
    except TypeError as error:
        raise Refused(Refusal.BAD_FIELD, f"{path}: {error}") from None


def write_settings(path: Path, settings: Any) -> None:
    """Write settings so that `read_settings` reads them."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
