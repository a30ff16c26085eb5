"""The certificate of one installation's Dask cluster.

A Dask scheduler runs the code of every client, and every user of the machine reaches its port. So scheduler, workers
and clients show one certificate and trust only that one; its private key, in the same file, is for the owner.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vecap_tasks.services.settings import Settings, write_private

_VALID = timedelta(days=5 * 365)
_RENEWED = timedelta(days=365)  # before its end: services that keep running for a year have a valid certificate


def write_certificate(settings: Settings) -> None:
    """Make the certificate, unless a valid one exists. Only for services that are not running: they read it once."""
    file = settings.dask_certificate
    now = datetime.now(UTC)
    try:
        if x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc - now > _RENEWED:
            return
    except (FileNotFoundError, ValueError):
        pass  # none yet, or a damaged one
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "VeCap Dask")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # a clock may be set back
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.parent.chmod(0o700)
    write_private(file, (private + certificate.public_bytes(serialization.Encoding.PEM)).decode())
