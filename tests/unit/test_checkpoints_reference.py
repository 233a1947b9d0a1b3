"""MODEL_URL is read exactly, refused in a sentence, and never shows a secret."""

from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from babelrack.checkpoints import CheckpointError, CheckpointRef, parse_model_url

SHA = "9f" * 32

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
languages = st.lists(st.from_regex(r"[a-z]{2,3}", fullmatch=True), min_size=1, max_size=6, unique=True).map(tuple)
path_parts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda part: part not in {".", ".."} and "/" not in part
)
secrets = st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789", min_size=12, max_size=24)


@st.composite
def references(draw):
    path = "/".join(quote(part, safe="") for part in draw(st.lists(path_parts, min_size=1, max_size=3)))
    url = draw(
        st.sampled_from(
            [
                f"file:///{path}",
                f"https://models.example.org/{path}",
                f"http://10.0.0.1:8080/{path}?v=1",
                f"s3://bucket-1/{path}",
                "hf:openai/whisper-base@main",
                "hf:openai/whisper-base@refs/pr/1",
            ]
        )
    )
    return CheckpointRef(
        url=url,
        name=draw(st.none() | names),
        role=draw(st.none() | st.sampled_from(["dedicated", "multilingual"])),
        languages=draw(st.none() | languages),
        sha256=draw(st.none() | st.from_regex(r"[0-9a-f]{64}", fullmatch=True)),
    )


def spelled(ref):
    fields = {"name": ref.name, "role": ref.role, "languages": ref.languages and "+".join(ref.languages)}
    fields["sha256"] = ref.sha256
    fragment = "&".join(f"{key}={value}" for key, value in fields.items() if value)
    return ref.url + (f"#{fragment}" if fragment else "")


@settings(deadline=None)
@given(st.lists(references(), min_size=1, max_size=3))
def test_what_is_written_is_what_is_read(written):
    named = [ref.name for ref in written if ref.name]
    assume(len(set(named)) == len(named))
    assert parse_model_url(",".join(map(spelled, written))) == tuple(written)


@settings(deadline=None)
@given(st.text(max_size=200) | st.text("file:/htps3#&=+,%2C@?.x\0 ", max_size=60))
def test_any_text_is_read_or_refused_in_a_sentence(text):
    try:
        said, refs = "", parse_model_url(text)
    except CheckpointError as error:
        said, refs = str(error), ()
    assert "\n" not in said
    assert len(said) > 20 or 1 <= len(refs) <= 3


def test_the_documented_example_is_read():
    (ref,) = parse_model_url(
        f"file:///srv/whisper-base#name=indic-multi&role=multilingual&languages=hi+en+bn+ta+te&sha256={SHA.upper()}"
    )
    assert str(ref.path) == "/srv/whisper-base"
    assert (ref.name, ref.role, ref.sha256) == ("indic-multi", "multilingual", SHA)
    assert ref.languages == ("hi", "en", "bn", "ta", "te")


def test_a_comma_inside_a_url_is_percent_encoded():
    (ref,) = parse_model_url("file:///srv/a%2Cb%20c")
    assert str(ref.path) == "/srv/a,b c"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "names no checkpoint"),
        ("  ", "names no checkpoint"),
        ("file:///a,", "entry 2 is empty"),
        ("file:///a,file:///b,file:///c,file:///d", "names 4 checkpoints and a model server holds at most 3"),
        ("/srv/whisper", "write it as a URL: file:///srv/whisper"),
        ("ftp://host/x", "none of the schemes"),
        ("srv/whisper", "none of the schemes"),
        ("file://srv/whisper", "three slashes"),
        ("file:whisper", "must be absolute"),
        ("file:///a b", "percent-encoded"),
        ("file:///a\nb", "percent-encoded"),
        ("file:///a%00b", "must be absolute"),
        ("https:///x.tar", "no host"),
        ("https://host", "no path"),
        ("https://host:99999/x", "host or port"),
        ("https://a..b/x", "host can't be one"),
        ("https://[::x]/x", "host"),
        ("s3://bucket", "s3://bucket/key"),
        ("s3://key:secret@bucket/x", "credentials come from"),
        ("hf:whisper-base", "hf:owner/repository@revision"),
        ("hf:a/../b", "hf:owner/repository@revision"),
        ("file:///a#name=a&name=b", "says name twice"),
        ("file:///a#nom=a", "not one of name="),
        ("file:///a#name", "not one of name="),
        ("file:///a#name=a%20b", "letters, digits"),
        ("file:///a#role=both", "dedicated or multilingual"),
        ("file:///a#languages=", "two or three small letters"),
        ("file:///a#languages=hi+hi", "listed twice"),
        ("file:///a#languages=Hindi", "two or three small letters"),
        ("file:///a#sha256=12", "64 hexadecimal digits"),
        ("file:///a#name=x,file:///b#name=x", "two checkpoints 'x'"),
    ],
)
def test_a_fault_is_named_with_its_fix(value, says):
    with pytest.raises(CheckpointError) as caught:
        parse_model_url(value)
    assert says in str(caught.value)


@settings(deadline=None)
@given(user=secrets, password=secrets, signature=secrets)
def test_no_secret_of_a_url_is_ever_shown(user, password, signature):
    url = f"https://{user}:{password}@host/dir/x.tar.zst?X-Amz-Signature={signature}&X-Amz-Credential={user}"
    (ref,) = parse_model_url(f"{url}#name=a")
    shown = f"{ref} {ref!r} {ref.redacted} {ref.label} {ref.identity} {[ref]}"
    assert not any(secret in shown for secret in (user, password, signature))
    assert ref.redacted == "https://…@host/dir/x.tar.zst?…"


@settings(deadline=None)
@given(user=secrets, password=secrets, breaking=st.sampled_from(["/", "#", "?", " ", "[", ",", "%", "\\", "@"]))
def test_a_password_that_breaks_the_url_is_not_shown_in_the_refusal(user, password, breaking):
    try:
        shown = str(parse_model_url(f"https://{user}:{password}{breaking}{password}@host:x/y"))
    except CheckpointError as error:
        shown = str(error)
    assert password not in shown


def test_a_presigned_url_signed_anew_is_the_same_thing_and_another_query_is_not():
    def identity(query):
        (ref,) = parse_model_url(f"https://host/x.tar?{query}")
        return ref.identity

    assert identity("id=1&X-Amz-Signature=a&X-Amz-Date=1") == identity("X-Amz-Date=2&id=1&X-Amz-Signature=b")
    assert identity("id=1") != identity("id=2")


def test_the_hub_revision_is_main_unless_said():
    refs = parse_model_url("hf:openai/whisper-base,hf://openai/whisper-base@refs/pr/1")
    assert [ref.hub for ref in refs] == [("openai/whisper-base", "main"), ("openai/whisper-base", "refs/pr/1")]
    assert all(ref.is_directory for ref in refs)
