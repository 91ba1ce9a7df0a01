"""The coordinator's folder.

coordinator.toml   its settings; not secret
keys/              0700: coordinator.key (signs manifests and rounds), executor.secret (Flower's executor), blobs.secret
                   (seals what lets a member at a round's blobs)
tls/               ca.crt goes to every member; ca.key and server.key stay
charter.note       the charter it works under
checkpoints/       weights by digest
runs/              what each run left, to go on with: server/journal.py
blobs/             what the members of the open round may fetch, and have brought: server/blobs.py
nodes/             the key of each member's node that was registered by hand, or when the consortium was founded
answered.json      what came of the work that it has repeated: `consortium work audit`
verified.json      up to which size, and under which root, that has verified every signature of the log
tokenizers/        those of its runs, by their SHA-256; in tokens/ public texts in these, as they were repeated
say.lock           who signs an entry holds it meanwhile
published/         the note of each model that was published, by its SHA-256
status.json        what the run is doing now, for whoever looks
flwr/              Flower's home
"""

import datetime
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared_models import durable
from shared_models.folder import Folder, read_settings, write_settings
from shared_models.ledger_http import LedgerHttp
from shared_models.records import entry as entries
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Manifest
from shared_models.records.refusals import Refusal, Refused

VALID_DAYS = 365
# Up to here tensors stand in Flower's messages. It takes about 3 CPU-s to bring so much to a member or from it, less
# than its training process takes to start (docs/experiments.md). And the port of the blobs may stay shut.
INLINE_BYTES = 64 << 20


class Home(Folder):
    """The coordinator's folder."""

    @cached_property
    def settings(self) -> "Settings":
        return read_settings(self.path / "coordinator.toml", Settings)

    @cached_property
    def key(self) -> SigningKey:
        return SigningKey.load(self.path / "keys" / "coordinator.key")

    def ledger(self, patience_s: float = 10.0) -> LedgerHttp:
        """The ledger, asked by the coordinator's key."""
        return LedgerHttp(self.settings.ledger, patience_s, self.key)

    @property
    def blobs_path(self) -> Path:
        return self.path / "blobs"

    @property
    def texts_path(self) -> Path:
        return self.path / "texts"

    @property
    def nodes_path(self) -> Path:
        return self.path / "nodes"

    def blobs_secret(self) -> bytes:
        """What capabilities for blobs are sealed with; made by who asks first."""
        path = self.path / "keys" / "blobs.secret"
        if not path.is_file():
            durable.write(path, secrets.token_bytes(32), mode=0o600)
        return path.read_bytes()

    def run(self, ledger: LedgerHttp, name: str) -> tuple[Manifest, bytes, set[str]]:
        """A run in the log: its manifest, that as a leaf, who has consented. Raises `Refused(UNKNOWN_RUN)`."""
        for leaf, consents, _ in ledger.runs():
            record = entries.open_leaf(leaf, self.charter.consortium, self.keyring.keys).record
            if isinstance(record, Manifest) and record.run == name:
                return record, leaf, set(consents)
        raise Refused(Refusal.UNKNOWN_RUN, f"the log holds no manifest of a run {name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the coordinator's machine needs to know."""

    ledger: str  # URL.
    superlink: (
        str  # HOST:PORT that its SuperLink binds. Flower's control port is the same one, and it is open: loopback.
    )
    blobs: str = ""  # HOST:PORT to serve, beside Flower's messages, what is large; without it all goes in these.
    inline_bytes: int = INLINE_BYTES  # What is larger goes that way.
    gateway: str = ""  # HOST:PORT to let members in from other machines, and to nothing but what concerns them.
    gateway_name: str = ""  # What they call this machine, where it is not that HOST, as behind 0.0.0.0.
    processor: str = "cpu"  # What checkpoints are scored on and work is repeated on, by PyTorch's name, such as cuda.

    def blobs_address(self) -> tuple[str, int] | None:
        """Host and port of the blobs. Raises `Refused(BAD_FIELD)`."""
        return _address("blobs", self.blobs) if self.blobs else None

    def gateway_address(self) -> tuple[str, int] | None:
        """Host and port of the gateway. Raises `Refused(BAD_FIELD)`, also where the SuperLink is not on loopback."""
        if not self.gateway:
            return None
        host, _ = _address("superlink", self.superlink)
        if host != "localhost" and not (_is_address(host) and ipaddress.ip_address(host).is_loopback):
            raise Refused(Refusal.BAD_FIELD, f"superlink = {self.superlink!r} is not on loopback: no gateway guards it")
        return _address("gateway", self.gateway)

    def names(self) -> tuple[str, ...]:
        """What this machine is called by who connects to it."""
        hosts = (self.superlink.rpartition(":")[0], self.gateway_name or self.gateway.rpartition(":")[0])
        return tuple(host.strip("[]") for host in hosts if host)


def _address(name: str, value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise Refused(Refusal.BAD_FIELD, f"{name} = {value!r} is not of the form HOST:PORT")
    return host.strip("[]"), int(port)


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def create(path: Path, consortium: str, settings: Settings) -> Home:
    """Make the coordinator's folder with keys and certificates of its own. Raises FileExistsError over an old one."""
    (path / "keys").mkdir(parents=True, mode=0o700)
    for folder in ("tls", "checkpoints", "flwr", "nodes"):
        (path / folder).mkdir()
    write_settings(path / "coordinator.toml", settings)
    SigningKey.create(path / "keys" / "coordinator.key", f"{consortium}/coordinator")
    durable.write(path / "keys" / "executor.secret", secrets.token_bytes(32), mode=0o600)
    _authority(path / "tls")
    certify(path / "tls", settings.names())
    return Home(path)


def node_pem(member: str, public_key: bytes) -> bytes:
    """A node's key in the form that the SuperLink reads. Raises `Refused(BAD_FIELD)`."""
    try:
        key = serialization.load_ssh_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refused(Refusal.BAD_FIELD, f"the node key of {member}: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise Refused(Refusal.BAD_FIELD, f"the node key of {member} is not of the curve P-384")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def certify(folder: Path, hosts: Iterable[str]) -> None:
    """See that the server's certificate is for these hosts and for loopback, and for all that it was for before.

    The authority, which the members trust, and the server's key stay. Raises `Refused(NOT_SET_UP)` where a certificate
    is to be signed, and the key of the authority is not here.
    """
    wanted: dict[str, x509.GeneralName] = {
        host: x509.IPAddress(ipaddress.ip_address(host)) if _is_address(host) else x509.DNSName(host)
        for host in ("localhost", "127.0.0.1", "::1", *hosts)
    }
    names: list[x509.GeneralName] = []
    if (folder / "server.crt").is_file():
        now = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
        names = list(now.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    missing = [name for name in wanted.values() if name not in names]
    if not missing:
        return
    if not (folder / "ca.key").is_file():
        raise Refused(Refusal.NOT_SET_UP, f"{folder / 'ca.key'}, to certify the server for {missing[-1].value}")
    authority = _key(folder / "ca.key")
    certificate = (
        _builder("Consortium coordinator", _key(folder / "server.key"))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names + missing), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    durable.write(folder / "server.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _authority(folder: Path) -> None:
    """A certificate authority for this consortium alone."""
    key = _key(folder / "ca.key")
    certificate = (
        _builder("Consortium CA", key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    durable.write(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in this file; made by who asks first."""
    if not path.is_file():
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        durable.write(path, pem, mode=0o600)
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _builder(common: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(common))
        .issuer_name(_named("Consortium CA"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def _usage(**allowed: bool) -> x509.KeyUsage:
    no = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**(no | allowed))


def _named(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
