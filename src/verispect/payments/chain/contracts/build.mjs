// Rebuilds token.json and stand_ins.json from their sources, byte for byte; users never need it.
//
//   npm install --no-save --prefix DIRECTORY solc@0.8.30
//   NODE_PATH=DIRECTORY/node_modules node build.mjs [--write]
//
// Without --write it compares, and fails where a committed file is another.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const WANTED = "0.8.30+commit.73712a01.Emscripten.clang";
const solc = createRequire(import.meta.url)(process.env.NODE_PATH + "/solc");
if (solc.version() !== WANTED) throw new Error(`expected solc ${WANTED}, got ${solc.version()}`);

const settings = {
  evmVersion: "paris",
  viaIR: true,
  optimizer: { enabled: true, runs: 200 },
  metadata: { appendCBOR: false, bytecodeHash: "none" },
  outputSelection: { "*": { "*": ["abi", "evm.deployedBytecode.object"] } },
};

function build(name) {
  const source = readFileSync(new URL(`${name}.sol`, import.meta.url), "utf8");
  const input = { language: "Solidity", sources: { [name]: { content: source } }, settings };
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  const errors = (output.errors ?? []).filter((e) => e.severity === "error");
  if (errors.length) throw new Error(errors.map((e) => e.formattedMessage).join("\n"));
  const contracts = Object.entries(output.contracts[name])
    .filter(([, built]) => built.evm.deployedBytecode.object)
    .map(([title, built]) => [title, { abi: built.abi, runtimeBytecode: built.evm.deployedBytecode.object }]);
  const artifact = {
    compiler: `solc ${WANTED}`,
    settings: "evmVersion paris, through IR, optimizer 200 runs, no metadata",
    sourceSha256: createHash("sha256").update(source).digest("hex"),
    contracts: Object.fromEntries(contracts),
  };
  const text = JSON.stringify(artifact, null, 1) + "\n";
  const path = new URL(`${name}.json`, import.meta.url);
  if (process.argv[2] === "--write") writeFileSync(path, text);
  else if (readFileSync(path, "utf8") !== text) throw new Error(`${name}.json is not what its source makes`);
}

build("token");
build("stand_ins");
