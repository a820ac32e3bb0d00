"""Signing: keys are private and stable, and no altered byte of an envelope is accepted."""

from __future__ import annotations

import json
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from data.errors import UserError
from tasks.canonical import canonical, sha256
from tasks.signing import SignatureError, load_identity, sign, sign_weights, trusted_keys, verify, verify_weights

TYPE = "application/vnd.test+json"


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "keys"


def test_a_key_is_created_once_and_is_private(keys):
    first, second = load_identity(keys), load_identity(keys)
    assert first.keyid == second.keyid
    assert stat.S_IMODE((keys / "pipeline.pem").stat().st_mode) == 0o600
    assert list(trusted_keys(keys)) == ["pipeline"]
    assert load_identity(keys, "ada").keyid != first.keyid


@pytest.mark.parametrize("name", ["../ada", "", "a b", "weights"])
def test_names_that_are_no_file_names_are_refused(keys, name):
    with pytest.raises(UserError, match="cannot name a key"):
        load_identity(keys, name)


def test_a_key_that_others_can_read_is_refused(keys):
    load_identity(keys)
    (keys / "pipeline.pem").chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        load_identity(keys)


def test_a_configured_key_with_a_password(keys, tmp_path):
    key = ed25519.Ed25519PrivateKey.generate()
    encryption = serialization.BestAvailableEncryption(b"sesame")
    path = tmp_path / "auditor.pem"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    path.chmod(0o600)
    assert load_identity(keys, key_file=path, password="sesame").name == "auditor"
    assert list(trusted_keys(keys)) == ["auditor"]
    with pytest.raises(UserError, match="password"):
        load_identity(keys, key_file=path)
    with pytest.raises(UserError, match="does not exist"):
        load_identity(keys, key_file=tmp_path / "none.pem")


def test_a_swapped_public_key_is_noticed(keys):
    load_identity(keys)
    load_identity(keys, "ada")
    (keys / "pipeline.pub.pem").write_bytes((keys / "ada.pub.pem").read_bytes())
    with pytest.raises(UserError, match="public half"):
        load_identity(keys)


def test_an_envelope_comes_back_with_its_signer(keys):
    envelope = sign({"b": 1, "a": [0.1, "é"]}, TYPE, load_identity(keys, "ada"))
    load_identity(keys)
    assert verify(envelope, TYPE, trusted_keys(keys)) == ({"a": [0.1, "é"], "b": 1}, "ada")


def test_every_single_bit_of_an_envelope_counts(keys):
    envelope = sign({"version": 3}, TYPE, load_identity(keys))
    trusted = trusted_keys(keys)
    for position in range(len(envelope)):
        altered = bytearray(envelope)
        altered[position] ^= 1 << (position % 8)
        with pytest.raises(SignatureError):
            verify(bytes(altered), TYPE, trusted)


def test_other_spellings_types_and_keys_are_refused(keys, tmp_path):
    envelope = sign({"version": 3}, TYPE, load_identity(keys))
    trusted = trusted_keys(keys)
    for spelling in (json.dumps(json.loads(envelope)).encode(), envelope + b"\n", b"[]", b'{"payload":1}', b"\xff"):
        with pytest.raises(SignatureError):
            verify(spelling, TYPE, trusted)
    with pytest.raises(SignatureError, match="holds"):
        verify(envelope, "text/plain", trusted)
    load_identity(tmp_path / "others")
    with pytest.raises(SignatureError, match=r"no trusted key.*names key [0-9a-f]{12}, which is not among them"):
        verify(envelope, TYPE, trusted_keys(tmp_path / "others"))
    with pytest.raises(SignatureError, match="no trusted key"):
        verify(envelope, TYPE, {})


def test_canonical_json_has_one_spelling():
    assert canonical({"b": 1.0, "a": "é"}) == '{"a":"é","b":1.0}'.encode()
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(float("nan"))


def test_weights_are_signed_in_the_openssf_layout(keys, tmp_path):
    folder, signature = tmp_path / "model", tmp_path / "model.sig"
    (folder / "vae").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(1000))
    (folder / "vae" / "config.json").write_text("{}")
    sign_weights(folder, keys, signature)
    assert "sigstore.bundle" in json.loads(signature.read_text())["mediaType"]
    public = keys / "weights.pub.pem"
    verify_weights(folder, public, signature)
    (folder / "vae" / "config.json").write_text("{ }")
    with pytest.raises(SignatureError):
        verify_weights(folder, public, signature)
    (folder / "vae" / "config.json").write_text("{}")
    (folder / "extra.bin").write_bytes(b"x")
    with pytest.raises(SignatureError):
        verify_weights(folder, public, signature)
