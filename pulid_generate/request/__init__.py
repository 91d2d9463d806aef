"""What to draw, as values: prompt, size, schedule, people, regions, the picture to start from.
Imports no torch.
"""
