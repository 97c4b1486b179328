"""A small shop of six services and a storefront: copy a folder, and you have a service."""
