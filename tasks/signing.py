"""Keys and signatures: Ed25519 in DSSE envelopes, and OpenSSF model signing for the weights.

A key pair lies in a folder outside the repository, readable by its owner alone. Every public key
(`*.pub.pem`) in that folder is trusted to be that of a machine which trains, evaluates or decides; those of people lie
in its folder `people`, because only a person may approve what a machine made. The file's stem is the name under which
its owner signs. Envelopes are written as canonical JSON and refused in any other spelling, so that no byte of one can
change unnoticed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SignatureLibraryError
from securesystemslib.signer import CryptoSigner, SSlibKey

from data.errors import UserError
from model.atomic import replacing, write_atomically
from tasks.canonical import canonical

IN_TOTO = "application/vnd.in-toto+json"
KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
WEIGHTS_KEY = "weights"
PEOPLE = "people"  # folder, below that of the machines' keys
WEIGHTS_SIGNATURE = "model.sig"


class SignatureError(Exception):
    """An envelope that is malformed, altered, or signed by no trusted key."""


@dataclass(frozen=True)
class Identity:
    """A private key and the name under which it signs."""

    name: str
    signer: CryptoSigner

    @property
    def keyid(self) -> str:
        """Identifier of the public key: SHA-256 over its canonical description."""
        return str(self.signer.public_key.keyid)


def _create(path: Path, key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    """Publish a new private key: the first of several racing processes wins, and the others use its key."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write_atomically(temporary, pem, mode=0o600)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _private_key(path: Path, password: bytes | None = None) -> Any:
    """The private key in a PEM file."""
    if path.stat().st_mode & 0o077:
        raise UserError(f"Private key {path.name} is readable by others", f"Run: chmod 600 {path.name}")
    try:
        return serialization.load_pem_private_key(path.read_bytes(), password)
    except (ValueError, TypeError) as error:
        remedy = "Give another key file, or its password"
        raise UserError(f"{path.name} is not a PEM private key that this password opens", remedy) from error


def _publish(key: Any, public: Path) -> None:
    """Write the public half of a key once; a file with another key is never replaced."""
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if not public.exists():
        write_atomically(public, pem)
    elif public.read_bytes() != pem:
        raise UserError(f"{public.name} is not the public half of its private key", "Restore one of the two")


def load_identity(
    folder: Path,
    name: str = "pipeline",
    key_file: Path | None = None,
    password: str | None = None,
    create: bool = True,
) -> Identity:
    """The signing key `name` in `folder`, created on first use, or the one in `key_file`; its public half is trusted.

    Raises:
        UserError: a name that is no file name or, without `create`, has no key; a key that others can read, or a file
            that holds no Ed25519 key.
    """
    if not KEY_NAME.fullmatch(name) or name == WEIGHTS_KEY:
        raise UserError(f"{name!r} cannot name a key", "Use letters, digits and ._@- (at most 64)")
    path = key_file or folder / f"{name}.pem"
    if key_file is not None and not key_file.is_file():
        raise UserError(f"Key file {key_file.name} does not exist", "Correct the path or leave it unset")
    if not path.exists():
        if not create:
            raise UserError(
                f"{name} has no key on this machine", "Check the name; --new-key makes a key and trusts it here"
            )
        _create(path, ed25519.Ed25519PrivateKey.generate())
    key = _private_key(path, password.encode() if password else None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UserError(f"{path.name} holds no Ed25519 key", "Create one with: openssl genpkey -algorithm ed25519")
    _publish(key, folder / f"{path.stem}.pub.pem")
    return Identity(path.stem, CryptoSigner(key))


def trusted_keys(folder: Path) -> dict[str, SSlibKey]:
    """Public keys that are trusted, by the name of their owner: every Ed25519 `NAME.pub.pem` in the folder."""
    found: dict[str, SSlibKey] = {}
    for path in sorted(folder.glob("*.pub.pem")):
        try:
            key = serialization.load_pem_public_key(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path.name} is not a public key", "Remove the file or restore it") from error
        if isinstance(key, ed25519.Ed25519PublicKey):
            found[path.name.removesuffix(".pub.pem")] = SSlibKey.from_crypto(key)
    return found


def sign(payload: Any, payload_type: str, identity: Identity) -> bytes:
    """A DSSE envelope over the canonical JSON of `payload`, itself as canonical JSON."""
    envelope = Envelope(canonical(payload), payload_type, {})
    envelope.sign(identity.signer)
    return canonical(envelope.to_dict())


def verify(data: bytes, payload_type: str, keys: Mapping[str, SSlibKey]) -> tuple[Any, str]:
    """The payload of an envelope and the name of the key that signed it.

    Raises:
        SignatureError: malformed, in another spelling than canonical JSON, of another type, or no trusted signature.
    """
    try:
        envelope = Envelope.from_dict(json.loads(data))
        payload = json.loads(envelope.payload)
        if canonical(envelope.to_dict()) != data or canonical(payload) != envelope.payload:
            raise SignatureError("the envelope is not in canonical form")
    except (ValueError, KeyError, TypeError, AttributeError, SignatureLibraryError) as error:
        raise SignatureError("the envelope cannot be read") from error
    if envelope.payload_type != payload_type:
        raise SignatureError(f"the envelope holds {envelope.payload_type!r}, not {payload_type!r}")
    try:
        accepted = envelope.verify(list(keys.values()), threshold=1)
    except (ValueError, SignatureLibraryError) as error:
        strangers = [keyid for keyid in envelope.signatures if keyid not in {key.keyid for key in keys.values()}]
        told = f": it names key {strangers[0][:12]}, which is not among them" if strangers else ""
        raise SignatureError(f"no trusted key signed the envelope{told}") from error
    return payload, next(name for name, key in keys.items() if key.keyid in accepted)


def sign_weights(folder: Path, keys: Path, signature: Path) -> None:
    """Sign every file below `folder` in the OpenSSF model-signing layout (a Sigstore bundle, P-256 key, no network).

    The layout knows no Ed25519, hence a second key `weights.pem` beside the signing key.
    """
    import model_signing

    path = keys / f"{WEIGHTS_KEY}.pem"
    if not path.exists():
        _create(path, ec.generate_private_key(ec.SECP256R1()))
    _publish(_private_key(path), path.with_name(f"{WEIGHTS_KEY}.pub.pem"))
    signature.parent.mkdir(parents=True, exist_ok=True)
    with replacing(signature) as temporary:
        model_signing.signing.Config().use_elliptic_key_signer(private_key=path).sign(folder, temporary)


def verify_weights(folder: Path, public_key: Path, signature: Path) -> None:
    """Check the OpenSSF signature of a model folder.

    Raises:
        SignatureError: a file was changed, added or removed, or the signature is of another key.
    """
    import model_signing

    try:
        model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(folder, signature)
    except Exception as error:  # the library raises several unrelated kinds, all of which mean "not verified"
        raise SignatureError(f"the weights do not match {signature.name}") from error
