"""What the base model is shown, in words, for the table of results and for the command line, which imports little."""

BASE = (
    "single edits, chains of unrelated edits, up to six edits told in full, questions about what was said and shown, "
    "whole scenes to describe, draw and search; no rules, no references"
)
