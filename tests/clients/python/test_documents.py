"""The documents name what is there."""

import re
import subprocess

import pytest
import yaml
from harness import ROOT

DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/api.md",
    "models/demo/README.md",
    "tests/golden/README.md",
]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
API = ROOT / "docs" / "api.md"
# `file::name`, of a parametrised test with one of its cases.
TEST = re.compile(r"`([\w/.]+\.(rs|py|mjs))::([^`\[]+)(?:\[([^`]+)\])?`")
RUST_TEST = r"#\[(?:tokio::)?test\]\s+(?:async )?fn %s\("
REFUSED = re.compile(r"^\| (.+?) \| (C|H|CH) \| `(unsupported_parameter|unknown_parameter)` \|", re.MULTILINE)


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    return [path for path in listed.stdout.split("\0") if path]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_architecture_names_every_module():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    modules = {path.name for path in (ROOT / "src").iterdir() if path.is_dir()}
    assert {name for name in modules if f"### `src/{name}/`" not in text} == set()
    assert set(re.findall(r"^### `src/(\w+)/`", text, re.MULTILINE)) == modules


def test_files_are_small():
    limit = 1 << 20
    large = [path for path in tracked() if not path.startswith("models/") and (ROOT / path).stat().st_size > limit]
    assert [path for path in large if not path.startswith("tests/golden/")] == []


def test_the_tests_that_the_api_document_names_are_there():
    named = TEST.findall(API.read_text())
    assert len(named) > 150 and len({name for _, _, name, _ in named}) > 90
    wrong = []
    for file, kind, name, case in named:
        path = ROOT / "src" / file if kind == "rs" else ROOT / "tests" / "clients" / file
        source = path.read_text() if path.is_file() else ""
        found = {"rs": RUST_TEST % name, "py": rf"^(?:async )?def {name}\(", "mjs": rf'^test\("{re.escape(name)}"'}[kind]
        if not re.search(found, source, re.MULTILINE) or (case and f'"{case}"' not in source):
            wrong.append((file, name, case))
    assert wrong == []


def not_implemented():
    """What each request refuses by name, as the decoder has it."""
    source = (ROOT / "src/server/extract/decode.rs").read_text()
    shared = re.search(r"&\[(.*?)\$\(\$own", source, re.DOTALL)[1]
    blocks = re.findall(r"impl WireRequest for (\w+) \{\s*const NOT_IMPLEMENTED: [^=]+= (.*?);", source, re.DOTALL)
    names = {request: set(re.findall(r'"(\w+)"', own)) for request, own in blocks}
    for request, own in blocks:
        if own.startswith("not_implemented!"):
            names[request] |= set(re.findall(r'"(\w+)"', shared))
    return names


def test_the_api_document_names_every_parameter():
    text = API.read_text()
    schemas = yaml.safe_load((ROOT / "openapi.yaml").read_text())["components"]["schemas"]
    parameters = {name for request in ("CompletionRequest", "ChatRequest") for name in schemas[request]["properties"]}
    refused = set().union(*not_implemented().values())
    assert len(parameters) > 45 and len(refused) > 30
    assert {name for name in parameters | refused if f"`{name}`" not in text} == set()


def test_the_api_document_names_every_keyword_of_schemas():
    source = (ROOT / "src/grammar/schema.rs").read_text()
    section = re.search(r"^### JSON Schema\n(.*?)^## ", API.read_text(), re.DOTALL | re.MULTILINE)[1]
    enforced, annotations = (re.search(rf"{part}: (.*?)\n\n", section, re.DOTALL)[1] for part in ("Enforced", "Accepted, without effect"))
    for constant, told in (("ENFORCED", enforced), ("ANNOTATIONS", annotations)):
        keywords = set(re.findall(r'"([$\w]+)"', re.search(rf"const {constant}: &\[&str\] = &\[(.*?)\];", source, re.DOTALL)[1]))
        assert len(keywords) > 15 and set(re.findall(r"`([$\w]+)`", told)) == keywords


def test_what_the_api_document_says_is_refused_is(demo):
    """Each name of the table, and the table has all that the decoder refuses."""
    bodies = {
        "C": ("/v1/completions", {"prompt": "Hello"}),
        "H": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    }
    told = {"C": set(), "H": set()}
    for parameters, endpoints, code in REFUSED.findall(API.read_text()):
        names = re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", parameters))
        assert names
        for endpoint in endpoints:
            path, body = bodies[endpoint]
            for name in names:
                error = demo.post(path, body | {name: "something"}).error
                assert (error["code"], error["param"]) == (code, name)
            if code == "unsupported_parameter":
                told[endpoint] |= set(names)
    decoded = not_implemented()
    assert told == {"C": decoded["CompletionRequest"], "H": decoded["ChatRequest"]}
    assert len(told["C"]) > 15 and len(told["H"]) > 30


def test_the_formats_of_the_api_document_are_known(demo):
    told = re.search(r"^Formats of strings: (.*)$", API.read_text(), re.MULTILINE)[1]
    formats = re.findall(r"`([\w-]+)`", told)
    assert len(formats) > 8
    for form in [*formats, "iri", "regex", "telephone"]:
        schema = {"type": "string", "format": form}
        reply = demo.post("/v1/completions", {"prompt": "Hello", "max_tokens": 4, "structured_outputs": {"json": schema}})
        assert reply.status == (200 if form in formats else 400), form


def test_each_complaint_has_a_test_of_its_name():
    section = API.read_text().split("## What users ask for")[1]
    rows = re.findall(r"^\| (\d+) \|(.*)$", section, re.MULTILINE)
    assert [int(number) for number, _ in rows] == [number for number in range(1, 22) if number not in (16, 18)]
    for number, row in rows:
        assert f"complaint_{number}_" in row, number
