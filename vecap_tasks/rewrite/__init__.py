"""Captioning: a VLM generates the VeC, an LLM fuses it with the AltText into the VeCap, and both are screened."""
