"""Counts how often stories keep the animal and the name that were asked for, and how many easy facts are right."""

import sys

sys.argv = ["x", "none"]
sys.path.insert(0, ".")
from model import *
from tokenizers import Tokenizer
from chatgen import *
import json

torch.set_num_threads(2)
T = Tokenizer.from_file("out/tokenizer.json")
I = T.token_to_id
m = OpenELM(make_config(3072, **SIZES["5m"]))
m.load_state_dict(torch.load("out/last.pt"))
m.eval()
import re

train = " ".join(
    json.loads(l)["text"] for f in ("tinystories", "pratham-books", "african-storybook", "fairytales-pd") for l in open(f"data/{f}.jsonl")
)
g = G(777)
n = kind = name = eos = 0
t0 = time = __import__("time").time()
tok = 0
reps = 0
out = []
for i in range(40):
    h = g.who()
    q = f"Tell me a story about {ana(h['k'])} named {h['n']}."
    ids = [1, I("<|user|>")] + T.encode(q, add_special_tokens=False).ids + [2, I("<|assistant|>")]
    o = m.generate(ids, 400, temp=0.5, top_p=0.9, seed=i)
    s = T.decode(o)
    tok += len(o)
    n += 1
    kind += h["k"] in s[:160]
    name += bool(re.search(r"\b" + h["n"] + r"\b", s[:200]))
    eos += len(o) < 400
    w = s.split()
    tri = [tuple(w[j : j + 4]) for j in range(len(w) - 3)]
    reps += 1 - len(set(tri)) / max(1, len(tri))
    out.append((q, s))
print(
    "stories",
    n,
    "kind kept",
    kind,
    "name kept",
    name,
    "ended by itself",
    eos,
    "mean tokens",
    tok / n,
    "repeated 4-grams %.3f" % (reps / n),
    "gen tok/s %.0f" % (tok / (__import__("time").time() - t0)),
)
json.dump(out, open("out/eval40.json", "w"), indent=0)
ok = 0
N = 0
bad = []
for i in range(60):
    q, a = fact(g)
    if "Name" in q or "List" in q or "list" in q or "Count" in q or "name" in q or "Tell me" in q or "Give" in q:
        continue
    ids = [1, I("<|user|>")] + T.encode(q, add_special_tokens=False).ids + [2, I("<|assistant|>")]
    s = T.decode(m.generate(ids, 60, temp=0)).strip()
    N += 1
    key = re.sub(r"[^\w ]", "", a.lower()).split()[-1]
    hit = key in s.lower()
    ok += hit
    if not hit and len(bad) < 6:
        bad.append((q, s))
print("easy facts", ok, "/", N, bad)
