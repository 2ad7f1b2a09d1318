"""Errors of the engine as failures, and back: for code that asked for what is refused, and between nodes."""

from __future__ import annotations

import pytest

from perdure import errors
from perdure.engine.core.refusals import REFUSALS, refusal, refused
from perdure.errors import InvalidRequest, NotRunning, PerdureError, WorkflowAlreadyStarted
from perdure.model.failures import Failure

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, REFUSALS)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_as_its_class_with_its_text(kind: type[PerdureError]) -> None:
    error = kind.__new__(kind, "it can't be")
    back = refused(refusal(error))
    assert type(back) is kind
    assert "it can't be" in back.args


def test_errors_with_more_to_tell_keep_their_text() -> None:
    assert str(refused(refusal(WorkflowAlreadyStarted("taken", "run-1")))) == "taken"
    assert str(refused(refusal(NotRunning("it is over")))) == "it is over"


@pytest.mark.parametrize("types", [(), ("app.errors.NoLuck", "builtins.Exception"), ("builtins.SystemExit",)])
def test_no_other_class_is_made_of_a_failure(types: tuple[str, ...]) -> None:
    assert type(refused(Failure("no", types))) is PerdureError


def test_a_class_that_is_not_known_is_taken_for_its_base() -> None:
    names = "perdure.errors.FromTheFuture", "perdure.errors.InvalidRequest", "perdure.errors.PerdureError"
    assert type(refused(Failure("no", names))) is InvalidRequest
