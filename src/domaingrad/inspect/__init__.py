"""Inspect: where the domains' gradients agree and where they conflict."""

from .agreement import sign_agreement

__all__ = ["sign_agreement"]
