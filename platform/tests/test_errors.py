from kinora_kit.errors import Conflict, DomainError, InvalidInput, TooManyAtOnce, problem


class NameTaken(Conflict):
    code = "name_taken"
    title = "The name is taken"


def test_values_of_an_error_default_to_those_of_its_class() -> None:
    error = NameTaken()
    assert (error.status, error.code, error.title, error.detail) == (409, "name_taken", *["The name is taken"] * 2)
    assert (error.retry_after_seconds, error.headers) == (None, {})
    assert (TooManyAtOnce().retry_after_seconds, TooManyAtOnce().headers) == (1, {"Retry-After": "1"})


def test_given_values_leave_the_class_unchanged() -> None:
    error = NameTaken("Ada", status=410, code="gone", title="Gone", retry_after_seconds=0, headers={"A": "b"})
    assert (error.status, error.code, error.title, error.detail) == (410, "gone", "Gone", "Ada")
    assert (error.retry_after_seconds, error.headers) == (0, {"Retry-After": "0", "A": "b"})
    assert (NameTaken.status, NameTaken.code, NameTaken.title) == (409, "name_taken", "The name is taken")
    assert (DomainError.status, DomainError.code, DomainError.retry_after_seconds) == (400, "bad_request", None)


def test_problem_document_lists_fields_where_known() -> None:
    assert "errors" not in problem(InvalidInput("Nothing to change"))
    invalid = InvalidInput.of([("name", "Too long"), ("", "Send an object")])
    assert invalid.detail == "name: Too long; Send an object"
    assert problem(invalid)["errors"] == [
        {"field": "name", "message": "Too long"},
        {"field": "", "message": "Send an object"},
    ]
