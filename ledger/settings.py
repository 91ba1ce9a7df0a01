"""What one ledger's machine needs to know: from the environment, `CONSORTIUM_LEDGER__NAME`, or the command line."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared_models.shelf import Shelf, open_shelf


class Settings(BaseSettings):
    """The settings of a ledger. What all members agreed on is in the charter, and not here."""

    model_config = SettingsConfigDict(env_prefix="CONSORTIUM_LEDGER__")

    dir: Path = Field(description="the ledger's folder, with log.key in it")
    host: str = "127.0.0.1"
    port: int = Field(8443, ge=1, le=65_535)
    database_url: str = Field("", description="postgresql+psycopg://…; by default SQLite, in the folder")
    register_dir: Path | None = Field(
        None, description="where the head register is, register/ in the folder by default"
    )
    artefacts: str = Field(
        "",
        description="where the files of artefacts stand, by SHA-256: a folder, or a bucket, s3://NAME/PREFIX;"
        " artefacts/ in the folder by default",
    )
    members_only: bool = Field(False, description="whether only members, and who is to be one, read the log")
    metrics: str = Field("", description="HOST:PORT to answer Prometheus at; by default nowhere")
    requests: int = Field(30_000, ge=1, description="of one key or address in a minute; who asks for more gets 429")
    waiting: int = Field(4096, ge=1, description="entries that may wait to be written before a sender gets 429")

    @property
    def database(self) -> str:
        """The URL of the database."""
        return self.database_url or f"sqlite:///{self.dir / 'ledger.db'}"

    @property
    def register(self) -> Path:
        return self.register_dir or self.dir / "register"

    @property
    def openings(self) -> Path:
        """Where members show what the log has drawn of their work."""
        return self.dir / "openings"

    @property
    def updates(self) -> Path:
        """Where the coordinator shows which updates its steps were taken from."""
        return self.dir / "updates"

    def shelf(self) -> Shelf:
        """Where the files of artefacts stand. Raises `Refused`: NOT_SET_UP, BAD_FIELD."""
        return open_shelf(self.artefacts or str(self.dir / "artefacts"), self.dir / "uploads")
