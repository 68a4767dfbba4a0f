"""The hub and its user, for the commands that fetch models."""

from tests.download.conftest import files, hub, user

__all__ = ["files", "hub", "user"]
