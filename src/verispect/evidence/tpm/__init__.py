"""TPM 2.0 quotes: `structures` parses, `appraise` verifies, `activation` ties keys together."""
