"""Forgeries and damage of NVIDIA evidence: every one is refused, none is an error of ours."""

import base64
import hashlib
import json
import random

import pytest
from lxml import etree
from signxml import CanonicalizationMethod, DigestAlgorithm, SignatureMethod, XMLSigner

from nvidia_forgery import (
    AT,
    NONCE,
    anchor,
    bundle,
    certify,
    device_claims,
    driver_rim,
    gpu,
    jwk,
    key_set,
    manifest_keys,
    manifest_text,
    ocsp_response,
    overall_claims,
    resource,
    service_keys,
    sign_manifest,
    sign_token,
)
from tee_vectors import load_case, milliseconds
from verispect.core.encoding import to_base64url
from verispect.core.errors import Error, MalformedError
from verispect.evidence.attestation import (
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
    reason_class,
)
from verispect.evidence.nvidia import (
    GENUINE_ANCHORS,
    DeviceDocument,
    DeviceEvidence,
    ManifestEvidence,
    ServiceToken,
    appraise_nvidia_document,
    appraise_nvidia_gpu,
    appraise_nvidia_rim,
    appraise_nvidia_token,
)
from verispect.evidence.nvidia.rim import MAX_MANIFEST_BYTES
from verispect.evidence.nvidia.spdm import MAX_REPORT_BYTES, parse_report

DEVELOPMENT = AttestationPolicy(accepted_classes=frozenset({EvidenceClass.DEVELOPMENT}))


def common(at=AT):
    return {
        "anchors": (
            anchor("nvidia-gpu", gpu().root),
            anchor("nvidia-rim", manifest_keys()[0]),
            anchor("nvidia-nras", service_keys()[1]),
        ),
        "expected": Expectation(nonce=NONCE),
        "policy": DEVELOPMENT,
        "at": at,
    }


def genuine(case_id="nv-hopper-590"):
    case = load_case(case_id)
    return case["evidence"], {
        "anchors": GENUINE_ANCHORS,
        "expected": Expectation(nonce=bytes.fromhex(case["inputs"].get("nonce", ""))),
        "policy": AttestationPolicy(),
        "at": milliseconds(case["verify_at"]),
    }


def word(appraisal):
    assert appraisal.verdict is not AttestationVerdict.POLICY
    found = reason_class(appraisal.reason)
    assert (appraisal.verdict is AttestationVerdict.ACCEPT) == (found == "ok")
    return found


def judge_rim(data, at=AT):
    return word(appraise_nvidia_rim(ManifestEvidence(data), **{**common(at), "expected": NOTHING}))


NOTHING = Expectation()


def judge_token(token, keys=None):
    text = token if isinstance(token, bytes) else token.encode()
    return word(appraise_nvidia_token(ServiceToken(text, keys or key_set()), **common()))


# -- Damage ---------------------------------------------------------------------------------------


def flips(data, count, seed):
    """Yield `count` copies of `data`, each with one bit turned, spread over its whole length."""
    draw = random.Random(seed)
    step = max(1, len(data) // count)
    for start in range(0, len(data), step):
        place = min(len(data) - 1, start + draw.randrange(step))
        yield data[:place] + bytes((data[place] ^ (1 << draw.randrange(8)),)) + data[place + 1 :]


def test_report_cut_at_every_length_is_malformed():
    """No prefix of a genuine report is a report, and bytes after it are refused."""
    evidence, _ = genuine("nv-hopper-550-full-rim")
    report = evidence["report"]
    for length in range(len(report)):
        with pytest.raises(MalformedError):
            parse_report(report[:length])
    for tail in (b"\0", b"\n", report):
        with pytest.raises(MalformedError):
            parse_report(report + tail)


def test_every_flipped_bit_of_a_genuine_report_is_refused():
    """Request, response, opaque data and signature are all covered."""
    evidence, settings = genuine("nv-hopper-550-full-rim")
    for damaged in flips(evidence["report"], 700, 1):
        appraisal = appraise_nvidia_gpu(DeviceEvidence(damaged, evidence["chain"]), **settings)
        assert word(appraisal) in {
            "bad_signature",
            "malformed",
            "unsupported",
        }


def test_every_flipped_bit_of_genuine_certificates_is_refused():
    """Every bit of every certificate counts, unused PEM text aside."""
    evidence, settings = genuine("nv-hopper-550-full-rim")
    ders = [
        base64.b64decode(block.split(b"-----")[0])
        for block in evidence["chain"].split(b"BEGIN CERTIFICATE-----")[1:]
    ]
    for place, der in enumerate(ders):
        for damaged in flips(der, 60, place):
            path = b"".join(
                b"-----BEGIN CERTIFICATE-----\n"
                + base64.b64encode(damaged if place == other else der_)
                + b"\n-----END CERTIFICATE-----\n"
                for other, der_ in enumerate(ders)
            )
            appraisal = appraise_nvidia_gpu(DeviceEvidence(evidence["report"], path), **settings)
            assert word(appraisal) != "ok"


def test_genuine_document_cut_or_flipped_is_refused():
    """Damage to the JSON is refused; only what nobody reads may change."""
    evidence, settings = genuine()
    document = evidence["evidence"]
    for length in range(0, len(document) - 1, 97):
        cut = appraise_nvidia_document(DeviceDocument(document[:length]), **settings)
        assert word(cut) == "malformed" or document[length:].strip() == b""
    # `nonce` of the JSON is not read, and white space may differ.
    unread = document.index(b'"nonce"')
    for damaged in flips(document[:unread], 150, 3):
        text = damaged + document[unread:]
        appraisal = appraise_nvidia_document(DeviceDocument(text), **settings)
        if word(appraisal) == "ok":
            assert json_evidence(text) == json_evidence(document)


def json_evidence(text):
    # The text of PEM may differ in white space.
    return [
        (entry["evidence"], b"".join(base64.b64decode(entry["certificate"]).split()))
        for entry in json.loads(text)
    ]


def test_genuine_manifest_cut_or_flipped_is_refused():
    """A manifest whose bytes changed is refused, unless it still says exactly the same."""
    evidence, settings = genuine("nv-hopper-550-full-rim")
    rim, settings = evidence["driver_rim"], {**settings, "expected": Expectation()}

    def judge(data):
        return appraise_nvidia_rim(ManifestEvidence(data), **settings)

    facts = judge(rim).facts
    assert facts["active_measurements"] > 0
    for length in range(0, len(rim), 211):
        assert word(judge(rim[:length])) == "malformed"
    for damaged in flips(rim, 250, 4):
        appraisal = judge(damaged)
        # Inside base64 some bits are white space; the values must then be untouched.
        assert word(appraisal) != "ok" or appraisal.facts == facts


def test_bundle_flipped_anywhere_is_refused():
    """Every bit of tokens counts."""
    text = bundle()
    inside = text.index(b"ey")
    for damaged in flips(text[inside:], 300, 5):
        assert judge_token(text[:inside] + damaged) != "ok"
    for length in range(0, len(text), 41):
        assert judge_token(text[:length]) != "ok"


@pytest.mark.parametrize("size", [MAX_REPORT_BYTES + 1, 16 * 1024 * 1024])
def test_large_evidence_is_refused_before_it_is_read(size):
    """Sixteen megabytes of anything are refused by their size."""
    data = b"\x11\xe0\x01\xff" + bytes(size)
    assert word(appraise_nvidia_gpu(DeviceEvidence(data, gpu().path), **common())) == "malformed"
    assert word(appraise_nvidia_gpu(DeviceEvidence(gpu().report(), data), **common())) != "ok"
    assert judge_rim(b"<a>" + b" " * size) == "malformed"
    assert judge_token(b"[" + b" " * size) == "malformed"
    assert judge_token(bundle(), keys=b"{" + b" " * size) == "malformed"
    document = appraise_nvidia_document(DeviceDocument(b"[" + b" " * size), **common())
    assert word(document) == "malformed"


def test_hostile_lengths_inside_a_report_are_refused():
    """Counts and lengths that promise more or less than there is are refused."""
    good = gpu().report()
    record = 37 + 4
    for place, value in (
        (record, b"\x00"),
        (record, b"\xff"),
        (record + 1, b"\xff\xff\xff"),
        (record + 1, b"\x00\x00\x00"),
        (record + 4, b"\x02"),
        (record + 4 + 2, b"\xff\xff"),
        (record + 4 + 5, b"\x00\x00"),
        (36, b"\x08"),
    ):
        damaged = good[:place] + value + good[place + len(value) :]
        with pytest.raises(Error):
            parse_report(damaged)
    twice = gpu()
    twice.opaque = [*twice.opaque, (3, b"other\0")]
    assert (
        word(appraise_nvidia_gpu(DeviceEvidence(twice.report(), twice.path), **common()))
        == "malformed"
    )


# -- Splices of genuine parts ---------------------------------------------------------------------


def test_genuine_report_under_another_genuine_path_is_refused():
    """A report of one GPU does not pass with the certificates of another."""
    first, settings = genuine("nv-hopper-550-full-rim")
    second, _ = genuine("nv-hopper-590")
    entry = json.loads(second["evidence"])[0]
    path = base64.b64decode(entry["certificate"])
    settings = {**settings, "expected": Expectation()}
    assert word(appraise_nvidia_gpu(DeviceEvidence(first["report"], path), **settings)) == (
        "bad_signature"
    )


def test_own_key_below_the_genuine_path_is_refused():
    """A forged device key under a look-alike of the maker's CA never reaches the genuine root."""
    evidence, settings = genuine("nv-hopper-550-full-rim")
    blocks = evidence["chain"].split(b"-----BEGIN CERTIFICATE-----")[1:]
    tail = b"".join(b"-----BEGIN CERTIFICATE-----" + block for block in blocks[1:])
    device = gpu(nonce=settings["expected"].nonce)
    leaf = device.path.split(b"-----END CERTIFICATE-----")[0] + b"-----END CERTIFICATE-----\n"
    appraisal = appraise_nvidia_gpu(DeviceEvidence(device.report(), leaf + tail), **settings)
    assert word(appraisal) == "bad_signature"
    unanchored = appraise_nvidia_gpu(DeviceEvidence(device.report(), device.path), **settings)
    assert word(unanchored) == "untrusted_root"


def test_genuine_root_after_a_foreign_path_is_refused():
    """Appending the genuine root to a foreign path buys nothing."""
    evidence, settings = genuine("nv-hopper-550-full-rim")
    root = b"-----BEGIN" + evidence["chain"].split(b"-----BEGIN")[-1]
    device = gpu(nonce=settings["expected"].nonce)
    appraisal = appraise_nvidia_gpu(DeviceEvidence(device.report(), device.path + root), **settings)
    assert word(appraisal) == "bad_signature"


# -- Manifests ------------------------------------------------------------------------------------


def test_manifest_under_own_keys_is_untrusted():
    """A manifest signed under a root with the same names is refused by its key."""
    root = certify("DEVELOPMENT ONLY manifest root")
    middle = certify("DEVELOPMENT ONLY manifest CA", root)
    signer = certify("DEVELOPMENT ONLY signer", middle, ca=False)
    text = manifest_text("1", [resource(0, [bytes(48)])])
    assert judge_rim(sign_manifest(text, (root, middle, signer))) == "untrusted_root"
    trusted = manifest_keys()
    mixed = sign_manifest(text, (trusted[0], trusted[1], signer))
    assert judge_rim(mixed) == "bad_signature"


def test_changed_value_of_a_signed_manifest_is_refused():
    """A value that the signature does not cover is no reference value."""
    rim = driver_rim(gpu())
    value = gpu().measurements[36].hex().encode()
    assert value in rim
    assert judge_rim(rim.replace(value, b"00" * 48)) == "bad_signature"
    assert judge_rim(rim.replace(b"990.10.01", b"990.10.02")) == "bad_signature"


def signature_of(rim):
    start = rim.index(b"<ds:Signature ")
    end = rim.index(b"</ds:Signature>") + len(b"</ds:Signature>")
    return rim[start:end], rim[:start] + rim[end:]


def test_signature_wrapping_is_refused():
    """A signed manifest inside another one, or beside another signature, vouches for neither."""
    rim = driver_rim(gpu())
    signature, unsigned = signature_of(rim)
    forged = manifest_text("990.10.01", [resource(0, [bytes(48)])]).encode()
    end = forged.index(b"</SoftwareIdentity>")
    wrapped = forged[:end] + rim + forged[end:]
    twice = rim.replace(b"</SoftwareIdentity>", signature + b"</SoftwareIdentity>")
    moved = forged[:end] + signature + forged[end:]
    deeper = forged[:end] + b"<Meta>" + signature + b"</Meta>" + forged[end:]
    for attack in (wrapped, twice, moved, deeper):
        assert judge_rim(attack) in {"bad_signature", "malformed"}
    assert judge_rim(unsigned) == "bad_signature"
    assert judge_rim(forged) == "bad_signature"


def test_signature_over_a_part_is_refused():
    """A trusted signer's signature over one element does not cover the manifest around it."""
    root, intermediate, signer = manifest_keys()
    text = manifest_text("1", [resource(0, [bytes(48)])]).replace("<Payload>", '<Payload Id="x">')
    signed = XMLSigner(
        signature_algorithm=SignatureMethod.ECDSA_SHA384,
        digest_algorithm=DigestAlgorithm.SHA384,
        c14n_algorithm=CanonicalizationMethod.CANONICAL_XML_1_1,
    ).sign(
        etree.fromstring(text),
        key=signer.private,
        cert=[key.certificate for key in (signer, intermediate, root)],
        reference_uri="#x",
    )
    assert judge_rim(etree.tostring(signed)) == "bad_signature"


def test_signed_signature_within_a_manifest_is_refused():
    """A manifest has one signature, even where a second one is signed along."""
    inner, _ = signature_of(driver_rim(gpu()))
    text = manifest_text("1", [resource(0, [bytes(48)]), inner.decode()])
    assert judge_rim(sign_manifest(text)) == "bad_signature"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'URI=""', b'URI="#x"'),
        (b'URI=""', b'URI="http://127.0.0.1/x"'),
        (b"#enveloped-signature", b"#other"),
        (b"xmldsig-more#ecdsa-sha384", b"xmldsig-more#ecdsa-sha256"),
        (b"xmldsig-more#ecdsa-sha384", b"xmldsig-more#hmac-sha384"),
        (b"xmldsig-more#sha384", b"xmldsig#sha1"),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA"),
        (b"ds:X509Data", b"ds:KeyValue"),
        (b"ds:X509Certificate>", b"ds:X509SubjectName>"),
    ],
)
def test_other_forms_of_signature_are_refused(old, new):
    """References elsewhere, other transforms, algorithms and keys are refused."""
    rim = driver_rim(gpu())
    assert old in rim
    assert judge_rim(rim.replace(old, new)) != "ok"


@pytest.mark.parametrize(
    "prologue",
    [
        b'<!DOCTYPE x [<!ENTITY a "b">]>',
        b'<!doctype x SYSTEM "file:///etc/passwd">',
        b"<!-- comment -->",
        b"<?xml-stylesheet href='x'?>",
        b"<?xml version='1.0' encoding='UTF-16'?>",
        b"\xff\xfe",
        b"\xef\xbb\xbf\xff",
        b"\0",
    ],
)
def test_xml_beyond_elements_and_attributes_is_refused(prologue):
    """Document types, entities, comments, instructions and other encodings are refused unread."""
    assert judge_rim(prologue + driver_rim(gpu())) == "malformed"


def test_entity_bombs_and_deep_nesting_are_refused():
    """Billion laughs and towers of elements end at a limit."""
    bomb = b'<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">' + b"".join(
        f'<!ENTITY b{n} "{"&a;" * 10}">'.encode() for n in range(10)
    )
    assert judge_rim(bomb + b"]><l>&b9;</l>") == "malformed"
    deep = b"<a>" * 20_000 + b"</a>" * 20_000
    assert judge_rim(deep) == "malformed"
    assert "nesting" in limit_of(b"<a>" * 13 + b"</a>" * 13)
    assert "too many elements" in limit_of(b"<a>" + b"<b/>" * 5000 + b"</a>")
    assert "at most" in limit_of(b"<a>" + b" " * MAX_MANIFEST_BYTES + b"</a>")
    assert judge_rim(b"<a x='>' " * 20_000) == "malformed"
    flat = b"<a>" + b"<b/>" * 100_000 + b"</a>"
    assert len(flat) < MAX_MANIFEST_BYTES
    assert judge_rim(flat) == "malformed"
    assert judge_rim(b"<" * 400_000) == "malformed"


def limit_of(data):
    """Return in what words a manifest is refused."""
    appraisal = appraise_nvidia_rim(
        ManifestEvidence(data), **{**common(), "expected": Expectation()}
    )
    return appraisal.checks[-1].detail


@pytest.mark.parametrize(
    "resources",
    [
        [],
        [resource(0, [bytes(48)]), resource(0, [bytes(48)])],
        [resource(254, [bytes(48)])],
        [resource(0, [])],
        [resource(0, [bytes(47)])],
        [resource(0, [bytes(48)]).replace('alternatives="1"', 'alternatives="2"')],
        [resource(0, [bytes(48)] * 2).replace('alternatives="2"', 'alternatives="1"')],
        [resource(0, [bytes(48)]).replace('index="0"', 'index="-1"')],
        [resource(0, [bytes(48)]).replace('index="0"', 'index="\uff11"')],
        [resource(0, [bytes(48)]).replace('active="True"', 'active="maybe"')],
        ["<Other/>"],
    ],
)
def test_signed_manifest_with_senseless_values_is_malformed(resources):
    """A good signature does not make sense of values."""
    assert judge_rim(sign_manifest(manifest_text("1", resources))) == "malformed"


# -- Tokens ---------------------------------------------------------------------------------------


def test_token_without_a_signature_is_refused():
    """`alg` none, in any spelling and with any signature, is refused."""
    claims = device_claims()
    for alg in ("none", "None", "HS384", "RS256", "ES256", None, 7):
        assert judge_token(sign_token(claims, header={"alg": alg, "kid": "kid-1"})) != "ok"
    head, body, _ = sign_token(claims).split(".")
    assert judge_token(f"{head}.{body}.") == "bad_signature"
    none = to_base64url(json.dumps({"alg": "none", "kid": "kid-1"}).encode())
    assert judge_token(f"{none}.{body}.") == "bad_signature"


@pytest.mark.parametrize("name", ["jwk", "jku", "x5c", "x5u", "crit", "b64", "zip"])
def test_token_cannot_bring_its_own_key(name):
    """Header parameters that name keys or change what is signed are refused."""
    header = {"alg": "ES384", "kid": "kid-1", name: [] if name == "crit" else "x"}
    assert judge_token(sign_token(device_claims(), header=header)) == "bad_signature"


def test_token_of_an_unlisted_key_is_untrusted():
    """A key that is not in the set, or has no name, signs nothing."""
    other = sign_token(device_claims(), header={"alg": "ES384", "kid": "kid-2"})
    assert judge_token(other) == "untrusted_root"
    assert judge_token(sign_token(device_claims(), header={"alg": "ES384"})) == "malformed"


def test_own_key_in_the_key_set_is_refused():
    """A key set is only as good as its certificates, and a key only if they certify exactly it."""
    root, middle, leaf = service_keys()
    forged_root = certify("DEVELOPMENT ONLY service root")
    forged_middle = certify("DEVELOPMENT ONLY service CA", forged_root)
    forged = certify("DEVELOPMENT ONLY service", forged_middle, ca=False)
    token = sign_token(device_claims(), private=forged.private)
    own = jwk((forged_root, forged_middle, forged))
    assert judge_token(token, keys=key_set(own)) == "untrusted_root"
    # Its own key with the genuine certificates, and its own certificate below the genuine one.
    borrowed = {**own, "x5c": jwk((root, middle, leaf))["x5c"]}
    assert judge_token(token, keys=key_set(borrowed)) == "bad_binding"
    below = jwk((forged_root, middle, forged))
    assert judge_token(token, keys=key_set(below)) == "bad_signature"
    bare = {name: value for name, value in own.items() if name != "x5c"}
    assert judge_token(token, keys=key_set(bare)) == "malformed"
    two = key_set(jwk((root, middle, leaf)), {**own, "kid": "kid-1"})
    assert judge_token(sign_token(device_claims()), keys=two) == "malformed"


def test_devices_of_a_bundle_cannot_be_exchanged():
    """A device token that the overall token does not list by digest is refused."""
    good, other = sign_token(device_claims()), sign_token(device_claims(ueid="2"))
    overall = overall_claims({"GPU-0": good})
    assert judge_token(bundle({"GPU-0": other}, overall)) == "bad_binding"
    assert judge_token(bundle({"GPU-0": good, "GPU-1": other}, overall)) == "bad_binding"
    assert judge_token(bundle({"GPU-1": good}, overall)) == "bad_binding"
    both = overall_claims({"GPU-0": good, "GPU-1": other})
    assert judge_token(bundle({"GPU-0": good}, both)) == "bad_binding"
    sha1 = hashlib.sha256(good.encode()).hexdigest()
    weak = {**overall, "submods": {"GPU-0": ["DIGEST", ["SHA-1", sha1]]}}
    assert judge_token(bundle({"GPU-0": good}, weak)) == "malformed"


def test_device_token_of_another_session_is_refused():
    """A device token with another nonce does not pass in a bundle, listed or not."""
    stale = {"GPU-0": sign_token(device_claims(eat_nonce="11" * 32))}
    assert judge_token(bundle(stale)) == "bad_binding"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"[1]",
        b'[["JWT", "x"], {"GPU-0": "x"}, {}]',
        b'[["JWS", "x"], {}]',
        b'[["JWT", 1], {}]',
        b'[["JWT", "x"], {"../GPU": "x"}]',
        b'[["JWT", "x"], []]',
        b"a.b.c",
        b"..",
        b"\xff.\xff.\xff",
        b"[" * 10_000,
    ],
)
def test_what_is_no_token_is_malformed(text):
    """Other bytes are not understood, which is another answer than no."""
    assert judge_token(text) == "malformed"


def test_bytes_after_a_token_are_refused():
    """A token ends where it ends."""
    token = sign_token(device_claims())
    for tail in (" ", ".", "=", ".x", "\n\n", "\0"):
        assert judge_token(token + tail) == "malformed"


# -- OCSP -----------------------------------------------------------------------------------------


def test_damaged_ocsp_response_never_passes():
    """Every flipped bit of a stored response is refused, or leaves it about something else."""
    device = gpu()
    response = ocsp_response(device.intermediate, device.root)
    for damaged in flips(response, 400, 6):
        evidence = DeviceEvidence(device.report(), device.path, ocsp=(damaged,))
        appraisal = appraise_nvidia_gpu(evidence, **common())
        if word(appraisal) == "ok":
            assert any("OCSP" in gap for gap in appraisal.not_checked)
    for length in range(0, len(response), 7):
        evidence = DeviceEvidence(device.report(), device.path, ocsp=(response[:length],))
        assert word(appraise_nvidia_gpu(evidence, **common())) == "malformed"
