"""Evidence kinds: parse, verify and map to claims. One module per kind; pure."""
