"""The public log of the ledger: what takes leaves in, orders, integrates, proves and audits them.

`interface` says what a store must keep; `state_sqlite` and `tile_files` are the embedded stores,
`state_postgres` and `tile_objects` those for more than one machine. An entry gets its index when it
is accepted and keeps it: whoever integrates, however often and after whatever crash, writes the
same bytes at the same paths (spec/log-service.md).

The package refuses to serve (a gateway or a node does), to judge receipts beyond their signature,
and to keep contents: leaves hold digests only.
"""
