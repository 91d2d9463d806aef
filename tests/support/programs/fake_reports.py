"""What the fake `pulid-extract score` says of the pictures of a validation, as bodies for the
fixture `fake`.
"""

from __future__ import annotations

# by name: the person 0.7 and 0.5, and once no face; weight 0 and the stranger near 0; the reference
# itself 1
SCORES = """
refuse_prompts()
for picture in pictures:
    name = os.path.basename(picture)
    run = name[:-4].rsplit("_", 1)[-1]
    value = {"person": 0.7 if "_1_" in name else 0.5, "0": 0.1, "stranger": -0.1}.get(run, 1.0)
    faceless() if name == "line-3_2_person.png" else likeness(value, stranger=0.05)
"""
# the same with all that can be asked for: a second recogniser, another photograph, prompts, poses
EVERYTHING = """
other = {"name": "other.onnx", "sha256": "cd" * 32, "own": False, "likeness": 0.4}
line["recognizers"].append(other)
line["prompt_judge"] = {"name": "eva.pt", "sha256": "ef" * 32}
for picture in pictures:
    run = os.path.basename(picture)[:-4].rsplit("_", 1)[-1]
    value = {"person": 0.7 if "_1_" in picture else 0.5, "0": 0.1, "stranger": -0.1}.get(run, 1.0)
    pose = {"yaw": {"person": 10.0, "0": 40.0}.get(run, 0.0), "pitch": 0.0, "roll": 0.0}
    prompt = {"person": 24.0, "0": 25.5}.get(run, 20.0)
    box = [8, 8, 8, 16] if run == "person" else [16, 8, 8, 8]
    tell(likeness=value, cosines=[value], recognizers=by_each(value, value - 0.2),
         truth=value - 0.1, copy_paste=0.25 if run == "person" else -0.25, pose=pose,
         prompt_score=prompt, box=box)
"""
NOBODY = """
say("pulid-extract: error: me.png: no face found in this reference; give another picture")
sys.exit(1)
"""
