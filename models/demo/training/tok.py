"""Llama-2-style byte-fallback BPE tokenizer with chat tokens: python tok.py 3072 out/tokenizer.json"""

import json, os, sys
from tokenizers import Tokenizer, models, trainers, pre_tokenizers, normalizers, decoders, Regex, AddedToken, processors

sys.path.insert(0, ".")
from chatgen import *

V = int(sys.argv[1])
out = sys.argv[2]
os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
SPECIAL = ["<unk>", "<s>", "</s>"]
CHAT = ["<|system|>", "<|user|>", "<|assistant|>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def corpus():
    for f, w in (
        ("tinystories", 1),
        ("african-storybook", 1),
        ("pratham-books", 1),
        ("book-dash", 1),
        ("fairytales-pd", 1),
        ("onestopenglish", 1),
    ):
        for l in open(f"data/{f}.jsonl"):
            yield json.loads(l)["text"]
    for l in open("data/dolly-instructions.jsonl"):
        d = json.loads(l)
        yield d["instruction"]
    g = G(11)
    n = 0
    while n < 8_000_000:
        for r, t in chat(g):
            n += len(t)
            yield t
    yield from (chr(i) * 50 for i in range(33, 127))


t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
t.pre_tokenizer = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex("▁"), "merged_with_next"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Split(Regex(r"\n+"), "isolated"),
        pre_tokenizers.Split(Regex(r"[^\w▁\n]+"), "isolated"),
    ]
)
tr = trainers.BpeTrainer(
    vocab_size=V - len(CHAT),
    special_tokens=SPECIAL + BYTES,
    initial_alphabet=[chr(i) for i in range(33, 127)] + ["▁", "\n"],
    limit_alphabet=110,
    show_progress=False,
    max_token_length=16,
)
t.train_from_iterator(corpus(), tr)
j = json.loads(t.to_str())
j["added_tokens"] = [a for a in j["added_tokens"] if a["content"] in SPECIAL]
base = dict(j["added_tokens"][0])
n = len(j["model"]["vocab"])
for i, c in enumerate(CHAT):
    j["added_tokens"].append({**base, "id": n + i, "content": c})
    j["model"]["vocab"][c] = n + i
j["pre_tokenizer"] = None
j["decoder"] = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
j["post_processor"] = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<s>", "type_id": 1}},
        {"Sequence": {"id": "B", "type_id": 1}},
    ],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}
json.dump(j, open(out, "w"), ensure_ascii=False)
t2 = Tokenizer.from_file(out)
s = '<|user|>Tell me a story about a fox named Zabu — 42 ünï!</s><|assistant|>Once upon a time,\n\nthere was "a fox".</s>'
e = t2.encode(s)
print(t2.get_vocab_size(), len(e.ids), e.tokens)
print(repr(t2.decode(e.ids, skip_special_tokens=False)))
for f in ("tinystories", "pratham-books", "fairytales-pd", "onestopenglish"):
    tx = "\n".join(json.loads(l)["text"] for l in list(open(f"data/{f}.jsonl"))[:200])
    n = sum(len(x.ids) for x in t2.encode_batch(tx.split("\n")))
    print(V, f, "chars/token %.2f" % (len(tx) / n))
g = G(12)
tx = [x for _ in range(300) for r, x in chat(g)]
print(V, "procedural chars/token %.2f" % (sum(map(len, tx)) / sum(len(t2.encode(x).ids) for x in tx)))
