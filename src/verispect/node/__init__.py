"""The verification node: a process that believes no operator and holds no operator's secret.

It follows a log into a mirror of its own, verifies every receipt and all evidence from bytes, runs
a declared sample again where it holds the weights, signs verdicts, co-signs checkpoints as a
witness and publishes every fork that it sees.

The package refuses to judge what it could not check: "could not tell" is a verdict of its own. What
an operator answers is data: a lie is a finding, and never a crash.
"""
