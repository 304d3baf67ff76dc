import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from minio.error import S3Error

from kinora_kit import s3
from kinora_kit.outages import OUTAGES
from kinora_kit.s3 import ObjectStore
from kinora_kit.testing import eventually, proxy

BUCKET = "kit-test"


@pytest.fixture
async def prefix(objects: ObjectStore, unique: str) -> AsyncIterator[str]:
    yield f"{unique}/"
    await objects.abort_uploads(BUCKET, unique)
    await objects.remove_prefix(BUCKET, unique)


async def put(objects: ObjectStore, key: str, data: bytes = b"data") -> None:
    await objects.put(BUCKET, key, data, content_type="text/plain")


async def test_put_object_can_be_read_with_its_headers(objects: ObjectStore, prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"from a file")
    await put(objects, f"{prefix}a")
    await objects.put_file(BUCKET, f"{prefix}b", file, content_type="video/mp4")
    assert await objects.get(BUCKET, f"{prefix}a") == b"data"
    assert await objects.get(BUCKET, f"{prefix}b") == b"from a file"
    assert await objects.size(BUCKET, f"{prefix}b") == 11
    assert await objects.keys(BUCKET, prefix) == [f"{prefix}a", f"{prefix}b"]
    async with httpx.AsyncClient() as client:
        answer = await client.get(objects.presigned_get(BUCKET, f"{prefix}b", lifetime_seconds=60))
    assert answer.headers["content-type"] == "video/mp4"


async def test_missing_object_raises_no_such_key(objects: ObjectStore, prefix: str) -> None:
    for call in (objects.get, objects.size):
        with pytest.raises(S3Error) as caught:
            await call(BUCKET, f"{prefix}absent")
        assert caught.value.code == "NoSuchKey"
    await objects.remove(BUCKET, [f"{prefix}absent"])
    assert await objects.remove_prefix(BUCKET, prefix) == 0


async def test_remove_prefix_deletes_more_than_one_batch_and_nothing_else(
    objects: ObjectStore, prefix: str, unique: str
) -> None:
    def fill() -> None:  # in one thread: faster than one event loop iteration per object
        for n in range(1050):
            objects._client.put_object(BUCKET, f"{prefix}{n:04}", io.BytesIO(), 0)

    await objects._run("put", fill)
    await put(objects, f"{unique}-beside")
    assert len(await objects.keys(BUCKET, prefix)) == 1050
    assert await objects.remove_prefix(BUCKET, prefix) == 1050
    assert await objects.keys(BUCKET, unique) == [f"{unique}-beside"]


def begin(objects: ObjectStore, key: str) -> str:
    """Start a multipart upload and upload one part."""
    upload_id: str = objects._client._create_multipart_upload(BUCKET, key, {})
    objects._client._upload_part(BUCKET, key, b"x" * 1000, {}, upload_id, 1)
    return upload_id


async def test_abort_by_key_removes_parts_of_all_its_uploads(objects: ObjectStore, prefix: str, unique: str) -> None:
    key = f"{prefix}video"
    uploads = [begin(objects, key), begin(objects, key)]
    beside = begin(objects, f"{unique}-beside")
    assert await objects.abort_uploads(BUCKET, key) == 2
    for upload_id in uploads:
        with pytest.raises(S3Error) as caught:
            objects._client._list_parts(BUCKET, key, upload_id)
        assert caught.value.code == "NoSuchUpload"
    assert len(objects._client._list_parts(BUCKET, f"{unique}-beside", beside).parts) == 1
    assert await objects.abort_uploads(BUCKET, key) == 0


async def test_abort_by_prefix_removes_parts_of_all_keys_below(objects: ObjectStore, prefix: str) -> None:
    uploads = {key: begin(objects, key) for key in (f"{prefix}a", f"{prefix}b/c")}
    await put(objects, f"{prefix}a")
    assert await objects.abort_uploads(BUCKET, prefix) == 2
    for key, upload_id in uploads.items():
        with pytest.raises(S3Error) as caught:
            objects._client._list_parts(BUCKET, key, upload_id)
        assert caught.value.code == "NoSuchUpload"
    assert await objects.get(BUCKET, f"{prefix}a") == b"data"


async def test_presigned_url_reads_one_object_until_it_expires(objects: ObjectStore, prefix: str) -> None:
    await put(objects, f"{prefix}a")
    await put(objects, f"{prefix}b")
    url = objects.presigned_get(BUCKET, f"{prefix}a", lifetime_seconds=2)  # in whole seconds: 1 could expire at once
    async with httpx.AsyncClient() as client:
        assert (await client.get(url)).text == "data"
        assert (await client.get(url.replace(f"{prefix}a", f"{prefix}b"))).status_code == 403

        async def refused() -> bool:
            return (await client.get(url)).status_code == 403

        await eventually(refused, seconds=5)


async def test_signed_headers_authorise_only_one_request(objects: ObjectStore, prefix: str) -> None:
    await put(objects, f"{prefix}a b.m4s", b"0123456789")
    await put(objects, f"{prefix}other")
    path = f"/{BUCKET}/{prefix}a%20b.m4s"
    query = "response-content-type=video%2Fmp4&response-cache-control=no-store"
    async with httpx.AsyncClient(base_url=objects.url) as client:
        for target in (path, f"{path}?{query}", f"{path}?token=abc.def-1_2~3&expires=17"):
            for method in ("GET", "HEAD"):
                signed = objects.signed_headers(method, target)
                answer = await client.request(method, target, headers={**signed, "Range": "bytes=2-4"})
                assert (answer.status_code, answer.headers["content-length"]) == (206, "3"), target
                assert answer.content == (b"234" if method == "GET" else b"")
        signed = objects.signed_headers("GET", path)
        for method, target in (
            ("GET", f"/{BUCKET}/{prefix}other"),
            ("GET", f"{path}?{query}"),
            ("GET", f"/{BUCKET}/?prefix={prefix}"),
            ("DELETE", path),
        ):
            assert (await client.request(method, target, headers=signed)).status_code == 403, (method, target)
        assert (await client.get(path)).status_code == 403


async def test_check_distinguishes_missing_bucket_from_outage(kit: dict[str, str], objects: ObjectStore) -> None:
    await objects.check(BUCKET)
    keys = kit["S3_ACCESS_KEY"], kit["S3_SECRET_KEY"]
    async with proxy(kit["S3_URL"]) as link:
        await link.cut()
        async with s3.connect(link.url, access_key=keys[0], secret_key=keys[1]) as away:
            with pytest.raises(OUTAGES):
                await away.check(BUCKET)
            await link.restore()
            await away.check(BUCKET)
