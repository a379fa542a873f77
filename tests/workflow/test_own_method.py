"""The examples of docs/extending.md: a method is one file and one line, and so is a probe."""

import json
import re

from fresh_clone import Clone

OBJECTIVES = "src/barlow_atlas/objectives"
PROBES = "src/barlow_atlas/probes"
STUDY = (
    ("width: 16", "width: 8"),
    ("seeds: [1, 2, 3]", "seeds: [1]"),
    ("embedding_dims: [256]", "embedding_dims: [64]"),
)
PROBED = (
    "from pathlib import Path; from barlow_atlas.study.file import load_study;"
    "from barlow_atlas.workflow.sources import probing_code;"
    "study = load_study(Path('params/demo.yaml'));"
    "print(probing_code(study), study.probes.model_dump_json())"
)


def add_example(clone: Clone, folder: str) -> tuple[str, str]:
    """Follows the page's example of a file in `folder`; its name, and its lines in a study."""
    page = (clone.folder / "docs/extending.md").read_text()
    name, code, entry = re.search(
        rf"`{folder}/(\w+)\.py`.*?```python\n(.*?)```.*?```yaml\n(.*?)```", page, flags=re.S
    ).groups()
    assert len(code.splitlines()) <= 45
    (clone.folder / f"{folder}/{name}.py").write_text(code)
    listed = clone.folder / f"{folder}/__init__.py"
    lines, added = re.subn(r"FILES = \(", f'FILES = (\n    "{name}",', listed.read_text())
    assert added == 1
    listed.write_text(lines)
    return name, entry


def take(clone: Clone, study: str, *steps: list[str]) -> None:
    for step in steps:
        done = clone.run("python", "-m", "barlow_atlas", *step, "--study", study)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_method_is_one_file_and_one_line(clone: Clone) -> None:
    _, entry = add_example(clone, OBJECTIVES)
    clone.write_study("trial", "demo", *STUDY, ("methods:\n", f"methods:\n{entry}"))

    key = entry.split(":")[0].strip()
    run = f"{key}-d64-e100-clean-s1"
    done = clone.run("python", "-m", "barlow_atlas", "runs", "--study", "trial")
    assert run in done.stdout.splitlines(), done.stderr
    take(
        clone,
        "trial",
        ["prepare-data"],
        ["pretrain", "--run", run, "--until", "0"],
        ["pretrain", "--run", run, "--until", "5"],
        ["probe", "--run", run, "--epoch", "5"],
    )
    metrics = clone.folder / f"results/trial/training/{run}/epoch_0005.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {"alignment", "uniformity"} < rows[0].keys()


def test_a_probe_is_one_file_and_one_line(clone: Clone) -> None:
    before = clone.run("python", "-c", PROBED)
    name, entry = add_example(clone, PROBES)
    after = clone.run("python", "-c", PROBED)
    assert before.returncode == after.returncode == 0, before.stderr + after.stderr
    assert before.stdout == after.stdout, "another study would be probed again"

    clone.write_study("asking", "demo", *STUDY, ("probes:\n", f"probes:\n{entry}"))
    run = "bt-d64-e100-clean-s1"
    take(
        clone,
        "asking",
        ["prepare-data"],
        ["pretrain", "--run", run, "--until", "0"],
        ["probe", "--run", run, "--epoch", "0"],
        ["plan"],
    )
    stored = clone.folder / f"results/asking/probes/{run}/epoch_0000.json"
    results = json.loads(stored.read_text())["results"]
    own = [found for found in results if found["probe"] == name]
    assert len(own) == 4
    assert {found["settings"]["distance"] for found in own} == {"cosine", "euclidean"}
    assert {found["split"] for found in own} == {"validation", "test"}
    # A random network sees digits well; a guess is right in 10 of 100.
    assert min(found["top1"] for found in own) > 40
    assert len(results) - len(own) == 6  # the demo's own
    table = (
        "import json, sys; from pathlib import Path; from barlow_atlas.atlas import frames;"
        "contents = [json.loads(Path(sys.argv[1]).read_text())];"
        "print(*sorted(set(frames.probe_table(contents)['variant'])), sep='\\n')"
    )
    told = clone.run("python", "-c", table, str(stored))
    assert {"cosine", "euclidean"} < set(told.stdout.splitlines()), told.stderr
