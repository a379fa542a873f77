"""Studies of one's own, from one that there is."""

import subprocess
from pathlib import Path

import pytest

from barlow_atlas.__main__ import main
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.file import load_study
from barlow_atlas.tools import running
from barlow_atlas.tools.own import OwnStudyError, new_study, one_off

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").mkdir()
    (tmp_path / "params/demo.yaml").write_bytes((ROOT / "params/demo.yaml").read_bytes())
    return tmp_path


def test_a_new_study_is_its_origin_until_it_is_edited() -> None:
    path = new_study("ablations/first-try", "demo")
    assert path == Path("params/ablations/first-try.yaml")
    made, origin = load_study(path), load_study(Path("params/demo.yaml"))
    assert made.title == "First try"
    assert made.model_copy(update={"title": origin.title}) == origin
    assert "atlas run ablations/first-try" in path.read_text()


def test_a_study_that_is_there_is_not_overwritten() -> None:
    with pytest.raises(OwnStudyError, match=r"params/demo\.yaml is there already"):
        new_study("demo", "demo")


def test_a_name_that_no_study_can_have_leaves_no_file(folder: Path) -> None:
    with pytest.raises(StudyError, match="its name is lower-case words"):
        new_study("My Study", "demo")
    assert [path.name for path in (folder / "params").iterdir()] == ["demo.yaml"]


def test_one_off_values_are_a_study_of_their_own_name() -> None:
    asked = ["epochs=20", "milestones=[0, 20]", "methods.bt.lambda_bt=0.01"]
    name = one_off("demo", asked)
    assert name == "demo-epochs-20-milestones-0-20-methods-bt-lambda-bt-0-01"
    made = load_study(Path(f"params/{name}.yaml"))
    assert made.milestones == (0, 20)
    assert {run.epochs for run in made.trained()} == {20}
    rates = {run.method: run.settings.lambda_bt for run in made.trained()}
    assert rates == {"bt": 0.01, "mix": 0.0078125}
    assert one_off("demo", asked) == name, "the same again is the same"


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        ("epochs", OwnStudyError, "give KEY=VALUE"),
        ("epochs.all=3", OwnStudyError, "epochs has no keys below it"),
        ("epoch=3", StudyError, "Did you mean 'epochs'"),
        ("epochs=many", StudyError, "epochs"),
    ],
)
def test_wrong_values_are_refused_and_leave_no_file(
    folder: Path, setting: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        one_off("demo", [setting])
    assert [path.name for path in (folder / "params").iterdir()] == ["demo.yaml"]


def test_another_study_of_the_name_is_not_overwritten() -> None:
    path = Path(f"params/{one_off('demo', ['epochs=100'])}.yaml")
    path.write_text(path.read_text() + "threads: 2\n")
    with pytest.raises(OwnStudyError, match="says something else"):
        one_off("demo", ["epochs=100"])


def test_commands_work_from_any_folder_and_by_a_studys_last_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "Snakefile").touch()
    new_study("ablations/first", "demo")
    monkeypatch.chdir(folder / "params/ablations")
    for said in ("first", "ablations/first", "first.yaml"):
        assert main(["runs", "--study", said]) == 0
        assert "bt-d256-e100-clean-s1" in capsys.readouterr().out
        assert Path.cwd() == folder
        monkeypatch.chdir(folder / "params/ablations")


def test_a_study_that_is_none_is_said_before_snakemake_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "demmo"]) == 1
    assert "Did you mean 'demo'?" in capsys.readouterr().err


def test_a_last_word_of_two_studies_is_asked_back(capsys: pytest.CaptureFixture[str]) -> None:
    new_study("ablations/first", "demo")
    new_study("comparison/first", "demo")
    assert main(["runs", "--study", "first"]) == 1
    assert "may be ablations/first or comparison/first" in capsys.readouterr().err


def test_a_command_that_is_none_is_named_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["statsu"]) == 2
    assert "unknown command 'statsu'. Did you mean 'status'?" in capsys.readouterr().err


def test_shells_complete_commands_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert not main(["completion", "zsh"])
    assert capsys.readouterr().out.startswith("#compdef atlas\n")
    assert not main(["completion", "bash"])
    Path("atlas.bash").write_text(capsys.readouterr().out)
    typed = (
        "source atlas.bash\n"
        "of=$(complete -p atlas | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
        "COMP_WORDS=(atlas sta) COMP_CWORD=1; $of; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(atlas run first --s) COMP_CWORD=3; $of; echo ${COMPREPLY[@]}\n"
    )
    done = subprocess.run(("bash", "-c", typed), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["status", "--slurm --set"]


def test_what_stands_behind_two_dashes_is_snakemakes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(running, "snakemake", lambda *given: asked.append(given) or 0)
    new_study("first", "demo")
    (Path.cwd() / "Snakefile").touch()
    assert main(["run", "demo", "first", "--dry-run", "--", "--cores", "4"]) == 0
    assert asked == [
        (["demo", "first"], "profiles/local", False, ["--dry-run", "--cores", "4"]),
    ]


def test_no_option_is_taken_for_one_that_begins_alike(capsys: pytest.CaptureFixture[str]) -> None:
    (Path.cwd() / "Snakefile").touch()
    with pytest.raises(SystemExit) as refused:
        main(["run", "demo", "--replac"])
    assert refused.value.code == 2
    assert "unrecognized arguments: --replac" in capsys.readouterr().err
