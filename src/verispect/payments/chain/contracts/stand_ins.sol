// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

// STAND-INS for the development chain, written for it: they answer to the calls that x402 makes of
// Permit2, its two proxies, its payment channels, their deposit collectors and Multicall3, check
// the same signatures, and stand at the same addresses. They are not the contracts that stand there
// on public chains, they were not audited, and gas measured with them is near, not equal.
//
// None has a constructor: code is put at its address at genesis.

interface IToken {
    function balanceOf(address) external view returns (uint256);
    function transfer(address, uint256) external returns (bool);
    function transferFrom(address, address, uint256) external returns (bool);
    function permit(address, address, uint256, uint256, uint8, bytes32, bytes32) external;
    function receiveWithAuthorization(address, address, uint256, uint256, uint256, bytes32, bytes calldata) external;
}

interface IWallet {
    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4);
}

interface IDepositCollector {
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata data) external;
}

struct TokenPermissions { address token; uint256 amount; }
struct PermitTransferFrom { TokenPermissions permitted; uint256 nonce; uint256 deadline; }
struct SignatureTransferDetails { address to; uint256 requestedAmount; }
struct EIP2612Permit { uint256 value; uint256 deadline; bytes32 r; bytes32 s; uint8 v; }

interface IPermit2 {
    function permitWitnessTransferFrom(
        PermitTransferFrom calldata, SignatureTransferDetails calldata, address, bytes32, string calldata, bytes calldata
    ) external;
}

address constant PERMIT2_ADDRESS = 0x000000000022D473030F116dDEE9F6B43aC78BA3;
address constant CHANNELS_ADDRESS = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003;

function isSignedBy(address signer, bytes32 digest, bytes memory signature) view returns (bool) {
    if (signer.code.length != 0) {
        (bool answered, bytes memory word) =
            signer.staticcall(abi.encodeCall(IWallet.isValidSignature, (digest, signature)));
        return answered && word.length >= 32
            && abi.decode(word, (bytes32)) == bytes32(IWallet.isValidSignature.selector);
    }
    if (signature.length != 65) return false;
    bytes32 r;
    bytes32 s;
    uint8 v;
    assembly ("memory-safe") {
        r := mload(add(signature, 0x20))
        s := mload(add(signature, 0x40))
        v := byte(0, mload(add(signature, 0x60)))
    }
    if (uint256(s) > 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0) return false;
    address recovered = ecrecover(digest, v, r, s);
    return recovered != address(0) && recovered == signer;
}

function tryPermit(address token, address owner, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s) {
    // What fails here shows in the transfer that follows: the allowance may be there already.
    try IToken(token).permit(owner, PERMIT2_ADDRESS, value, deadline, v, r, s) {} catch {}
}

contract Permit2StandIn is IPermit2 {
    error SignatureExpired(uint256 signatureDeadline);
    error InvalidAmount(uint256 maxAmount);
    error InvalidNonce();
    error InvalidSigner();

    event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask);

    string private constant WITNESS_STUB =
        "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,";
    bytes32 private constant PERMISSIONS_TYPEHASH = keccak256("TokenPermissions(address token,uint256 amount)");
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)");

    mapping(address => mapping(uint256 => uint256)) public nonceBitmap;

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, keccak256("Permit2"), block.chainid, address(this)));
    }

    function invalidateUnorderedNonces(uint256 wordPos, uint256 mask) external {
        nonceBitmap[msg.sender][wordPos] |= mask;
        emit UnorderedNonceInvalidation(msg.sender, wordPos, mask);
    }

    function permitWitnessTransferFrom(
        PermitTransferFrom calldata permit, SignatureTransferDetails calldata details, address owner, bytes32 witness,
        string calldata witnessTypeString, bytes calldata signature
    ) external {
        if (block.timestamp > permit.deadline) revert SignatureExpired(permit.deadline);
        if (details.requestedAmount > permit.permitted.amount) revert InvalidAmount(permit.permitted.amount);
        uint256 bit = 1 << uint8(permit.nonce);
        uint256 flipped = nonceBitmap[owner][permit.nonce >> 8] ^= bit;
        if (flipped & bit == 0) revert InvalidNonce();
        bytes32 content = keccak256(
            abi.encode(
                keccak256(abi.encodePacked(WITNESS_STUB, witnessTypeString)),
                keccak256(abi.encode(PERMISSIONS_TYPEHASH, permit.permitted)),
                msg.sender, permit.nonce, permit.deadline, witness
            )
        );
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", DOMAIN_SEPARATOR(), content));
        if (!isSignedBy(owner, digest, signature)) revert InvalidSigner();
        require(IToken(permit.permitted.token).transferFrom(owner, details.to, details.requestedAmount), "TRANSFER_FROM_FAILED");
    }
}

abstract contract ProxyStandIn {
    error InvalidDestination();
    error PaymentTooEarly();
    error InvalidOwner();
    error InvalidAmount();
    error Permit2612AmountMismatch();

    event Settled();
    event SettledWithPermit();

    function PERMIT2() external pure returns (address) {
        return PERMIT2_ADDRESS;
    }

    function _pay(
        PermitTransferFrom calldata permit, uint256 amount, address owner, address to, uint256 validAfter,
        bytes32 witness, string memory witnessType, bytes calldata signature
    ) internal {
        if (amount == 0) revert InvalidAmount();
        if (owner == address(0)) revert InvalidOwner();
        if (to == address(0)) revert InvalidDestination();
        if (block.timestamp < validAfter) revert PaymentTooEarly();
        IPermit2(PERMIT2_ADDRESS).permitWitnessTransferFrom(
            permit, SignatureTransferDetails(to, amount), owner, witness, witnessType, signature
        );
    }

    function _permit(EIP2612Permit calldata p, PermitTransferFrom calldata permit, address owner) internal {
        if (p.value != permit.permitted.amount) revert Permit2612AmountMismatch();
        tryPermit(permit.permitted.token, owner, p.value, p.deadline, p.v, p.r, p.s);
    }
}

contract ExactProxyStandIn is ProxyStandIn {
    struct Witness { address to; uint256 validAfter; }

    bytes32 public constant WITNESS_TYPEHASH = keccak256("Witness(address to,uint256 validAfter)");
    string public constant WITNESS_TYPE_STRING =
        "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,uint256 validAfter)";

    function settle(PermitTransferFrom calldata permit, address owner, Witness calldata witness, bytes calldata signature)
        external
    {
        _settle(permit, owner, witness, signature);
        emit Settled();
    }

    function settleWithPermit(
        EIP2612Permit calldata permit2612, PermitTransferFrom calldata permit, address owner, Witness calldata witness,
        bytes calldata signature
    ) external {
        _permit(permit2612, permit, owner);
        _settle(permit, owner, witness, signature);
        emit SettledWithPermit();
    }

    function _settle(PermitTransferFrom calldata permit, address owner, Witness calldata witness, bytes calldata signature)
        private
    {
        bytes32 hash = keccak256(abi.encode(WITNESS_TYPEHASH, witness));
        _pay(permit, permit.permitted.amount, owner, witness.to, witness.validAfter, hash, WITNESS_TYPE_STRING, signature);
    }
}

contract UptoProxyStandIn is ProxyStandIn {
    struct Witness { address to; address facilitator; uint256 validAfter; }

    error AmountExceedsPermitted();
    error UnauthorizedFacilitator();

    bytes32 public constant WITNESS_TYPEHASH = keccak256("Witness(address to,address facilitator,uint256 validAfter)");
    string public constant WITNESS_TYPE_STRING =
        "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,address facilitator,uint256 validAfter)";

    function settle(
        PermitTransferFrom calldata permit, uint256 amount, address owner, Witness calldata witness,
        bytes calldata signature
    ) external {
        _settle(permit, amount, owner, witness, signature);
        emit Settled();
    }

    function settleWithPermit(
        EIP2612Permit calldata permit2612, PermitTransferFrom calldata permit, uint256 amount, address owner,
        Witness calldata witness, bytes calldata signature
    ) external {
        _permit(permit2612, permit, owner);
        _settle(permit, amount, owner, witness, signature);
        emit SettledWithPermit();
    }

    function _settle(
        PermitTransferFrom calldata permit, uint256 amount, address owner, Witness calldata witness,
        bytes calldata signature
    ) private {
        if (amount > permit.permitted.amount) revert AmountExceedsPermitted();
        if (msg.sender != witness.facilitator) revert UnauthorizedFacilitator();
        bytes32 hash = keccak256(abi.encode(WITNESS_TYPEHASH, witness));
        _pay(permit, amount, owner, witness.to, witness.validAfter, hash, WITNESS_TYPE_STRING, signature);
    }
}

contract BatchSettlementStandIn {
    struct ChannelConfig {
        address payer; address payerAuthorizer; address receiver; address receiverAuthorizer; address token;
        uint40 withdrawDelay; bytes32 salt;
    }
    struct ChannelState { uint128 balance; uint128 totalClaimed; }
    struct WithdrawalState { uint128 amount; uint40 initiatedAt; }
    struct ReceiverState { uint128 totalClaimed; uint128 totalSettled; }
    struct Voucher { ChannelConfig channel; uint128 maxClaimableAmount; }
    struct VoucherClaim { Voucher voucher; bytes signature; uint128 totalClaimed; }

    error InvalidChannel();
    error ZeroDeposit();
    error InvalidSignature();
    error NotReceiverAuthorizer();
    error NotAuthorizedToClaim();
    error NotAuthorizedToRefund();
    error ClaimExceedsCeiling();
    error ClaimExceedsBalance();
    error WithdrawalAlreadyPending();
    error WithdrawalNotPending();
    error NotAuthorizedToFinalizeWithdraw();
    error WithdrawDelayNotElapsed();
    error NothingToWithdraw();
    error WithdrawAmountExceedsAvailable();
    error WithdrawDelayOutOfRange();
    error EmptyBatch();
    error DepositCollectionFailed();
    error InvalidCollector();
    error InvalidRefundNonce();
    error ZeroRefund();

    event ChannelCreated(bytes32 indexed channelId, ChannelConfig config);
    event Deposited(bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance);
    event Claimed(bytes32 indexed channelId, address indexed sender, uint128 claimAmount, uint128 newTotalClaimed);
    event Settled(address indexed receiver, address indexed token, address indexed sender, uint128 amount);
    event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount);
    event WithdrawInitiated(bytes32 indexed channelId, uint128 amount, uint40 finalizeAfter);
    event WithdrawFinalized(bytes32 indexed channelId, address indexed sender, uint128 amount);

    bytes32 private constant CONFIG_TYPEHASH = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 private constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)");
    bytes32 private constant REFUND_TYPEHASH = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)");
    bytes32 private constant ENTRY_TYPEHASH =
        keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)");
    bytes32 private constant BATCH_TYPEHASH = keccak256(
        "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
    );
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    mapping(bytes32 => ChannelState) public channels;
    mapping(bytes32 => uint256) public refundNonce;
    mapping(bytes32 => WithdrawalState) public pendingWithdrawals;
    mapping(address => mapping(address => ReceiverState)) public receivers;
    bool private _entered;

    modifier once() {
        require(!_entered, "ReentrancyGuard: reentrant call");
        _entered = true;
        _;
        _entered = false;
    }

    function multicall(bytes[] calldata data) external returns (bytes[] memory results) {
        results = new bytes[](data.length);
        for (uint256 i = 0; i < data.length; ++i) {
            (bool done, bytes memory answer) = address(this).delegatecall(data[i]);
            if (!done) assembly ("memory-safe") { revert(add(answer, 0x20), mload(answer)) }
            results[i] = answer;
        }
    }

    function deposit(ChannelConfig calldata config, uint128 amount, address collector, bytes calldata collectorData)
        external once
    {
        if (
            config.payer == address(0) || config.receiver == address(0) || config.receiverAuthorizer == address(0)
                || config.token == address(0)
        ) revert InvalidChannel();
        if (config.withdrawDelay < 15 minutes || config.withdrawDelay > 30 days) revert WithdrawDelayOutOfRange();
        if (amount == 0) revert ZeroDeposit();
        if (collector == address(0)) revert InvalidCollector();
        bytes32 id = getChannelId(config);
        ChannelState storage channel = channels[id];
        bool isNew = channel.balance == 0 && channel.totalClaimed == 0;
        channel.balance += amount;
        uint256 before = IToken(config.token).balanceOf(address(this));
        IDepositCollector(collector).collect(config.payer, config.token, amount, id, collectorData);
        if (IToken(config.token).balanceOf(address(this)) != before + amount) revert DepositCollectionFailed();
        if (isNew) emit ChannelCreated(id, config);
        emit Deposited(id, msg.sender, amount, channel.balance);
    }

    function claim(VoucherClaim[] calldata claims) external once {
        if (claims.length == 0) revert EmptyBatch();
        for (uint256 i = 0; i < claims.length; ++i) {
            ChannelConfig calldata config = claims[i].voucher.channel;
            if (msg.sender != config.receiver && msg.sender != config.receiverAuthorizer) revert NotAuthorizedToClaim();
            _claim(claims[i]);
        }
    }

    function claimWithSignature(VoucherClaim[] calldata claims, bytes calldata authorizerSignature) external once {
        if (claims.length == 0) revert EmptyBatch();
        address authorizer = claims[0].voucher.channel.receiverAuthorizer;
        if (!isSignedBy(authorizer, getClaimBatchDigest(claims), authorizerSignature)) revert InvalidSignature();
        for (uint256 i = 0; i < claims.length; ++i) {
            if (claims[i].voucher.channel.receiverAuthorizer != authorizer) revert NotReceiverAuthorizer();
            _claim(claims[i]);
        }
    }

    function settle(address receiver, address token) external once {
        ReceiverState storage state = receivers[receiver][token];
        uint128 amount = state.totalClaimed - state.totalSettled;
        if (amount == 0) return;
        state.totalSettled = state.totalClaimed;
        require(IToken(token).transfer(receiver, amount), "transfer failed");
        emit Settled(receiver, token, msg.sender, amount);
    }

    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external once {
        if (msg.sender != config.payer && msg.sender != config.payerAuthorizer) revert InvalidChannel();
        if (amount == 0) revert NothingToWithdraw();
        bytes32 id = getChannelId(config);
        if (pendingWithdrawals[id].initiatedAt != 0) revert WithdrawalAlreadyPending();
        if (amount > channels[id].balance - channels[id].totalClaimed) revert WithdrawAmountExceedsAvailable();
        pendingWithdrawals[id] = WithdrawalState(amount, uint40(block.timestamp));
        emit WithdrawInitiated(id, amount, uint40(block.timestamp) + config.withdrawDelay);
    }

    function finalizeWithdraw(ChannelConfig calldata config) external once {
        if (msg.sender != config.payer && msg.sender != config.payerAuthorizer) revert NotAuthorizedToFinalizeWithdraw();
        bytes32 id = getChannelId(config);
        WithdrawalState memory pending = pendingWithdrawals[id];
        if (pending.initiatedAt == 0) revert WithdrawalNotPending();
        if (block.timestamp < uint256(pending.initiatedAt) + config.withdrawDelay) revert WithdrawDelayNotElapsed();
        delete pendingWithdrawals[id];
        uint128 amount = _giveBack(config, id, pending.amount);
        emit WithdrawFinalized(id, msg.sender, amount);
    }

    function refund(ChannelConfig calldata config, uint128 amount) external once {
        if (msg.sender != config.receiver && msg.sender != config.receiverAuthorizer) revert NotAuthorizedToRefund();
        _refund(config, getChannelId(config), amount);
    }

    function refundWithSignature(ChannelConfig calldata config, uint128 amount, uint256 nonce, bytes calldata signature)
        external once
    {
        bytes32 id = getChannelId(config);
        if (nonce != refundNonce[id]) revert InvalidRefundNonce();
        if (!isSignedBy(config.receiverAuthorizer, getRefundDigest(id, nonce, amount), signature)) {
            revert InvalidSignature();
        }
        _refund(config, id, amount);
    }

    function getChannelId(ChannelConfig calldata config) public view returns (bytes32) {
        return _digest(keccak256(abi.encode(CONFIG_TYPEHASH, config)));
    }

    function getVoucherDigest(bytes32 id, uint128 maxClaimableAmount) public view returns (bytes32) {
        return _digest(keccak256(abi.encode(VOUCHER_TYPEHASH, id, maxClaimableAmount)));
    }

    function getRefundDigest(bytes32 id, uint256 nonce, uint128 amount) public view returns (bytes32) {
        return _digest(keccak256(abi.encode(REFUND_TYPEHASH, id, nonce, amount)));
    }

    function getClaimBatchDigest(VoucherClaim[] calldata claims) public view returns (bytes32) {
        bytes32[] memory entries = new bytes32[](claims.length);
        for (uint256 i = 0; i < claims.length; ++i) {
            entries[i] = keccak256(
                abi.encode(
                    ENTRY_TYPEHASH, getChannelId(claims[i].voucher.channel), claims[i].voucher.maxClaimableAmount,
                    claims[i].totalClaimed
                )
            );
        }
        return _digest(keccak256(abi.encode(BATCH_TYPEHASH, keccak256(abi.encodePacked(entries)))));
    }

    function _claim(VoucherClaim calldata row) private {
        ChannelConfig calldata config = row.voucher.channel;
        bytes32 id = getChannelId(config);
        ChannelState storage channel = channels[id];
        // An older total is no error: it changes nothing.
        if (row.totalClaimed <= channel.totalClaimed) return;
        if (row.totalClaimed > row.voucher.maxClaimableAmount) revert ClaimExceedsCeiling();
        if (row.totalClaimed > channel.balance) revert ClaimExceedsBalance();
        address signer = config.payerAuthorizer == address(0) ? config.payer : config.payerAuthorizer;
        if (!isSignedBy(signer, getVoucherDigest(id, row.voucher.maxClaimableAmount), row.signature)) {
            revert InvalidSignature();
        }
        uint128 more = row.totalClaimed - channel.totalClaimed;
        channel.totalClaimed = row.totalClaimed;
        receivers[config.receiver][config.token].totalClaimed += more;
        emit Claimed(id, msg.sender, more, row.totalClaimed);
    }

    function _refund(ChannelConfig calldata config, bytes32 id, uint128 amount) private {
        if (amount == 0) revert ZeroRefund();
        refundNonce[id] += 1;
        uint128 given = _giveBack(config, id, amount);
        if (given != 0) emit Refunded(id, msg.sender, given);
    }

    function _giveBack(ChannelConfig calldata config, bytes32 id, uint128 wanted) private returns (uint128 amount) {
        ChannelState storage channel = channels[id];
        uint128 available = channel.balance - channel.totalClaimed;
        amount = wanted < available ? wanted : available;
        if (amount == 0) return 0;
        channel.balance -= amount;
        require(IToken(config.token).transfer(config.payer, amount), "transfer failed");
    }

    function _digest(bytes32 content) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN_TYPEHASH, keccak256("x402 Batch Settlement"), keccak256("1"), block.chainid, CHANNELS_ADDRESS)
        );
        return keccak256(abi.encodePacked("\x19\x01", domain, content));
    }
}

contract AuthorizationCollectorStandIn is IDepositCollector {
    function collect(address payer, address token, uint256 amount, bytes32 id, bytes calldata data) external {
        require(msg.sender == CHANNELS_ADDRESS, "only the channels");
        (uint256 validAfter, uint256 validBefore, uint256 salt, bytes memory signature) =
            abi.decode(data, (uint256, uint256, uint256, bytes));
        IToken(token).receiveWithAuthorization(
            payer, address(this), amount, validAfter, validBefore, keccak256(abi.encode(id, salt)), signature
        );
        require(IToken(token).transfer(CHANNELS_ADDRESS, amount), "transfer failed");
    }
}

contract Permit2CollectorStandIn is IDepositCollector {
    error Permit2612AmountMismatch();

    function collect(address payer, address token, uint256 amount, bytes32 id, bytes calldata data) external {
        require(msg.sender == CHANNELS_ADDRESS, "only the channels");
        (uint256 nonce, uint256 deadline, bytes memory signature, bytes memory permitData) =
            abi.decode(data, (uint256, uint256, bytes, bytes));
        if (permitData.length > 0) {
            (uint256 value, uint256 until, uint8 v, bytes32 r, bytes32 s) =
                abi.decode(permitData, (uint256, uint256, uint8, bytes32, bytes32));
            if (value != amount) revert Permit2612AmountMismatch();
            tryPermit(token, payer, value, until, v, r, s);
        }
        IPermit2(PERMIT2_ADDRESS).permitWitnessTransferFrom(
            PermitTransferFrom(TokenPermissions(token, amount), nonce, deadline),
            SignatureTransferDetails(CHANNELS_ADDRESS, amount),
            payer,
            keccak256(abi.encode(keccak256("DepositWitness(bytes32 channelId)"), id)),
            "DepositWitness witness)DepositWitness(bytes32 channelId)TokenPermissions(address token,uint256 amount)",
            signature
        );
    }
}

contract Multicall3StandIn {
    struct Call { address target; bytes callData; }
    struct Result { bool success; bytes returnData; }

    function tryAggregate(bool requireSuccess, Call[] calldata calls) external payable returns (Result[] memory results) {
        results = new Result[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool done, bytes memory answer) = calls[i].target.call(calls[i].callData);
            require(done || !requireSuccess, "Multicall3: call failed");
            results[i] = Result(done, answer);
        }
    }
}
