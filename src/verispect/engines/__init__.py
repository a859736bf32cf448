"""Engines run a model and say exactly what they ran; they never sign and never judge."""
