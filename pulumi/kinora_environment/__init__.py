"""What an environment of Kinora consists of, as Pulumi components. ``environment.py`` puts them together."""
