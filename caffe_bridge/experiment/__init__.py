"""Experiments that reproduce the paper: declared beside a recipe, resumable by stage."""
