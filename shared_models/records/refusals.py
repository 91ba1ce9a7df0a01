"""Why something was refused: one closed list of names, each with what to do about it.

A caller who can ignore a verdict will, so a refusal is an exception:

    Refused             wrong input, somebody else's doing; named, and shown to whoever sent it
    AssertionError      our own invariant is broken: a bug
    anything else       a bug, or the machine; it crashes
"""

from enum import StrEnum


class Refusal(StrEnum):
    """The name of a refusal, as it stands in problem+json, in `round.close` entries and in audit findings."""

    # Reading bytes (any party).
    TOO_LARGE = "too_large"
    NOT_TEXT = "not_text"
    NOT_A_NOTE = "not_a_note"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    BAD_KEY = "bad_key"
    WRONG_ORIGIN = "wrong_origin"
    UNKNOWN_KIND = "unknown_kind"
    NOT_CANONICAL = "not_canonical"
    BAD_FIELD = "bad_field"
    BAD_PROOF = "bad_proof"
    BAD_POLICY = "bad_policy"
    NO_QUORUM = "no_quorum"
    # The books (ledger and audit).
    NO_CHARTER = "no_charter"
    WRONG_CHARTER = "wrong_charter"
    WRONG_ROLE = "wrong_role"
    REVOKED = "revoked"
    WRONG_MEMBER = "wrong_member"
    SEQUENCE_GAP = "sequence_gap"
    WRONG_PREV = "wrong_prev"
    CONFLICT = "conflict"
    UNKNOWN_RUN = "unknown_run"
    WRONG_MANIFEST = "wrong_manifest"
    WRONG_FLOP = "wrong_flop"
    UNKNOWN_CODEC = "unknown_codec"
    NO_CONSENT = "no_consent"
    WRONG_ROUND = "wrong_round"
    WRONG_BASE = "wrong_base"
    NOT_INVITED = "not_invited"
    IMPLAUSIBLE = "implausible"
    WRONG_HEAD = "wrong_head"
    WRONG_RECEIPT = "wrong_receipt"
    WRONG_CHECKPOINT = "wrong_checkpoint"
    WRONG_SEED = "wrong_seed"
    WRONG_ITEM = "wrong_item"
    WRONG_PERIOD = "wrong_period"
    WRONG_STATEMENT = "wrong_statement"
    WRONG_EVIDENCE = "wrong_evidence"
    INFEASIBLE = "infeasible"
    UNKNOWN_CURRENCY = "unknown_currency"
    NO_RATE = "no_rate"
    CLOSED = "closed"
    WRONG_DISPUTE = "wrong_dispute"
    AFTER_THE_FACT = "after_the_fact"
    WRONG_SEAL = "wrong_seal"
    TOO_EARLY = "too_early"
    WRONG_PRICE = "wrong_price"
    NOT_OWED = "not_owed"
    WRONG_LINEAGE = "wrong_lineage"
    NO_ACCESS = "no_access"
    NOT_DRAWN = "not_drawn"
    # A round's answers (coordinator).
    MALFORMED = "malformed"
    REPLAYED = "replayed"
    WRONG_DIGEST = "wrong_digest"
    WRONG_SHAPE = "wrong_shape"
    NOT_FINITE = "not_finite"
    LATE = "late"
    DEAD = "dead"
    FAILED = "failed"
    NOT_PASSED = "not_passed"
    # A member's daemon.
    NOT_APPROVED = "not_approved"
    POLICY = "policy"
    TAKEN_AWAY = "taken_away"
    NO_TASK = "no_task"
    NO_TEXT = "no_text"
    NO_CHECKPOINT = "no_checkpoint"
    NO_JOURNAL = "no_journal"
    NOT_HELD = "not_held"
    TOO_LATE = "too_late"
    WRONG_OPENING = "wrong_opening"
    OTHER_MACHINE = "other_machine"
    FORK = "fork"
    # Joining.
    BAD_INVITE = "bad_invite"
    EXPIRED = "expired"
    INVITE_USED = "invite_used"
    TOO_MANY_INVITES = "too_many_invites"
    ALREADY_MEMBER = "already_member"
    WRONG_WORDS = "wrong_words"
    # The stores.
    CORRUPT = "corrupt"
    BAD_MEMORY = "bad_memory"
    BEHIND = "behind"
    LOCKED = "locked"
    STOPPED = "stopped"
    BUSY = "busy"
    NOT_FOUND = "not_found"
    STALE = "stale"
    BAD_RANGE = "bad_range"
    UNREACHABLE = "unreachable"
    NOT_SET_UP = "not_set_up"
    OS_ERROR = "os_error"
    WRONG_MODEL = "wrong_model"
    # Asking a service.
    WRONG_ADDRESS = "wrong_address"
    WRONG_METHOD = "wrong_method"
    OUTDATED = "outdated"
    DEFECT = "defect"
    # Reading what is for members only.
    NOT_SIGNED_IN = "not_signed_in"
    LINK_USED = "link_used"
    OTHER_SITE = "other_site"


REMEDY: dict[Refusal, str] = {
    Refusal.TOO_LARGE: "send less: an entry is at most 65,535 bytes, an update what its codec makes; or make room",
    Refusal.NOT_TEXT: "send UTF-8 without control characters other than newline",
    Refusal.NOT_A_NOTE: "send a C2SP signed note: text, a blank line, signature lines",
    Refusal.UNKNOWN_KEY: "sign with a key that the charter names",
    Refusal.BAD_SIGNATURE: "the bytes are not what was signed: ask the signer for the original",
    Refusal.BAD_KEY: "use an Ed25519 key in canonical encoding and not of small order",
    Refusal.WRONG_ORIGIN: "this record belongs to another consortium: check the address",
    Refusal.UNKNOWN_KIND: "update this software, or check the type line of the record",
    Refusal.NOT_CANONICAL: "encode the record as RFC 8785 canonical JSON on one line",
    Refusal.BAD_FIELD: "correct the named field: the protocol page gives its domain",
    Refusal.BAD_PROOF: "fetch the proof again; if it fails twice, compare tree heads with another member",
    Refusal.BAD_POLICY: "correct the named line of the policy file: C2SP tlog-policy gives its form",
    Refusal.NO_QUORUM: "wait until more members have cosigned the tree head, or ask who is missing",
    Refusal.NO_CHARTER: "the first entry of a log is its charter, signed by every member: append that first",
    Refusal.WRONG_CHARTER: "replace the charter in force and leave in it what stays; vote on an amendment that is open",
    Refusal.WRONG_ROLE: "sign with the key of the role that may write this kind",
    Refusal.REVOKED: "sign with a key that still counts: the holder's admin adds one, `consortium key add`",
    Refusal.WRONG_MEMBER: "a member speaks only for itself: sign your own record",
    Refusal.SEQUENCE_GAP: "append the missing earlier entries of this author first, in order",
    Refusal.WRONG_PREV: "cite the leaf hash of this author's previous entry",
    Refusal.CONFLICT: "the first text stands and this one is refused; a correction is a new entry",
    Refusal.UNKNOWN_RUN: "append the run's manifest first, or check the run's name",
    Refusal.WRONG_MANIFEST: "cite the manifest that stands in the log",
    Refusal.WRONG_FLOP: "compute FLOP per token by the closed formula of docs/protocol.md",
    Refusal.UNKNOWN_CODEC: "name one of the codecs of docs/protocol.md, or update this software",
    Refusal.NO_CONSENT: "the member's operator must countersign the run's manifest first",
    Refusal.WRONG_SEED: "the coordinator reveals the very seed whose SHA-256 stands in the round's opening",
    Refusal.WRONG_ROUND: "rounds open in order, one at a time, to the last or a plateau; answer the one that is open",
    Refusal.WRONG_BASE: "train from the checkpoint that the round names",
    Refusal.NOT_INVITED: "only members invited to a round have receipts and a place in it",
    Refusal.IMPLAUSIBLE: "claim what was done: the meter and the device's peak bound the claim",
    Refusal.WRONG_HEAD: "cite a tree head of this log: its size and its root",
    Refusal.WRONG_RECEIPT: "cite receipts of this round that stand in the log, in member order",
    Refusal.WRONG_CHECKPOINT: "a round without quorum keeps its base; a run ends at its last checkpoint",
    Refusal.WRONG_ITEM: "name a shared pot and more than nothing; a credit note, your own item and what is left of it",
    Refusal.WRONG_PERIOD: "a period begins where the last one ended and ends in the log as it stands",
    Refusal.WRONG_STATEMENT: "recompute the statement from the entries it covers",
    Refusal.WRONG_EVIDENCE: "show two different notes of one author about one thing, the first one as it is logged",
    Refusal.INFEASIBLE: "change what the message names by so much: nothing keeps to every limit",
    Refusal.UNKNOWN_CURRENCY: "write the three letters of ISO 4217",
    Refusal.NO_RATE: "let the administrator enter the rate of that day first: `consortium rate`",
    Refusal.CLOSED: "this period has its statement: enter it for a later one, or correct it by a credit note",
    Refusal.WRONG_DISPUTE: "name an item or work that can still be disputed, and rule on its first dispute, once",
    Refusal.AFTER_THE_FACT: "quote and price a period before its work and costs begin: name a later one",
    Refusal.WRONG_SEAL: "open what was sealed, to the letter: `consortium quote open` takes it from your folder",
    Refusal.TOO_EARLY: "wait until more than half of the members have sealed theirs, then open yours",
    Refusal.WRONG_PRICE: "take the median of the opened quotes, once more than half of the members have opened theirs",
    Refusal.NOT_OWED: "name a payment that is open, as `consortium settle` shows them",
    Refusal.WRONG_LINEAGE: "cite checkpoints of closed rounds, or artefacts that stand in the log",
    Refusal.NO_ACCESS: "`consortium model list LOG --member NAME` says why, and what the next tier takes",
    Refusal.NOT_DRAWN: "audit what the log draws, while it can be disputed: `consortium work challenged` lists it",
    Refusal.MALFORMED: "answer with the fields and arrays that the task asks for, and nothing else",
    Refusal.REPLAYED: "send each receipt once: this one was answered with before",
    Refusal.WRONG_DIGEST: "the update is not the one its receipt was signed for",
    Refusal.WRONG_SHAPE: "send one array for each parameter, in its shape, of exactly the bytes that its codec takes",
    Refusal.NOT_FINITE: "NaN or infinity stands there: lower the learning rate, or check the data, or the file given",
    Refusal.LATE: "answer before the round's deadline; the receipt is kept and goes into the log next round",
    Refusal.DEAD: "start the member's daemon again: it rejoins this round if it is still open, else the next",
    Refusal.FAILED: "look into the member's log: its training process ended with the error shown",
    Refusal.NOT_PASSED: "ask on the coordinator's own machine: the gateway passes what a SuperNode asks, no more",
    Refusal.NOT_APPROVED: "approve the bundle by running the same version of this software as the coordinator",
    Refusal.POLICY: "the member's operator decides: `consortium policy explain` says what each line allows, and when",
    Refusal.TAKEN_AWAY: "start the member's daemon where its folder is: it goes on with this round if it is still open",
    Refusal.NO_TASK: "only the training process that the daemon started may ask it for a signature",
    Refusal.NO_JOURNAL: "bring back the folder runs/ of the coordinator that trained this run so far; nothing was said",
    Refusal.NOT_HELD: "name a folder that has it, --files, such as that of a member asked last; or go back, --back-to",
    Refusal.NO_TEXT: "let `data` in member.toml name a text that is there, readable and longer than a sequence",
    Refusal.NO_CHECKPOINT: "send the whole checkpoint: the one that the step is from was not kept",
    Refusal.TOO_LATE: "open what is asked for before two more rounds are trained: older ones are not kept",
    Refusal.WRONG_OPENING: "ask the member to open it again: this is not what its receipt commits to",
    Refusal.OTHER_MACHINE: "have it repeated on a machine like the member's: in bf16 others differ too much to judge",
    Refusal.FORK: "stop and keep both tree heads: together they prove that the log showed two histories",
    Refusal.BAD_INVITE: "copy the whole string again, from its first letter to its last; or ask for another invite",
    Refusal.EXPIRED: "ask for another invite, `consortium invite`; if this one is new, set your clock",
    Refusal.INVITE_USED: "another has answered it: unless that was you, tell the inviter, and ask for another invite",
    Refusal.TOO_MANY_INVITES: "admit who has answered, or wait until an invite of yours expires",
    Refusal.ALREADY_MEMBER: "choose another name; if it should be you, tell the members: another stands there",
    Refusal.WRONG_WORDS: "admit nobody: ask again by telephone; if they stay different, somebody stands between you",
    Refusal.CORRUPT: "restore the store from a copy: the named entry is not what was published",
    Refusal.BAD_MEMORY: "delete the named file: the optimiser starts afresh; then look why the disk altered it",
    Refusal.BEHIND: "restore the newest copy: signing from an older one would fork the log",
    Refusal.LOCKED: "another process holds this folder: stop it, or choose another folder",
    Refusal.STOPPED: "a write failed: free or mend the disk, then start it again; what was answered before is there",
    Refusal.BUSY: "send it again in a second: nothing of it was taken",
    Refusal.NOT_FOUND: "check the name or the hash: neither the log nor an open round has it",
    Refusal.STALE: "sign the request anew, and set your clock: a signature is good for five minutes",
    Refusal.BAD_RANGE: "ask for bytes that the file has: Content-Range says how many there are",
    Refusal.UNREACHABLE: "check that the service runs and that its address is right",
    Refusal.NOT_SET_UP: "create the missing file first; the message names it",
    Refusal.OS_ERROR: "mend what the message names (rights, room on the disk, an address), and type the command again",
    Refusal.WRONG_MODEL: "name the recipe of the run that these weights are from, or the log that holds it",
    Refusal.WRONG_ADDRESS: "ask at an address that docs/openapi.json lists; what stands before /v1 may be wrong",
    Refusal.WRONG_METHOD: "ask by one of the methods that the answer's Allow names: docs/openapi.json lists them",
    Refusal.OUTDATED: "bring your copy of this software to the ledger's release, then `pip install --upgrade .` in it",
    Refusal.DEFECT: "tell the ledger's operator: the fault is ours, and what the ledger has printed says more",
    Refusal.NOT_SIGNED_IN: "name your key, `--key` or `--home`; for a browser, `consortium open` prints a link",
    Refusal.LINK_USED: "ask for another link, `consortium open`: each is good once",
    Refusal.OTHER_SITE: "open the ledger's own page and go on from there",
}

KEPT: dict[Refusal, str] = {  # What is there afterwards, where more is to be said than that nothing was written.
    Refusal.LATE: "the receipt: it goes into the log with the next round",
    Refusal.DEAD: "what the member has signed: its daemon hands it in when it is back",
    Refusal.FAILED: "the checkpoint, and what the optimiser remembered, as they were before the round",
    Refusal.POLICY: "the member's consent, and its place in the rounds to come",
    Refusal.TAKEN_AWAY: "how far training came, and what it used, until the round is over",
    Refusal.NO_CHECKPOINT: "the member's place in the round: it is sent the whole",
    Refusal.BAD_MEMORY: "the checkpoint, and what of earlier updates is still unsent",
    Refusal.FORK: "both heads, in fork.json; nothing is signed while that is there",
    Refusal.EXPIRED: "the folder and its keys, if they were made; nobody was admitted",
    Refusal.INVITE_USED: "the folder and its keys, if they were made; nobody was admitted by it",
    Refusal.ALREADY_MEMBER: "the folder and its keys, if they were made; the member that stands there",
    Refusal.WRONG_WORDS: "the invite and its answer, until they expire; nobody was admitted",
    Refusal.CORRUPT: "everything else that lies there",
    Refusal.BEHIND: "the log, as far as it was published",
    Refusal.STOPPED: "every entry that was answered as logged",
    Refusal.UNREACHABLE: "what was signed, in its author's folder, and of a blob the bytes that came",
    Refusal.DEFECT: "what was answered before; whether this is, the log tells: the same bytes may be sent again",
    Refusal.OS_ERROR: "what the command had finished before that",
}
NOTHING = "nothing of it was written; what was there before is as it was"


class Refused(Exception):
    """Wrong input, by name, with the detail that the sender needs."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        super().__init__(refusal, detail)
        self.refusal = refusal
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.refusal.value}: {self.detail}"

    @property
    def remedy(self) -> str:
        """What its sender can do about it."""
        return REMEDY[self.refusal]

    @property
    def kept(self) -> str:
        """What is there afterwards."""
        return KEPT.get(self.refusal, NOTHING)

    @property
    def page(self) -> str:
        """Where the documentation says more."""
        return f"docs/errors/{self.refusal.value}.md"
