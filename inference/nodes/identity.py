"""How nodes prove to each other that they belong to one installation.

All nodes have the installation's secret key. A certificate authority's key is derived from it, and each process issues
itself a certificate under its node's name: there is nothing to hand out, and nothing to renew but by a restart. Whoever
knows the secret key could read the database's sealed secrets as well, so this adds nobody who may come in.
"""

import datetime
import os
import ssl
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_PURPOSE = b"nopenai: certificates of nodes, version 1"
_SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nOpenAI Server")])
# Certificates live as long as processes, whatever their machines' clocks say.
_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_UNTIL = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


class Identity:
    """One process of a node, to others: made once, kept in memory only."""

    def __init__(self, node: str, secret_key: bytes) -> None:
        seed = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret_key)
        authority_key = Ed25519PrivateKey.from_private_bytes(seed)
        own_key = Ed25519PrivateKey.generate()
        self._authority = _authority(authority_key).public_bytes(Encoding.PEM).decode()
        certificate = _certificate(node, own_key.public_key(), authority_key)
        self._own = certificate.public_bytes(Encoding.PEM) + own_key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )

    def server(self) -> ssl.SSLContext:
        """Lets in who belongs to the installation."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # nobody resumes: connections last
        return context

    def client(self) -> ssl.SSLContext:
        """To be used with ``server_hostname=host_name(node)``: a node that answers at another one's address is not
        taken for it."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._authority)
        # OpenSSL reads files only; this one is in memory, and gone after the next lines.
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, self._own)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return context


def host_name(node: str) -> str:
    """The name by which TLS knows a node; its own may hold what a host's name may not."""
    return f"{sha256(node.encode()).hexdigest()[:32]}.node.nopenai"


def _authority(key: Ed25519PrivateKey) -> x509.Certificate:
    """The same for everybody who has the key."""
    return (
        _draft(key.public_key(), serial=1)
        .subject_name(_SUBJECT)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, None)
    )


def _certificate(node: str, own: Ed25519PublicKey, authority: Ed25519PrivateKey) -> x509.Certificate:
    return (
        _draft(own, serial=x509.random_serial_number())
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host_name(node))]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, None)
    )


def _draft(key: Ed25519PublicKey, *, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(_SUBJECT)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
    )


def _usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
