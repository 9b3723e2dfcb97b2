"""Turn third-party stories into chat turns: prompt = what the story is really about."""

import re, random, json
from chatgen import *

KINDS = sorted(
    list(AN)
    + list(MAGIC)
    + [
        "girl",
        "boy",
        "man",
        "woman",
        "bunny",
        "baby",
        "kid",
        "child",
        "old man",
        "old woman",
        "ant",
        "tree",
        "princess",
        "lady",
        "bug",
        "truck",
        "ball",
        "toy",
        "chicken",
        "duckling",
        "piggy",
        "birdie",
        "dino",
        "captain",
        "policeman",
        "mom",
        "dad",
        "grandma",
        "doctor",
        "wolf",
        "sparrow",
        "jellyfish",
        "seahorse",
        "lady bug",
        "rhinoceros",
        "crocodile",
        "alligator",
        "gorilla",
        "ostrich",
        "raven",
        "eagle",
        "flamingo",
        "squid",
        "leopard",
        "cheetah",
        "rat",
    ],
    key=len,
    reverse=True,
)
KRE = re.compile(
    r"\b(?:a|an|the|little|big|small|old|young|tiny|kind|brave|happy|sad|nice|friendly|curious)\s+("
    + "|".join(map(re.escape, KINDS))
    + r")\b(?:,? (?:named|called|whose name was) ([A-Z][a-z]+))?"
)
STOP = set(
    "there their they them then than that this what when where which while would could should about after again also because before being both came come could does down each even every from have here into just like little made make many more most much must never only other over said same saw some soon such take tell time time upon very want wanted were will with your went happy looked asked felt good back away once named play played together friend friends didn't don't thing things around always another everyone something started home fun loved girl boy mommy mom day one two smiled know help big find found dad asked put let see can was her his she had the and for you not but all are out has him how who get got new too its it's did now let's i'm".split()
)
WORD = re.compile(r"\b[a-z]{4,9}\b")


def real_chat(g, t, title=None):
    r = g.r
    head = t[:400]
    m = KRE.search(head)
    opts = []
    if m:
        k, n = m.group(1), m.group(2)
        opts += [ana(k)] * 3
        if n:
            opts += [f"{ana(k)} named {n}"] * 3 + [f"{n} the {k}"]
        adj = re.search(
            r"\b(?:a|an) ((?:little|big|small|old|young|tiny|kind|brave|happy|sad|nice|friendly|curious|clever|lazy|poor|shy) )"
            + re.escape(k),
            head,
        )
        if adj:
            opts += ["a " + adj.group(1) + k if adj.group(1)[0] not in "aeiou" else "an " + adj.group(1) + k]
        ks = [x.group(1) for x in KRE.finditer(t[:900]) if x.group(1) != k]
        if ks:
            opts += [f"{ana(k)} and {ana(ks[0])}"] * 2
    ws = [w for w in dict.fromkeys(WORD.findall(t)) if w not in STOP]
    if len(ws) >= 4 and r.random() < 0.35:
        w = r.sample(ws, r.choice([1, 2, 3, 3]))
        wl = ", ".join(w[:-1]) + " and " + w[-1] if len(w) > 1 else w[0]
        q = r.choice(
            [
                f"Write a story with the words {wl}.",
                f"Tell me a story that uses the words {wl}.",
                f"Write a short story. Use the words {wl}.",
                f"Tell me a story about {w[0]}.",
            ]
        )
    elif title and r.random() < 0.5:
        q = r.choice([f'Tell me the story "{title}".', f'Write a story called "{title}".', f"Write a story with the title {title}."])
    elif opts:
        q = r.choice(SREQ[1:]).replace("{w}", r.choice(opts))
    else:
        q = r.choice(["Tell me a story.", "Write a short story.", "Please tell me a story.", "story please", "Can you tell me a story?"])
    msgs = [("system", r.choice(SYS))] if r.random() < 0.25 else []
    return msgs + [("user", q), ("assistant", r.choice(PRE) + t)]


def hard_chat(g, q):
    r = g.r
    msgs = [("system", r.choice(SYS))] if r.random() < 0.3 else []
    return msgs + [("user", q), ("assistant", r.choice(NO))]


if __name__ == "__main__":
    g = G(5)
    L = [json.loads(x) for x in open("data/tinystories.jsonl")]
    for x in g.r.sample(L, 12):
        print(real_chat(g, x["text"], x.get("title"))[-2][1], "|", x["text"][:110].replace("\n", " "))
