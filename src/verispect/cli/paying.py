"""`verispect ask --pay`: who pays, with what, and how much at most.

Paying has no default: the token and the most that a request may cost are the user's words. A key
comes from a private file or the environment, never from an argument.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from verispect.cli.places import default_home
from verispect.core.errors import RequestError

if TYPE_CHECKING:
    from verispect.appraisal.policy import AssurancePolicy
    from verispect.appraisal.trusted_root import TrustedRoot
    from verispect.client.paying import Payer

REQUESTS_PER_DAY: Final = 10
"""How many of the dearest requests a day's cap is, where it is not given."""


def add_paying_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    group = parser.add_argument_group("paying")
    group.add_argument("--pay", action="store_true", help="pay for the answer where it costs")
    group.add_argument(
        "--pay-asset", metavar="ASSET", help="the token to pay with (CAIP-19); nothing else is"
    )
    group.add_argument(
        "--pay-at-most", type=int, metavar="N", help="most for one request, in its smallest unit"
    )
    group.add_argument(
        "--pay-per-day", type=int, metavar="N", help="most for a day; ten times one request's"
    )
    group.add_argument(
        "--pay-per-host", type=int, metavar="N", help="most for a gateway and day; as for a day"
    )
    group.add_argument(
        "--wallet",
        type=Path,
        metavar="FILE",
        help="private key in hexadecimal; the environment's VERISPECT_WALLET_KEY where not given",
    )
    group.add_argument(
        "--pay-journal",
        type=Path,
        metavar="FILE",
        default=default_home() / "payer.sqlite",
        help="what was promised before; a lost one forgets the caps of the day",
    )
    group.add_argument(
        "--pay-forgive",
        action="store_true",
        help="pay this gateway although an earlier payment has no good receipt",
    )


def open_payer(
    arguments: argparse.Namespace, root: TrustedRoot | None, policy: AssurancePolicy
) -> Payer | None:
    """Return who pays; nobody without `--pay`.

    Raises:
        RequestError: an option is missing, or does not go together with `--pay`.
        StoreError: the journal cannot be opened.
    """
    given = (arguments.pay_asset, arguments.pay_at_most, arguments.wallet)
    if not arguments.pay:
        if any(each is not None for each in given) or arguments.pay_forgive:
            raise RequestError("paying needs --pay", parameter="pay")
        return None
    if root is None:
        raise RequestError("--pay needs --trusted-root", parameter="trusted-root")
    if arguments.confidential:
        raise RequestError("--pay and --confidential do not go together", parameter="pay")
    if arguments.pay_asset is None or arguments.pay_at_most is None:
        raise RequestError("--pay needs --pay-asset and --pay-at-most", parameter="pay")
    from verispect.client.paying import Payer
    from verispect.client.paying_journal import PaymentJournal, SpendCaps
    from verispect.client.wallet import Wallet

    most = arguments.pay_at_most
    day = REQUESTS_PER_DAY * most if arguments.pay_per_day is None else arguments.pay_per_day
    host = day if arguments.pay_per_host is None else arguments.pay_per_host
    caps = SpendCaps(arguments.pay_asset, most, day, host)
    wallet = Wallet.load(arguments.wallet)
    return Payer(wallet, PaymentJournal(arguments.pay_journal), caps, root, policy)


def tell_bill(payer: Payer) -> None:
    """Say what the answer cost."""
    bill = payer.last_bill
    if bill is None:
        print("    nothing was paid", file=sys.stderr)
        return
    print(
        f"    paid {bill.charge}, metered {bill.metered}: "
        f"{bill.input_tokens} tokens in, {bill.output_tokens} out",
        file=sys.stderr,
    )
