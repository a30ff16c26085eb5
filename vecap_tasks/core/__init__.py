"""What all stages share: schemas, store, manifests, versions and the stage base class."""
