"""Copies credentials between stores and reads exports."""
