"""The receipt store against a model of it that is a dictionary."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from verispect.core.errors import Reason, StoreError
from verispect.ledger import NewReceipt, ReceiptStore

KEY_ID = b"issuer-a"
IDS = st.integers(0, 20).map(lambda number: number.to_bytes(16, "big"))


class RefusedError(Exception):
    pass


class StoreMachine(RuleBasedStateMachine):
    """Whatever is issued stays, numbers have no gap, and openings live until they are erased."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.now = 1_000
        self.receipts = {}
        self.openings = {}
        self.streams = {}
        self.store = self.opened()

    def opened(self):
        return ReceiptStore.open(
            Path(self.folder.name) / "store", issuer_key_id=KEY_ID, clock=lambda: self.now
        )

    def wait(self, coroutine):
        return self.runner.run(coroutine)

    def mint_for(self, inference_id):
        return lambda sequence: b"%d|%b|%d" % (sequence, inference_id, self.now)

    @rule(inference_id=IDS, openings=st.none() | st.binary(max_size=9000))
    def issue(self, inference_id, openings):
        new = NewReceipt(inference_id, self.mint_for(inference_id), openings)
        if inference_id in self.receipts:
            with pytest.raises(StoreError) as caught:
                self.wait(self.store.issue(new))
            assert caught.value.reason is Reason.STORE_CONFLICT
            return
        stored = self.wait(self.store.issue(new))
        assert stored.sequence == len(self.receipts) + 1
        self.receipts[inference_id] = stored
        self.streams.pop(inference_id, None)
        if openings is not None:
            self.openings[inference_id] = (self.now, openings)

    @rule(ids=st.lists(IDS, min_size=2, max_size=12))
    def issue_together(self, ids):
        async def together():
            work = [NewReceipt(one, self.mint_for(one)) for one in ids]
            return await asyncio.gather(*map(self.store.issue, work), return_exceptions=True)

        for inference_id, outcome in zip(ids, self.wait(together()), strict=True):
            if inference_id in self.receipts:
                assert outcome.reason is Reason.STORE_CONFLICT
            else:
                assert outcome.sequence == len(self.receipts) + 1
                self.receipts[inference_id] = outcome
                self.streams.pop(inference_id, None)

    @rule(inference_id=IDS)
    def issue_with_failing_mint(self, inference_id):
        def failing(sequence):
            raise RefusedError

        with pytest.raises((RefusedError, StoreError)):
            self.wait(self.store.issue(NewReceipt(inference_id, failing)))

    @rule(inference_id=IDS, recovery=st.binary(max_size=50))
    def open_stream(self, inference_id, recovery):
        if inference_id in self.receipts or inference_id in self.streams:
            with pytest.raises(StoreError):
                self.wait(self.store.open_stream(inference_id, recovery))
        else:
            self.wait(self.store.open_stream(inference_id, recovery))
            self.streams[inference_id] = recovery

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), recovery=st.binary(max_size=50))
    def checkpoint_stream(self, data, recovery):
        inference_id = data.draw(st.sampled_from(sorted(self.streams)))
        self.wait(self.store.checkpoint_stream(inference_id, recovery))
        self.streams[inference_id] = recovery

    @rule(passed=st.integers(0, 50))
    def let_time_pass(self, passed):
        self.now += passed

    @rule(age=st.integers(0, 60))
    def erase(self, age):
        limit = self.now - age
        gone = [key for key, (kept_at, _) in self.openings.items() if kept_at < limit]
        assert self.wait(self.store.erase_openings(older_than=limit)) == len(gone)
        for key in gone:
            del self.openings[key]

    @rule()
    def reopen(self):
        self.wait(self.store.close())
        self.store = self.opened()
        # Streams of the closed store come back, each with its last recovery bytes.
        assert dict(self.wait(self.store.interrupted_streams())) == self.streams

    @rule(inference_id=IDS)
    def find(self, inference_id):
        expected = self.receipts.get(inference_id)
        assert self.store.find(inference_id) == expected
        if expected is not None:
            assert self.store.find(expected.receipt_id) == expected
        _, openings = self.openings.get(inference_id, (None, None))
        assert self.store.openings(inference_id) == openings

    @invariant()
    def sound(self):
        report = self.store.check()
        assert report.problems == ()
        assert report.receipts == len(self.receipts)
        assert report.openings == len(self.openings)
        assert report.open_streams == len(self.streams)

    def teardown(self):
        self.wait(self.store.close())
        self.runner.close()
        self.folder.cleanup()


StoreMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_store_machine = StoreMachine.TestCase
