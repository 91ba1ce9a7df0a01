"""The form of the database, step by step. Run at the start of a ledger, by its one writer."""
