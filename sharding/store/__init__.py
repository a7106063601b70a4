"""The store: tars with their index, manifest, ground truth and journal."""
