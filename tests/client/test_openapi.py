"""What the ledger says of its own API is kept, whole and well-formed."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ledger_service import serving
from openapi import KEPT, said, spelled

from shared_models import ledger_http
from shared_models.records.refusals import Refusal

NOBODY = ("not_signed_in", "bad_signature", "unknown_key", "stale", "revoked")  # Of who may not read.
METHODS = {"get", "head", "put", "post"}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("ledger")) as served:
        yield served


@pytest.fixture(scope="module")
def document(ledger):
    return said(ledger)


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): each for path, found in document["paths"].items() for method, each in found.items()}


def parts(found: Any) -> Iterator[dict[str, Any]]:
    """Every object in it."""
    if isinstance(found, dict):
        yield found
    for each in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from parts(each)


def test_the_api_is_what_is_kept_in_the_documentation(document):
    assert spelled(document) == KEPT.read_text(), "the API has changed: look how, and run python tests/openapi.py"


def shape(path: str) -> str:
    """An address with holes where names and hashes stand."""
    return re.sub(r"{\w+}|ORG/ROLE|NAME|NUMBER|MEMBER|SHA256|HASH|\.\.\.", "{}", path.partition("?")[0])


def test_every_address_that_a_client_knows_is_in_it_and_no_other(document):
    """Of the two lists one is for people, in shared_models/ledger_http.py."""
    lines = re.findall(r"^    (GET|POST|PUT|HEAD) +((?:/\S+, )*/\S+)", ledger_http.__doc__, re.M)
    listed = {(method.lower(), shape(path)) for method, paths in lines for path in paths.split(", ")}
    assert listed == {(method, shape(path)) for method, path in operations(document)}


def test_each_operation_says_what_it_answers_and_by_which_names_it_refuses(document):
    names = [each["operationId"] for each in operations(document).values()]
    assert len(set(names)) == len(names)
    for (method, path), each in operations(document).items():
        assert method in METHODS
        good = [status for status in each["responses"] if status < "400"]
        bad = [status for status in each["responses"] if status >= "400"]
        assert good, path
        assert bad, path
        assert ("requestBody" in each) == (method in ("put", "post")), path
        if any(one["in"] == "query" for one in each.get("parameters", [])):
            assert "bad_field" in str(each["responses"]["422"]), path
        assert ("401" in each["responses"]) == ({} in each["security"]), path


def test_a_problem_has_a_code_its_cause_and_what_to_do(document):
    problem = document["components"]["schemas"]["Problem"]
    assert {"code", "detail", "fix"} <= set(problem["required"])
    codes = set(problem["properties"]["code"]["enum"])
    assert codes < {refusal.value for refusal in Refusal}  # Those of other programs are none of the API's.
    answers = [document["paths"], document["components"]["responses"]]
    given = [part["code"]["enum"] for part in parts(answers) if "code" in part]
    assert codes == {"wrong_address", "wrong_method", *(code for each in given for code in each)}
    assert set(NOBODY) <= codes


def test_every_schema_is_one_and_every_reference_leads_somewhere(document):
    for part in parts(document):
        if isinstance(schema := part.get("schema"), dict):
            Draft202012Validator.check_schema(schema)
        if isinstance(link := part.get("$ref"), str):
            found = document
            for name in link.removeprefix("#/").split("/"):
                found = found[name]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allow"),
    [
        ("GET", "/nothing", 404, "wrong_address", None),
        ("GET", "/v1/nothing", 404, "wrong_address", None),
        ("POST", "/v1/nothing", 404, "wrong_address", None),
        ("DELETE", "/v1/runs", 405, "wrong_method", "GET"),
        ("DELETE", "/v1/invites", 405, "wrong_method", "GET, POST"),
        ("POST", "/overview", 405, "wrong_method", "GET"),
        ("GET", "/v1/entries", 405, "wrong_method", "POST"),
        ("PUT", "/v1/batch", 405, "wrong_method", "POST"),
        ("PATCH", "/events", 405, "wrong_method", "GET"),
        ("GET", "/docs", 404, "wrong_address", None),  # FastAPI's page would run a script from elsewhere.
        ("GET", "/redoc", 404, "wrong_address", None),
    ],
)
def test_an_address_that_there_is_not_is_refused_by_a_problem_too(ledger, method, path, status, code, allow):
    request = urllib.request.Request(ledger.url + path, method=method)  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)  # noqa: S310
    with caught.value as error:
        told = json.load(error)
    assert (error.code, error.headers["Content-Type"], error.headers["Allow"]) == (
        status,
        "application/problem+json",
        allow,
    )
    assert (told["code"], told["status"], told["instance"]) == (code, status, path)


def test_to_a_browser_it_is_a_page(ledger):
    request = urllib.request.Request(f"{ledger.url}/nothing", headers={"Accept": "text/html"})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)  # noqa: S310
    with caught.value as error:
        assert (error.code, error.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
        assert "default-src 'none'" in error.headers["Content-Security-Policy"]
        assert b"wrong_address" in error.read()
