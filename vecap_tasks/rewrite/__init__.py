"""Captions: a VLM says what it sees (VeC), an LLM fuses that with the AltText (VeCap), screening judges both."""
