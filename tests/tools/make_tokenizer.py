#!/usr/bin/env python3
"""Writes a small Llama-style tokenizer for checkpoints that have none: tests can then send text to any vocabulary size.

  make_tokenizer.py DIR [--vocab-size N]        default: vocab_size of DIR/config.json

Writes DIR/tokenizer.json and DIR/tokenizer_config.json (no chat template). Ids as in Llama 2: 0 `<unk>`, 1 `<s>`, 2 `</s>`,
3..258 the 256 bytes, then "▁", the printable ASCII characters and pairs of letters until the vocabulary is full.
"""

import argparse
import itertools
import json
import os
import string

SPECIAL = ["<unk>", "<s>", "</s>"]
SPACE = "▁"


def pieces_and_merges(size):
    """All pieces in order of their ids, and the merges that build those of more than one character."""
    pieces = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += [SPACE] + [chr(code) for code in range(0x21, 0x7F)]
    if size < len(pieces):
        raise SystemExit(f"a vocabulary of {size} is too small: {len(pieces)} pieces are needed")
    letters = string.ascii_lowercase
    pairs = itertools.chain(
        ((SPACE, letter) for letter in letters),
        itertools.product(letters, repeat=2),
        ((a + b, c) for a, b, c in itertools.product(letters, repeat=3)),
        ((a + b + c, d) for a, b, c, d in itertools.product(letters, repeat=4)),
    )
    merges = list(itertools.islice(pairs, size - len(pieces)))
    return pieces + [left + right for left, right in merges], merges


def special_token(index):
    return {
        "id": index,
        "content": SPECIAL[index],
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def tokenizer_json(size):
    pieces, merges = pieces_and_merges(size)
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special_token(index) for index in range(len(SPECIAL))],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: index for index, piece in enumerate(pieces)},
            "merges": [list(pair) for pair in merges],
        },
    }


TOKENIZER_CONFIG = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
    "tokenizer_class": "LlamaTokenizer",
}


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--vocab-size", type=int)
    args = parser.parse_args()
    size = args.vocab_size
    if size is None:
        with open(os.path.join(args.dir, "config.json"), encoding="utf-8") as file:
            size = json.load(file)["vocab_size"]
    write_json(os.path.join(args.dir, "tokenizer.json"), tokenizer_json(size))
    write_json(os.path.join(args.dir, "tokenizer_config.json"), TOKENIZER_CONFIG)
    print(f"{args.dir}: tokenizer of {size} pieces")


if __name__ == "__main__":
    main()
