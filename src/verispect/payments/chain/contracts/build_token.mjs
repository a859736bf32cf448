// Rebuilds token.json from token.sol, byte for byte; users never need it.
//
//   npm install --no-save --prefix DIRECTORY solc@0.8.30
//   NODE_PATH=DIRECTORY/node_modules node build_token.mjs [--write]
//
// Without --write it compares, and fails where the committed file is another.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const WANTED = "0.8.30+commit.73712a01.Emscripten.clang";
const solc = createRequire(import.meta.url)(process.env.NODE_PATH + "/solc");
if (solc.version() !== WANTED) throw new Error(`expected solc ${WANTED}, got ${solc.version()}`);

const source = readFileSync(new URL("token.sol", import.meta.url), "utf8");
const settings = {
  evmVersion: "paris",
  optimizer: { enabled: true, runs: 200 },
  metadata: { appendCBOR: false, bytecodeHash: "none" },
  outputSelection: { "*": { "*": ["abi", "evm.deployedBytecode.object"] } },
};
const input = { language: "Solidity", sources: { "token.sol": { content: source } }, settings };
const output = JSON.parse(solc.compile(JSON.stringify(input)));
const errors = (output.errors ?? []).filter((e) => e.severity === "error");
if (errors.length) throw new Error(errors.map((e) => e.formattedMessage).join("\n"));
const built = output.contracts["token.sol"].DevelopmentDollar;
const artifact = {
  compiler: `solc ${WANTED}`,
  settings: "evmVersion paris, optimizer 200 runs, no metadata",
  sourceSha256: createHash("sha256").update(source).digest("hex"),
  abi: built.abi,
  runtimeBytecode: built.evm.deployedBytecode.object,
};
const text = JSON.stringify(artifact, null, 1) + "\n";
const path = new URL("token.json", import.meta.url);
if (process.argv[2] === "--write") writeFileSync(path, text);
else if (readFileSync(path, "utf8") !== text) throw new Error("token.json is not what token.sol makes");
