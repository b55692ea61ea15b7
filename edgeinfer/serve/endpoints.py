"""Every path that is answered."""

from __future__ import annotations

from typing import Final

from edgeinfer.serve.anthropic.body import CountBody, MessagesBody
from edgeinfer.serve.anthropic.errors import anthropic_error
from edgeinfer.serve.anthropic.messages import count_tokens, messages
from edgeinfer.serve.health import health, metrics
from edgeinfer.serve.http.endpoint import Endpoint
from edgeinfer.serve.ollama.answers import chat, generate
from edgeinfer.serve.ollama.body import ChatBody as OllamaChatBody
from edgeinfer.serve.ollama.body import GenerateBody
from edgeinfer.serve.ollama.errors import ollama_error
from edgeinfer.serve.ollama.listing import ShowBody, ps, show, tags, version
from edgeinfer.serve.openai.chat import ChatBody, chat_completions
from edgeinfer.serve.openai.completions import CompletionBody, completions
from edgeinfer.serve.openai.errors import openai_error
from edgeinfer.serve.openai.listing import list_models, show_model
from edgeinfer.serve.openai.responses import responses
from edgeinfer.serve.openai.responses_body import ResponsesBody
from edgeinfer.serve.page import page

__all__ = ["ENDPOINTS"]

ENDPOINTS: Final = (
    Endpoint("GET", "/", page, openai_error, "a page to chat with"),
    Endpoint("GET", "/health", health, openai_error, "whether the engine can answer"),
    Endpoint("GET", "/metrics", metrics, openai_error, "counts and times, for Prometheus"),
    Endpoint("GET", "/v1/models", list_models, openai_error, "the models that are served"),
    Endpoint("GET", "/v1/models/{model:path}", show_model, openai_error, "one of the models"),
    Endpoint("POST", "/v1/chat/completions", chat_completions, openai_error, "OpenAI: answer a chat", ChatBody),
    Endpoint("POST", "/v1/completions", completions, openai_error, "OpenAI: continue a text", CompletionBody),
    Endpoint("POST", "/v1/responses", responses, openai_error, "OpenAI: answer, without a state", ResponsesBody),
    Endpoint("POST", "/v1/messages", messages, anthropic_error, "Anthropic: answer a chat", MessagesBody),
    Endpoint(
        "POST", "/v1/messages/count_tokens", count_tokens, anthropic_error, "Anthropic: tokens of a prompt", CountBody
    ),
    Endpoint("POST", "/api/chat", chat, ollama_error, "Ollama: answer a chat", OllamaChatBody),
    Endpoint("POST", "/api/generate", generate, ollama_error, "Ollama: answer a prompt", GenerateBody),
    Endpoint("POST", "/api/show", show, ollama_error, "Ollama: one of the models", ShowBody),
    Endpoint("GET", "/api/tags", tags, ollama_error, "Ollama: the models"),
    Endpoint("GET", "/api/ps", ps, ollama_error, "Ollama: the models that are loaded"),
    Endpoint("GET", "/api/version", version, ollama_error, "Ollama: the version of its API"),
)
