"""Parsing of tus requests: names, methods, metadata, lengths and concatenation."""

import base64
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinora_kit.errors import DomainError, InvalidInput
from kinora_video.errors import MetadataTooLarge, MethodNotAllowed, SizeUnknown, VideoNotFound
from kinora_video.tus import Name, parse_concat, parse_metadata, parse_name, read_creation, read_request

ID = "01a20aee-9907-7735-a28c-5ab9bb4a7c27"
NAME = f"{ID}+NzQ3.x_y~z-1"


def test_parse_name_returns_both_ids() -> None:
    assert parse_name(NAME) == Name(UUID(ID), "NzQ3.x_y~z-1")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ID,
        f"{ID}+",
        f"+{ID}",
        f"{ID}+x/video/upload/{ID}",
        f"{ID}+x+y",
        f"{ID}%2Bx",
        f"{ID}+x/",
        f"/{ID}+x",
        f"{ID}+x\n",
        f"{ID}+x;y",
        f"{ID}+x?",
        f"{ID.upper()}+x",
        f"{ID.replace('-', '')}+x",
        f"{{{ID}}}+x",
        f"urn:uuid:{ID}+x",
        f"{ID}+{'x' * 513}",
        f"{ID}+é",
    ],
)
def test_parse_name_rejects_anything_else(name: str) -> None:
    with pytest.raises(VideoNotFound):
        parse_name(name)


@given(st.text(alphabet=f"{ID}+/;%.ABCDEFx", max_size=60))
def test_read_request_rejects_text_around_a_name(extra: str) -> None:
    for path in (f"/video/upload/{NAME}{extra}", f"/video/upload/{extra}{NAME}", f"/{extra}/video/upload/{NAME}"):
        try:
            _, name = read_request(path, "HEAD", [])
        except VideoNotFound:
            continue
        assert str(name) == path.removeprefix("/video/upload/")
        assert path.count("/") == 3
        assert path.count("+") == 1


@pytest.mark.parametrize(
    ("method", "overrides", "path", "does"),
    [
        ("POST", [], "/video/upload", "POST"),
        ("POST", [], "/video/upload/?x=/video/upload/y", "POST"),
        ("POST", [""], "/video/upload", "POST"),
        ("HEAD", [], f"/video/upload/{NAME}", "HEAD"),
        ("HEAD", ["DELETE"], f"/video/upload/{NAME}", "HEAD"),
        ("POST", ["PATCH"], f"/video/upload/{NAME}", "PATCH"),
        ("POST", ["DELETE"], f"/video/upload/{NAME}", "DELETE"),
        ("POST", ["DELETE"], "/video/upload", None),
        ("POST", ["delete"], f"/video/upload/{NAME}", None),
        ("POST", ["HEAD"], f"/video/upload/{NAME}", None),
        ("POST", ["PATCH", "DELETE"], f"/video/upload/{NAME}", None),
        ("POST", [], f"/video/upload/{NAME}", None),
        ("GET", [], f"/video/upload/{NAME}", None),
        ("DELETE", [], "/video/upload/", None),
    ],
)
def test_read_request_returns_the_method_that_tusd_obeys(
    method: str, overrides: list[str], path: str, does: str | None
) -> None:
    if does is None:
        with pytest.raises(MethodNotAllowed):
            read_request(path, method, overrides)
    else:
        assert read_request(path, method, overrides)[0] == does


def encoded(pairs: dict[str, str]) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())


@pytest.mark.parametrize(
    ("headers", "pairs"),
    [
        ([], {}),
        ([""], {}),
        (["is_private"], {"is_private": ""}),
        (["filename YS5tcDQ=, title 8J+OrA==,"], {"filename": "a.mp4", "title": "\N{CLAPPER BOARD}"}),
    ],
)
def test_metadata_is_parsed_as_in_the_protocol(headers: list[str], pairs: dict[str, str]) -> None:
    assert parse_metadata(headers) == pairs


@pytest.mark.parametrize(
    "headers",
    [
        ["a YQ==", "b Yg=="],
        ["filename YS5tcDQ=,filename Yi5tcDQ="],
        ["filename YS5tcDQ=,Filename Yi5tcDQ="],
        ["filename YS5tcDQ"],
        ["filename a.mp4"],
        ["filename YQ== YQ=="],
        ["filename /w=="],
        ["filename 7aCA"],  # a lone surrogate
        ["filename YQBi"],  # NUL
        ["filename YQli"],  # a tab
        ["file:name YQ=="],
        ["\u00e9 YQ=="],
        [f"{'k' * 65} YQ=="],
    ],
)
def test_metadata_that_tusd_or_the_store_would_reject_is_rejected(headers: list[str]) -> None:
    with pytest.raises(InvalidInput):
        parse_metadata(headers)


def test_metadata_is_limited_to_what_the_object_store_accepts() -> None:
    most = 2048 - len("x-amz-meta-title")
    assert parse_metadata([encoded({"title": "x" * most})]) == {"title": "x" * most}
    with pytest.raises(MetadataTooLarge):
        parse_metadata([encoded({"title": "x" * (most + 1)})])


@given(st.text(alphabet=st.characters(codec="latin-1"), max_size=40))
def test_any_metadata_is_parsed_or_rejected(header: str) -> None:
    try:
        pairs = parse_metadata([header])
    except DomainError:
        return
    assert parse_metadata([encoded(pairs)]) == pairs


OTHER = "01a20aee-9907-7735-a28c-5ab9bb4a7c28+y"
LENGTH = {"Upload-Length": ["10"]}


def test_concat_returns_the_partial_uploads_in_order() -> None:
    assert parse_concat([]) == parse_concat([""]) == (False, ())
    assert parse_concat(["partial"]) == (True, ())
    addresses = f"/video/upload/{OTHER} http://localhost:8080/video/upload/{NAME}"
    assert parse_concat([f"final;{addresses}"]) == (False, (parse_name(OTHER), parse_name(NAME)))


@pytest.mark.parametrize(
    "header",
    [
        "final",
        "final;",
        "Partial",
        "partial;",
        f"Final;/video/upload/{NAME}",
        f"final; /video/upload/{NAME}",
        f"final;/video/upload/{NAME}  /video/upload/{OTHER}",
        f"final;/video/upload/{NAME}\t/video/upload/{OTHER}",
        f"final;/video/upload/{NAME},/video/upload/{OTHER}",
        f"final;/video/upload/{NAME}/",
        f"final;//video/upload/{NAME}",
        f"final;/video/upload//{NAME}",
        f"final;/video/upload/{NAME}/video/upload/{OTHER}",
        f"final;http://x/video/upload/{OTHER}/video/upload/{NAME}",
        f"final;http://x/y/video/upload/{NAME}",
        f"final;http://x?/video/upload/{OTHER}#/video/upload/{NAME}",
        f"final;//x/video/upload/{NAME}",
        f"final;ftp://x/video/upload/{NAME}",
        f"final;{NAME}",
        f"final;/video/upload/{NAME}?x",
        f"final;/video/upload/{NAME.replace('+', '%2B')}",
        f"final;/video/upload/{ID}",
        f"final;/video/upload/{NAME} /video/upload/{ID}+another",
        f"final;/video/upload/{NAME} /video/upload/{NAME}",
    ],
)
def test_concat_that_tusd_could_parse_differently_is_rejected(header: str) -> None:
    with pytest.raises((InvalidInput, VideoNotFound)):
        parse_concat([header])


def as_tusd_reads(header: str) -> list[str]:
    """parseConcat and extractIDFromURL of tusd 2.9.1."""
    found = []
    for address in filter(None, map(str.strip, header.removeprefix("final;").split(" "))):
        _, base, rest = address.partition("/video/upload/")
        assert base
        found.append(rest.strip("/"))
    return found


@given(st.lists(st.sampled_from([NAME, OTHER, "/video/upload/", " ", "/", "http://x", "+", "final;", "?", "\t", ","])))
def test_concat_is_parsed_as_by_tusd(pieces: list[str]) -> None:
    header = "final;" + "".join(pieces)
    try:
        _, parts = parse_concat([header])
    except DomainError:
        return
    assert [str(part) for part in parts] == as_tusd_reads(header)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, SizeUnknown),
        ({"Upload-Length": ["10", "11"]}, InvalidInput),
        ({"Upload-Length": ["-1"]}, InvalidInput),
        ({"Upload-Length": ["+1"]}, InvalidInput),
        ({"Upload-Length": ["1_0"]}, InvalidInput),
        ({"Upload-Length": ["0x10"]}, InvalidInput),
        ({"Upload-Length": ["\u0661"]}, InvalidInput),
        ({"Upload-Length": ["9" * 19]}, InvalidInput),
        ({"Upload-Defer-Length": ["0"]}, InvalidInput),
        ({"Upload-Defer-Length": ["1", "1"]}, InvalidInput),
        (LENGTH | {"Upload-Defer-Length": ["1"]}, InvalidInput),
        (LENGTH | {"Upload-Concat": ["partial", "partial"]}, InvalidInput),
        (LENGTH | {"Upload-Concat": ["partial", f"final;/video/upload/{NAME}"]}, InvalidInput),
        (LENGTH | {"Upload-Concat": [f"final;/video/upload/{NAME}"]}, InvalidInput),
        ({"Upload-Defer-Length": ["1"], "Upload-Concat": [f"final;/video/upload/{NAME}"]}, InvalidInput),
    ],
)
def test_contradictory_creation_is_rejected(headers: dict[str, list[str]], error: type[DomainError]) -> None:
    with pytest.raises(error):
        read_creation(lambda name: headers.get(name, []))


@pytest.mark.parametrize(
    "headers",
    [
        {"Upload-Length": "10"},
        {"Upload-Length": "0", "Upload-Concat": "partial"},
        {"Upload-Defer-Length": "1", "Upload-Metadata": "filename YS5tcDQ="},
        {"Upload-Concat": f"final;/video/upload/{NAME} /video/upload/{OTHER}"},
    ],
)
def test_creation_headers_for_tusd_parse_to_the_same_creation(headers: dict[str, str]) -> None:
    creation = read_creation(lambda name: [headers[name]] if name in headers else [])
    assert creation.headers == headers
    assert read_creation(lambda name: [creation.headers[name]] if name in creation.headers else []) == creation
