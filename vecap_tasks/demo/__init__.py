"""The miniature web: drawn scenes on generated pages, with known captions and known defects."""
