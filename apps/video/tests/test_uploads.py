"""What names an upload, and what a request does to it."""

import base64
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinora_kit.errors import DomainError, InvalidInput
from kinora_video.errors import MetadataTooLarge, MethodNotAllowed, VideoNotFound
from kinora_video.uploads import parse_metadata, read_request, video_of

ID = "01a20aee-9907-7735-a28c-5ab9bb4a7c27"
NAME = f"{ID}+NzQ3.x_y~z-1"


def test_an_upload_is_named_by_the_id_of_its_video_and_of_the_multipart_upload() -> None:
    assert video_of(NAME) == UUID(ID)


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
def test_nothing_else_names_an_upload(name: str) -> None:
    with pytest.raises(VideoNotFound):
        video_of(name)


@given(st.text(alphabet=f"{ID}+/;%.ABCDEFx", max_size=60))
def test_a_path_around_an_upload_is_none(extra: str) -> None:
    for path in (f"/video/upload/{NAME}{extra}", f"/video/upload/{extra}{NAME}", f"/{extra}/video/upload/{NAME}"):
        try:
            _, video_id = read_request(path, "HEAD", [])
        except VideoNotFound:
            continue
        assert video_id == UUID(path.removeprefix("/video/upload/").partition("+")[0])
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
def test_the_method_is_the_one_that_tusd_will_obey(
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
def test_metadata_is_read_as_the_protocol_says(headers: list[str], pairs: dict[str, str]) -> None:
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
def test_metadata_that_others_would_skip_or_refuse_is_refused(headers: list[str]) -> None:
    with pytest.raises(InvalidInput):
        parse_metadata(headers)


def test_metadata_is_as_large_as_the_object_store_takes() -> None:
    most = 2048 - len("x-amz-meta-title")
    assert parse_metadata([encoded({"title": "x" * most})]) == {"title": "x" * most}
    with pytest.raises(MetadataTooLarge):
        parse_metadata([encoded({"title": "x" * (most + 1)})])


@given(st.text(alphabet=st.characters(codec="latin-1"), max_size=40))
def test_any_metadata_is_read_or_refused(header: str) -> None:
    try:
        pairs = parse_metadata([header])
    except DomainError:
        return
    assert parse_metadata([encoded(pairs)]) == pairs
