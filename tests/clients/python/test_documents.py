"""The documents name what is there."""

import re
import subprocess

import pytest
from harness import ROOT

DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "models/demo/README.md", "tests/golden/README.md"]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


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
