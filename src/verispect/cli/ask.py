"""`verispect ask`: ask a gateway, check the answer, and keep what proves it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verispect.cli.files import read_policy, read_trusted_root, write_file
from verispect.cli.outcome import EXIT_DONE, tell_failure
from verispect.cli.paying import add_paying_options, open_payer, tell_bill
from verispect.core.encoding import to_base64url
from verispect.core.errors import Error, RequestError

if TYPE_CHECKING:
    from verispect.appraisal.policy import AssurancePolicy
    from verispect.appraisal.trusted_root import TrustedRoot
    from verispect.client.confidential import ConfidentialChannel
    from verispect.client.session import Exchange

_WHOLE: Final = frozenset({"stop", "tool_calls"})


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "ask",
        help="ask a gateway and check the answer",
        description="Ask a language model. The answer goes to standard output, the verdict to "
        "standard error; the exit code is that of verify.",
    )
    parser.add_argument("prompt", help="what to ask; - reads standard input")
    parser.add_argument("--url", default="http://127.0.0.1:8402", help="the gateway")
    parser.add_argument("--model", required=True, help="the name the gateway serves it under")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument("--stream", action="store_true", help="show text as it is generated")
    parser.add_argument(
        "--assurance",
        default="signed",
        help="what the gateway must deliver: preset, sum of presets, or policy file",
    )
    parser.add_argument(
        "--lane",
        choices=("throughput", "deterministic"),
        help="how the engine is shared; the model's usual lane where not given",
    )
    parser.add_argument("--max-tokens", type=int, help="longest answer")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token")
    parser.add_argument("--seed", type=int, help="repeats a sampled answer")
    parser.add_argument("--policy", default="signed", help="preset name or policy file")
    trust = parser.add_mutually_exclusive_group(required=True)
    trust.add_argument("--trusted-root", type=Path, help="whom you trust (JSON)")
    trust.add_argument(
        "--unsafe-no-verify", action="store_true", help="do not check the answer at all"
    )
    parser.add_argument(
        "--confidential",
        action="store_true",
        help="encrypt the request to the gateway's attested key, or send nothing",
    )
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help="keep request, response, receipt and openings"
    )
    add_paying_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from verispect.client.session import GatewayClient

    prompt = _prompt(arguments.prompt)
    if not prompt:
        raise RequestError("the prompt is empty", parameter="prompt")
    messages = [{"role": "user", "content": prompt}]
    if arguments.system is not None:
        messages.insert(0, {"role": "system", "content": arguments.system})
    # Read first: a typing mistake must not cost an inference.
    policy = read_policy(arguments.policy)
    assurance = arguments.assurance
    if Path(assurance).is_file():
        assurance = read_policy(assurance)
    root = None if arguments.trusted_root is None else read_trusted_root(arguments.trusted_root)
    channel = _channel(root, policy) if arguments.confidential else None
    payer = open_payer(arguments, root, policy)
    with GatewayClient(arguments.url, confidential=channel, payer=payer) as client:
        if payer is not None and arguments.pay_forgive:
            payer.forgive(client.origin)
        exchange = client.chat(
            arguments.model,
            messages,
            stream=arguments.stream,
            assurance=assurance,
            lane=arguments.lane,
            options=_options(arguments),
            on_text=_show,
        )
    print(flush=True)
    if arguments.save is not None:
        save_exchange(exchange, arguments.save, stream=arguments.stream)
    if root is None:
        print("UNVERIFIED: --unsafe-no-verify was given", file=sys.stderr)
        return EXIT_DONE
    code = _tell_verdict(exchange, root, policy)
    if payer is not None:
        tell_bill(payer)
    return code


def _channel(root: TrustedRoot | None, policy: AssurancePolicy) -> ConfidentialChannel:
    from verispect.client.confidential import ConfidentialChannel

    if root is None:
        raise RequestError("--confidential needs --trusted-root", parameter="trusted-root")
    return ConfidentialChannel(root, policy)


def _tell_verdict(exchange: Exchange, root: TrustedRoot, policy: AssurancePolicy) -> int:
    """Verify the exchange, say what was found, and return the exit code."""
    from verispect.client.session import now_milliseconds, verify_exchange

    try:
        verified = verify_exchange(
            exchange, trusted_root=root, policy=policy, now=now_milliseconds()
        )
    except Error as error:
        return tell_failure(error)
    result = verified.result
    print(f"OK: verified under policy {policy.name}", file=sys.stderr)
    print(f"    receipt {result.receipt_id.hex()}", file=sys.stderr)
    if exchange.confidential is not None:
        print("    confidential: encrypted to the attested key", file=sys.stderr)
    for reason in verified.statement.finish_reasons:
        if reason not in _WHOLE:
            print(f"    the answer is not whole: {reason}", file=sys.stderr)
    for line in result.not_covered:
        print(f"    not covered: {line}", file=sys.stderr)
    return EXIT_DONE


def _prompt(argument: str) -> str:
    if argument != "-":
        return argument
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise RequestError("standard input is not UTF-8", parameter="prompt") from error


def _show(text: str) -> None:
    if sys.stdout.isatty():
        # On a terminal, control characters of a model could erase or forge what we say.
        text = "".join(
            c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
        )
    print(text, end="", flush=True)


def save_exchange(exchange: Exchange, directory: Path, *, stream: bool) -> None:
    """Write the files that `verispect verify` takes.

    Raises:
        StoreError: `store-failed`.
    """
    write_file(directory / "request.json", exchange.request)
    write_file(directory / ("response.sse" if stream else "response.json"), exchange.response)
    write_file(directory / "receipt.cose", exchange.receipt)
    write_file(directory / "openings.cbor", exchange.openings)
    write_file(directory / "nonce.txt", to_base64url(exchange.nonce).encode() + b"\n")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    chosen = {
        "max_completion_tokens": arguments.max_tokens,
        "temperature": arguments.temperature,
        "seed": arguments.seed,
    }
    return {name: value for name, value in chosen.items() if value is not None}
