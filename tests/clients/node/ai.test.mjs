// Vercel's AI SDK with its provider for OpenAI-compatible servers, against the embedded model: texts, streams, aborts, errors.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, streamText } from "ai";
import { metric, startServer } from "./server.mjs";

const PROMPT = "Tell me a story about a fox.";

let server;
let provider;
let chat;

before(async () => {
  server = await startServer();
  provider = createOpenAICompatible({ name: "openelm", baseURL: `${server.url}/v1`, apiKey: "unused", includeUsage: true });
  chat = provider("openelm-demo");
});
after(async () => server?.stop());

test("generateText gives text, usage and reason", async () => {
  const request = { model: chat, prompt: PROMPT, system: "You tell stories.", maxOutputTokens: 16, temperature: 0 };
  const answer = await generateText(request);
  assert.ok(answer.text.length > 0);
  assert.equal(answer.finishReason, "length");
  assert.equal(answer.usage.outputTokens, 16);
  assert.equal(answer.usage.totalTokens, answer.usage.inputTokens + 16);
  assert.equal(answer.text, (await generateText(request)).text);
  assert.match(answer.response.id, /^chatcmpl-/);
});

test("a conversation with a seed repeats", async () => {
  const messages = [
    { role: "user", content: [{ type: "text", text: "Hello!" }] },
    { role: "assistant", content: "Hello." },
    { role: "user", content: PROMPT },
  ];
  const texts = [];
  for (const seed of [3, 3, 4]) {
    texts.push((await generateText({ model: chat, messages, maxOutputTokens: 16, temperature: 1.2, seed })).text);
  }
  assert.equal(texts[0], texts[1]);
  assert.notEqual(texts[0], texts[2]);
});

test("streamText adds up to generateText", async () => {
  const request = { model: chat, prompt: PROMPT, maxOutputTokens: 24, temperature: 0 };
  const whole = await generateText(request);
  const stream = streamText(request);
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal(await stream.finishReason, whole.finishReason);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
});

test("stop sequences end a text", async () => {
  const request = { model: chat, prompt: PROMPT, maxOutputTokens: 24, temperature: 0 };
  const { text } = await generateText(request);
  const stop = text.slice(8, 13);
  const cut = await generateText({ ...request, stopSequences: [stop] });
  assert.equal(cut.text, text.slice(0, text.indexOf(stop)));
  assert.equal(cut.finishReason, "stop");
});

test("the completion model completes", async () => {
  const request = { model: provider.completionModel("openelm-demo"), prompt: PROMPT, maxOutputTokens: 8, temperature: 0 };
  const whole = await generateText(request);
  let text = "";
  for await (const piece of streamText(request).textStream) text += piece;
  assert.ok(whole.text.length > 0);
  assert.equal(text, whole.text);
});

test("an abort in the middle of a stream frees the sequence", async () => {
  const controller = new AbortController();
  const options = { ignore_eos: true };
  const stream = streamText({
    model: chat,
    prompt: PROMPT,
    maxOutputTokens: 450,
    abortSignal: controller.signal,
    providerOptions: { openelm: options },
  });
  let aborted = false;
  let pieces = 0;
  for await (const part of stream.fullStream) {
    if (part.type === "text-delta" && ++pieces === 3) controller.abort();
    if (part.type === "abort") aborted = true;
  }
  assert.ok(aborted);
  const deadline = Date.now() + 10_000;
  while ((await metric(server.url, "vllm:num_requests_running")) > 0) {
    assert.ok(Date.now() < deadline, "the sequence still runs");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

test("an error carries status, body and whether to try again", async () => {
  let sent = 0;
  const counting = createOpenAICompatible({ name: "openelm", baseURL: `${server.url}/v1`, fetch: (...args) => (sent++, fetch(...args)) });
  await assert.rejects(generateText({ model: counting("openelm-demo"), prompt: PROMPT, temperature: 3 }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 400);
    assert.equal(error.isRetryable, false);
    assert.equal(error.data.error.param, "temperature");
    assert.match(error.message, /temperature/);
    return true;
  });
  assert.equal(sent, 1);
  await assert.rejects(generateText({ model: counting("nothing"), prompt: PROMPT, maxRetries: 0 }), (error) => {
    assert.equal(error.statusCode, 404);
    assert.equal(error.data.error.code, "model_not_found");
    return true;
  });
});

test("an error before the first piece of a stream is told", async () => {
  const errors = [];
  const stream = streamText({ model: chat, prompt: "word ".repeat(2000), maxRetries: 0, onError: ({ error }) => errors.push(error) });
  for await (const _ of stream.textStream) assert.fail("a piece came");
  assert.equal(errors.length, 1);
  assert.equal(errors[0].data.error.code, "context_length_exceeded");
});
