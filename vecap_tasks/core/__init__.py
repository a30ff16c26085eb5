"""The contract that every stage keeps: schemas, store, manifest, version, stage."""
