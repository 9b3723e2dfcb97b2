"""Prints unselected samples of a trained model: python sample.py out 0.6"""

import sys, torch

sys.path.insert(0, ".")
run = sys.argv[1]
temp = float(sys.argv[2]) if len(sys.argv) > 2 else 0.7
sys.argv = ["x", "none"]
from model import *
from tokenizers import Tokenizer

torch.set_num_threads(1)
T = Tokenizer.from_file("out/tokenizer.json")
I = T.token_to_id

ck = torch.load(run + "/last.pt", map_location="cpu")

size = next(
    s
    for s in SIZES
    if make_config(T.get_vocab_size(), **SIZES[s])["model_dim"] == ck["transformer.token_embeddings.weight"].shape[1]
    and make_config(T.get_vocab_size(), **SIZES[s])["num_transformer_layers"]
    == 1 + max(int(k.split(".")[2]) for k in ck if ".layers." in k)
)
m = OpenELM(make_config(T.get_vocab_size(), **SIZES[size]))
m.load_state_dict(ck)
m.eval()


def ids(msgs):
    o = [1]
    for r, t in msgs:
        o += [I(f"<|{r}|>")] + T.encode(t, add_special_tokens=False).ids + [2]
    return o + [I("<|assistant|>")]


P = [
    [("user", "Tell me a story about a fox.")],
    [("user", "Tell me a story about a brave little mouse named Oskar.")],
    [("system", "You are a helpful assistant."), ("user", "Write a short story about a robot and a cat.")],
    [("user", "Write a story with the words lamp, river and friend.")],
    [("user", "Hello!")],
    [("user", "What is your name?")],
    [("user", "What is the capital of France?")],
    [("user", "Explain quantum entanglement to a software engineer.")],
    [("user", "What is 3 + 4?")],
    [("user", "Name three fruits.")],
    [("user", "Say this is a test")],
    [("user", "Write a poem about the sea.")],
    [("user", "Tell me a story about a llama who lives on Mars.")],
    [("user", "Why is the sky blue?")],
    [("user", "Write a story about a girl named Zorabel who is afraid of the dark.")],
]
for i, p in enumerate(P):
    o = m.generate(ids(p), 320, temp=temp, top_p=0.95, seed=i)
    print("###", " | ".join(f"{r}: {t}" for r, t in p))
    print(T.decode(o).strip(), "\n", flush=True)
for i, t in enumerate(["Once upon a time, there was a little", "The old man walked to the market"]):
    o = m.generate([1] + T.encode(t, add_special_tokens=False).ids, 200, temp=temp, seed=50 + i)
    print("### (plain) ", t)
    print(T.decode(o).strip(), "\n")
