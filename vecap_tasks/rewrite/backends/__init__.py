"""Text generation backends: in-process transformers, and OpenAI-compatible servers."""
