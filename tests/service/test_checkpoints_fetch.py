"""Downloads: resumed, verified, landed whole, reused offline; a failure is a sentence and leaves nothing half-done."""

import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from checkpoint_source import Source

from babelrack.checkpoints import (
    CheckpointError,
    FetchSettings,
    FetchStopped,
    SourceUnavailable,
    fetch,
    pack,
    parse_model_url,
    prepare,
)
from babelrack.checkpoints.digests import sha256_file
from checkpoint_samples import edit_json, write_checkpoint

FRAGMENT = "name=a&role=dedicated&languages=hi"


def quick(**changes):
    values = {"tries": 3, "backoff_seconds": 0.01, "connect_seconds": 10, "read_seconds": 20, "s3_endpoint": None}
    return FetchSettings(**(values | changes))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    for name, seed in (("tiny", 0), ("other", 1)):
        write_checkpoint(folder / name, seed=seed)
        pack(folder / name, folder / f"{name}.tar.zst", name=name, role="dedicated", languages=("hi",))
    return folder


@pytest.fixture(scope="module")
def archive(samples):
    return (samples / "tiny.tar.zst").read_bytes()


@pytest.fixture
def source():
    source = Source()
    yield source
    source.close()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def fetched(url, cache, **settings):
    (ref,) = parse_model_url(url)
    return fetch(ref, cache, settings=quick(**settings))


def refusal(url, cache, kind=CheckpointError, **settings):
    with pytest.raises(kind) as caught:
        fetched(url, cache, **settings)
    assert "\n" not in str(caught.value)
    assert not list((cache / "staging").glob("*"))
    assert not list((cache / "checkpoints").glob("*"))
    return str(caught.value)


def digest_of(data):
    import hashlib

    return hashlib.sha256(data).hexdigest()


def same(folder, checkpoint):
    return all((folder / path.name).read_bytes() == path.read_bytes() for path in checkpoint.iterdir())


# An archive over http


def test_an_archive_lands_whole_and_nothing_else_stays(source, archive, samples, cache):
    source.serve("/x.tar.zst", archive)
    folder = fetched(f"{source.url}/x.tar.zst#sha256={digest_of(archive)}", cache)
    assert folder == cache / "checkpoints" / digest_of(archive)
    assert same(folder, samples / "tiny")
    assert not list((cache / "partial").glob("*"))
    assert not list((cache / "staging").glob("*"))


def test_with_a_known_checksum_no_network_is_used_again(source, archive, cache):
    source.serve("/x.tar.zst", archive)
    url = f"{source.url}/x.tar.zst#sha256={digest_of(archive)}"
    first = fetched(url, cache)
    source.close()
    assert fetched(url, cache) == first
    assert len(source.asked) == 1


@pytest.mark.parametrize("pinned", [True, False], ids=["sha256", "etag"])
def test_cut_connections_continue_where_they_ended(source, archive, samples, cache, pinned):
    cuts = [len(archive) // 5, len(archive) // 2, len(archive) - 1]
    source.serve("/x.tar.zst", archive, cuts=list(cuts))
    fragment = f"#sha256={digest_of(archive)}" if pinned else ""
    assert same(fetched(f"{source.url}/x.tar.zst{fragment}", cache, tries=5), samples / "tiny")
    assert [asked.headers.get("range") for asked in source.asked] == [None, *(f"bytes={cut}-" for cut in cuts)]
    assert sum(asked.sent for asked in source.asked) == len(archive)


def test_giving_up_says_what_is_kept_and_the_next_start_continues_there(source, archive, samples, cache):
    half = len(archive) // 2
    source.serve("/x.tar.zst", archive, cuts=[half] * 3)
    url = f"{source.url}/x.tar.zst#sha256={digest_of(archive)}"
    message = refusal(url, cache, SourceUnavailable)
    assert f"the connection broke, 3 times in a row; {half:,} bytes are kept" in message
    assert same(fetched(url, cache), samples / "tiny")
    assert source.asked[-1].headers["range"] == f"bytes={half}-"


def test_a_server_without_ranges_is_read_from_the_start(source, archive, samples, cache):
    source.serve("/x.tar.zst", archive, cuts=[1000, 2000], ranges=False)
    assert same(fetched(f"{source.url}/x.tar.zst#sha256={digest_of(archive)}", cache), samples / "tiny")
    assert [asked.sent for asked in source.asked] == [1000, 2000, len(archive)]


def test_without_checksum_and_validator_nothing_is_continued(source, archive, samples, cache):
    source.serve("/x.tar.zst", archive, cuts=[1000], etag=None)
    assert same(fetched(f"{source.url}/x.tar.zst", cache), samples / "tiny")
    assert [asked.headers.get("range") for asked in source.asked] == [None, None]


def test_an_archive_that_changes_between_tries_is_fetched_anew(source, archive, samples, cache):
    resource = source.serve("/x.tar.zst", archive, cuts=[len(archive) // 2])
    other = (samples / "other.tar.zst").read_bytes()

    def change(_handler):
        if len(source.asked) > 1:
            resource.body = other

    resource.check = change
    assert same(fetched(f"{source.url}/x.tar.zst", cache), samples / "other")


def test_a_careless_server_cannot_mix_two_versions(source, archive, samples, cache):
    """It ignores If-Range and says no ETag: only the checksum can tell, and the download starts over."""
    other = (samples / "other.tar.zst").read_bytes()
    resource = source.serve("/x.tar.zst", other[: len(archive)].ljust(len(archive)), cuts=[5000] * 3, etag=None)
    url = f"{source.url}/x.tar.zst#sha256={digest_of(archive)}"
    refusal(url, cache, SourceUnavailable)
    resource.body = archive
    assert same(fetched(url, cache), samples / "tiny")
    assert [asked.headers.get("range") for asked in source.asked[-2:]] == ["bytes=5000-", None]


def test_a_server_that_sends_another_version_as_the_rest_is_noticed(source, archive, samples, cache):
    other = (samples / "other.tar.zst").read_bytes()
    resource = source.serve("/x.tar.zst", other, cuts=[5000], if_range=False)
    resource.check = lambda _handler: setattr(resource, "body", archive) if len(source.asked) > 1 else None
    assert same(fetched(f"{source.url}/x.tar.zst", cache), samples / "tiny")


@pytest.mark.parametrize("statuses", [[503], [500, 429], [408, 502]])
def test_a_source_with_a_bad_moment_is_asked_again(source, archive, samples, cache, statuses):
    source.serve("/x.tar.zst", archive, statuses=statuses)
    assert same(fetched(f"{source.url}/x.tar.zst", cache), samples / "tiny")


@pytest.mark.parametrize(
    ("status", "says", "times"),
    [(404, "not there (404)", 1), (403, "refused (403)", 1), (503, "answers 503", 3), (418, "answers 418", 1)],
)
def test_a_refusal_is_told_and_not_repeated_in_vain(source, cache, status, says, times):
    source.serve("/x.tar.zst", b"", status=status)
    assert says in refusal(f"{source.url}/x.tar.zst", cache, SourceUnavailable)
    assert source.times("/x.tar.zst") == times


def test_a_wrong_checksum_is_told_and_nothing_is_kept_or_opened(source, archive, cache):
    source.serve("/x.tar.zst", archive)
    wanted = "ab" * 32
    message = refusal(f"{source.url}/x.tar.zst#sha256={wanted}", cache)
    assert digest_of(archive) in message
    assert wanted in message
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_a_content_length_that_promises_too_much_is_a_cut_connection(source, archive, cache):
    source.serve("/x.tar.zst", archive, claimed=len(archive) + 10)
    assert "the connection broke" in refusal(f"{source.url}/x.tar.zst#sha256={digest_of(archive)}", cache)


def test_a_content_length_that_promises_too_little_fails_the_checksum(source, archive, cache):
    source.serve("/x.tar.zst", archive, claimed=len(archive) - 10)
    assert "was asked for" in refusal(f"{source.url}/x.tar.zst#sha256={digest_of(archive)}", cache)


def test_a_truncated_download_without_length_and_checksum_is_still_refused(source, archive, cache):
    source.serve("/x.tar.zst", archive, length=False, cuts=[len(archive) // 2], etag=None)
    assert "ends in the middle" in refusal(f"{source.url}/x.tar.zst", cache)


def test_more_than_the_bound_is_refused_at_its_announcement(source, archive, cache):
    source.serve("/x.tar.zst", archive)
    message = refusal(f"{source.url}/x.tar.zst", cache, largest_download=10_000)
    assert "CHECKPOINT_LARGEST_DOWNLOAD" in message


def test_more_than_the_bound_is_refused_when_nothing_was_announced(source, archive, cache):
    source.serve("/x.tar.zst", archive, length=False)
    assert "more than it announced or than is allowed" in refusal(
        f"{source.url}/x.tar.zst", cache, largest_download=10_000
    )


def test_a_slow_source_is_waited_for_and_a_silent_one_is_not(source, archive, samples, cache):
    resource = source.serve("/x.tar.zst", archive, pause=0.005)
    assert same(fetched(f"{source.url}/x.tar.zst", cache), samples / "tiny")
    resource.pause, resource.stall_at, resource.etag = 0.0, 1000, None
    message = refusal(f"{source.url}/x.tar.zst?2", cache / "2", read_seconds=0.2, tries=2)
    assert "sent nothing for too long, 2 times in a row" in message


def test_compression_on_the_way_is_refused(source, archive, cache):
    source.serve("/x.tar.zst", archive, headers={"Content-Encoding": "gzip"})
    assert "compressed on the way" in refusal(f"{source.url}/x.tar.zst", cache)


def test_nobody_at_the_other_end_is_told(cache):
    assert "can't be reached" in refusal("http://127.0.0.1:1/x.tar.zst", cache, SourceUnavailable)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.ckpt"])
def test_a_pickle_is_refused_before_it_is_fetched(source, cache, name):
    source.serve(f"/{name}", b"\x80\x04.")
    assert f"{name} is a pickle" in refusal(f"{source.url}/{name}", cache)
    assert not source.asked


def test_a_path_that_climbs_is_refused_and_nothing_stays(source, cache, tmp_path):
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../../climbed/config.json"))
    source.serve("/x.tar", out.getvalue())
    assert "climbs out of the archive" in refusal(f"{source.url}/x.tar", cache)
    assert not list(tmp_path.rglob("config.json"))
    assert not list((cache / "partial").glob("*"))


# Redirects


def test_a_redirect_is_followed_and_the_password_stays_with_its_host(source, archive, samples, cache):
    second = Source()
    try:
        second.serve("/real", archive)
        source.serve("/x.tar.zst", b"", status=302, headers={"Location": f"{second.url}/real"})
        url = f"http://user:pa%23ss@{source.host}/x.tar.zst"
        assert same(fetched(url, cache), samples / "tiny")
        assert source.asked[0].headers["authorization"] == "Basic dXNlcjpwYSNzcw=="
        assert "authorization" not in second.asked[0].headers
    finally:
        second.close()


def test_each_try_begins_at_the_first_url_since_signed_ones_expire(source, archive, samples, cache):
    source.serve("/x.tar.zst", b"", status=307, headers={"Location": "/real"})
    source.serve("/real", archive, cuts=[1000])
    assert same(fetched(f"{source.url}/x.tar.zst", cache), samples / "tiny")
    assert [asked.path for asked in source.asked] == ["/x.tar.zst", "/real", "/x.tar.zst", "/real"]


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/x.tar.zst", "redirects more than 5 times"),
        ("ftp://127.0.0.1/x", "refused"),
        ("file:///etc/passwd", "refused"),
    ],
)
def test_a_redirect_that_leads_nowhere_good_is_refused(source, cache, location, says):
    source.serve("/x.tar.zst", b"", status=301, headers={"Location": location})
    assert says in refusal(f"{source.url}/x.tar.zst", cache)


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that nobody has signed, and its key, in one file."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=True).sign(key, hashes.SHA256())
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM) + key.private_bytes(serialization.Encoding.PEM, *plain)
    )
    return path


@pytest.fixture
def tls_source(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    source = Source(context)
    yield source
    source.close()


def test_a_certificate_that_nobody_vouches_for_is_refused_and_told(tls_source, archive, cache):
    tls_source.serve("/x.tar.zst", archive)
    message = refusal(f"{tls_source.url}/x.tar.zst", cache, SourceUnavailable)
    assert "certificate is not trusted" in message
    assert "SSL_CERT_FILE" in message


def test_https_is_trusted_by_the_sites_own_authority_and_never_left_for_http(
    tls_source, source, certificate, archive, samples, cache, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls_source.serve("/x.tar.zst", archive)
    assert same(fetched(f"{tls_source.url}/x.tar.zst", cache), samples / "tiny")
    source.serve("/x.tar.zst", archive)
    tls_source.serve("/down", b"", status=302, headers={"Location": f"{source.url}/x.tar.zst"})
    assert "from https to http" in refusal(f"{tls_source.url}/down", cache / "2", SourceUnavailable)
    assert not source.asked


# Trust on first use, and sources that are away


def test_without_checksum_the_first_content_is_what_later_ones_are_held_to(source, archive, samples, cache):
    resource = source.serve("/x.tar.zst", archive)
    url = f"{source.url}/x.tar.zst"
    first = fetched(url, cache)
    assert fetched(url, cache) == first
    assert source.asked[-1].headers["if-none-match"]
    assert source.asked[-1].sent == 0
    resource.body = (samples / "other.tar.zst").read_bytes()
    with pytest.raises(CheckpointError) as caught:
        fetched(url, cache)
    changed = digest_of(resource.body)
    assert "has changed since it was fetched first" in str(caught.value)
    assert f"add sha256={changed}" in str(caught.value)
    assert same(fetched(f"{url}#sha256={changed}", cache), samples / "other")


def test_a_copy_is_used_when_its_source_is_away(source, archive, cache, capsys):
    source.serve("/x.tar.zst", archive)
    url = f"{source.url}/x.tar.zst"
    first = fetched(url, cache)
    source.resources["/x.tar.zst"].status = 503
    assert fetched(url, cache) == first
    source.close()
    assert fetched(url, cache) == first
    assert "source unavailable" in capsys.readouterr().out


def test_no_secret_of_a_url_reaches_messages_logs_or_the_cache(source, archive, cache, caplog, capfd):
    caplog.set_level(logging.INFO)
    secret = "c2VjcmV0c2lnbmF0dXJl"
    source.serve("/x.tar.zst", archive)
    fetched(f"http://user:{secret}@{source.host}/x.tar.zst?X-Amz-Signature={secret}", cache)
    message = refusal(f"http://user:{secret}@{source.host}/gone.tar?X-Amz-Signature={secret}", cache / "2")
    kept = b"".join(path.read_bytes() for path in cache.rglob("*.json"))
    assert source.asked[0].query == f"X-Amz-Signature={secret}"
    assert "HTTP Request" in caplog.text
    assert secret not in message + caplog.text + "".join(capfd.readouterr()) + kept.decode()


# Folders: over http, from S3, from a hub


@pytest.mark.parametrize("shards", [1, 2])
def test_a_folder_over_http_needs_no_listing(source, cache, tmp_path, shards):
    checkpoint = write_checkpoint(tmp_path / "w", shards=shards)
    for path in checkpoint.iterdir():
        source.serve(f"/models/w/{path.name}", path.read_bytes())
    folder = fetched(f"{source.url}/models/w/", cache)
    assert same(folder, checkpoint)
    assert {path.name for path in folder.iterdir()} == {path.name for path in checkpoint.iterdir()}
    config = source.resources["/models/w/config.json"]
    config.body = config.body + b" "
    with pytest.raises(CheckpointError, match=r"has changed since it was fetched first; .* remove .*records.*json"):
        fetched(f"{source.url}/models/w/", cache)
    source.close()
    assert fetched(f"{source.url}/models/w/", cache) == folder


def test_a_folders_checksum_is_that_of_its_weights(source, cache, samples):
    for path in (samples / "tiny").iterdir():
        source.serve(f"/w/{path.name}", path.read_bytes())
    digest = sha256_file(samples / "tiny" / "model.safetensors")
    url = f"{source.url}/w/#{FRAGMENT}&sha256={digest}"
    (found,) = prepare(url, cache, settings=quick())
    assert found.sha256 == digest
    source.close()
    assert prepare(url, cache, settings=quick()) == (found,)
    refusal(f"{source.url}/w/#sha256={'1' * 64}", cache / "2")


def test_a_sharded_folders_checksum_is_that_of_its_manifest(source, cache, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "w", shards=2)
    manifest = {"files": {path.name: sha256_file(path) for path in checkpoint.iterdir()}}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    for path in checkpoint.iterdir():
        source.serve(f"/w/{path.name}", path.read_bytes())
    digest = sha256_file(checkpoint / "manifest.json")
    assert same(fetched(f"{source.url}/w/#sha256={digest}", cache), checkpoint)
    source.resources["/w/model-00002-of-00002.safetensors"].body = b"\0" * 1000
    refusal(f"{source.url}/w/#sha256={digest}", cache / "2")
    edit_json(checkpoint / "manifest.json", name="changed")
    source.serve("/w/manifest.json", (checkpoint / "manifest.json").read_bytes())
    assert "was asked for" in refusal(f"{source.url}/w/#sha256={digest}", cache / "3")


def test_a_folder_with_a_missing_file_names_it(source, cache, samples):
    for path in (samples / "tiny").iterdir():
        source.serve(f"/w/{path.name}", path.read_bytes())
    del source.resources["/w/tokenizer.json"]
    assert "/w/tokenizer.json: not there" in refusal(f"{source.url}/w/", cache)
    assert source.times("/w/model.safetensors") == 0


def serve_hub(source, checkpoint, *, commit="c" * 40, token=None, extra=()):
    names = [path.name for path in checkpoint.iterdir()]
    weights = "model.safetensors"

    def listed(name):
        lfs = {"lfs": {"sha256": sha256_file(checkpoint / name)}} if name == weights else {}
        return {"rfilename": name} | lfs

    def check(handler):
        return 401 if token and handler.headers.get("Authorization") != f"Bearer {token}" else None

    siblings = [*map(listed, names), *({"rfilename": name} for name in extra)]
    answer = json.dumps({"sha": commit, "siblings": siblings}).encode()
    for revision in ("main", commit):
        source.serve(f"/api/models/team/whisper/revision/{revision}", answer, check=check)
    for name in names:
        source.serve(f"/team/whisper/resolve/{commit}/{name}", (checkpoint / name).read_bytes(), check=check)
    for name in extra:
        source.serve(f"/team/whisper/resolve/{commit}/{name}", b"never to be fetched", check=check)


def test_a_hub_repository_is_fetched_without_its_pickles(source, cache, samples):
    serve_hub(
        source, samples / "tiny", extra=("pytorch_model.bin", "README.md", "tf_model.h5", "model.fp32.safetensors")
    )
    folder = fetched("hf:team/whisper@main", cache, hub_endpoint=source.url)
    assert same(folder, samples / "tiny")
    wanted = {path.name for path in (samples / "tiny").iterdir()}
    assert {asked.path.rpartition("/")[2] for asked in source.asked[1:]} == wanted


def test_a_hub_token_is_sent_and_its_lack_is_told(source, cache, samples):
    serve_hub(source, samples / "tiny", token="hf_secret")
    assert "HF_TOKEN_FILE" in refusal("hf:team/whisper", cache, hub_endpoint=source.url)
    assert same(fetched("hf:team/whisper", cache, hub_endpoint=source.url, hub_token="hf_secret"), samples / "tiny")


def test_a_commit_is_reused_without_network_and_a_branch_without_download(source, cache, samples):
    serve_hub(source, samples / "tiny")
    branch = fetched("hf:team/whisper@main", cache, hub_endpoint=source.url)
    before = len(source.asked)
    assert fetched("hf:team/whisper@main", cache, hub_endpoint=source.url) == branch
    assert len(source.asked) == before + 1
    commit = fetched(f"hf:team/whisper@{'c' * 40}", cache, hub_endpoint=source.url)
    before = len(source.asked)
    source.close()
    assert fetched(f"hf:team/whisper@{'c' * 40}", cache, hub_endpoint=source.url) == commit == branch
    assert len(source.asked) == before


def test_a_branch_that_moves_between_tries_gives_no_mixture(source, cache, samples):
    serve_hub(source, samples / "tiny")
    weights = f"/team/whisper/resolve/{'c' * 40}/model.safetensors"
    source.resources[weights].cuts = [1000] * 3
    refusal("hf:team/whisper", cache, hub_endpoint=source.url)
    serve_hub(source, samples / "other", commit="d" * 40)
    assert same(fetched("hf:team/whisper", cache, hub_endpoint=source.url), samples / "other")


def test_weights_that_are_not_what_the_hub_lists_are_refused(source, cache, samples):
    serve_hub(source, samples / "tiny")
    weights = source.resources[f"/team/whisper/resolve/{'c' * 40}/model.safetensors"]
    weights.body = weights.body[:-1] + b"\1"
    assert "was asked for" in refusal("hf:team/whisper", cache, hub_endpoint=source.url)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"<html>", "doesn't answer with JSON"),
        (b"[]", "no list of files"),
        (b'{"siblings": [{"rfilename": "pytorch_model.bin"}]}', "is a pickle"),
        (b'{"siblings": [{"rfilename": "../model.safetensors"}, 3, {"rfilename": 4}]}', "holds no model.safetensors"),
    ],
)
def test_a_hub_that_has_no_checkpoint_is_told(source, cache, answer, says):
    source.serve("/api/models/team/whisper/revision/main", answer)
    assert says in refusal("hf:team/whisper", cache, hub_endpoint=source.url)


def signed_like_s3(access_key, secret_key, region, session_token=None):
    """Recompute the signature from the request as it arrived, knowing nothing of the client."""
    import hashlib
    import hmac

    def check(handler):
        header = handler.headers.get("Authorization", "")
        if not header.startswith("AWS4-HMAC-SHA256 "):
            return 403
        fields = dict(part.strip().split("=", 1) for part in header.removeprefix("AWS4-HMAC-SHA256 ").split(","))
        names = fields["SignedHeaders"].split(";")
        moment = handler.headers["x-amz-date"]
        key_id, day, *scope = fields["Credential"].split("/")
        if (key_id, day, scope) != (access_key, moment[:8], [region, "s3", "aws4_request"]) or "host" not in names:
            return 403
        if session_token and "x-amz-security-token" not in names:
            return 403
        path, _, query = handler.path.partition("?")
        lines = "".join(f"{name}:{handler.headers[name].strip()}\n" for name in names)
        canonical = f"GET\n{path}\n{query}\n{lines}\n{';'.join(names)}\n{handler.headers['x-amz-content-sha256']}"
        text = f"AWS4-HMAC-SHA256\n{moment}\n{day}/{'/'.join(scope)}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = b"AWS4" + secret_key.encode()
        for part in (day, *scope, text):
            key = hmac.digest(key, part.encode(), "sha256")
        return None if hmac.compare_digest(key.hex(), fields["Signature"]) else 403

    return check


def s3(source, **changes):
    given = {"s3_endpoint": source.url, "s3_access_key": "site", "s3_secret_key": "s3cr/t+", "s3_region": "rack-1"}
    return given | changes


def test_an_s3_object_is_fetched_signed_and_resumed(source, archive, samples, cache):
    check = signed_like_s3("site", "s3cr/t+", "rack-1")
    source.serve("/models/a b,c/x+1.tar.zst", archive, check=check, cuts=[len(archive) // 2])
    url = "s3://models/a%20b%2Cc/x+1.tar.zst"
    assert same(fetched(url, cache, **s3(source)), samples / "tiny")
    assert source.asked[-1].headers["range"] == f"bytes={len(archive) // 2}-"


@pytest.mark.parametrize("wrong", [{"s3_secret_key": "other"}, {"s3_region": "us-east-1"}, {"s3_access_key": None}])
def test_s3_refuses_what_is_signed_wrongly_and_the_message_says_where_to_look(source, archive, cache, wrong):
    source.serve("/models/x.tar.zst", archive, check=signed_like_s3("site", "s3cr/t+", "rack-1"))
    message = refusal("s3://models/x.tar.zst", cache, **s3(source, **wrong))
    assert "access refused (403)" in message
    assert "AWS_ACCESS_KEY_ID" in message
    assert "s3cr" not in message


def test_an_s3_prefix_is_a_folder_even_where_listing_is_forbidden(source, samples, cache):
    for path in (samples / "tiny").iterdir():
        source.serve(
            f"/models/w/{path.name}", path.read_bytes(), check=signed_like_s3("site", "s3cr/t+", "rack-1", "T")
        )
    source.serve("/models/w/manifest.json", b"", status=403)
    assert same(fetched("s3://models/w/", cache, **s3(source, s3_session_token="T")), samples / "tiny")


# Several at once, killed, stopped, full disks


FETCHER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from babelrack.checkpoints import CheckpointError, FetchSettings, fetch, parse_model_url
    try:
        settings = FetchSettings(tries=3, backoff_seconds=0.01, s3_endpoint=None)
        print(fetch(parse_model_url(sys.argv[1])[0], Path(sys.argv[2]), settings=settings))
    except CheckpointError as error:
        sys.exit(str(error))
    """
)


def fetcher(url, cache, **more):
    command = [sys.executable, "-c", FETCHER, url, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def arrived(cache):
    return sum(path.stat().st_size for path in (cache / "partial").glob("*/archive"))


@pytest.mark.parametrize("pinned", [True, False], ids=["sha256", "etag"])
def test_a_killed_fetch_is_continued_and_frees_its_lock(source, archive, samples, cache, pinned):
    half = len(archive) // 2
    resource = source.serve("/x.tar.zst", archive, stall_at=half)
    url = f"{source.url}/x.tar.zst" + (f"#sha256={digest_of(archive)}" if pinned else "")
    process = fetcher(url, cache)
    try:
        until(lambda: arrived(cache) == half)
        assert not list((cache / "checkpoints").glob("*"))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    resource.stall_at = None
    source.resume.set()
    assert same(fetched(url, cache), samples / "tiny")
    assert source.asked[-1].headers["range"] == f"bytes={half}-"
    assert source.asked[-1].sent == len(archive) - half


@pytest.mark.parametrize("pinned", [True, False], ids=["sha256", "etag"])
def test_processes_that_want_the_same_fetch_it_once(source, archive, samples, cache, pinned):
    resource = source.serve("/x.tar.zst", archive, stall_at=len(archive) // 2)
    url = f"{source.url}/x.tar.zst" + (f"#sha256={digest_of(archive)}" if pinned else "")
    processes = [fetcher(url, cache) for _ in range(3)]
    try:
        until(lambda: arrived(cache) == len(archive) // 2)
        time.sleep(0.3)  # the others come to the lock, or later: either way they must not fetch
        source.resume.set()
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    folders = {output.strip().splitlines()[-1] for output, _ in outputs}
    assert folders == {str(cache / "checkpoints" / digest_of(archive))}
    assert sum(asked.sent for asked in source.asked) == len(archive)
    assert resource.cuts == []
    assert same(cache / "checkpoints" / digest_of(archive), samples / "tiny")


def test_three_come_side_by_side_and_in_order(source, archive, samples, cache):
    other = (samples / "other.tar.zst").read_bytes()
    barrier = threading.Barrier(3)

    def meet(_handler):
        barrier.wait(60)  # breaks unless all three are asked for at the same time

    for name, body in (("a", archive), ("b", other), ("c", archive)):
        source.serve(f"/{name}.tar.zst", body, check=meet)
    url = ",".join(f"{source.url}/{name}.tar.zst#name={name}&role=multilingual&languages=en+hi" for name in "abc")
    found = prepare(url, cache, settings=quick())
    assert [checkpoint.name for checkpoint in found] == ["a", "b", "c"]
    assert found[0].path == found[2].path != found[1].path


def test_one_that_fails_stops_the_others_and_its_reason_is_told(source, archive, cache):
    source.serve("/slow.tar.zst", archive, pieces=100, pause=0.01)
    source.serve("/gone.tar.zst", b"", status=404)
    url = f"{source.url}/slow.tar.zst#name=a,{source.url}/gone.tar.zst#name=b"
    with pytest.raises(SourceUnavailable, match="gone"):
        prepare(url, cache, settings=quick())
    assert arrived(cache) < len(archive)


def test_stopping_keeps_what_has_arrived(source, archive, samples, cache):
    source.serve("/x.tar.zst", archive, pieces=10_000, pause=0.01)
    url = f"{source.url}/x.tar.zst#sha256={digest_of(archive)}&{FRAGMENT}"
    stop = threading.Event()
    with pytest.raises(FetchStopped):
        prepare(url, cache, settings=quick(), stop=stop, progress=lambda step: step.done > 50_000 and stop.set())
    kept = arrived(cache)
    assert 0 < kept < len(archive)
    (found,) = prepare(url, cache, settings=quick())
    assert source.asked[-1].headers["range"] == f"bytes={kept}-"
    assert same(found.path, samples / "tiny")


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(source, archive, tmp_path, small_disk):
    source.serve("/x.tar.zst", archive)
    cache = small_disk(len(archive) + 300_000) / "cache"
    message = refusal(f"{source.url}/x.tar.zst#sha256={digest_of(archive)}", cache)
    assert f"{2 * len(archive):,} more bytes needed" in message
    assert "free" in message
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size]


def test_a_disk_that_fills_up_is_told_and_nothing_stays(source, archive, small_disk):
    """No length is announced, so that the disk is found full only when it is."""
    source.serve("/x.tar.zst", archive, length=False)
    cache = small_disk(len(archive) // 2) / "cache"
    message = refusal(f"{source.url}/x.tar.zst", cache)
    assert "no room for" in message
    assert "MODEL_CACHE_DIR" in message
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size]


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(source, archive, samples, small_disk):
    import zstandard

    plain = zstandard.ZstdDecompressor().decompress(archive)
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(plain)
    source.serve("/x.tar.zst", silent, length=False)
    cache = small_disk(len(silent) + len(plain) // 2) / "cache"
    assert "no room for" in refusal(f"{source.url}/x.tar.zst", cache)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size]


def test_a_file_size_limit_is_told_like_a_full_disk(source, archive, cache):
    import resource

    source.serve("/x.tar.zst", archive)
    limit = len(archive) // 2
    process = fetcher(
        f"{source.url}/x.tar.zst", cache, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "no room for" in error
    assert "Traceback" not in error
    assert not arrived(cache)


@pytest.fixture
def small_disk(tmp_path):
    """Makes a file system of a few hundred kilobytes."""
    mounted = []

    def make(size):
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small disk; RLIMIT_FSIZE stands in, in the test beside")
        mounted.append(disk)
        return disk

    yield make
    for disk in mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# The command line


def babelrack(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "babelrack.cli", "checkpoints", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


def test_the_command_line_packs_fetches_and_inspects(source, samples, tmp_path):
    out = tmp_path / "x.tar.zst"
    packed = babelrack(
        "pack", samples / "tiny", out, "--name", "tiny", "--role", "multilingual", "--languages", "hi+en"
    )
    assert packed.returncode == 0, packed.stderr
    digest = packed.stdout.split()[0]
    assert digest == sha256_file(out)
    source.serve("/x.tar.zst", out.read_bytes())
    url = f"{source.url}/x.tar.zst#sha256={digest}"
    got = babelrack("fetch", url, MODEL_CACHE_DIR=str(tmp_path / "cache"))
    assert got.returncode == 0, got.stderr
    assert got.stdout.strip() == str(tmp_path / "cache" / "checkpoints" / digest)
    assert "downloading" in got.stderr
    for where in (got.stdout.strip(), out, url):
        shown = babelrack("inspect", where, "--cache", tmp_path / "cache")
        assert shown.returncode == 0, shown.stderr
        for fact in ("tiny", "multilingual", "hi en", "F16", "width 64", "model.safetensors"):
            assert fact in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("fetch", "file:///a", "file:///b", "file:///c", "file:///d"),
        ("fetch", "http://127.0.0.1:1/model.bin"),
        ("inspect", "/nowhere/at/all"),
        ("pack", "/nowhere", "x.tar.zst"),
        ("convert", "/nowhere", "/tmp/never-made"),
    ],
)
def test_the_command_line_says_one_sentence_and_exits_1(arguments, tmp_path):
    done = babelrack(*arguments, MODEL_CACHE_DIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("babelrack: ")
