"""Make and judge synthetic training data with language models."""
