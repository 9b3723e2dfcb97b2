"""Trains a small OpenELM story and chat model on a CPU.
   stage data:  python train.py prep
   training:    python train.py train --size 5m --minutes 45 --batch 8
LR schedule follows the clock (wall budget or CPU budget, whichever is nearer its end), so a run always finishes its decay."""

import os, sys, time, json, math, random, argparse

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(os.path.abspath(__file__))
ap = argparse.ArgumentParser()
ap.add_argument("cmd")
ap.add_argument("--size", default="5m")
ap.add_argument("--minutes", type=float, default=40)
ap.add_argument("--cpu_minutes", type=float, default=1e9)
ap.add_argument("--out", default="out")
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--ctx", type=int, default=512)
ap.add_argument("--batch", type=int, default=16)
ap.add_argument("--lr", type=float, default=3e-3)
ap.add_argument("--muon_lr", type=float, default=0.02)
ap.add_argument("--wd", type=float, default=0.05)
ap.add_argument("--warm", type=int, default=60)
ap.add_argument("--opt", default="muon")
ap.add_argument("--compile", type=int, default=1)
ap.add_argument("--seed", type=int, default=1)
ap.add_argument("--proc", type=float, default=0.6)
ap.add_argument("--max_steps", type=int, default=10**9)
A = ap.parse_args()

from tokenizers import Tokenizer

TOK = Tokenizer.from_file(ROOT + "/out/tokenizer.json")
BOS, EOS = 1, 2
SYSM, USER, ASST = (TOK.token_to_id(x) for x in ("<|system|>", "<|user|>", "<|assistant|>"))


def enc(t):
    return TOK.encode(t, add_special_tokens=False).ids


def enc_chat(msgs):
    """<s> then for each turn: role token, text, </s>. Returns ids and a mask (1 = learn): prompts count too, at a low weight by choice of mask."""
    ids, mask = [BOS], [0]
    for r, t in msgs:
        e = enc(t) + [EOS]
        ids += [{"system": SYSM, "user": USER, "assistant": ASST}[r]] + e
        mask += [0] + [1 if r == "assistant" else 0] * len(e)
    return ids, mask


def enc_doc(t):
    e = enc(t)
    return [BOS] + e + [EOS], [0] + [1] * (len(e) + 1)


def load(n):
    return [json.loads(x) for x in open(f"{ROOT}/data/{n}.jsonl")]


def build_real(seed):
    """one pass over the third-party text, with fresh prompts for each pass"""
    from chatgen import G
    from realchat import real_chat, hard_chat

    g = G(seed)
    r = g.r
    out = []
    for n, w in (("tinystories", 1), ("african-storybook", 1), ("pratham-books", 1), ("book-dash", 1), ("fairytales-pd", 0.35)):
        for x in load(n):
            if r.random() > w:
                continue
            t = x["text"]
            if len(t) > 1800:  # cut long tales at paragraph ends
                cur = ""
                for p in t.split("\n\n"):
                    if len(cur) + len(p) > 1600 and cur:
                        out.append(enc_doc(cur))
                        cur = ""
                    cur += ("\n\n" if cur else "") + p
                if cur:
                    out.append(enc_doc(cur))
            elif n.startswith("fairy") or r.random() < 0.35:
                out.append(enc_doc(t))
            else:
                out.append(enc_chat(real_chat(g, t, x.get("title"))))
    hard = [x["q"] for x in load("hard-prompts")] + [x["instruction"] for x in load("dolly-instructions")]
    from chatgen import DEFS

    for q in r.sample(hard, 350):
        if len(q) < 260:
            out.append(enc_chat(hard_chat(g, q)))
    return out


def build_proc(seed, n_tok):
    from chatgen import G, chat

    g = G(seed)
    out = []
    n = 0
    while n < n_tok:
        d = enc_chat(chat(g))
        out.append(d)
        n += len(d[0])
    return out


def pack(docs, ctx, seed):
    """greedy packing; every row starts at a document start, no document crosses rows unless longer than the row"""
    r = random.Random(seed)
    r.shuffle(docs)
    rows, open_ = [], []
    for ids, m in docs:
        ids, m = ids[: ctx + 1], m[: ctx + 1]
        for o in open_:
            if len(o[0]) + len(ids) <= ctx + 1:
                o[0] += ids
                o[1] += m
                break
        else:
            open_.append([list(ids), list(m)])
        open_.sort(key=lambda o: -len(o[0]))
        while open_ and (len(open_[0][0]) > ctx - 24 or len(open_) > 40):
            rows.append(open_.pop(0))
    rows += open_
    X = np.zeros((len(rows), ctx + 1), np.int16)
    W = np.zeros((len(rows), ctx + 1), np.int8)
    for i, (a, b) in enumerate(rows):
        X[i, : len(a)] = a
        W[i, : len(b)] = b
    r2 = np.random.default_rng(seed)
    p = r2.permutation(len(rows))
    return X[p], W[p]


if A.cmd == "prep":
    t0 = time.time()
    val_p = build_proc(999, 60_000)
    val = pack(val_p, A.ctx, 0)
    real = build_real(0)
    n = sum(len(a) for a, _ in real)
    print("one pass of third-party text:", len(real), "docs", n, "tokens", "%.0fs" % (time.time() - t0))
    t0 = time.time()
    p = build_proc(1, 1_000_000)
    print("procedural: 1M tokens in %.0fs" % (time.time() - t0), len(p), "chats")
    X, W = pack(real, A.ctx, 1)
    print("packed", X.shape, "fill %.3f" % ((X != 0).mean()))
    sys.exit()

import torch, torch.nn.functional as F
from model import *

torch.set_num_threads(A.threads)
torch.manual_seed(A.seed)
os.makedirs(A.out, exist_ok=True)
cfg = make_config(TOK.get_vocab_size(), ctx=A.ctx, **SIZES[A.size])
m = OpenELM(cfg)
print("params", n_params(m), flush=True)
log = open(A.out + "/log.jsonl", "a")


class Muon(torch.optim.Optimizer):
    """momentum + Newton-Schulz orthogonalised update for the 2-D weights inside the layers"""

    def __init__(s, ps, lr, mom=0.95, wd=0.0):
        super().__init__(ps, dict(lr=lr, mom=mom, wd=wd))

    @torch.no_grad()
    def step(s):
        for g in s.param_groups:
            for p in g["params"]:
                if p.grad is None:
                    continue
                st = s.state[p]
                if not st:
                    st["b"] = torch.zeros_like(p)
                b = st["b"]
                b.lerp_(p.grad, 1 - g["mom"])
                u = p.grad.lerp(b, g["mom"])
                tr = u.size(0) > u.size(1)
                X = u.T if tr else u
                X = X / (X.norm() + 1e-7)
                for _ in range(5):
                    Y = X @ X.T
                    X = 3.4445 * X + (-4.7750 * Y + 2.0315 * Y @ Y) @ X
                X = X.T if tr else X
                p.mul_(1 - g["lr"] * g["wd"])
                p.add_(X, alpha=-g["lr"] * max(1, p.size(0) / p.size(1)) ** 0.5)


mats = [p for n, p in m.named_parameters() if p.dim() == 2 and "layers" in n]
emb = [m.transformer.token_embeddings.weight]
nrm = [p for p in m.parameters() if p.dim() == 1]
if A.opt == "muon":
    opts = [
        Muon(mats, A.muon_lr, wd=A.wd),
        torch.optim.AdamW([dict(params=emb, lr=A.lr, weight_decay=0.0), dict(params=nrm, lr=A.lr, weight_decay=0.0)], betas=(0.9, 0.98)),
    ]
else:
    opts = [
        torch.optim.AdamW(
            [dict(params=mats, lr=A.lr, weight_decay=A.wd), dict(params=emb + nrm, lr=A.lr, weight_decay=0.0)], betas=(0.9, 0.98)
        )
    ]
for o in opts:
    for g in o.param_groups:
        g["lr0"] = g["lr"]


def loss_fn(x, y):
    return m(x, y)


f = torch.compile(loss_fn) if A.compile else loss_fn

# validation: held-out procedural chats, and held-out real stories (every 40th story is never trained on)
val_proc = pack(build_proc(10**6 + 7, 25_000), A.ctx, 0)
hold = [x["text"] for i, x in enumerate(load("tinystories")) if i % 40 == 7]
HOLD = set(hold)
val_real = pack([enc_doc(t) for t in hold], A.ctx, 0)
_load = load


def load(n):
    return [x for x in _load(n) if x["text"] not in HOLD] if n == "tinystories" else _load(n)


def batch(X, W, ix):
    x = torch.from_numpy(X[ix].astype(np.int64))
    w = torch.from_numpy(W[ix].astype(np.int64))
    y = x[:, 1:].clone()
    y[w[:, 1:] == 0] = -100
    return x[:, :-1], y


@torch.no_grad()
def evaluate():
    r = []
    for X, W in (val_proc, val_real):
        s = n = 0
        for i in range(0, min(len(X), 48), 8):
            x, y = batch(X, W, np.arange(i, min(i + 8, len(X))))
            c = int((y != -100).sum())
            s += float(m(x, y)) * c
            n += c
        r.append(s / n)
    return r


t_start, c_start = time.time(), time.process_time()


def progress(step):
    return max((time.time() - t_start) / (A.minutes * 60), (time.process_time() - c_start) / (A.cpu_minutes * 60), step / A.max_steps)


def lr_mul(p, step):
    w = min(1.0, (step + 1) / A.warm)
    return w * (1.0 if p < 0.4 else max(0.0, 1 - (p - 0.4) / 0.6) * 0.98 + 0.02)  # constant, then linear to ~0


step = tok = 0
rnd = 0
ema = None
micro = 8
last = time.time()
pend = []
while progress(step) < 1.0:
    rnd += 1
    real = build_real(rnd * 17 + A.seed)
    nr = sum(len(a) for a, _ in real)
    proc = build_proc(rnd * 31 + A.seed, 300_000 if rnd == 1 else 600_000)
    # one 'round' = a slice of the real pass mixed with fresh procedural chats
    npz = sum(len(a) for a, _ in proc)
    want = npz * (1 - A.proc) / A.proc
    random.Random(rnd).shuffle(real)
    if rnd == 1:
        real_pool = []
    real_pool += real if sum(len(a) for a, _ in real_pool) < want else []
    take, c = [], 0
    while c < want and real_pool:
        d = real_pool.pop()
        take.append(d)
        c += len(d[0])
    X, W = pack(proc + take, A.ctx, rnd)
    for i in range(0, len(X) - A.batch + 1, A.batch):
        p = progress(step)
        if p >= 1.0:
            break
        k = lr_mul(p, step)
        for o in opts:
            for g in o.param_groups:
                g["lr"] = g["lr0"] * k
        tot = 0.0
        nt = 0
        ny = [batch(X, W, np.arange(j, j + micro)) for j in range(i, i + A.batch, micro)]
        cnt = sum(int((y != -100).sum()) for _, y in ny)
        for x, y in ny:
            c_ = int((y != -100).sum())
            l = f(x, y) * (c_ / cnt)
            l.backward()
            tot += float(l.detach())
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        for o in opts:
            o.step()
        m.zero_grad(set_to_none=True)
        step += 1
        tok += A.batch * A.ctx
        ema = tot if ema is None else 0.95 * ema + 0.05 * tot
        if step % 20 == 0 or step == 1:
            e = dict(
                step=step,
                tok=tok,
                loss=round(ema, 4),
                lr=round(k, 3),
                p=round(p, 3),
                wall=round(time.time() - t_start),
                cpu=round(time.process_time() - c_start),
            )
            if step % 100 == 0:
                e["val_proc"], e["val_real"] = [round(v, 4) for v in evaluate()]
            log.write(json.dumps(e) + "\n")
            log.flush()
            print(e, flush=True)
        if step % 200 == 0:
            torch.save(m.state_dict(), A.out + "/last.pt")
e = dict(step=step, tok=tok, loss=round(ema, 4), done=True, wall=round(time.time() - t_start), cpu=round(time.process_time() - c_start))
e["val_proc"], e["val_real"] = [round(v, 4) for v in evaluate()]
log.write(json.dumps(e) + "\n")
log.flush()
print(e, flush=True)
from safetensors.torch import save_file

sd = {k: v.to(torch.bfloat16).contiguous() for k, v in m.state_dict().items()}
save_file(sd, A.out + "/model.safetensors", metadata={"format": "pt"})
torch.save(m.state_dict(), A.out + "/last.pt")
json.dump(cfg, open(A.out + "/config.json", "w"), indent=2)
