"""Choice of captions and of the share of AltText, by small trainings on a user's own version."""
