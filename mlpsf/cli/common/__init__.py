"""What several commands share: their options, settings from a file, and what they say."""
