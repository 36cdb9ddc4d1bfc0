"""Ollama's protocol below `/api`, for clients that know no other: `endpoints` are its routes.

`parameters` are the requests, `forms` the answers, and `cards` describe the models.
"""
