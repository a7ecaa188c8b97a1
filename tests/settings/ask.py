"""What settings come to: the problems that `load` names, and what `worker config` prints."""

import pytest

from worker import config_cli
from worker.sources import SettingsError, load


def problems(argv):
    """The names of all that is wrong, sorted."""
    with pytest.raises(SettingsError) as error:
        load(argv)
    for problem in error.value.problems:
        assert problem in str(error.value)
    return sorted(problem.split(":")[0] for problem in error.value.problems)


def printed(argv, capsys):
    """Exit code, standard output and standard error of `trunkline worker config`."""
    code = config_cli.main(argv)
    out = capsys.readouterr()
    return code, out.out, out.err
