"""Web pages for versions, samples, quarantine and lineage: plain HTML without scripts."""
