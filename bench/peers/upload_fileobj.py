"""boto3's `upload_fileobj` from an HTTP response: FROM TO CA BYTES OBJECTS AT_ONCE."""
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
import urllib3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

source, store, ca, size, objects, at_once = sys.argv[1:]
pool = urllib3.PoolManager(maxsize=int(at_once), ca_certs=ca)
# Parts of 8 MiB, four in flight: as the product has them.
transfer = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20, max_concurrency=4)
client = boto3.client(
    "s3", endpoint_url=store, verify=ca,
    config=Config(s3={"addressing_style": "path", "payload_signing_enabled": False}, max_pool_connections=64))


def move(n):
    body = pool.request("GET", f"{source}/plain/{size}", preload_content=False)
    client.upload_fileobj(body, "bench", f"boto3-{n}", Config=transfer)
    body.release_conn()


with ThreadPoolExecutor(int(at_once)) as workers:
    list(workers.map(move, range(int(objects))))
