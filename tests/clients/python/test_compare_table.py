"""The table of benches/compare.sh, from made-up figures."""

import importlib.util
import json

import pytest
from harness import ROOT


@pytest.fixture(scope="module")
def compare_table():
    path = ROOT / "benches" / "tools" / "compare_table.py"
    spec = importlib.util.spec_from_file_location("compare_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(vendor, **rows):
    return {
        "date": "2026-01-02 03:04 UTC",
        "size": "270M",
        "rounds": 3,
        "threads": 2,
        "machine": {"cpu": "A CPU", "id": "vendor family 1", "vendor": vendor, "cores": 2, "memory_bytes": 3 << 30},
        "versions": {"openelm-server": "openelm-server 1.2.3", "peer": "llama.cpp of x"},
        "kernels": "cpu portable",
        "peer_flags": "-fa on",
        "agreement": "16 of 16",
        "foreign_cores": [0.0, 0.02, 0.05],
        "rows": rows,
    }


DECODE = {"ours": [90.0, 110.0, 400.0], "peer": [100.0, 90.0, 1.0], "share": [0.5, 0.895, 0.95]}


def line(text, title):
    return next(line for line in text.splitlines() if title in line)


def test_ratios_are_of_medians_and_targets_of_the_vendor(compare_table):
    for vendor, verdict in [("AuthenticAMD", "≥ 1.00 met"), ("GenuineIntel", "≥ 1.30 MISSED")]:
        text = line(compare_table.table(results(vendor, decode_1=DECODE)), "decode, 1 stream")
        assert text.split("  ")[0] == "decode, 1 stream"
        assert "110" in text and "90.0" in text and "1.22" in text and verdict in text
        assert "89.5% of read" in text and "≥ 90% MISSED" in text
    other = line(compare_table.table(results("Another", decode_1=DECODE)), "decode, 1 stream")
    assert "1.22" in other and "1.00" not in other and "1.30" not in other


def test_weights_in_blocks_have_targets_of_their_own(compare_table):
    figures = results("AuthenticAMD", decode_1=DECODE, http_16_ttft={"ours": [39.0], "peer": [100.0]}, start={"ours": [0.9]})
    for weights, decode, ttft in [("q8_0", "≥ 1.15 met", "≤ 0.33 MISSED"), ("q4_0", "≥ 1.00 met", "≤ 0.40 met")]:
        text = compare_table.table(figures | {"weights": weights})
        assert decode in line(text, "decode, 1 stream") and "≥ 88% met" in line(text, "decode, 1 stream")
        assert ttft in line(text, "TTFT") and "≤ 0.800 s MISSED" in line(text, "exec") and weights in text


def test_less_is_better_for_times_and_memory(compare_table):
    rows = {
        "http_16_ttft": {"ours": [39.0], "peer": [100.0]},
        "start": {"ours": [1.6]},
        "memory": {"ours": [700.0], "peer": [900.0], "at_most": 775.0},
        "context": {"ours": [88.0]},
    }
    text = compare_table.table(results("AuthenticAMD", **rows))
    assert "≤ 0.40 met" in line(text, "TTFT") and "≤ 1.50 s MISSED" in line(text, "exec")
    assert "≤ 775 MB met" in line(text, "resident") and "0.78" in line(text, "resident")
    assert "≥ 88.0 % met" in line(text, "1,900")


def test_the_heading_names_machine_versions_and_flags(compare_table):
    text = compare_table.table(results("AuthenticAMD", decode_1=DECODE))
    for part in ["A CPU", "2 cores", "3.0 GiB", "openelm-server 1.2.3", "llama.cpp of x", "-fa on", "medians of 3 rounds", "16 of 16"]:
        assert part in text, part


def test_a_machine_that_was_not_idle_is_told(compare_table):
    idle = results("AuthenticAMD", decode_1=DECODE)
    assert "0.02 cores, in the worst round 0.05" in compare_table.table(idle) and "NOT IDLE" not in compare_table.table(idle)
    assert "worst round 1.50: NOT IDLE" in compare_table.table(idle | {"foreign_cores": [0.0, 1.5]})


def test_a_measurement_that_was_cut_short_is_told(compare_table):
    whole = results("AuthenticAMD", decode_1=DECODE)
    assert "INTERRUPTED" not in compare_table.table(whole | {"is_complete": True}) + compare_table.table(whole)
    assert "INTERRUPTED" in compare_table.table(whole | {"is_complete": False})


def test_markdown_is_a_table_and_results_are_read_from_a_file(compare_table, tmp_path, capsys, monkeypatch):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results("AuthenticAMD", decode_1=DECODE)))
    monkeypatch.setattr("sys.argv", ["compare_table.py", str(file), "--markdown"])
    compare_table.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 3 and {line.count("|") for line in lines} == {9}


@pytest.mark.parametrize(("figure", "text"), [(0.8439, "0.844"), (49.61, "49.6"), (8894.2, "8,894"), (0.01234, "0.0123"), (0, "0")])
def test_three_digits_are_shown(compare_table, figure, text):
    assert compare_table.digits(figure) == text
