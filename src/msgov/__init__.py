"""Microservice governance for Python."""
