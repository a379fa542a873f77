"""The README's worked example: a method is one file and one line."""

import json
import re

from fresh_clone import Clone

OBJECTIVES = "src/barlow_atlas/objectives"
STUDY = (
    ("width: 16", "width: 8"),
    ("seeds: [1, 2, 3]", "seeds: [1]"),
    ("embedding_dims: [256]", "embedding_dims: [64]"),
)


def test_a_method_is_one_file_and_one_line(clone: Clone) -> None:
    readme = (clone.folder / "README.md").read_text()
    name, code = re.search(
        rf"`{OBJECTIVES}/(\w+)\.py`.*?```python\n(.*?)```", readme, flags=re.S
    ).groups()
    entry = re.search(r"```yaml\n(  \w.*?)```", readme, flags=re.S)[1]
    assert len(code.splitlines()) <= 40

    (clone.folder / f"{OBJECTIVES}/{name}.py").write_text(code)
    listed = clone.folder / f"{OBJECTIVES}/__init__.py"
    lines = listed.read_text().replace("FILES = (\n", f'FILES = (\n    "{name}",\n')
    listed.write_text(lines)
    clone.write_study("trial", "demo", *STUDY, ("methods:\n", f"methods:\n{entry}"))

    key = entry.split(":")[0].strip()
    run = f"{key}-d64-e100-clean-s1"
    done = clone.run("python", "-m", "barlow_atlas", "runs", "--study", "trial")
    assert run in done.stdout.splitlines(), done.stderr
    for step in (
        ["prepare-data"],
        ["pretrain", "--run", run, "--until", "0"],
        ["pretrain", "--run", run, "--until", "5"],
        ["probe", "--run", run, "--epoch", "5"],
    ):
        done = clone.run("python", "-m", "barlow_atlas", *step, "--study", "trial")
        assert done.returncode == 0, done.stdout + done.stderr
    metrics = clone.folder / f"results/trial/training/{run}/epoch_0005.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {"alignment", "uniformity"} < rows[0].keys()
