"""Images: decoding, resizing and perceptual hashes."""
