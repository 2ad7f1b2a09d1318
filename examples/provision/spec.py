"""The specification of an environment: its types, and how it is read from YAML.

Whatever is wrong with a file becomes one `SpecificationError` that names the file, the line and the field,
and says what would be right.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args, get_type_hints

import msgspec
import yaml

MAX_FILE = 256 * 1024
"""Bytes of a specification; a larger file is something else."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all parts: a field that isn't known is an error, not ignored."""


class Network(Section, frozen=True):
    """The private network that everything else is in."""

    name: str
    cidr: str


class Subnet(Section, frozen=True):
    """A range of the network's addresses, in one zone."""

    name: str
    cidr: str
    zone: str


class Database(Section, frozen=True):
    """A database, placed in all subnets, and how many copies for reading it has."""

    name: str
    engine: str
    storage_gb: int
    replicas: int = 0


class Record(Section, frozen=True):
    """A DNS name for the database or for its replicas."""

    name: str
    target: Literal["primary", "replicas"]


class Member(Section, frozen=True):
    """A person who gets access."""

    email: str
    role: Literal["admin", "developer", "viewer"]


class Specification(Section, frozen=True):
    """One environment."""

    environment: str
    network: Network
    subnets: tuple[Subnet, ...]
    database: Database
    dns: tuple[Record, ...] = ()
    members: tuple[Member, ...] = ()


class SpecificationError(Exception):
    """A specification that can't be used.

    Args:
        file: the file's name.
        problem: what is wrong, and what would be right.
        field: where, such as "subnets[1].cidr"; empty for the file as a whole.
        line: counted from 1; 0 where there is none.
        source: the text of that line.
    """

    def __init__(self, file: str, problem: str, field: str = "", line: int = 0, source: str = "") -> None:
        place = ", ".join([file, *([f"line {line}"] if line else []), *([field] if field else [])])
        quoted = f"\n{line:>6} | {source.rstrip()}" if source.strip() else ""
        super().__init__(f"{place}: {problem}{quoted}")
        self.file = file
        self.field = field
        self.line = line


def read(path: Path) -> Specification:
    """Read a specification. Raises SpecificationError if the file can't be read or used."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise SpecificationError(str(path), f"can't be read: {error.strerror}") from None
    if len(content) > MAX_FILE:
        raise SpecificationError(str(path), f"is larger than {MAX_FILE // 1024} KiB; is it a specification?")
    try:
        return parse(content.decode(), str(path))
    except UnicodeDecodeError:
        raise SpecificationError(str(path), "isn't text in UTF-8") from None


def parse(text: str, file: str = "specification") -> Specification:
    """Parse a specification from YAML. Raises SpecificationError, which calls the text `file`."""
    lines = text.splitlines()

    def error(problem: str, field: str = "", line: int = 0) -> SpecificationError:
        return SpecificationError(file, problem, field, line, lines[line - 1] if 0 < line <= len(lines) else "")

    try:
        root = yaml.SafeLoader(text).get_single_node()
        if root is None:
            raise error("is empty")
        for key in _repeated_keys(root, set()):
            raise error("stands here for the second time", str(key.value), _line(key))
        values: object = yaml.safe_load(text)
    except yaml.MarkedYAMLError as invalid:
        mark = invalid.problem_mark or invalid.context_mark
        raise error(f"isn't YAML: {invalid.problem or invalid.context}", line=mark.line + 1 if mark else 0) from None
    except yaml.YAMLError as invalid:
        raise error(f"isn't YAML: {' '.join(str(invalid).split())}") from None
    except RecursionError:
        raise error("is nested too deeply") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as invalid:
        # What PyYAML raises where a value doesn't fit its tag, such as a date in a 13th month.
        raise error(f"isn't YAML: a value can't be read: {invalid}") from None
    try:
        specification = msgspec.convert(values, Specification)
    except msgspec.ValidationError as invalid:
        field, problem = _explain(str(invalid))
        raise error(problem, field, _line_of(root, field)) from None
    for field, problem in _mistakes(specification):
        raise error(problem, field, _line_of(root, field))
    return specification


# --- Where it stands ------------------------------------------------------------------------------------
def _repeated_keys(node: yaml.Node, seen: set[int]) -> Iterator[yaml.Node]:
    """Keys that a mapping has twice: YAML would quietly take the last."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if str(key.value) in keys:
                yield key
            keys.add(str(key.value))
            yield from _repeated_keys(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item, seen)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _line_of(root: yaml.Node, field: str) -> int:
    """The line of a field such as "subnets[1].cidr", or of the nearest part of it that exists; 0: none."""
    node, line = root, 0
    for step in re.findall(r"[^.\[\]]+", field):
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == step]
        elif isinstance(node, yaml.SequenceNode):
            found = [(item, item) for item in node.value[int(step) : int(step) + 1]]
        else:
            found = []
        if not found:
            break
        key, node = found[0]
        line = _line(key)
    return line


# --- What is wrong --------------------------------------------------------------------------------------
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number with a fraction",
    "bool": "true or false",
    "null": "nothing",
    "array": "a list",
    "object": "fields (name: value)",
    "date": "a date (put it in quotes)",
    "datetime": "a time (put it in quotes)",
}
_SECTIONS: dict[str, type[Section]] = {
    "": Specification,
    "network": Network,
    "subnets": Subnet,
    "database": Database,
    "dns": Record,
    "members": Member,
}


def _explain(message: str) -> tuple[str, str]:
    """A field and a problem in words, from one of msgspec's messages: "Expected `int`, got `str` - at `$.a`"."""
    problem, _, place = message.partition(" - at ")
    field = place.strip("`").removeprefix("$").removeprefix(".")
    section: str = re.split(r"[.\[]", field)[0]
    quoted: list[str] = re.findall(r"`([^`]*)`", problem)
    if place.startswith("`key` in"):
        return "", "the names of fields must be text"
    if problem.startswith("Expected"):
        expected, got = (" or ".join(_WORDS.get(word, word) for word in words.split(" | ")) for words in quoted)
        return field, f"expected {expected}, got {got}"
    if "unknown field" in problem:
        names = list(_SECTIONS[section].__struct_fields__)
        likely = difflib.get_close_matches(quoted[0], names, n=1)
        hint = f"did you mean {likely[0]!r}?" if likely else f"it may have: {', '.join(names)}"
        return f"{field}.{quoted[0]}".lstrip("."), f"there is no such field; {hint}"
    if "missing required field" in problem:
        return field, f"the field {quoted[0]!r} is missing"
    if "Invalid enum value" in problem:
        choices = get_args(get_type_hints(_SECTIONS[section])[field.split(".")[-1]])
        return field, f"must be one of: {', '.join(choices)}"
    return field, problem


def _mistakes(spec: Specification) -> Iterator[tuple[str, str]]:
    """Fields that have the right type, and what is wrong with them nevertheless."""
    names = [("environment", spec.environment), ("network.name", spec.network.name)]
    names += [("database.name", spec.database.name), ("database.engine", spec.database.engine)]
    names += [(f"subnets[{i}].name", subnet.name) for i, subnet in enumerate(spec.subnets)]
    for field, name in names:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", name):
            yield field, f"{name!r} is no name: small letters, digits and '-', at most 63, a letter first"
    for i, record in enumerate(spec.dns):
        if not re.fullmatch(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}", record.name):
            yield f"dns[{i}].name", f"{record.name!r} is no host name, such as db.example.com"
        if record.target == "replicas" and spec.database.replicas == 0:
            yield f"dns[{i}].target", "the database has no replicas"
    for i, member in enumerate(spec.members):
        if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", member.email):
            yield f"members[{i}].email", f"{member.email!r} is no e-mail address"
    yield from _repeated("subnets[{}].name", [subnet.name for subnet in spec.subnets])
    yield from _repeated("dns[{}].name", [record.name for record in spec.dns])
    yield from _repeated("members[{}].email", [member.email for member in spec.members])
    if not spec.subnets:
        yield "subnets", "at least one is needed, for the database"
    if not 10 <= spec.database.storage_gb <= 16_384:
        yield "database.storage_gb", f"{spec.database.storage_gb} is not between 10 and 16384"
    if not 0 <= spec.database.replicas <= 5:
        yield "database.replicas", f"{spec.database.replicas} is not between 0 and 5"
    yield from _address_mistakes(spec)


def _repeated(field: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, name in enumerate(names):
        if name in names[:i]:
            yield field.format(i), f"{name!r} was used before"


def _address_mistakes(spec: Specification) -> Iterator[tuple[str, str]]:
    fields = [("network.cidr", spec.network.cidr)]
    fields += [(f"subnets[{i}].cidr", subnet.cidr) for i, subnet in enumerate(spec.subnets)]
    ranges: list[ipaddress.IPv4Network] = []
    for field, cidr in fields:
        try:
            addresses = ipaddress.IPv4Network(cidr)
        except ValueError as error:
            yield field, f"is no range of addresses: {error}"
            return
        if ranges and not addresses.subnet_of(ranges[0]):
            yield field, f"{cidr} is not inside the network's {spec.network.cidr}"
        if other := next((other for other in ranges[1:] if other.overlaps(addresses)), None):
            yield field, f"{cidr} overlaps with {other}"
        ranges.append(addresses)
