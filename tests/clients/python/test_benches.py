"""What the programs in benches/ do when something goes wrong; nothing is measured here."""

import importlib
import json
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from harness import ROOT

# Ends on SIGTERM only when it is killed; says so first, since a signal before that would end it.
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


@pytest.fixture(scope="module", autouse=True)
def paths():
    added = [str(ROOT / "benches"), str(ROOT / "benches" / "tools")]
    sys.path[:0] = added
    yield
    for path in added:
        sys.path.remove(path)


@pytest.fixture(scope="module")
def launch(paths):
    return importlib.import_module("launch")


@pytest.fixture(scope="module")
def compare(paths):
    return importlib.import_module("compare")


def script(tmp_path, text):
    path = tmp_path / "server"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_process_that_does_not_end_is_killed(launch):
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    with pytest.raises(RuntimeError, match="inside"), launch.ending(process, seconds=0.2):
        assert process.stdout.readline() == "up\n"
        raise RuntimeError("inside")
    assert process.returncode == -signal.SIGKILL


def test_a_server_is_ready_when_its_banner_says_so(launch, tmp_path):
    banner = "echo 'openelm-server listens on http://127.0.0.1:4321'; echo 'ready after 0.1 s'; exec sleep 600"
    with launch.running([], script(tmp_path, banner)) as server:
        assert server.port == 4321 and server.pid > 0
    with pytest.raises(SystemExit, match="status 3"), launch.running([], script(tmp_path, "exit 3")):
        raise AssertionError("it never was ready")


@pytest.fixture
def answering():
    """Starts servers that give one answer to everything."""
    servers = []

    def start(status, answer):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_answer_that_is_an_error_is_told(compare, answering):
    with pytest.raises(SystemExit, match="status 503: .*no room"):
        compare.first_tokens(answering(503, {"error": {"message": "no room"}}))
    assert compare.first_tokens(answering(200, {"choices": [{"text": " a"}]})) == ["a"] * compare.PROBES


def test_results_are_written_after_each_round(compare, tmp_path, monkeypatch):
    """A measurement that is cut short leaves what was found before."""
    found = []

    class Session(compare.Session):
        def __init__(self):
            self.size, self.weights, self.rounds, self.threads, self.peer_flags = "270M", "bf16", 2, 2, []
            self.commands, self.rows, self.foreign_cores, self.kernels, self.agreement = [], {}, [], None, None
            self.raw, self.machine = [{"report": {"version": "1.2.3"}}], {}

    def one_round(session):
        if len(found) == 3:
            raise SystemExit("cut short")
        found.append(1)
        session.add("decode_1", ours=float(len(found)))

    monkeypatch.setattr(compare, "FOLDER", tmp_path)
    (tmp_path / "peer-version").write_text("llama.cpp of x\n")
    monkeypatch.setattr(compare, "MEASUREMENTS", {"a": one_round, "b": one_round})
    output = tmp_path / "results.json"
    with pytest.raises(SystemExit, match="cut short"):
        compare.measure(Session(), ["a", "b"], output)
    results = json.loads(output.read_text())
    assert results["rows"] == {"decode_1": {"ours": [1.0, 2.0, 3.0]}} and results["is_complete"] is False
    assert compare.write(Session(), output, is_complete=True)["is_complete"] is True


def test_both_sides_take_as_many_steps(compare):
    """What is asked of this server is what the tools of llama.cpp do in one repetition."""
    asked = {}

    class Session:
        def our_model(self, name, *flags):
            figures = {"tokens_per_s": {"median": 1.0}, "share_of_read": {"median": 1.0}, "share_of_peak": {"median": 1.0}}
            asked[name] = flags
            return {"decode": [figures], "prefill": [figures]}

        def peer(self, name, tool, *flags):
            asked[name] += (tool, *flags)
            return {"avg_ts": 1.0, "speed_tg": 1.0}

        def add(self, *_, **__):
            pass

    for measure in (compare.decode_1, compare.decode_16, compare.prefill_512):
        measure(Session())
    value = {name: dict(zip(flags, flags[1:], strict=False)) for name, flags in asked.items()}
    assert value["decode_1"]["--decode-steps"] == value["decode_1"]["-n"] == "128"
    assert value["decode_1"]["--context"] == "1" and value["decode_1"]["-p"] == "0"
    assert value["decode_16"]["--decode-steps"] == value["decode_16"]["-ntg"]
    assert value["decode_16"]["--context"] == value["decode_16"]["-npp"] and value["decode_16"]["--batch"] == value["decode_16"]["-npl"]
    assert value["prefill_512"]["--prefill"] == value["prefill_512"]["-p"]
    assert {flags["--min-round-ms"] for flags in value.values()} == {"0"}
