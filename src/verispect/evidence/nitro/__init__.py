"""AWS Nitro Enclaves: attestation documents, read strictly and judged by numbered steps."""
