"""AMD SEV-SNP attestation reports: `report` parses, `appraise` verifies."""
