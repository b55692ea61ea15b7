"""Which drafter a round uses, and how far it drafts. README.md has the formula."""
