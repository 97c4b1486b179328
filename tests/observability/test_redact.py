"""A secret is planted in many ways, and shows up in none."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass

import pytest

from msgov.observability.redact import DEEPEST, LONGEST, MASK, Secret, clean, denied, fit, guarded, scrub, shown

PLANTED = "hunter2-Zx91"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"


def test_a_secret_shows_itself_only_when_asked() -> None:
    """Whatever prints it prints stars."""
    secret = Secret(PLANTED)
    assert secret.reveal() == PLANTED
    assert PLANTED not in f"{secret} {secret!r} {secret!s} {secret:>40} {[secret]} { ({'a': secret}) }" + "%s" % secret  # noqa: UP031
    assert str(secret) == MASK


def test_a_secret_compares_by_its_value() -> None:
    """It can be looked up and compared without being revealed."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert {Secret("a"): 1}[Secret("a")] == 1
    assert not Secret("")


def test_a_secret_is_not_pickled() -> None:
    """A pickle is plain text in a cache or a queue."""
    with pytest.raises(TypeError, match="reveal"):
        pickle.dumps(Secret(PLANTED))


@pytest.mark.parametrize(
    "key",
    ["password", "PASSWORD", "db_password", "userPassword", "passwd", "pwd", "api_key", "apikey", "X-Api-Key", "token",
     "access_token", "refreshToken", "secret", "client-secret", "Authorization", "proxy-authorization", "cookie",
     "Set-Cookie", "private_key", "card_number", "cardNumber", "cvv", "pin", "ssn", "dsn", "auth", "session_id",
     "credentials", "jwt", "signing key"],
)  # fmt: skip
def test_a_key_that_names_a_secret_is_denied(key: str) -> None:
    """In each way that people spell it."""
    assert denied(key)


@pytest.mark.parametrize(
    "key", ["order_id", "keys", "key", "tokens_left", "author", "passenger", "spine", "company", "status", "pinned"]
)
def test_a_usual_key_is_shown(key: str) -> None:
    """A line of stars tells nobody anything."""
    assert not denied(key)


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {PLANTED}",
        f"{{'authorization': 'Basic {PLANTED}', 'host': 'x'}}",
        f"Cookie: session={PLANTED}; theme=dark",
        f"sent Bearer {PLANTED} to it",
        f"basic {PLANTED}",
        f"postgres://app:{PLANTED}@db:5432/shop",
        f"amqp://:{PLANTED}@mq/",
        f"password={PLANTED}",
        f"DB_PASSWORD={PLANTED}",
        f'{{"password": "{PLANTED}", "user": "ada"}}',
        f"{{'password': '{PLANTED} and more', 'user': 'ada'}}",
        f"api_key: {PLANTED}",
        f"?token={PLANTED}&x=1",
        f"User(name='ada', password='{PLANTED}')",
        f"secret = {PLANTED}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{PLANTED}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{PLANTED}",
        f"sk_live_{PLANTED}abc",
        f"ghp_{PLANTED.replace('-', '')}abcdef",
        f"xoxb-{PLANTED}",
        f"glpat-{PLANTED}",
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    """In the text of an error, where no key warns of it."""
    assert PLANTED not in scrub(text)
    assert PLANTED.replace("-", "") not in scrub(text)
    assert "*" in scrub(text)
    assert scrub(scrub(text)) == scrub(text)


def test_a_web_token_is_masked() -> None:
    """It opens doors wherever it stands."""
    assert JWT not in scrub(f"got {JWT} from upstream")
    assert JWT not in scrub(f'"{JWT}"')


@pytest.mark.parametrize(
    "text", ["order 7 was placed", "GET http://shop/orders/7", "basically fine", "skipped_items 3", "a@b.example", ""]
)
def test_a_usual_text_is_left_alone(text: str) -> None:
    """Masking too much makes people switch it off."""
    assert scrub(text) == text


def test_what_surrounds_a_secret_stays() -> None:
    """The host of a URL and the name of a field say what failed."""
    assert scrub(f"postgres://app:{PLANTED}@db:5432/shop") == f"postgres://{MASK}@db:5432/shop"
    assert scrub(f"a password={PLANTED}, b") == f"a password={MASK}, b"


@pytest.mark.parametrize(
    "unit",
    ["a", "eyJ", "eyJaaaaa-", "password", "password ", "a://", "://:", "-----BEGIN ", "bearer ", "x:'", '"', "sk_"],
)
def test_no_text_makes_the_search_slow(unit: str) -> None:
    """A caller chooses what stands in an error's text."""
    text = (unit * LONGEST)[:LONGEST]
    started = time.process_time()
    fit(text)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("a\x00b", "a\\x00b"),
        ("a\rb", "a\\x0db"),
        ("a\x9bb", "a\\x9bb"),
        ("a\u2028b", "a\\u2028b"),
        ("a\u202eb", "a\\u202eb"),
        ("a\ud800b", "a\\ud800b"),
        ("a\nb\tc", "a\nb\tc"),
        ("naïve 中文 🚀", "naïve 中文 🚀"),
    ],
)
def test_what_could_drive_a_terminal_is_spelled_out(text: str, spelled: str) -> None:
    """A line is read in a terminal in the end; newlines are the encoder's to escape."""
    assert clean(text) == spelled


def test_a_long_text_is_cut() -> None:
    """One value must not fill a disk."""
    assert len(fit("x" * 1_000_000)) < LONGEST + 100
    assert "1000000 characters" in fit("x" * 1_000_000)


def test_values_become_plain_data() -> None:
    """An encoder that meets a strange value must not fail."""
    assert shown(None) is None
    assert shown(True) is True
    assert shown(7) == 7
    assert shown(2**80) == "(81 bits)"
    assert shown(float("nan")) == "nan"
    assert shown(b"abc") == "(3 bytes)"
    assert shown((1, "a")) == [1, "a"]
    assert shown(Secret(PLANTED)) == MASK
    assert shown(ValueError("x")) == "ValueError('x')"


def test_nesting_is_bounded() -> None:
    """A structure that holds itself would never end."""
    ring: list[object] = []
    ring.append(ring)
    assert str(shown(ring)).count("[") == DEEPEST
    tree: dict[str, object] = {}
    tree["tree"] = tree
    assert str(shown(tree)).count("{") == DEEPEST
    wide = {str(each): {str(inner): 1 for inner in range(100)} for each in range(100)}
    assert len(str(shown(wide))) < 20_000


def test_what_stands_under_a_denied_key_is_masked_at_any_depth() -> None:
    """Whatever it is."""
    found = guarded({"a": [{"user": {"password": PLANTED, "token": [PLANTED], "pin": 1234, "auth": None}}]})
    assert PLANTED not in str(found)
    assert "1234" not in str(found)
    assert found == {"a": [{"user": {"password": MASK, "token": MASK, "pin": MASK, "auth": None}}]}


@dataclass
class Login:
    """A value whose repr tells too much."""

    user: str
    password: str


def test_the_text_of_an_object_is_scrubbed() -> None:
    """A dataclass prints all its fields."""
    assert PLANTED not in str(shown(Login("ada", PLANTED)))
    assert "ada" in str(shown(Login("ada", PLANTED)))


def test_an_object_whose_text_raises_is_named() -> None:
    """A broken repr must not cost the line."""

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError(PLANTED)

    assert shown(Broken()) == "(Broken, whose text raised RuntimeError)"


def test_the_cut_leaves_no_half_of_a_secret() -> None:
    """A URL that is cut before its `@` no longer looks like one with a password."""
    text = "x" * (LONGEST - 20) + f" db://user:{PLANTED}@host"
    assert PLANTED[:4] not in fit(text)
