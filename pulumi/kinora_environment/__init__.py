"""A Kinora environment as Pulumi components, composed in ``environment.py``."""
