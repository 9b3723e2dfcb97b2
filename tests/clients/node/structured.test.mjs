// Answers of a given form and calls of tools, with openai-node and with Vercel's AI SDK. Every field is bounded: a small model may not end.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { startServer } from "./server.mjs";

const PROMPT = "Tell me about a pet.";
const MESSAGES = [{ role: "user", content: PROMPT }];
const LENGTH = 160;
const Pet = z.object({
  animal: z.enum(["cat", "dog", "fox"]),
  tame: z.boolean(),
  colours: z.array(z.enum(["red", "grey"])).max(2),
});
const Feed = z.object({ animal: z.enum(["cat", "dog"]), twice: z.boolean() });

let server;
let client;
let chat;
const model = "openelm-demo";

before(async () => {
  server = await startServer();
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "unused", maxRetries: 0, timeout: 60_000 });
  const provider = createOpenAICompatible({ name: "openelm", baseURL: `${server.url}/v1`, supportsStructuredOutputs: true });
  chat = provider(model);
});
after(async () => server?.stop());

test("openai-node parses an object", async () => {
  const request = { model, messages: MESSAGES, response_format: zodResponseFormat(Pet, "pet"), max_tokens: LENGTH, temperature: 0 };
  const whole = await client.chat.completions.parse(request);
  Pet.parse(whole.choices[0].message.parsed);
  const final = await client.chat.completions.stream(request).finalChatCompletion();
  assert.deepEqual(final.choices[0].message.parsed, whole.choices[0].message.parsed);
});

test("openai-node parses the arguments of a tool", async () => {
  const tools = [zodFunction({ name: "feed", parameters: Feed })];
  const request = { model, messages: MESSAGES, tools, tool_choice: "required", max_tokens: LENGTH, temperature: 0 };
  const whole = await client.chat.completions.parse(request);
  const [choice] = whole.choices;
  assert.equal(choice.finish_reason, "tool_calls");
  assert.equal(choice.message.content, null);
  for (const call of choice.message.tool_calls) Feed.parse(call.function.parsed_arguments);
  const final = await client.chat.completions.stream(request).finalChatCompletion();
  const told = (answer) => answer.choices[0].message.tool_calls.map((call) => call.function);
  assert.deepEqual(told(final), told(whole));
});

test("openai-node runs a tool and sends its result back", async () => {
  const fed = [];
  const feed = zodFunction({ name: "feed", parameters: Feed, function: (given) => (fed.push(given), "It is full.") });
  const choice = { type: "function", function: { name: "feed" } };
  // With a named function the runner ends after its call.
  const runner = client.chat.completions.runTools({ model, messages: MESSAGES, tools: [feed], tool_choice: choice, max_tokens: LENGTH, temperature: 0 });
  await runner.done();
  assert.ok(fed.length > 0);
  const messages = runner.messages;
  assert.equal(messages.at(-1).role, "tool");
  const answer = await client.chat.completions.create({ model, messages, max_tokens: 8, temperature: 0 });
  assert.ok(answer.choices[0].message.content.length > 0);
});

test("generateObject gives an object, and streamObject the same in parts", async () => {
  const request = { model: chat, prompt: PROMPT, schema: Pet, maxOutputTokens: LENGTH, temperature: 0, maxRetries: 0 };
  const { object, finishReason } = await generateObject(request);
  Pet.parse(object);
  assert.equal(finishReason, "stop");
  const stream = streamObject(request);
  let parts = 0;
  for await (const _ of stream.partialObjectStream) parts++;
  assert.ok(parts > 2);
  assert.deepEqual(await stream.object, object);
});

test("generateObject chooses from a list", async () => {
  const request = { model: chat, prompt: PROMPT, output: "enum", enum: ["cat", "dog"], maxOutputTokens: LENGTH, temperature: 0, maxRetries: 0 };
  assert.ok(["cat", "dog"].includes((await generateObject(request)).object));
});

test("a tool of the AI SDK is called with what it takes", async () => {
  const fed = [];
  const feed = tool({
    description: "Feeds an animal.",
    inputSchema: Feed,
    execute: async (given) => (fed.push(given), `The ${given.animal} is full.`),
  });
  const request = { model: chat, prompt: PROMPT, tools: { feed }, toolChoice: "required", maxOutputTokens: LENGTH, temperature: 0, maxRetries: 0 };
  const answer = await generateText(request);
  assert.equal(answer.finishReason, "tool-calls");
  assert.deepEqual(
    fed,
    answer.toolCalls.map((call) => call.input),
  );
  for (const given of fed) Feed.parse(given);

  fed.length = 0;
  const stream = streamText(request);
  await stream.consumeStream();
  assert.deepEqual(
    (await stream.toolCalls).map((call) => call.input),
    answer.toolCalls.map((call) => call.input),
  );
  assert.equal(fed.length, answer.toolCalls.length);
});

test("the AI SDK sends results of tools back", async () => {
  const feed = tool({ description: "Feeds an animal.", inputSchema: Feed, execute: async () => "It is full." });
  const answer = await generateText({
    model: chat,
    prompt: PROMPT,
    tools: { feed },
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
    stopWhen: stepCountIs(2),
    maxOutputTokens: 100,
    temperature: 0,
    maxRetries: 0,
  });
  assert.equal(answer.steps.length, 2);
  assert.ok(answer.text.length > 0);
});
