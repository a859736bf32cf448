"""The model registry: manifests, digests, storage and qualification."""
