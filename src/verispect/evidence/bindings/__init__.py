"""What the guest's own field of an attestation commits to: named, versioned profiles."""
