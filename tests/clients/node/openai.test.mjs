// The OpenAI Node SDK against the embedded model.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { metric, startServer } from "./server.mjs";

const PROMPT = "Once upon a time, there was a little";
const MESSAGES = [{ role: "user", content: "Tell me a story about a fox." }];

let server;
let client;
let model;

before(async () => {
  server = await startServer();
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "unused", maxRetries: 0, timeout: 60_000 });
  model = (await client.models.list()).data[0].id;
});
after(async () => server?.stop());

test("models", async () => {
  const found = await client.models.retrieve(model);
  assert.equal(found.id, model);
  assert.equal(found.object, "model");
  await assert.rejects(client.models.retrieve("nothing"), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
});

test("completion", async () => {
  const answer = await client.completions.create({ model, prompt: PROMPT, max_tokens: 12, temperature: 0, logprobs: 2 });
  const [choice] = answer.choices;
  assert.equal(answer.object, "text_completion");
  assert.ok(choice.text.length > 0);
  assert.equal(choice.logprobs.tokens.length, answer.usage.completion_tokens);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test("chat", async () => {
  const request = { model, messages: MESSAGES, max_completion_tokens: 24, temperature: 1, seed: 7, n: 2 };
  const [first, second] = [await client.chat.completions.create(request), await client.chat.completions.create(request)];
  assert.equal(first.choices.length, 2);
  assert.equal(first.choices[0].message.role, "assistant");
  assert.deepEqual(first.choices, second.choices);
  assert.notEqual(first.choices[0].message.content, first.choices[1].message.content);
});

test("a stream adds up to the whole answer", async () => {
  const request = { model, messages: MESSAGES, max_tokens: 40, temperature: 0 };
  const whole = await client.chat.completions.create(request);
  const stream = await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } });
  let text = "";
  let usage;
  const reasons = [];
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
    if (chunk.usage) {
      usage = chunk.usage;
      assert.deepEqual(chunk.choices, []);
    }
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(reasons, [whole.choices[0].finish_reason]);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("the helper for streams", async () => {
  const runner = client.chat.completions.stream({ model, messages: MESSAGES, max_tokens: 16, temperature: 0 });
  let deltas = "";
  runner.on("content", (delta) => (deltas += delta));
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.content, deltas);
});

test("an error carries status, type, code, param and request id", async () => {
  await assert.rejects(client.chat.completions.create({ model, messages: MESSAGES, temperature: 3 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.status, 400);
    assert.equal(error.type, "invalid_request_error");
    assert.equal(error.param, "temperature");
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(client.completions.create({ model, prompt: "word ".repeat(2000), max_tokens: 1 }), (error) => {
    assert.equal(error.code, "context_length_exceeded");
    return true;
  });
});

test("abort in the middle of a stream frees the sequence", async () => {
  const stream = await client.completions.create({ model, prompt: PROMPT, max_tokens: 450, stream: true, ...{ ignore_eos: true } });
  let chunks = 0;
  for await (const _ of stream) {
    if (++chunks === 3) stream.controller.abort();
  }
  const deadline = Date.now() + 10_000;
  while ((await metric(server.url, "vllm:num_requests_running")) > 0) {
    assert.ok(Date.now() < deadline, "the sequence still runs");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

test("abort of a whole answer", async () => {
  const controller = new AbortController();
  const request = { model, prompt: PROMPT, max_tokens: 450, ignore_eos: true };
  const answer = client.completions.create(request, { signal: controller.signal });
  setTimeout(() => controller.abort(), 30);
  await assert.rejects(answer, OpenAI.APIUserAbortError);
});

test("the raw response has the request id", async () => {
  const { data, response } = await client.completions
    .create({ model, prompt: PROMPT, max_tokens: 1 }, { headers: { "x-request-id": "from-node" } })
    .withResponse();
  assert.equal(response.headers.get("x-request-id"), "from-node");
  assert.equal(data._request_id, "from-node");
});

test("models are listed as pages", async () => {
  const found = [];
  for await (const one of client.models.list()) found.push(one.id);
  assert.deepEqual(found, [model]);
});

test("a completion stream adds up, for several choices", async () => {
  const request = { model, prompt: PROMPT, max_tokens: 16, temperature: 1, seed: 2, n: 3 };
  const whole = await client.completions.create(request);
  const texts = ["", "", ""];
  for await (const chunk of await client.completions.create({ ...request, stream: true })) {
    for (const choice of chunk.choices) texts[choice.index] += choice.text;
  }
  assert.deepEqual(
    texts,
    whole.choices.map((choice) => choice.text),
  );
});

test("a stream is split and sent on", async () => {
  const request = { model, messages: MESSAGES, max_tokens: 8, temperature: 0, stream: true };
  const [left, right] = (await client.chat.completions.create(request)).tee();
  const read = async (stream) => {
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0].delta.content ?? "";
    return text;
  };
  const [first, second] = await Promise.all([read(left), read(right)]);
  assert.equal(first, second);
  const lines = await new Response((await client.chat.completions.create(request)).toReadableStream()).text();
  const sent = lines.trim().split("\n").map((line) => JSON.parse(line).choices[0].delta.content ?? "");
  assert.equal(sent.join(""), first);
});

test("the bare response can be read as it came", async () => {
  const response = await client.chat.completions.create({ model, messages: MESSAGES, max_tokens: 2, stream: true }).asResponse();
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type"), /^text\/event-stream/);
  assert.match(await response.text(), /data: \[DONE\]\n\n$/);
});

test("apis that are not there are errors of the client", async () => {
  for (const call of [
    () => client.responses.create({ model, input: "Hello" }),
    () => client.embeddings.create({ model, input: "Hello" }),
  ]) {
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.equal(error.type, "invalid_request_error");
      return true;
    });
  }
});

test("a request that takes too long is given up", async () => {
  const patient = client.withOptions({ timeout: 50 });
  const request = { model, prompt: PROMPT, max_tokens: 450, n: 8, ignore_eos: true };
  await assert.rejects(patient.completions.create(request), OpenAI.APIConnectionTimeoutError);
});

test("a deadline that passes is not tried again", async () => {
  let sent = 0;
  const counted = client.withOptions({ maxRetries: 3, fetch: (...args) => (sent++, fetch(...args)) });
  const request = { model, prompt: PROMPT, max_tokens: 400, ignore_eos: true, timeout_ms: 1 };
  await assert.rejects(counted.completions.create(request), (error) => {
    assert.equal(error.status, 504);
    assert.equal(error.code, "deadline_exceeded");
    return true;
  });
  assert.equal(sent, 1);
});
