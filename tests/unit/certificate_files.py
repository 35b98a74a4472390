"""Certificates on disk, made by an authority of the tests' own."""

import ssl
from pathlib import Path

import trustme
from cryptography import x509

from cluster.tls import Certificates
from tenants.settings.tls import ServerTlsConfig


class CertificateFiles:
    """The files of one server, which can be renewed; and what clients need to trust it.

    Args:
        directory: where the files are.
        client_ca: authority of clients; None: clients need no certificate.
    """

    def __init__(self, directory: Path, client_ca: trustme.CA | None = None) -> None:
        self.ca = trustme.CA()
        self.cert_file, self.key_file = directory / "tls.crt", directory / "tls.key"
        self.client_ca_file = directory / "clients.crt" if client_ca else None
        self.now_s = 0.0
        self.renew()
        if client_ca:
            self.trust_clients_of(client_ca)

    def renew(self) -> str:
        """Write another certificate and key; returns its serial number, as clients see it."""
        issued = self.ca.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(self.key_file)
        issued.cert_chain_pems[0].write_to_path(self.cert_file)
        for more in issued.cert_chain_pems[1:]:
            more.write_to_path(self.cert_file, append=True)
        return serial_number(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode()))

    def trust_clients_of(self, client_ca: trustme.CA) -> None:
        assert self.client_ca_file is not None
        client_ca.cert_pem.write_to_path(self.client_ca_file)

    def config(self, **options: str) -> ServerTlsConfig:
        files = {"cert_file": self.cert_file, "key_file": self.key_file, "client_ca_file": self.client_ca_file}
        return ServerTlsConfig.model_validate(files | options)

    def load(self, **options: str) -> Certificates:
        """Load them as a port does. They are looked at again once ``now_s`` has moved."""
        return Certificates(self.config(**options), "listen.x_tls", lambda: self.now_s)

    def client_context(self, certificate_of: trustme.CA | None = None) -> ssl.SSLContext:
        """What a client needs; with a certificate of its own if one is asked for."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if certificate_of:
            certificate_of.issue_cert("client").configure_cert(context)
        return context


def serial_number(der: bytes) -> str:
    return str(x509.load_der_x509_certificate(der).serial_number)
