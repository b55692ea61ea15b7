// An agent of the AI SDK: it calls a tool, runs it here, sends the result, and reads the answer as a stream.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ToolLoopAgent, stepCountIs, tool } from "ai";
import { z } from "zod";

const [baseURL, model] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "edgeinfer", baseURL, includeUsage: true });
const agent = new ToolLoopAgent({
  model: provider(model),
  instructions: "Be brief.",
  tools: {
    get_weather: tool({
      description: "The weather of a city",
      inputSchema: z.object({ city: z.string().max(20) }),
      execute: async () => "Sunny",
    }),
  },
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
  stopWhen: stepCountIs(2),
  maxOutputTokens: 60,
  temperature: 0,
  seed: 1,
  maxRetries: 0,
});
const result = await agent.stream({ prompt: "Weather in Paris?" });
let streamed = "";
for await (const piece of result.textStream) streamed += piece;
const steps = (await result.steps).map((step) => ({
  calls: step.toolCalls.map((call) => [call.toolName, call.input]),
  results: step.toolResults.map((one) => one.output),
  text: step.text,
  finish: step.finishReason,
  tokens: step.usage.outputTokens,
}));
console.log(JSON.stringify({ streamed, steps }));
