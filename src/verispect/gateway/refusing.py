"""A downgrade is never silent: where promised evidence cannot be had, the log is told as well.

The caller gets the error and no answer; the operator's log gets a signed refusal. A refusal that
cannot be kept changes nothing for the caller, and is an error in the server's log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from verispect.attesters.signer import Issuer
from verispect.core.encoding import Digest
from verispect.core.errors import Error, RequestError, StoreError
from verispect.ledger.refusals import RefusalBook
from verispect.tlog.publications import Refusal

_logger = logging.getLogger(__name__)


@contextmanager
def refusing(
    book: RefusalBook | None,
    issuer: Issuer,
    *,
    inference: str,
    operation: str,
    assurance: Digest,
) -> Iterator[None]:
    """Keep a refusal of what fails inside, and let the error go on.

    Args:
        book: where it is kept for the log; `None` where this server keeps no log.
        issuer: who signs.
        inference: the inference that had begun.
        operation: the interface that was called.
        assurance: digest of the policy that was required.
    """
    try:
        yield
    except Error as error:
        # What a caller got wrong is no failure of this server, and must not fill its log.
        if book is not None and not isinstance(error, RequestError):
            now = time.time_ns() // 1_000_000
            refusal = Refusal(now, operation, error.reason.value, assurance)
            try:
                # A few milliseconds of this process, in a case that is rare.
                book.add(refusal, inference=inference, issuer=issuer)
            except StoreError as failure:
                _logger.error("a refusal could not be kept for the log: %s", failure)
        raise
