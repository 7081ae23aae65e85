// Asks a server by one of the vendors' own clients, unchanged, and prints as JSON what that made of
// the answer: node clients.mjs CLIENT URL

import { createOpenAI } from "@ai-sdk/openai";
import Anthropic from "@anthropic-ai/sdk";
import { jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";

const [client, url] = process.argv.slice(2);
const question = "What is the weather in Paris?";
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};

const clients = {
  async chat() {
    const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });
    const stream = openai.chat.completions.stream({
      model: "m",
      messages: [{ role: "user", content: question }],
      tools: [{ type: "function", function: { name: "get_weather", parameters } }],
      stream_options: { include_usage: true },
    });
    const { choices, usage } = await stream.finalChatCompletion();
    const { message } = choices[0];
    return {
      text: message.content,
      calls: message.tool_calls.map((call) => JSON.parse(call.function.arguments)),
      output_tokens: usage.completion_tokens,
    };
  },

  async responses() {
    const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });
    const stream = openai.responses.stream({
      model: "m",
      input: question,
      tools: [{ type: "function", name: "get_weather", parameters, strict: true }],
    });
    const response = await stream.finalResponse();
    const of = (type) => response.output.filter((item) => item.type === type);
    return {
      reasoning: of("reasoning")[0].content[0].text,
      text: response.output_text,
      calls: of("function_call").map((item) => JSON.parse(item.arguments)),
      output_tokens: response.usage.output_tokens,
    };
  },

  async messages() {
    const anthropic = new Anthropic({ baseURL: url, apiKey: "any", maxRetries: 0 });
    const stream = anthropic.messages.stream({
      model: "m",
      max_tokens: 100,
      thinking: { type: "enabled", budget_tokens: 1024 },
      messages: [{ role: "user", content: question }],
      tools: [{ name: "get_weather", input_schema: parameters }],
    });
    const message = await stream.finalMessage();
    const of = (type) => message.content.filter((block) => block.type === type);
    return {
      reasoning: of("thinking")[0].thinking,
      text: of("text")[0].text,
      calls: of("tool_use").map((block) => block.input),
      output_tokens: message.usage.output_tokens,
    };
  },

  // Vercel's AI SDK, whose OpenAI provider speaks Responses unless it is told otherwise.
  async ai() {
    const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "any" });
    const result = streamText({
      model: openai("m"),
      prompt: question,
      maxRetries: 0,
      providerOptions: { openai: { forceReasoning: true, reasoningSummary: "auto" } },
      tools: { get_weather: tool({ inputSchema: jsonSchema(parameters) }) },
      onError({ error }) {
        throw error;
      },
    });
    return {
      reasoning: await result.reasoningText,
      text: await result.text,
      calls: (await result.toolCalls).map((call) => call.input),
      output_tokens: (await result.usage).outputTokens,
    };
  },
};

console.log(JSON.stringify(await clients[client]()));
