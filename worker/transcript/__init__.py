"""Tokens to words, words to utterances, utterances to events."""
