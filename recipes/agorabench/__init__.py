"""AgoraBench: how good is a model at making training data? Three methods in three domains.

Source: Kim et al., Evaluating Language Models as Synthetic Data Generators, arXiv 2412.03679v2, table 1.
The prompts are our own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from agora_frames.recipes.agorabench.domains import DOMAINS, Domain, DomainName

__all__ = ["METHODS", "SETTINGS", "Method", "Setting"]

# Each method is a module of this folder with a recipe of the same name.
Method = Literal["instance_generation", "response_generation", "quality_enhancement"]
METHODS: tuple[Method, ...] = ("instance_generation", "response_generation", "quality_enhancement")


class Setting(NamedTuple):
    """One of the nine: the paper's seeds and how many they are; each setting makes 10,000 instances."""

    method: Method
    domain: DomainName
    seeds: str
    seed_rows: int

    @property
    def of(self) -> Domain:
        """The domain as a value: schema, prompts, benchmarks."""
        return DOMAINS[self.domain]


# Table 1. Where it prints "(code)" for WebInstruct in the last row, section 3 says instruction following.
SETTINGS: tuple[Setting, ...] = (
    Setting("instance_generation", "math", "GSM8K and MATH, train", 14_856),
    Setting("instance_generation", "code", "MBPP, train, and xP3x", 874),
    Setting("instance_generation", "general", "LIMA", 503),
    Setting("response_generation", "math", "Magpie-Reasoning, math", 10_000),
    Setting("response_generation", "code", "Magpie-Reasoning, code", 10_000),
    Setting("response_generation", "general", "Magpie-Pro", 10_000),
    Setting("quality_enhancement", "math", "WebInstruct, math", 10_000),
    Setting("quality_enhancement", "code", "CoNaLa, mined", 10_000),
    Setting("quality_enhancement", "general", "WebInstruct, other", 10_000),
)
