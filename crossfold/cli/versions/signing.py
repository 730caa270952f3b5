"""Commands for signatures: sign and verify."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossfold.errors import UserError

from ..console import console, fail
from .registry import Version, find, open_registry

if TYPE_CHECKING:
    from crossfold.settings import Settings


def sign(
    version: Version,
    key: Annotated[
        Path,
        typer.Option(
            metavar="KEY.pem", help="Private key on an elliptic curve.", show_default=False
        ),
    ],
) -> None:
    """Sign all files of a registered version with a private key."""
    from crossfold.predict.signatures import public_key_of
    from crossfold.registry.signing import sign_version

    public_key_of(key)  # a mistake in it is found before MLflow is asked
    settings, client = open_registry()
    signed = sign_version(client, find(client, settings, version), key)
    signature, now = signed.signature, "already signed" if signed.already else "signed"
    console.print(
        f"{signature.version} is {now}: {signature.num_files} files, key {signature.fingerprint}",
        soft_wrap=True,
    )


def verify(
    version: Version,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="PUBLIC.pem", help="Public key.", show_default="registry.signature_key"
        ),
    ] = None,
) -> None:
    """Verify the signature of a registered version; exits with 1 if it isn't valid."""
    from crossfold.predict.signatures import UnverifiedError, read_public_key, verify_version

    public_key = read_public_key(key) if key else None
    settings, client = open_registry()
    public_key = public_key or _required(settings)
    try:
        signature = verify_version(find(client, settings, version), public_key)
    except UnverifiedError as error:
        fail(str(error), 1)
    console.print(
        f"{signature.version} is as signed: {signature.num_files} files, key "
        f"{signature.fingerprint}",
        soft_wrap=True,
    )


def _required(settings: "Settings") -> str:
    from crossfold.predict.signatures import required_key

    key = required_key(settings.registry, Path())
    if key is None:
        raise UserError(
            "no key to verify with: add --key PUBLIC.pem, or set registry.signature_key in "
            "params.yaml"
        )
    return key
