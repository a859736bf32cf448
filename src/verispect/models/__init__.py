"""Models on disk and their identity: manifests, digests, storage, signatures, qualification.

A model's identity is the digest of its canonical manifest; its bytes live in a content-addressed
store and are hashed again, once, in memory, each time they are loaded. The room may import
`core`, `evidence` and `appraisal`. It refuses to run a model, to fetch one from a network, and to
load any byte that a manifest does not name.
"""
