"""lm-eval against the server, as its users call it: a task of each kind, every number compared with a forward pass in float64.

The tokens come from the `tokenizers` package and the forward pass from tests/tools/openelm_ref.py, so nothing of the server is believed."""

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from harness import GOLDEN, ROOT, Server
from tokenizers import Tokenizer

sys.path.insert(0, str(ROOT / "tests" / "tools"))
import openelm_ref  # noqa: E402

DEMO = ROOT / "models" / "demo"
TOLERANCE = 1e-4
BOS = 1

QUESTIONS = [
    {"question": "Once upon a time, there was a little", "choices": [" girl named Lily.", " banana parliament.", " boy."], "answer": 0},
    {"question": "The dog wanted to play with the", "choices": [" stone in his pocket money", " ball"], "answer": 1},
    {"question": "Tom was sad. His mom", "choices": [" gave him a hug.", " green of seven.", " did"], "answer": 0},
    {"question": "It was raining, so the cat stayed", "choices": [" inside the house.", " über naïve 🦊."], "answer": 0},
]
TEXTS = [
    "Once upon a time, there was a little fox. The fox lived in the forest and liked to play with the other animals.",
    "Tim found a red ball. " * 100 + "Then it was night.",
    "Zoë said: “Ça va?” 🦊\n\n  Nobody answered.",
]
BEGINNINGS = ["Once upon a time, there was a little", "The cat saw a", "Lily and her mom went to the"]
STOPS = [".", " and"]

TASKS = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "generate": {
        "output_type": "generate_until",
        "doc_to_text": "{{beginning}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": STOPS, "max_gen_toks": 24, "temperature": 0, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


class Direct:
    """The demo model in float64."""

    def __init__(self):
        self.model = openelm_ref.load(DEMO)
        self.tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))

    def tokens(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def log_probabilities(self, ids):
        logits = self.model.forward(ids)
        highest = logits.max(axis=-1, keepdims=True)
        return logits - highest - np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True))

    def score(self, before, after):
        """The sum of the log-probabilities of `after`, and whether each of its tokens is the likeliest."""
        scores = self.log_probabilities(before + after)[len(before) - 1 : -1]
        return float(sum(scores[range(len(after)), after])), bool((scores.argmax(axis=-1) == after).all())

    def pair(self, context, continuation):
        """As lm-eval splits a pair: the whole is encoded, and the context cut off in tokens."""
        before, whole = self.tokens(context), self.tokens(context + continuation)
        return self.score(before, whole[len(before) :])

    def rolling(self, text, context_length):
        """As lm-eval rolls over a text in windows that do not overlap: each begins with the last token of the one before, the first
        with BOS. The last window is as long as the others and scores what is left."""
        ids = self.tokens(text)
        total = 0.0
        for start in range(0, len(ids), context_length):
            part = ids[start : start + context_length]
            before = [BOS] if start == 0 else ids[start + len(part) - context_length - 1 : start]
            total += self.score(before, part)[0]
        return total

    def generate(self, text, stops, count):
        """Greedy, and cut before the first stop string."""
        ids, cache, made = self.tokens(text), self.model.new_cache(), []
        logits = self.model.forward(ids, cache)[-1]
        while len(made) < count and int(logits.argmax()) != 2:
            made.append(int(logits.argmax()))
            logits = self.model.forward(made[-1:], cache)[-1]
        text = self.tokenizer.decode(ids + made)[len(self.tokenizer.decode(ids)) :]
        return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]


@pytest.fixture(scope="module")
def direct():
    return Direct()


@pytest.fixture(scope="module")
def served():
    """The demo model with weights and KV cache in f32. Only so it is near to float64."""
    with Server("--model", DEMO, "--served-model-name", "openelm-demo", "--dtype", "float32") as server:
        yield server


def evaluate(folder, url, tasks, batch=1, **model_args):
    """Runs lm-eval's command line. Returns the results and samples of each task."""
    for name, docs in tasks.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
            "test_split": "test",
            "num_fewshot": 0,
            **TASKS[name],
        }
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps(task))
    model_args = {
        "model": "openelm-demo",
        "base_url": url + "/v1/completions",
        "tokenizer_backend": "remote",
        "max_length": 512,
        "max_retries": 1,
        **model_args,
    }
    environment = {key: value for key, value in os.environ.items() if key != "OPENAI_API_KEY"}
    environment |= {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"]
    command += ["--model_args", json.dumps(model_args), "--tasks", *tasks, "--include_path", folder]
    command += ["--output_path", folder / "out", "--log_samples", "--batch_size", batch]
    done = subprocess.run(map(str, command), env=environment, cwd=folder, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "API request failed" not in done.stderr, done.stderr
    (results,) = (folder / "out").rglob("results_*.json")
    samples = {}
    for name in tasks:
        (path,) = (folder / "out").rglob(f"samples_{name}_*.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        samples[name] = sorted(rows, key=lambda row: row["doc_id"])
    return SimpleNamespace(results=json.loads(results.read_text())["results"], samples=samples)


@pytest.fixture(scope="module")
def evaluated(served, direct, tmp_path_factory):
    """All tasks in one run: to start lm-eval takes longer than to answer it."""
    answers = [direct.generate(beginning, STOPS, 24) for beginning in BEGINNINGS]
    generate = [{"beginning": beginning, "answer": answer} for beginning, answer in zip(BEGINNINGS, answers, strict=True)]
    # The last target is wrong on purpose: a metric of 1 could come from a comparison of nothing with nothing.
    generate[-1]["answer"] += " nothing like it"
    tasks = {"choice": QUESTIONS, "rolling": [{"text": text} for text in TEXTS], "generate": generate}
    run = evaluate(tmp_path_factory.mktemp("lm-eval"), served.url, tasks)
    return SimpleNamespace(results=run.results, samples=run.samples, answers=answers)


def test_multiple_choice_scores_as_a_direct_pass(evaluated, direct):
    hits = 0
    for doc, sample in zip(QUESTIONS, evaluated.samples["choice"], strict=True):
        expected = [direct.pair(doc["question"], choice) for choice in doc["choices"]]
        for ((value, greedy),), (wanted, likeliest) in zip(sample["resps"], expected, strict=True):
            assert float(value) == pytest.approx(wanted, abs=TOLERANCE), doc
            assert greedy in (likeliest, str(likeliest)), doc
        hits += max(range(len(expected)), key=lambda index: expected[index][0]) == doc["answer"]
    assert evaluated.results["choice"]["acc,none"] == pytest.approx(hits / len(QUESTIONS))


def test_rolling_perplexity_is_that_of_a_direct_pass(evaluated, direct):
    # lm-eval keeps one place of the context for a token to generate, and one more in rolling windows.
    expected = [direct.rolling(text, 512 - 2) for text in TEXTS]
    assert max(len(direct.tokens(text)) for text in TEXTS) > 512, "one needs several windows"
    for sample, wanted, text in zip(evaluated.samples["rolling"], expected, TEXTS, strict=True):
        ((value,),) = sample["resps"]
        assert float(value) == pytest.approx(wanted, abs=TOLERANCE * max(1, len(direct.tokens(text)) / 100)), text
    size = sum(len(text.encode()) for text in TEXTS)
    assert evaluated.results["rolling"]["byte_perplexity,none"] == pytest.approx(math.exp(-sum(expected) / size), rel=1e-6)
    assert evaluated.results["rolling"]["bits_per_byte,none"] == pytest.approx(-sum(expected) / size / math.log(2), rel=1e-6)


def test_generations_are_those_of_a_direct_pass(evaluated):
    made = [sample["resps"][0][0] for sample in evaluated.samples["generate"]]
    assert made == evaluated.answers and all(made)
    assert evaluated.results["generate"]["exact_match,none"] == pytest.approx((len(made) - 1) / len(made))


def test_batches_of_many_clients_change_no_bit(served, evaluated, tmp_path):
    """Eight requests at once, of two prompts each."""
    tasks = {"choice": QUESTIONS, "rolling": [{"text": text} for text in TEXTS]}
    run = evaluate(tmp_path, served.url, tasks, batch=2, num_concurrent=8)
    for name in tasks:
        told = [[row["resps"] for row in source.samples[name]] for source in (run, evaluated)]
        assert told[0] == told[1]


def test_the_golden_files_score_as_they_say(tmp_path):
    """The truth of tests/golden, through the class that lm-eval scores with."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    golden = GOLDEN / "tiny-hd32-gqa2"
    make = [sys.executable, ROOT / "tests" / "tools" / "make_tokenizer.py", tmp_path, "--vocab-size", "500"]
    subprocess.run(make, check=True, timeout=60)
    with Server("--model", golden, "--tokenizer", tmp_path, "--dtype", "float32") as server:
        scorer = LocalCompletionsAPI(
            model=golden.name, base_url=server.url + "/v1/completions", tokenizer_backend="remote", max_length=256, max_retries=1
        )
        cases = [case for case in json.loads((golden / "golden.json").read_text())["cases"] if case["length"] > 1]
        requests = [(None, case["input_ids"][:1], case["input_ids"][1:]) for case in cases]
        for case, (value, _) in zip(cases, scorer._loglikelihood_tokens(requests), strict=True):
            assert value == pytest.approx(-sum(case["next_token_nll_per_position"]), abs=TOLERANCE * max(1, case["length"] / 50))
