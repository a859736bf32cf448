"""Tlog: the Merkle log of C2SP and RFC 6962, and what its leaves say.

Pure: no file, network, clock, environment or randomness is reached from here; tiles, keys and
times are arguments. May import `core` and nothing else of ours. It refuses to store anything and
to decide who is trusted: whoever calls it brings the keys of the log and of its witnesses.
"""
