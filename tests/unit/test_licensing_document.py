"""The licence: what is issued is what is verified, and nothing else passes."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey

from babelrack.licensing.document import (
    License,
    LicenseError,
    generate_license_key,
    generate_signing_key,
    issue,
    key_sha256,
    load_public_key,
    load_signing_key,
    unverified,
    verify,
)

PAIR = generate_signing_key()
PUBLIC = OKPKey.import_key(PAIR.public_key)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
KEY_HASH = key_sha256("brl_test")


def a_token(**changes):
    claims = {
        "customer": "Acme",
        "languages": ["hi", "en"],
        "seats": 3,
        "not_before": NOW - timedelta(days=1),
        "expires": NOW + timedelta(days=30),
        "license_key_sha256": KEY_HASH,
        "signing_key": PAIR,
        "license_id": "one",
    }
    return issue(**(claims | changes))


def parts(token):
    return [json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]]


def signed(header, claims):
    return jws.serialize_compact(header, json.dumps(claims).encode(), PAIR, algorithms=["Ed25519"])


def test_what_is_issued_is_what_is_verified():
    assert verify(a_token(), PUBLIC, NOW) == License(
        id="one",
        customer="Acme",
        languages=("hi", "en"),
        not_before=NOW - timedelta(days=1),
        expires=NOW + timedelta(days=30),
        seats=3,
        key_sha256=KEY_HASH,
    )
    assert verify(a_token(languages=None), PUBLIC, NOW).allows("xx")
    assert not verify(a_token(), PUBLIC, NOW).allows("xx")


@settings(deadline=None)
@given(
    customer=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=200),
    languages=st.none() | st.lists(st.sampled_from(["hi", "en", "mr", "zh-Hant", "es-419"]), min_size=1, unique=True),
    seats=st.integers(1, 1_000_000),
    days=st.integers(1, 36500),
)
def test_every_licence_survives_the_round_trip(customer, languages, seats, days):
    token = a_token(customer=customer, languages=languages, seats=seats, expires=NOW + timedelta(days=days))
    license_ = verify(token, PUBLIC, NOW)
    assert (license_.customer, license_.seats) == (customer, seats)
    assert license_.languages == (None if languages is None else tuple(languages))
    assert unverified(token) == license_


@settings(deadline=None)
@given(st.text())
@example("..")
@example("a.b.c")
@example(a_token().rsplit(".", 1)[0] + ".")
@example(base64.urlsafe_b64encode(b"[" * 10_000).decode().rstrip("=") + ".e30.AAAA")
@example("e30." * 2 + "AAAA")
@example("\ud800")
@example("eyJhbGciOiJub25lIn0.e30.")
def test_any_string_is_answered_by_a_licence_error_and_nothing_else(text):
    for reading in (lambda: verify(text, PUBLIC, NOW), lambda: unverified(text)):
        with pytest.raises(LicenseError) as refusal:
            reading()
        assert "\n" not in str(refusal.value)


@settings(deadline=None)
@given(st.data())
def test_a_token_with_one_character_changed_is_refused_or_says_the_same(data):
    token = a_token()
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCabc019-_.="))
    try:
        license_ = verify(token[:place] + other + token[place + 1 :], PUBLIC, NOW)
    except LicenseError:
        return
    assert license_ == verify(token, PUBLIC, NOW)  # bits of base64 that mean nothing


def test_a_licence_of_another_issuer_is_refused_by_name():
    with pytest.raises(LicenseError, match="another issuer") as refusal:
        verify(a_token(signing_key=generate_signing_key()), PUBLIC, NOW)
    assert refusal.value.kind == "signature"


def test_an_expired_licence_says_when_it_expired():
    expires = NOW - timedelta(seconds=61)
    with pytest.raises(LicenseError, match=r"expired on 2026-06-01 11:58 UTC") as refusal:
        verify(a_token(expires=expires), PUBLIC, NOW)
    assert refusal.value.kind == "expired"


def test_a_licence_of_the_future_is_not_yet_valid():
    with pytest.raises(LicenseError, match="not valid before") as refusal:
        verify(a_token(not_before=NOW + timedelta(minutes=5)), PUBLIC, NOW)
    assert refusal.value.kind == "not_yet_valid"


def test_clocks_may_disagree_by_a_minute():
    verify(a_token(not_before=NOW + timedelta(seconds=59)), PUBLIC, NOW)
    verify(a_token(expires=NOW - timedelta(seconds=59)), PUBLIC, NOW)


def encoded(content):
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@pytest.mark.parametrize("algorithm", ["HS256", "none", "EdDSA"])
def test_no_other_algorithm_passes_even_when_its_signature_fits(algorithm):
    header, claims = parts(a_token())
    text = f"{encoded(json.dumps(header | {'alg': algorithm}).encode())}.{encoded(json.dumps(claims).encode())}"
    signatures = {
        "HS256": hmac.digest(PAIR.as_pem(private=False), text.encode(), "sha256"),  # the public key as a shared secret
        "none": b"",
        "EdDSA": PAIR.private_key.sign(text.encode()),
    }
    with pytest.raises(LicenseError):
        verify(f"{text}.{encoded(signatures[algorithm])}", PUBLIC, NOW)


def test_the_forgeries_above_would_pass_if_only_their_algorithm_were_right():
    header, claims = parts(a_token())
    text = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    assert verify(f"{text}.{encoded(PAIR.private_key.sign(text.encode()))}", PUBLIC, NOW).customer == "Acme"


def test_a_token_of_the_same_issuer_that_is_no_licence_is_refused():
    header, claims = parts(a_token())
    with pytest.raises(LicenseError, match="not a licence"):
        verify(signed(header | {"typ": "JWT"}, claims), PUBLIC, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"seats": 0},
        {"seats": "many"},
        {"seats": None},
        {"languages": []},
        {"languages": "hi"},
        {"languages": [7]},
        {"exp": "tomorrow"},
        {"exp": 1e300},
        {"nbf": -1},
        {"key_sha256": "abc"},
        {"iss": "someone"},
        {"sub": ""},
    ],
)
def test_a_signed_licence_with_a_senseless_field_is_malformed(change):
    header, claims = parts(a_token())
    with pytest.raises(LicenseError, match="malformed") as refusal:
        verify(signed(header, claims | change), PUBLIC, NOW)
    assert refusal.value.kind == "malformed"


@pytest.mark.parametrize(
    "change",
    [
        {"seats": 0},
        {"customer": ""},
        {"languages": []},
        {"languages": ["h i"]},
        {"languages": [f"language-{number:08}-variant" for number in range(500)]},
        {"expires": NOW - timedelta(days=2)},
        {"license_key_sha256": "short"},
        {"signing_key": PUBLIC},
    ],
)
def test_nothing_is_issued_that_would_not_be_verified(change):
    with pytest.raises(LicenseError):
        a_token(**change)


def test_the_licence_holds_no_licence_key():
    license_key = generate_license_key()
    token = a_token(license_key_sha256=key_sha256(license_key))
    assert license_key not in token
    assert license_key not in json.dumps(parts(token))


def test_keys_are_read_from_pem_and_nothing_else(tmp_path):
    private, public, other = tmp_path / "private", tmp_path / "public", tmp_path / "other"
    private.write_bytes(PAIR.as_pem(private=True))
    public.write_bytes(PAIR.as_pem(private=False))
    other.write_bytes(ECKey.generate_key("P-256").as_pem(private=True))
    verify(a_token(signing_key=load_signing_key(private)), load_public_key(public), NOW)
    assert load_public_key(private).private_key is None
    with pytest.raises(LicenseError, match="public key"):
        load_signing_key(public)
    for bad in (other, tmp_path / "missing", tmp_path):
        with pytest.raises(LicenseError, match=str(bad)):
            load_public_key(bad)
    other.write_bytes(generate_signing_key().as_pem(private=False)[:40])
    with pytest.raises(LicenseError, match="not an Ed25519 key"):
        load_public_key(other)
    other.write_bytes(OKPKey.generate_key("X25519").as_pem(private=False))
    with pytest.raises(LicenseError, match="X25519"):
        load_public_key(other)
