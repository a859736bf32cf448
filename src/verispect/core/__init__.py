"""Core: errors, encoding, keys, commitments, statement, envelope, claims, receipt.

Pure: no network, clock, environment, randomness or file is reached from here. Salts, keys and
times are arguments. This room imports nothing of ours from outside itself.
"""
