"""The queue of promised proofs: durable, each proven once, late ones given up."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from verispect.core.encoding import decode
from verispect.core.errors import EngineError, Reason, StoreError
from verispect.core.receipt import EvidenceEntry
from verispect.ledger.proof_jobs import MAX_ATTEMPTS, JobState, MadeProof, ProofJobs

FIRST, SECOND = bytes(16), bytes([1] * 16)
FAILURE = EngineError("the prover ended", reason=Reason.ENGINE_FAILED)


@pytest.fixture
def jobs(tmp_path):
    queue = ProofJobs(tmp_path / "proofs.sqlite")
    yield queue
    queue.close()


def prepare(queue, inference_id=FIRST, due_at=1000, *, release=True):
    queue.prepare(
        inference_id,
        model="m",
        context=bytes(32),
        salt=bytes(32),
        rows=1,
        input_octets=b"input",
        due_at=due_at,
        now=1,
    )
    if release:
        queue.release(inference_id)


MADE = MadeProof(b"proof", b"manifest", b"model", 7)


def test_job_runs_only_after_its_receipt(jobs):
    """A prepared job is not taken; a released one is, with its input."""
    prepare(jobs, release=False)
    assert jobs.take(2) is None
    jobs.release(FIRST)
    job = jobs.take(2)
    assert (job.inference_id, job.input, job.state) == (FIRST, b"input", JobState.RUNNING)
    assert jobs.take(2) is None


def test_nearest_deadline_comes_first(jobs):
    """Jobs are taken by their deadlines."""
    prepare(jobs, FIRST, due_at=900)
    prepare(jobs, SECOND, due_at=800)
    assert [jobs.take(2).inference_id, jobs.take(2).inference_id] == [SECOND, FIRST]


def test_finished_job_keeps_evidence_and_drops_input(jobs):
    """What was asked leaves the disk when the proof is there."""
    prepare(jobs)
    jobs.take(2)
    jobs.finish(MADE, {FIRST: b"outputs"}, 3)
    job = jobs.find(FIRST)
    assert (job.state, job.input, job.salt, job.progress) == (JobState.DONE, b"", b"", 1)
    entry = EvidenceEntry.from_row(decode(job.entry))
    assert entry.collected_at == 7
    assert decode(entry.body) == {"proof": b"proof", "outputs": b"outputs"}


def test_a_shared_proof_is_kept_once(jobs):
    """Jobs of one model are taken together; those tried before, of others or too long are not."""
    third = bytes([2] * 16)
    for inference_id in (FIRST, SECOND, third):
        prepare(jobs, inference_id)
    first = jobs.take(2)
    assert jobs.take_alike("another", most=8, rows=8) == []
    assert jobs.take_alike("m", most=8, rows=0) == []
    (second,) = jobs.take_alike("m", most=1, rows=8)
    assert jobs.cancel(second.inference_id, 3)
    jobs.finish(MADE, {first.inference_id: b"1", second.inference_id: b"2"}, 4)
    assert jobs.counts() == {"done": 1, "cancelled": 1, "queued": 1}
    assert jobs.take(4).inference_id == third
    jobs.fail(third, FAILURE, 5)
    assert jobs.take_alike("m", most=8, rows=8) == []


def test_proof_after_the_deadline_is_late(jobs):
    """A promise is kept by its deadline or not at all."""
    prepare(jobs, due_at=10)
    jobs.take(9)
    jobs.finish(MADE, {FIRST: b"outputs"}, 11)
    assert jobs.find(FIRST).state is JobState.LATE
    prepare(jobs, SECOND, due_at=10)
    assert jobs.take(11) is None
    assert jobs.find(SECOND).state is JobState.LATE
    assert jobs.find(SECOND).input == b""


def test_failed_job_is_tried_again_and_then_given_up(jobs):
    """A prover that dies is tried a stated number of times."""
    prepare(jobs)
    for attempt in range(MAX_ATTEMPTS):
        assert jobs.take(2).attempts == attempt + 1
        jobs.fail(FIRST, FAILURE, 3)
    job = jobs.find(FIRST)
    assert (job.state, job.detail) == (JobState.FAILED, "engine-failed: the prover ended")
    assert jobs.take(4) is None


def test_request_that_cannot_be_proven_is_not_tried_again(jobs):
    """A final failure is final at once."""
    prepare(jobs)
    jobs.take(2)
    jobs.fail(FIRST, FAILURE, 3, final=True)
    assert jobs.find(FIRST).state is JobState.FAILED


def test_cancelled_job_reports_that_it_is(jobs):
    """A running prover learns from its next report that nobody waits."""
    prepare(jobs)
    jobs.take(2)
    assert jobs.report(FIRST, 0.5)
    assert jobs.find(FIRST).progress == 0.5
    assert jobs.cancel(FIRST, 3)
    assert not jobs.report(FIRST, 0.6)
    jobs.finish(MADE, {FIRST: b"outputs"}, 4)
    assert jobs.find(FIRST).state is JobState.CANCELLED
    assert not jobs.cancel(FIRST, 5)


def test_recovery_after_a_crash(tmp_path):
    """Running jobs run again; a prepared job follows its receipt, and goes without one."""
    queue = ProofJobs(tmp_path / "proofs.sqlite")
    third = bytes([2] * 16)
    prepare(queue, FIRST)
    queue.take(2)
    prepare(queue, SECOND, release=False)
    prepare(queue, third, release=False)
    queue.close()
    again = ProofJobs(tmp_path / "proofs.sqlite")
    again.recover(lambda inference_id: inference_id == SECOND)
    assert {again.take(3).inference_id, again.take(3).inference_id} == {FIRST, SECOND}
    assert again.find(third) is None
    assert again.counts() == {"running": 2}
    again.close()


def test_one_inference_has_one_job(jobs):
    """A second promise for the same inference cannot be made."""
    prepare(jobs)
    with pytest.raises(StoreError):
        prepare(jobs)


def test_a_queue_of_an_earlier_version_is_refused_and_left_alone(tmp_path):
    """Its promises cannot be kept in their form: the operator is told, and nothing is written."""
    database = tmp_path / "proofs.sqlite"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "CREATE TABLE promises (inference_id BLOB PRIMARY KEY, model TEXT, context BLOB,"
            " rows INTEGER, input BLOB, due_at INTEGER, created_at INTEGER, state TEXT,"
            " attempts INTEGER, progress REAL, finished_at INTEGER, detail TEXT, entry BLOB)"
        )
    with pytest.raises(StoreError) as caught:
        ProofJobs(database)
    assert caught.value.reason is Reason.UNSUPPORTED_VERSION
    assert "proofs.sqlite" in caught.value.message
    with closing(sqlite3.connect(database)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        assert [name for (name,) in tables] == ["promises"]


def test_a_proof_that_nobody_wants_any_more_is_not_kept(jobs, tmp_path):
    """Cancelled between the last report and the end: neither the job nor the file has it."""
    prepare(jobs)
    jobs.take(2)
    jobs.cancel(FIRST, 3)
    jobs.finish(MADE, {FIRST: b"integers"}, 4)
    assert jobs.find(FIRST).state is JobState.CANCELLED
    with closing(sqlite3.connect(tmp_path / "proofs.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM proofs").fetchone() == (0,)
