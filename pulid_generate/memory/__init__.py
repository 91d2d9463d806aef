"""Devices, where each model goes, what it needs there, and blocks that stream through. Only
streaming imports torch at its top.
"""
