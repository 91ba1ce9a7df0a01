"""What is signed: kinds of record, canonical bytes, notes, the Merkle tree. Standard library and cryptography only."""
