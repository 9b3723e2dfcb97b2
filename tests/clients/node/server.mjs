// Starts the server binary on a free loopback port for the length of a test file.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const binary = process.env.OPENELM_SERVER_BIN ?? fileURLToPath(new URL("../../../target/release/openelm-server", import.meta.url));
const START_MS = 60_000;

/** Resolves to { url, stop } once the server is ready. */
export async function startServer(...args) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("OPENELM_")));
  const child = spawn(binary, ["serve", "--port", "0", ...args], { env, stdio: ["ignore", "pipe", "pipe"] });
  const log = [];
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    await once(child, "exit");
  };
  try {
    const url = await address(child, log);
    await ready(url);
    return { url, stop };
  } catch (error) {
    child.kill("SIGKILL");
    throw new Error(`${error.message}\n${log.join("\n")}`);
  }
}

/** The address that the server prints. */
function address(child, log) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("the server printed no address")), START_MS);
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        log.push(line);
        const found = line.match(/http:\/\/127\.0\.0\.1:\d+/);
        if (found) {
          clearTimeout(timer);
          resolve(found[0]);
        }
      });
    }
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
}

/** Polls the readiness probe. */
async function ready(url) {
  const deadline = Date.now() + START_MS;
  while (Date.now() < deadline) {
    const reply = await fetch(`${url}/readyz`).catch(() => undefined);
    if (reply?.ok) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("the server did not become ready");
}

/** Sum of the samples of a metric. */
export async function metric(url, name) {
  const page = await (await fetch(`${url}/metrics`)).text();
  const lines = page.split("\n").filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
  if (lines.length === 0) throw new Error(`no metric ${name}`);
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}
