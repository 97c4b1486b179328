"""The shop as the world sees it: JSON over HTTP."""
