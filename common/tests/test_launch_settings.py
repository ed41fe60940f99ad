"""The section `launch`, its options on the command line, and the hostfile."""

import pytest
import typer
from typer.testing import CliRunner

from thinker_common.cli import launch as options
from thinker_common.distributed.hosts import Host, read_hostfile
from thinker_common.distributed.launch_settings import LaunchSettings
from thinker_common.errors import SettingsError, UserError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpus": 0}, "gpus = 0: expected a whole number of at least 1"),
        ({"nodes": 0}, "nodes = 0: expected a whole number of at least 1"),
        ({"nodes": 2}, "nodes = 2: name the hosts in a hostfile"),
        ({"offload": True}, r"offload = true: expected zero = 1, 2 or 3 with it \(zero is null\)"),
        ({"offload": True, "zero": 0}, r"offload = true: .*\(zero is 0\)"),
        ({"deepspeed_config": "ds.json", "zero": 2}, "deepspeed_config = 'ds.json': .* leave zero and offload out"),
        ({"launcher": "slurm", "hostfile": "hosts"}, "hostfile is not for launcher = slurm"),
        ({"hostfile": " "}, "hostfile = ' ': expected a name"),
        ({"master_port": 70000}, "master_port = 70000: expected 1 to 65535"),
        ({"slurm_options": ["time=1"]}, "slurm_options = 'time=1': expected options"),
        ({"slurm_options": ["--time=1\n#SBATCH --x"]}, "slurm_options"),
        ({"hang_seconds": 5}, "hang_seconds = 5: expected at least 10"),
        ({"patience_seconds": 30}, "patience_seconds = 30: expected at least hang_seconds"),
    ],
)
def test_impossible_settings_are_named(given, message):
    with pytest.raises(SettingsError, match=message):
        LaunchSettings(**given)


def test_several_hosts_need_no_hostfile_under_slurm():
    assert LaunchSettings(nodes=8, gpus=8, launcher="slurm", zero=3, offload=True).uses_deepspeed


# --- options --------------------------------------------------------------------------------------------------------------


def settings_of(arguments, recipe=None):
    app = typer.Typer()
    found = []

    @app.command()
    def verb(
        gpus: options.Gpus = None,
        nodes: options.Nodes = None,
        hostfile: options.Hostfile = None,
        zero: options.Zero = None,
        offload: options.Offload = None,
        launcher: options.Launcher = None,
    ):
        found.append(
            options.with_options(
                recipe or LaunchSettings(),
                gpus=gpus, nodes=nodes, hostfile=hostfile, zero=zero, offload=offload, launcher=launcher,
            )
        )  # fmt: skip

    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, UserError):
        raise done.exception
    return found[0] if found else done


def test_options_win_over_the_recipe_and_leave_the_rest():
    recipe = LaunchSettings(gpus=4, zero=2, offload=True, hang_seconds=100)
    assert settings_of([], recipe) == recipe
    assert settings_of(["--gpus", "8", "--no-offload", "--launcher", "torchrun"], recipe) == LaunchSettings(
        gpus=8, zero=2, launcher="torchrun", hang_seconds=100
    )
    assert settings_of(["--hostfile", "h", "--nodes", "2", "--zero", "3"], recipe).hostfile == "h"
    own = LaunchSettings(deepspeed_config="ds.json")
    assert settings_of(["--zero", "3"], own) == LaunchSettings(zero=3)
    assert settings_of(["--launcher", "slurm"], LaunchSettings(hostfile="h")) == LaunchSettings(launcher="slurm")


def test_options_that_contradict_each_other_are_a_users_error():
    with pytest.raises(UserError, match=r"launch.offload = true: expected zero = 1, 2 or 3 with it"):
        settings_of(["--offload"])
    with pytest.raises(UserError, match=r"launch.nodes = 2: name the hosts in a hostfile"):
        settings_of(["--nodes", "2"])
    assert settings_of(["--zero", "4"]).exit_code == 2
    assert settings_of(["--gpus", "0"]).exit_code == 2
    assert settings_of(["--launcher", "mpi"]).exit_code == 2


# --- hostfile -------------------------------------------------------------------------------------------------------------


def test_hostfile_is_read_as_deepspeed_reads_it(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# cluster\n\nnode-1 slots=8\n  10.0.0.2   slots=4  # the old one\n")
    assert read_hostfile(str(file)) == [Host("node-1", 8), Host("10.0.0.2", 4)]
    from deepspeed.launcher.runner import fetch_hostfile

    assert dict(fetch_hostfile(str(file))) == {"node-1": 8, "10.0.0.2": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no host"),
        ("node-1 slots=0", r"line 1: expected `NAME slots=N`, got 'node-1 slots=0'"),
        ("# x\nnode-1 gpus=8", r"line 2: expected `NAME slots=N`"),
        ("node-1 slots=8\nnode-1 slots=8", "line 2: node-1 is given twice"),
        ("-oProxyCommand=x slots=1", "line 1: expected `NAME slots=N`"),  # would be an option of ssh
    ],
)
def test_hostfile_mistakes_name_the_line(tmp_path, text, message):
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_hostfile(str(file))


def test_a_hostfile_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_hostfile(str(tmp_path / "none"))
