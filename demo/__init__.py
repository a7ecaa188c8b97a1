"""The demo: models, calls and speech that ship with the project, and a program that shows them at work."""
