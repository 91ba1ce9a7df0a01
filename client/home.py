"""A member's folder on its own machine: what is in it, and who may read it.

member.toml       its settings; not secret
keys/             0700: admin.key and compute.key (Ed25519, sign records), witness.key and attest.key (Ed25519, cosign
                  tree heads), node.key (P-384, Flower's authentication), salt (for the commitments to data)
charter.note      the charter as this member signed it: what it trusts, and all of it
join.note         of who has joined by an invite: its answer, as it was signed
ca.crt            the authority behind the coordinator's TLS
entries/          every entry that compute.key has signed, by number: the outbox, and the proof against omission;
                  who signs holds entries/lock meanwhile
evidence/         of each cost that was entered, the note that was signed and the salt of its commitment to the invoice
published/        the note of each model that this member has published, by its SHA-256
keyring/          keys that were added and revoked after the charter, as the log's entries say
quotes/           0700: what was sealed, and will be opened: a quote is lost without it
head.note         the newest tree head that was verified, cosigned by this member; a later one must continue it
verified.json     up to which size, and under which root, an audit has verified every signature of the log
fork.json         two heads of two histories, if the log has shown them: nothing is signed while this is there
runs.json         which runs its operator has approved or refused by hand: client/runs.py
speed.json        how fast this node trains, as it was measured: client/speed.py
halted.json       what that round used until then, as the daemon measured it
signal-….json     what electricity costs and emits by the hour, as it was fetched: client/tariff.py
tokenizers/       those that runs may name, by their SHA-256: `consortium model tokenizer`
models/           what builds a run's model, if that is not ours, as its operator has read it: `consortium model keep`
status.json       what the daemon is doing now, for whoever looks
flwr/, work/      Flower's home and the training process's folder; in work/kept the checkpoint and what is still unsent,
                  in work/memory what its optimiser remembers, in work/begun what the newest rounds began from, in
                  work/half how far a round came that was broken off, in work/tokens texts in a tokenizer's tokens, in
                  work/blobs what is under way to or from the coordinator
"""

import hmac
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client import sharing
from shared_models import durable, processes
from shared_models.folder import Folder, read_settings, write_settings
from shared_models.ledger_http import LedgerHttp
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Receipt, Recipe
from shared_models.records.merkle import EMPTY_ROOT
from shared_models.rules.audit import Witnessed


class Home(Folder):
    """One member's folder."""

    @cached_property
    def settings(self) -> "Settings":
        return read_settings(self.path / "member.toml", Settings)

    def key(self, role: str) -> SigningKey:
        return SigningKey.load(self.path / "keys" / f"{role}.key")

    def ledger(self, patience_s: float = 10.0) -> LedgerHttp:
        """The ledger, asked in this member's name: by its compute key, or its admin key on a machine without one."""
        keys = [role for role in ("compute", "admin") if (self.path / "keys" / f"{role}.key").is_file()]
        return LedgerHttp(self.settings.ledger, patience_s, self.key(keys[0]) if keys else None)

    @property
    def fork_path(self) -> Path:
        return self.path / "fork.json"

    @property
    def speed_path(self) -> Path:
        return self.path / "speed.json"

    @property
    def memory_path(self) -> Path:
        return self.path / "work" / "memory"

    @property
    def begun_path(self) -> Path:
        return self.path / "work" / "begun"

    @property
    def tokens_path(self) -> Path:
        return self.path / "work" / "tokens"

    @property
    def policy_path(self) -> Path:
        return self.path / "policy.toml"

    def node_config(self, door: Path, way: Path | None = None) -> dict[str, str]:
        """What the training process is told by way of Flower: where it finds what, and how it computes.

        `way` leads out of where it is, if it has no network there (shared_models/relay.py).
        """
        told = {"member": self.settings.member, "data": self.text, "door": str(door)}
        told |= {"kept": str(self.path / "work" / "kept"), "memory": str(self.memory_path)}
        told |= {"tokenizers": str(self.tokenizers_path), "tokens": str(self.tokens_path)}
        told |= {"half": str(self.path / "work" / "half")}
        told |= {"begun": str(self.begun_path), "superlink": self.settings.superlink}
        told |= {"authority": str(self.path / "ca.crt"), "blobs": str(self.path / "work" / "blobs")}
        told |= {} if way is None else {"way": str(way)}
        told |= {} if self.synthetic is None else {"synthetic": str(self.synthetic)}
        return told | self.machine()

    @property
    def text(self) -> str:
        """Which text it trains on, as `client.data.load` reads it: a relative path is one in this folder."""
        kind, colon, path = self.settings.data.partition("file:")
        return self.settings.data if kind or not colon else f"file:{self.path.absolute() / path}"

    @property
    def synthetic(self) -> Path | None:
        """The synthetic text that it trains on too, if any: a relative path is one in this folder."""
        return self.path.absolute() / self.settings.synthetic if self.settings.synthetic else None

    def training_files(self) -> dict[str, list[Path]]:
        """What of this machine the training process may read and write, as `confine.confined` takes it: no keys."""
        kind, _, path = self.text.partition(":")
        text = [Path(path)] if kind == "file" else []
        text += [] if self.synthetic is None else [self.synthetic, Path(f"{self.synthetic}.json")]
        read = [self.path / "flwr", self.path / "ca.crt", self.tokenizers_path, self.models_path, *text]
        return {"read": read, "write": [self.path / "work"]}

    def check_tokenizer(self, recipe: Recipe) -> None:
        """Whether a run of this recipe could cut this member's text here. Raises `Refused`, as `tokenizer.held`."""
        if recipe.tokenizer != "bytes":
            from shared_models.lm import tokenizer

            tokenizer.held(recipe.tokenizer, recipe.vocabulary, self.tokenizers_path)

    def check_machine(self, recipe: Recipe) -> None:
        """Whether this machine is set so that it can train the recipe. Raises `Refused`, as `sharing.check`."""
        sharing.check(self.settings, recipe)

    def check_model(self, recipe: Recipe) -> None:
        """Whether the file of a model that is not ours is here, to the byte. It is not run.

        Raises `Refused`, as `models.check_held`.
        """
        if not recipe.ours:
            from shared_models.lm import models

            models.check_held(recipe.model, self.models_path)

    def training_env(self) -> dict[str, str]:
        """The environment of the training process: nothing of ours. Its folder for what is temporary is made."""
        work = self.path / "work"
        (work / "tmp").mkdir(exist_ok=True)
        return processes.scrubbed(
            HOME=str(work),
            FLWR_HOME=str(self.path / "flwr"),
            OMP_NUM_THREADS=str(self.settings.devices),
            CUDA_DEVICE_ORDER="PCI_BUS_ID",  # As who measures its energy numbers them: client/energy.py.
            TMPDIR=str(work / "tmp"),
        )

    def machine(self) -> dict[str, str]:
        """How its machine computes, where that is not as by default: what `client.training.Machine.told` reads."""
        said = self.settings
        flags = {name: "yes" for name in ("shard", "tensor", "compile", "recompute") if getattr(said, name)}
        told = {"processor": said.processor, "processes": str(said.processes), "models": str(self.models_path)}
        return flags | told

    def salt(self, run: str, round_: int) -> str:
        """The salt of the commitment to the data of a round, hexadecimal: shown, it says nothing of another round's."""
        secret = (self.path / "keys" / "salt").read_bytes()
        return hmac.digest(secret, f"{run}/{round_}".encode(), "sha256").hex()

    def head_note(self) -> bytes | None:
        """The newest tree head that this member has verified and cosigned, or None before the first."""
        try:
            return (self.path / "head.note").read_bytes()
        except FileNotFoundError:
            return None

    def head(self) -> tlog.TreeHead:
        """The same; the empty tree before the first."""
        shown = self.head_note()
        return tlog.unsigned(shown) if shown else tlog.TreeHead(f"{self.charter.consortium}/log", 0, EMPTY_ROOT)

    def witnessed(self) -> Witnessed:
        head = self.head()
        return Witnessed(head.size, head.root.hex())

    def signed(self) -> list[bytes]:
        """Every entry that compute.key has signed here, oldest first."""
        return [path.read_bytes() for path in sorted((self.path / "entries").glob("*.note"))]

    def receipts(self) -> list[Receipt]:
        """Those among them that are for work."""
        return [record for leaf in self.signed() if isinstance(record := entries.peek(leaf), Receipt)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What this machine needs to know: addresses, and what it trains with."""

    member: str
    ledger: str  # URL.
    superlink: str  # HOST:PORT of the coordinator's Flower SuperLink.
    data: str  # Which text, as client.data.load reads it: file:PATH, or python-stdlib:NUMBER/OF to try things out.
    device: str  # A device class of the charter,
    devices: int  # and how many of them this node gives.
    node: str = "1"
    synthetic: str = ""  # A file of text that `consortium model sample` wrote, trained on beside it.
    processor: str = "cpu"  # What it computes on, by PyTorch's name, such as cuda or cuda:1,
    processes: int = 1  # in so many processes that share every batch; each holds the whole model,
    shard: bool = False  # or a part of it (FSDP2);
    tensor: bool = False  # or computes with its part of every matrix, on the whole batch (tensor parallel).
    compile: bool = False  # Whether training is compiled first (torch.compile).
    recompute: bool = False  # Whether training keeps less in memory and computes it again: `gpt.GPT`.
    peers: str = ""  # Addresses of other members' witnesses, separated by spaces: heads are compared with theirs.


def create(path: Path, settings: Settings) -> Home:
    """Make a member's folder with keys of its own, which never leave it. Raises FileExistsError over an old one."""
    (path / "keys").mkdir(parents=True, mode=0o700)
    for folder in ("entries", "flwr", "work"):
        (path / folder).mkdir()
    write_settings(path / "member.toml", settings)
    for role, (kind, *_) in MEMBER_ROLES.items():
        SigningKey.create(path / "keys" / f"{role}.key", f"{settings.member}/{role}", kind)
    durable.write(path / "keys" / "salt", secrets.token_bytes(32), mode=0o600)
    node = ec.generate_private_key(ec.SECP384R1())
    private = node.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    durable.write(path / "keys" / "node.key", private, mode=0o600)
    public = node.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    durable.write(path / "keys" / "node.pub", public + b"\n")
    return Home(path)
