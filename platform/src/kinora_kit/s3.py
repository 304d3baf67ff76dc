"""Object storage over plain S3. The client blocks, so each call runs in a thread of a bounded pool."""

import asyncio
import contextlib
import datetime as dt
import io
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.signer import sign_v4_s3

from kinora_kit import deadline
from kinora_kit.metrics import S3_CALLS

T = TypeVar("T")

REGION = "us-east-1"
UNSIGNED = "UNSIGNED-PAYLOAD"
DELETE_BATCH = 1000


class ObjectStore:
    """Use ``connect``. Every method may raise S3Error or urllib3.exceptions.HTTPError."""

    def __init__(self, url: str, *, access_key: str, secret_key: str, threads: int = 8) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self._host = parts.netloc
        self._credentials = Credentials(access_key, secret_key)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="s3")
        self._connections = urllib3.PoolManager(
            maxsize=threads,
            block=True,
            timeout=urllib3.Timeout(connect=2, read=30),
            retries=urllib3.Retry(total=2, backoff_factor=0.1, status_forcelist=[502, 503, 504]),
        )
        self._client = Minio(
            parts.netloc,
            access_key=access_key,
            secret_key=secret_key,
            secure=parts.scheme == "https",
            region=REGION,
            http_client=self._connections,
        )

    async def _run(self, operation: str, call: Callable[[], T]) -> T:
        # On cancellation the caller does not wait; the thread continues until the client's own timeouts.
        with S3_CALLS.labels(operation).time():
            async with asyncio.timeout(deadline.remaining()):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._connections.clear()

    async def check(self, bucket: str) -> None:
        if not await self._run("bucket_exists", lambda: self._client.bucket_exists(bucket)):
            raise LookupError(f"no bucket {bucket}")

    async def put_file(self, bucket: str, key: str, path: Path, *, content_type: str) -> None:
        await self._run(
            "put",
            lambda: self._client.fput_object(bucket, key, str(path), content_type=content_type),
        )

    async def put(self, bucket: str, key: str, data: bytes, *, content_type: str) -> None:
        await self._run(
            "put",
            lambda: self._client.put_object(
                bucket,
                key,
                io.BytesIO(data),
                len(data),
                content_type=content_type,
            ),
        )

    async def get(self, bucket: str, key: str) -> bytes:
        """A small object, whole."""

        def read() -> bytes:
            answer = self._client.get_object(bucket, key)
            try:
                return bytes(answer.read())
            finally:
                answer.close()
                answer.release_conn()

        return await self._run("get", read)

    async def size(self, bucket: str, key: str) -> int:
        """In bytes. Raises S3Error with code NoSuchKey if the object does not exist."""
        return (await self._run("stat", lambda: self._client.stat_object(bucket, key))).size or 0

    async def keys(self, bucket: str, prefix: str) -> list[str]:
        def read() -> list[str]:
            found = self._client.list_objects(bucket, prefix=prefix, recursive=True)
            return [str(item.object_name) for item in found]

        return await self._run("list", read)

    async def remove(self, bucket: str, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error. Raises RuntimeError if the store fails to delete any."""

        def delete() -> None:
            errors = self._client.remove_objects(bucket, [DeleteObject(key) for key in keys])
            failed = [error.code for error in errors]
            if failed:
                raise RuntimeError(f"the object store failed to delete {len(failed)} objects: {failed[0]}")

        await self._run("remove", delete)

    async def remove_prefix(self, bucket: str, prefix: str) -> int:
        """Delete all objects below ``prefix``; returns their number."""
        keys = await self.keys(bucket, prefix)
        for start in range(0, len(keys), DELETE_BATCH):
            await self.remove(bucket, keys[start : start + DELETE_BATCH])
        return len(keys)

    async def abort_uploads(self, bucket: str, prefix: str) -> int:
        """Abort the multipart uploads below ``prefix``, to free the space of their parts. Returns their number.

        MinIO always finds uploads by their exact key, but by prefix only those that were started since its own start.
        """
        return await self._run("abort_uploads", lambda: self._abort_uploads(bucket, prefix))

    def _abort_uploads(self, bucket: str, prefix: str) -> int:
        # These methods are private in the client, but the calls are plain S3.
        count = 0
        for asked in (
            prefix,
            "",
        ):  # MinIO treats a prefix as a key, and without one lists the uploads that it has in memory
            while True:
                listed = self._client._list_multipart_uploads(bucket, prefix=asked)
                found = [upload for upload in listed.uploads if upload.object_name.startswith(prefix)]
                for upload in found:
                    self._abort_upload(bucket, upload.object_name, upload.upload_id or "")
                count += len(found)
                if not (listed.is_truncated and found):
                    break
        return count

    def _abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        try:
            self._client._abort_multipart_upload(bucket, key, upload_id)
        except S3Error as error:
            if error.code != "NoSuchUpload":  # it was completed or aborted meanwhile
                raise

    def presigned_get(self, bucket: str, key: str, *, lifetime_seconds: int) -> str:
        """A URL that reads one object without credentials, for that long. Computed locally."""
        return self._client.presigned_get_object(bucket, key, expires=dt.timedelta(seconds=lifetime_seconds))

    def signed_headers(self, method: str, path_and_query: str) -> Mapping[str, str]:
        """The headers that authenticate ``method`` on ``path_and_query`` (AWS Signature Version 4).

        For a proxy that forwards to the store and adds them to the client's request. Valid for 15 minutes.
        """
        path, _, query = path_and_query.partition("?")
        now = dt.datetime.now(dt.UTC)
        headers: dict[str, str] = {
            "Host": self._host,
            "X-Amz-Content-Sha256": UNSIGNED,
            "X-Amz-Date": now.strftime("%Y%m%dT%H%M%SZ"),
        }
        signed = sign_v4_s3(
            method=method,
            url=SplitResult("http", self._host, path, query, ""),
            region=REGION,
            headers=headers,  # type: ignore[arg-type]
            credentials=self._credentials,
            content_sha256=UNSIGNED,
            date=now,
        )
        return {name: str(value) for name, value in signed.items() if name != "Host"}


@contextlib.asynccontextmanager
async def connect(url: str, *, access_key: str, secret_key: str, threads: int = 8) -> AsyncIterator[ObjectStore]:
    store = ObjectStore(url, access_key=access_key, secret_key=secret_key, threads=threads)
    try:
        yield store
    finally:
        store.close()
