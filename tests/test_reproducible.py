"The digits experiment again: exactly on this machine, within its claims on any"
import os, subprocess, sys
import pytest
from medfolio.claims import claims
from medfolio.plan import plan
from medfolio.record import read_record


@pytest.fixture(scope='module')
def again(repository, tmp_path_factory):
    "Run digits with these parameters into a folder of its own; the metrics by name"
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'MEDFOLIO_SMOKE', 'MEDFOLIO_ROOT')}
    def run(*params):
        out = tmp_path_factory.mktemp('again')
        code = 'from medfolio.cli import main; main()'
        done = subprocess.run([sys.executable, '-c', code, 'run', 'digits', *params, '--out', str(out)],
                              cwd=repository, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return {m['name']: m for m in read_record(next(out.glob('*/record.json')))['metrics']}
    return run


def test_the_same_seed_gives_the_same_numbers(again):
    small = '-p', 'seeds', '1', '-p', 'epochs', '1', '-p', 'samples', '200'
    first, second = again(*small), again(*small)
    assert len(first) > 5 and first == second


def test_another_machine_agrees_within_the_claims(again, repository):
    was = {m['name']: m for m in read_record(repository/'figures/digits')['metrics']}
    now, claimed = again(), claims(plan(repository), repository)
    for (run, name), claim in claimed.items():
        if run != 'digits': continue
        low, high = claim['expect']
        assert abs(now[name]['value'] - was[name]['value']) <= high - low, name
