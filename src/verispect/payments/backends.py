"""What each mode of payments consists of: a chain or none, a facilitator, and who is paid.

`dev` is a whole world in this process, whose money is worth nothing. `rpc` is an account of ours
on any chain, through any node. `facilitator` is somebody else's service: with a node of ours as
witness it takes channels as well, without one it takes single transfers that stay `pending`,
because nobody's word captures a payment.

A mode refuses a price sheet whose token is not on its chain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eth_utils.address import to_checksum_address

from verispect.core.errors import Error, MalformedError, Reason, TrustError
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain, checked_address
from verispect.payments.authorisation import Scheme
from verispect.payments.chain.calls import call_data, read_words
from verispect.payments.chain.channel_state import ChannelState, read_channel, unpaid
from verispect.payments.chain.facilitator_client import (
    FacilitatorClient,
    FacilitatorSettlement,
    observer,
)
from verispect.payments.chain.rpc import connect_signer
from verispect.payments.chain.settlement import ChainSettlement
from verispect.payments.chain.signer import ChainSigner
from verispect.payments.chain.vouchers import Authoriser, ChannelBook
from verispect.payments.facilitator import Facilitating
from verispect.payments.merchant import Merchant, Token
from verispect.payments.till_settlement import BatchSettlement
from verispect.payments.witness import WitnessedFacilitator
from verispect.payments.x402_adapter_facilitator import (
    OwnFacilitator,
    X402Facilitator,
    known_token,
)

if TYPE_CHECKING:
    from verispect.payments.chain.development import DevelopmentChain


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a till's money is."""

    merchant: Merchant
    facilitator: Facilitating
    settlement: BatchSettlement
    authoriser: Authoriser | None
    chain: Chain | None
    """None where no chain can be asked."""
    confirmations: int
    is_development: bool = False
    world: DevelopmentChain | None = None
    """The development world, for demonstrations."""
    closing: list[Callable[[], None]] = field(default_factory=list)

    def look(self, channel_id: bytes) -> ChannelState:
        """Ask the chain about a channel.

        Raises:
            NetworkError: `network-failed`, `chain-failed`.
        """
        if self.chain is None:
            raise TrustError("no chain can be asked", reason=Reason.CHAIN_UNEXPECTED)
        confirmed = None
        if self.confirmations > 1:
            confirmed = max(0, self.chain.head().number - self.confirmations + 1)
        return read_channel(self.chain, channel_id, confirmed=confirmed)

    def unpaid(self) -> int:
        """Return how much was claimed from channels and not sent to the payee yet.

        Raises:
            NetworkError: `network-failed`, `chain-failed`.
        """
        if self.chain is None:
            return 0
        return unpaid(self.chain, self.merchant.pay_to, self.merchant.token.address)

    def balance(self, address: str) -> int:
        """Return how much of the token an address has.

        Raises:
            NetworkError: `network-failed`, `chain-failed`.
        """
        if self.chain is None:
            raise TrustError("no chain can be asked", reason=Reason.CHAIN_UNEXPECTED)
        asked = call_data("balanceOf(address)", to_checksum_address(address))
        return int(read_words(["uint256"], self.chain.call(self.merchant.token.address, asked))[0])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What every mode is given."""

    asset: str
    """CAIP-19 name of the token of the price sheet."""
    book: ChannelBook
    directory: Path
    pay_to: str | None
    confirmations: int
    min_deposit: int
    now: Callable[[], int]

    @property
    def network(self) -> str:
        """CAIP-2 name of the chain."""
        return self.asset.partition("/")[0]

    @property
    def token_address(self) -> str:
        """Address of the token, with its checksum."""
        return to_checksum_address(self.asset.rpartition(":")[2])

    def payee(self) -> str:
        """Return the address that is paid.

        Raises:
            MalformedError: `malformed-payment` where there is none.
        """
        try:
            return checked_address(self.pay_to or "")
        except Error as error:
            raise MalformedError(
                "an address to be paid at is needed", reason=Reason.MALFORMED_PAYMENT
            ) from error


ALL_SCHEMES = (Scheme.BATCH_SETTLEMENT, Scheme.UPTO, Scheme.EXACT)


def development_backend(wanted: Wanted) -> Backend:
    """Return the world in this process.

    Raises:
        TrustError: `chain-unexpected` where the sheet's token is not its token.
    """
    from verispect.payments.chain.development import ASSET, NETWORK, DevelopmentChain

    if wanted.asset != ASSET:
        raise TrustError(f"payments for development are in {ASSET}", reason=Reason.CHAIN_UNEXPECTED)
    world = DevelopmentChain(wanted.directory / "chain", now=wanted.now)
    token = Token(world.token.address, world.token.name, world.token.version)
    authoriser = world.account("authoriser")
    merchant = Merchant(
        NETWORK,
        token,
        world.payee if wanted.pay_to is None else wanted.payee(),
        ALL_SCHEMES,
        facilitator=world.facilitator_signer.address,
        authoriser=authoriser.address,
        min_deposit=wanted.min_deposit,
    )
    return Backend(
        merchant,
        OwnFacilitator(X402Facilitator(world.facilitator_signer)),
        ChainSettlement(
            world.facilitator_signer,
            book=wanted.book,
            authoriser=authoriser,
            confirmations=wanted.confirmations,
        ),
        authoriser,
        world.chain,
        wanted.confirmations,
        is_development=True,
        world=world,
    )


def rpc_backend(wanted: Wanted, url: str, account: ChainAccount) -> Backend:
    """Return an account of ours on a chain.

    Args:
        wanted: of every mode.
        url: of the node.
        account: pays for gas, and authorises claims of channels.

    Raises:
        NetworkError: `network-failed`, `chain-failed`.
        TrustError: `chain-unexpected`, `development-chain`.
        MalformedError: `malformed-payment`.
    """
    signer = connect_signer(url, account, network=wanted.network)
    return signer_backend(wanted, signer, account)


def signer_backend(wanted: Wanted, signer: ChainSigner, account: ChainAccount) -> Backend:
    """Return the mode `rpc` with a signer that is connected.

    Raises:
        NetworkError: `network-failed`, `chain-failed`.
        MalformedError: `malformed-payment`.
    """
    merchant = Merchant(
        wanted.network,
        _token(signer.chain, wanted.token_address),
        wanted.payee(),
        ALL_SCHEMES,
        facilitator=signer.address,
        authoriser=account.address,
        min_deposit=wanted.min_deposit,
    )
    return Backend(
        merchant,
        OwnFacilitator(X402Facilitator(signer)),
        ChainSettlement(
            signer, book=wanted.book, authoriser=account, confirmations=wanted.confirmations
        ),
        account,
        signer.chain,
        wanted.confirmations,
    )


def facilitator_backend(
    wanted: Wanted, client: FacilitatorClient, chain: Chain | None, account: ChainAccount | None
) -> Backend:
    """Return somebody else's facilitator.

    Args:
        wanted: of every mode.
        client: of the facilitator.
        chain: of our node, where there is one.
        account: authorises claims of channels; without it none are taken.

    Raises:
        NetworkError: `network-failed`.
        MalformedError: `malformed-payment` where the token is not known and no node can tell.
        TrustError: `chain-unexpected` where the facilitator takes nothing on this chain.
    """
    kinds, facilitator = _kinds(client.supported(), wanted.network)
    if chain is None or account is None:
        kinds.discard(Scheme.BATCH_SETTLEMENT)
    if facilitator is None:
        kinds.discard(Scheme.UPTO)
    if not kinds:
        raise TrustError(
            f"the facilitator takes no payments on {wanted.network}", reason=Reason.CHAIN_UNEXPECTED
        )
    token = known_token(wanted.network, wanted.token_address)
    if chain is not None:
        token = _token(chain, wanted.token_address)
    if token is None:
        raise MalformedError(
            "the token is not known, and no node is configured that could tell",
            reason=Reason.MALFORMED_PAYMENT,
        )
    merchant = Merchant(
        wanted.network,
        token,
        wanted.payee(),
        [scheme for scheme in ALL_SCHEMES if scheme in kinds],
        facilitator=facilitator,
        authoriser=None if account is None else account.address,
        min_deposit=wanted.min_deposit,
    )
    witness = None
    facilitating: Facilitating = client
    if chain is not None:
        facilitating = WitnessedFacilitator(client, chain, facilitator)
        witness = observer(chain, book=wanted.book, confirmations=wanted.confirmations)
    return Backend(
        merchant,
        facilitating,
        FacilitatorSettlement(
            client, witness, network=wanted.network, book=wanted.book, authoriser=account
        ),
        account,
        chain,
        wanted.confirmations,
        closing=[client.close],
    )


def _kinds(supported: dict[str, Any], network: str) -> tuple[set[Scheme], str | None]:
    """Return what a facilitator says it takes, and its address for metered transfers."""
    kinds: set[Scheme] = set()
    rows = supported.get("kinds")
    for row in rows if type(rows) is list else []:
        if type(row) is dict and row.get("x402Version") == 2 and row.get("network") == network:
            kinds |= {scheme for scheme in Scheme if scheme.value == row.get("scheme")}
    signers = supported.get("signers")
    addresses = signers.get("eip155:*") if type(signers) is dict else None
    if type(addresses) is not list or not addresses or type(addresses[0]) is not str:
        return kinds, None
    try:
        return kinds, checked_address(addresses[0])
    except Error:
        return kinds, None


def _token(chain: Chain, address: str) -> Token:
    try:
        (name,) = read_words(["string"], chain.call(address, call_data("name()")))
        (version,) = read_words(["string"], chain.call(address, call_data("version()")))
    except Error as error:
        raise MalformedError(
            "the token does not say its name and version", reason=Reason.MALFORMED_PAYMENT
        ) from error
    return Token(address, name, version)
