"""Weights that stay packed in memory: ggml's types, fp8, 16 bits on a CPU, and their matrix
products.
"""
