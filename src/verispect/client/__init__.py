"""The caller's side: ask a gateway and check what came back."""
