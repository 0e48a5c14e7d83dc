"""A page on this machine to try a model: a photo in, the answer and its reasons out."""

from kedge.demo.answering import Answering
from kedge.demo.serving import PORT, Server, serve
from kedge.demo.similar import Similar

__all__ = ["PORT", "Answering", "Server", "Similar", "serve"]
