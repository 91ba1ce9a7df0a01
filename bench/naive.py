"""What most would write first, as a peer for `bench.log`: a table, a row for each request, a commit for each row.

It verifies nothing, proves nothing and remembers no head. SQLite as it comes: every commit is flushed.
"""

import hashlib
import os

from fastapi import FastAPI, Request
from sqlmodel import Field, Session, SQLModel, create_engine


class NaiveReceipt(SQLModel, table=True):
    """One receipt, as it was sent."""

    id: int | None = Field(default=None, primary_key=True)
    digest: str = Field(unique=True)
    leaf: bytes


engine = create_engine(os.environ["NAIVE_URL"])
SQLModel.metadata.create_all(engine, tables=[SQLModel.metadata.tables["naivereceipt"]])
app = FastAPI()


@app.post("/v1/entries", status_code=201)
async def append(request: Request) -> dict[str, int | None]:
    leaf = await request.body()
    with Session(engine) as session:
        row = NaiveReceipt(digest=hashlib.sha256(leaf).hexdigest(), leaf=leaf)
        session.add(row)
        session.commit()
        return {"id": row.id}
