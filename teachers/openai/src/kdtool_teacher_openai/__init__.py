"""Teacher plugin `openai`: a model on a server with the OpenAI protocol.

`OpenAI` is the teacher; its client loads in hooks. `require_url` and `local_addresses` check a server's address. The module
`client` is also for other teachers on servers.
"""

from __future__ import annotations

from kdtool_teacher_openai._config import local_addresses, require_url
from kdtool_teacher_openai._teacher import OpenAI

__all__ = ["OpenAI", "local_addresses", "require_url"]
