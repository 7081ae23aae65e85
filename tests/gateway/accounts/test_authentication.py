import hashlib
from pathlib import Path

import pytest

from reverie.errors import ConfigurationError, InvalidApiKey
from reverie.gateway.accounts.authentication import ANONYMOUS, Authenticator, static_keys


def keys(value: str) -> Authenticator:
    return Authenticator(static_keys({"REVERIE_API_KEYS": value}, None))


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
async def test_no_keys_means_everyone_is_anonymous(value: str) -> None:
    assert keys(value).open
    assert (await keys(value).authenticate(None)) is ANONYMOUS


async def test_each_listed_key_is_known_by_a_name_that_is_not_the_key() -> None:
    authenticator = keys("alpha-secret, beta-secret")
    assert (await authenticator.authenticate(b"Bearer alpha-secret")).name == "static-1"
    assert (await authenticator.authenticate(b"bearer  beta-secret ")).name == "static-2"


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"alpha-secret",
        b"Basic alpha-secret",
        b"Bearer alpha",
        b"Bearer alpha-secret2",
        b"Bearer alpha-secret,beta-secret",
        b"Bearer ' OR 1=1 --",
        "Bearer schlüssel".encode(),
        b"Bearer " + b"x" * 1_000_000,
        b"Bearer \x00",
        b"Bearer " + hashlib.sha256(b"alpha-secret").hexdigest().encode(),
    ],
)
async def test_anything_but_a_known_key_is_refused(header: bytes | None) -> None:
    with pytest.raises(InvalidApiKey) as caught:
        await keys("alpha-secret,beta-secret").authenticate(header)
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}
    assert "secret" not in caught.value.message


async def test_a_file_of_hashes_names_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    digest = hashlib.sha256(b"gamma").hexdigest()
    file.write_text(f"# team keys\n{digest} ops  # since May\n\n{'0' * 64}\n")
    authenticator = Authenticator(static_keys({}, file))
    assert (await authenticator.authenticate(b"Bearer gamma")).name == "ops"
    with pytest.raises(InvalidApiKey):
        await authenticator.authenticate(f"Bearer {digest}".encode())


def test_a_malformed_line_is_reported_with_its_number_and_nothing_of_its_text(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys"
    file.write_text("plain-secret ops\n")
    with pytest.raises(ConfigurationError) as caught:
        static_keys({}, file)
    assert "line 1" in str(caught.value)
    assert "plain-secret" not in str(caught.value)


def test_a_missing_file_of_hashes_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        static_keys({}, tmp_path / "none")
