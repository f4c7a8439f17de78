"""Makes a bucket, reads what is in it, or ends open uploads, with Amazon's client for Python.

usage: s3.py make|read|abort < store > answer

The store is JSON: endpoint, region, bucket, access, secret, ca (a file, or "").
The answer of the others is JSON: objects, a list of key, bytes, sha256 (of the bytes
that were read), content_type and metadata; and unfinished, how many uploads
in parts were open.
"""

import hashlib
import json
import sys

import boto3
from botocore.config import Config


def main(verb):
    store = json.load(sys.stdin)
    client = boto3.client(
        "s3",
        endpoint_url=store["endpoint"],
        region_name=store["region"],
        aws_access_key_id=store["access"],
        aws_secret_access_key=store["secret"],
        verify=store["ca"] or None,
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )
    bucket = store["bucket"]
    if verb == "make":
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": store["region"]})
        return
    objects = []
    for entry in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        got = client.get_object(Bucket=bucket, Key=entry["Key"])
        body = got["Body"].read()
        objects.append(
            {
                "key": entry["Key"],
                "bytes": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
                "content_type": got["ContentType"],
                "metadata": got["Metadata"],
            }
        )
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    for upload in uploads if verb == "abort" else []:
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    json.dump({"objects": objects, "unfinished": len(uploads)}, sys.stdout)


main(sys.argv[1])
