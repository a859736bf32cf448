"""Puts this folder on the import path of its tests, for `tee_vectors`."""
