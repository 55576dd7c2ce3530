"""What a frame must satisfy: Pandera models, for `validate(schema=…)`."""

from agora_frames.schemas.by_domain import schema_for
from agora_frames.schemas.instances import CodeInstance, GeneralInstance, Instance, MathInstance
from agora_frames.schemas.seeds import Seed
from agora_frames.schemas.sentences import Sentence

__all__ = ["CodeInstance", "GeneralInstance", "Instance", "MathInstance", "Seed", "Sentence", "schema_for"]
