"""Signature Version 4, held to the example of the S3 API reference, and where an object is."""

from datetime import UTC, datetime

import httpx
import pytest

from babelrack.checkpoints import CheckpointError, FetchSettings, parse_model_url
from babelrack.checkpoints.s3 import Signer, object_url
from babelrack.checkpoints.source import refuse_unauthenticated

# "Example: GET Object" of "Authenticating Requests: Using the Authorization Header", with the keys that it publishes.
EXAMPLE = Signer(
    access_key="AKIAIOSFODNN7EXAMPLE",
    secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    region="us-east-1",
    now=lambda: datetime(2013, 5, 24, tzinfo=UTC),
)


def test_the_reference_example_is_signed_as_the_reference_says():
    headers = EXAMPLE.sign(httpx.URL("https://examplebucket.s3.amazonaws.com/test.txt"), {"Range": "bytes=0-9"})
    assert headers["x-amz-date"] == "20130524T000000Z"
    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_a_key_of_odd_characters_is_signed_as_botocore_signs_it():
    (ref,) = parse_model_url("s3://m.b/x/y=z&q@:;!$'*.tar")
    url = object_url(ref, FetchSettings(s3_endpoint="http://minio.local:9000"))
    signer = Signer("AK", "SK/+x", "eu-west-3", "tok/en==", lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    signed = signer.sign(httpx.URL(url), {"Range": "bytes=5-"})["Authorization"]
    assert signed.endswith("Signature=aa721b3bc15660ff42fce8d6eb482bb8deb3cbb714f198f6299d18ce7d2b493d")


def test_a_session_token_is_sent_and_signed():
    headers = Signer("A", "S", "eu-west-1", "T").sign(httpx.URL("https://host/b/k"), {})
    assert headers["x-amz-security-token"] == "T"
    assert "x-amz-security-token" in headers["Authorization"]


@pytest.mark.parametrize(
    ("url", "endpoint", "expected"),
    [
        ("s3://models/a/b.tar.zst", None, "https://models.s3.eu-west-1.amazonaws.com/a/b.tar.zst"),
        ("s3://dotted.bucket/k", None, "https://s3.eu-west-1.amazonaws.com/dotted.bucket/k"),
        ("s3://models/k", "http://minio:9000/", "http://minio:9000/models/k"),
        ("s3://models/a%20b%2Cc+d(1).tar", "http://minio:9000", "http://minio:9000/models/a%20b%2Cc%2Bd%281%29.tar"),
    ],
)
def test_an_object_is_where_s3_or_the_sites_own_endpoint_has_it(url, endpoint, expected):
    (ref,) = parse_model_url(url)
    found = object_url(ref, FetchSettings(s3_endpoint=endpoint, s3_region="eu-west-1"))
    assert found == expected
    assert str(httpx.URL(found)) == expected  # what is sent is what is signed


@pytest.mark.parametrize("url", ["https://mirror/x.tar", "s3://models/x.tar", "hf:a/b", "http://127.0.0.1:8000/x.tar"])
def test_https_and_this_host_need_none(url):
    settings = FetchSettings(s3_endpoint="https://minio", hub_endpoint="https://hub.site")
    refuse_unauthenticated(parse_model_url(url)[0], settings)


@pytest.mark.parametrize("url", ["http://mirror/x.tar.zst", "s3://models/x.tar", "hf:a/b"])
def test_plain_http_needs_a_checksum(url):
    settings = FetchSettings(s3_endpoint="http://minio:9000", hub_endpoint="http://hub.site")
    (bare,) = parse_model_url(url)
    with pytest.raises(CheckpointError, match="add sha256="):
        refuse_unauthenticated(bare, settings)
    (pinned,) = parse_model_url(f"{url}#sha256={'0' * 64}")
    refuse_unauthenticated(pinned, settings)
