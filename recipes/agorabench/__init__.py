"""AgoraBench: how good is a model at making training data? Three methods in three domains.

Source: Kim et al., Evaluating Language Models as Synthetic Data Generators, arXiv 2412.03679v2, table 1.
The prompts are our own.
"""

from __future__ import annotations

from agora_frames.recipes.agorabench.domains import DOMAINS

__all__ = ["METHODS", "SETTINGS"]

# Each method is a module of this folder with a recipe of the same name. Those without one are not written yet.
METHODS = ("instance_generation", "response_generation", "quality_enhancement")

# The nine settings.
SETTINGS = tuple((method, domain) for method in METHODS for domain in DOMAINS)
