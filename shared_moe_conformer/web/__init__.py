"""Pages for a browser: one that recognises speech, served locally, and one that shows a zoo, written as files."""
