"""Engines that generate text: transformers in this process, and OpenAI-compatible servers."""
