"""The ledger service: it appends signed records to a log and publishes it. Trusted for nothing but being there."""
