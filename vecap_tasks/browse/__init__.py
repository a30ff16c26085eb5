"""What people look at in a browser: versions, samples and their pictures, page by page, whatever a version's size."""
