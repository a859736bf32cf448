"""The anchor: roots of a log written into an EVM chain, where its operator cannot change them.

Nothing is imported here, because `web3` takes a second to load: take what you need from its
module. `contract.vy` is the contract, `artifact` its committed bytes, `contract` how it is called,
`chain` the way to a node, `transactions` what sends exactly once, `publish` what an operator does,
`check` what everybody else does, `eas` the alternative without a contract of ours.

The room refuses to judge a log: whether one tree begins with another is for `tlog` and witnesses.
"""
