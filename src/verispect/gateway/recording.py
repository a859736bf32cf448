"""From a request to its receipt: commitments, stream chain, durable issue."""
