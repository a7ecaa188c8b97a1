"""The demo: models, calls and speech that ship with the project, and a program that shows them at work."""

from pathlib import Path

MODELS = Path(__file__).parent / "models"
MODEL = MODELS / "demo.nemo"
