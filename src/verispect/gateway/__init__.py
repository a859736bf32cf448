"""The ASGI application: OpenAI-compatible and Open Inference Protocol routes with receipts."""
