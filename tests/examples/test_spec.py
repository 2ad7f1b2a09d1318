"""Reading the example's specification: what is right, and how it is told what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.provision.spec import (
    MAX_FILE,
    Database,
    Member,
    Network,
    Record,
    Specification,
    SpecificationError,
    Subnet,
    parse,
    read,
)

FILE = Path(__file__).resolve().parents[2] / "examples" / "provision" / "spec.yaml"
TEXT = """\
environment: staging
network:
  name: payments
  cidr: 10.20.0.0/16
subnets:
  - name: app
    cidr: 10.20.1.0/24
    zone: a
  - {name: data, cidr: 10.20.2.0/24, zone: b}
database:
  name: ledger
  engine: postgres-16
  storage_gb: 50
  replicas: 1
dns:
  - {name: ledger.internal, target: primary}
  - {name: reports.internal, target: replicas}
members:
  - {email: ann@example.com, role: admin}
"""


def problem(text: str) -> SpecificationError:
    """What is wrong with a text."""
    with pytest.raises(SpecificationError) as caught:
        parse(text, "mine.yaml")
    assert caught.value.file == "mine.yaml"
    assert str(caught.value).startswith("mine.yaml")
    return caught.value


def test_a_specification_becomes_typed_values() -> None:
    assert parse(TEXT) == Specification(
        environment="staging",
        network=Network("payments", "10.20.0.0/16"),
        subnets=(Subnet("app", "10.20.1.0/24", "a"), Subnet("data", "10.20.2.0/24", "b")),
        database=Database("ledger", "postgres-16", 50, replicas=1),
        dns=(Record("ledger.internal", "primary"), Record("reports.internal", "replicas")),
        members=(Member("ann@example.com", "admin"),),
    )


def test_the_specification_of_the_demo_is_right() -> None:
    spec = read(FILE)

    assert spec.database.replicas > 0, "the demo is to run into the quota"
    assert len(spec.subnets) + len(spec.members) > 8, "the demo is to be throttled"


@pytest.mark.parametrize(
    ("right", "wrong", "line", "field", "told"),
    [
        ("  cidr: 10.20.0.0/16", "  cird: 10.20.0.0/16", 4, "network.cird", "did you mean 'cidr'?"),
        ("  engine: postgres-16", "  colour: red", 12, "database.colour", "it may have: name, engine, storage_gb"),
        ("    zone: a\n", "", 6, "subnets[0]", "the field 'zone' is missing"),
        ("environment: staging\n", "", 0, "", "the field 'environment' is missing"),
        ("storage_gb: 50", "storage_gb: lots", 13, "database.storage_gb", "expected a whole number, got text"),
        ("storage_gb: 50", "storage_gb: 1.5", 13, "database.storage_gb", "expected a whole number, got a number with"),
        ("storage_gb: 50", "storage_gb: 5", 13, "database.storage_gb", "5 is not between 10 and 16384"),
        ("replicas: 1", "replicas: 9", 14, "database.replicas", "9 is not between 0 and 5"),
        ("replicas: 1", "replicas: 0", 17, "dns[1].target", "the database has no replicas"),
        ("engine: postgres-16", "engine: 2024-01-01", 12, "database.engine", "got a date (put it in quotes)"),
        ("engine: postgres-16", "engine:", 12, "database.engine", "expected text, got nothing"),
        ("target: primary", "target: main", 16, "dns[0].target", "must be one of: primary, replicas"),
        ("role: admin", "role: boss", 19, "members[0].role", "must be one of: admin, developer, viewer"),
        ("ann@example.com", "ann", 19, "members[0].email", "'ann' is no e-mail address"),
        ("ledger.internal", "ledger", 16, "dns[0].name", "'ledger' is no host name"),
        ("name: payments", "name: Pay ments", 3, "network.name", "'Pay ments' is no name"),
        ("name: data", "name: app", 9, "subnets[1].name", "'app' was used before"),
        ("10.20.2.0/24", "10.99.2.0/24", 9, "subnets[1].cidr", "is not inside the network's 10.20.0.0/16"),
        ("10.20.2.0/24", "10.20.1.128/25", 9, "subnets[1].cidr", "overlaps with 10.20.1.0/24"),
        ("10.20.2.0/24", "10.20.2.7/24", 9, "subnets[1].cidr", "has host bits set"),
        ("10.20.0.0/16", "10.20.0", 4, "network.cidr", "is no range of addresses"),
        ("network:\n", "network: x\nx:\n", 2, "network", "expected fields (name: value), got text"),
        ("dns:", "database:", 15, "database", "stands here for the second time"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(right: str, wrong: str, line: int, field: str, told: str) -> None:
    assert TEXT.count(right) >= 1
    text = TEXT.replace(right, wrong, 1)
    error = problem(text)

    assert (error.line, error.field) == (line, field)
    assert told in str(error)
    if line:
        assert text.splitlines()[line - 1].rstrip() in str(error), "the line is shown"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "expected fields (name: value), got a list"),
        ("just text", "expected fields (name: value), got text"),
        ("null", "expected fields (name: value), got nothing"),
        ("[" * 20_000, "is nested too deeply"),
        ("a: \0", "isn't YAML"),
        ("a: &a [*a]", "there is no such field"),
        ("a: !!python/object:os.system x", "isn't YAML"),
        ("a: 2024-13-01", "isn't YAML"),
        ("a: !!bool x", "isn't YAML"),
        ("a: !!int ''", "isn't YAML"),
        ("a: " + "9" * 5_000, "isn't YAML"),
        ("1: 2", "names of fields must be text"),
        ("environment: a\n---\nenvironment: b\n", "isn't YAML"),
    ],
)
def test_what_is_no_specification_is_told_apart(text: str, told: str) -> None:
    assert told in str(problem(text))


def test_malformed_yaml_is_told_with_its_line() -> None:
    error = problem(TEXT.replace("subnets:", "subnets: [", 1))

    assert error.line == 6
    assert "isn't YAML" in str(error)
    assert "- name: app" in str(error)


def test_aliases_that_multiply_are_harmless() -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]

    assert "no such field" in str(problem("\n".join(["a0: &a0 [x]", *levels])))


@pytest.mark.parametrize(
    ("content", "told"), [(b"environment: \xff\n", "isn't text in UTF-8"), (b" " * (MAX_FILE + 1), "is larger than")]
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)

    with pytest.raises(SpecificationError, match=told):
        read(path)


@pytest.mark.parametrize(("name", "told"), [("missing.yaml", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(SpecificationError, match=told) as caught:
        read(tmp_path / name)
    assert str(tmp_path) in str(caught.value)


@given(st.data())
def test_a_damaged_text_is_read_or_refused_but_never_crashes(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(TEXT)))
    length = data.draw(st.integers(0, 8))
    damage = data.draw(st.text(alphabet=" \n\t-:[]{}&*!?|>'\"%@`#,aé0.\0", max_size=6))
    try:
        assert parse(TEXT[:position] + damage + TEXT[position + length :]).database.name
    except SpecificationError as error:
        assert str(error).startswith("specification")
