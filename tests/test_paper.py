"What survives: kills at the worst moments, a full disk, two papers at once"
import json, os, signal, subprocess, sys, textwrap, time
from pathlib import Path
import psutil, pytest
from conftest import SAVE, TOY, until

# Imported by every Python process of a command through PYTHONPATH: at the chosen moment it
# kills its own process, or behaves as a full disk does.
FAULT = '''
import os, signal
call, name, what = os.environ['FAULT'].split()
real = getattr(os, call)
def faulty(src, dst, *args, **kw):
    if os.path.basename(dst) != name or 'spent' in os.environ: return real(src, dst, *args, **kw)
    if what == 'full': raise OSError(28, 'No space left on device')
    if what == 'after': real(src, dst, *args, **kw)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, call, faulty)
'''


@pytest.fixture
def fault(tmp_path):
    "Environment in which `call(…, name)` is the last thing a process does"
    folder = tmp_path/'fault'; folder.mkdir()
    (folder/'sitecustomize.py').write_text(FAULT)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get('PYTHONPATH')])])
    return lambda call, name, what: dict(PYTHONPATH=path, FAULT=f'{call} {name} {what}')


def gone(pid):
    try: return psutil.Process(int(pid)).status() == 'zombie'
    except psutil.NoSuchProcess: return True


def test_a_paper_is_made_once_and_then_fresh(checkout):
    assert checkout.states() == {'toy': 'never run', 'toy-halfres': 'never run'}
    status, out, err = checkout('paper', '--jobs', '2')
    assert status == 0, err
    assert checkout.states() == {'toy': 'fresh', 'toy-halfres': 'fresh'}
    one, two = checkout.record(), checkout.record('toy-halfres')
    assert (one['metrics'][0]['value'], two['metrics'][0]['value']) == (1.5, .75)
    assert two['params'] == dict(halfres=True, value=1.5)
    assert (checkout.root/'README.md').read_text() == 'made'

    nb = json.loads((checkout.root/'nbs/toy.ipynb').read_text())     # outputs are back, nothing else
    assert ['c0', 'c1', 'c2', 'c3', 'c4', 'c5'] == [c['id'] for c in nb['cells']]
    assert 'figures/toy/record.json' in json.dumps(nb) and 'papermill' not in json.dumps(nb)
    kept = json.loads((checkout.root/'figures/toy-halfres/notebook.ipynb').read_text())
    assert any('halfres = True' in ''.join(c['source']) for c in kept['cells'])

    date = one['date']
    status, out, err = checkout('paper')
    assert status == 0 and '2 of 2 runs were fresh' in out
    assert checkout.record()['date'] == date
    assert checkout('paper', '--check')[0] == 0

    text = (checkout.root/'nbs/toy.ipynb').read_text()               # code makes it stale, prose does not
    (checkout.root/'nbs/toy.ipynb').write_text(text.replace('A number from nothing', 'A number'))
    assert checkout.states()['toy'] == 'fresh'
    (checkout.root/'nbs/toy.ipynb').write_text(text.replace('else 1)', 'else 3)'))
    assert checkout.states() == {'toy': 'stale', 'toy-halfres': 'stale'}
    status, out, err = checkout('paper', '--check')
    assert status == 1 and 'its notebook changed' in out


def test_kill_during_a_run_leaves_no_orphan_and_no_loss(checkout):
    assert checkout('paper')[0] == 0
    before = checkout.record('toy-halfres')
    checkout.notebook([*TOY[:4], TOY[4].replace('else 1', 'else 5'), SAVE])
    (checkout.root/'nbs/hold').touch(); (checkout.root/'nbs/pids').unlink()
    with checkout.popen('paper', '--only', 'toy') as p:
        pids = until(lambda: (f := checkout.root/'nbs/pids').exists() and f.read_text().split())
        p.kill(); p.wait()
    until(lambda: all(map(gone, pids)))                              # kernel and worker
    assert checkout.record('toy-halfres') == before
    assert checkout.record()['metrics'][0]['value'] == 1.5           # the old result stands
    (checkout.root/'nbs/hold').unlink()
    assert checkout('paper')[0] == 0
    assert checkout.record()['metrics'][0]['value'] == .3
    assert sorted(p.name for p in (checkout.root/'figures').glob('[!_]*')) == ['toy', 'toy-halfres']


@pytest.mark.parametrize('moment', ['replace record.json before', 'replace toy.ipynb before', 'replace toy.ipynb after',
                                    'rename .toy.old before', 'rename .toy.old after', 'rename toy after'])
def test_kill_at_the_worst_moment(checkout, fault, moment):
    checkout.paper('toy: {notebook: toy}\n')
    assert checkout('paper')[0] == 0
    checkout.notebook([*TOY[:4], TOY[4].replace('else 1', 'else 5'), SAVE])
    status, out, err = checkout('paper', **fault(*moment.split()))
    assert status != 0
    text = (checkout.root/'nbs/toy.ipynb').read_text()
    assert json.loads(text)['cells'][4]['source']                    # the notebook is whole
    if moment.startswith('re') and 'old after' not in moment:        # a whole record: old or new
        assert checkout.record()['metrics'][0]['value'] == (.3 if moment == 'rename toy after' else 1.5)
    assert checkout('paper')[0] == 0
    assert checkout.states() == {'toy': 'fresh'} and checkout.record()['metrics'][0]['value'] == .3
    assert [p.name for p in (checkout.root/'figures').glob('[!_]*')] == ['toy']


@pytest.mark.parametrize('name', ['record.json', 'toy.ipynb'])
def test_a_full_disk_is_an_error_and_loses_nothing(checkout, fault, name):
    checkout.paper('toy: {notebook: toy}\n')
    assert checkout('paper')[0] == 0
    checkout.notebook([*TOY[:4], TOY[4].replace('else 1', 'else 5'), SAVE])
    was = (checkout.root/'nbs/toy.ipynb').read_text()
    status, out, err = checkout('paper', **fault('replace', name, 'full'))
    assert status == 1 and 'No space left on device' in err
    assert checkout.record()['metrics'][0]['value'] == 1.5
    assert (checkout.root/'nbs/toy.ipynb').read_text() == was
    assert checkout('paper')[0] == 0 and checkout.record()['metrics'][0]['value'] == .3


def test_a_really_full_disk(checkout, tmp_path):
    disk = tmp_path/'disk'; disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', disk], capture_output=True).returncode:
        pytest.skip('no right to mount a small disk')
    try:
        (disk/'fill').write_bytes(b'0' * 60_000)
        status, out, err = checkout('run', 'toy', '--out', str(disk))
        assert status == 1 and 'No space left on device' in err
    finally: subprocess.run(['umount', disk])
    assert not (checkout.root/'figures/toy').exists()


def test_two_papers_at_once(checkout):
    (checkout.root/'nbs/hold').touch()
    with checkout.popen('paper') as first:
        until(lambda: (checkout.root/'nbs/pids').exists())
        status, out, err = checkout('paper')
        assert status == 1 and f'process {first.pid}' in err and len(err.strip().splitlines()) == 1
        (checkout.root/'nbs/hold').unlink()
        assert first.wait(60) == 0
    assert checkout.states() == {'toy': 'fresh', 'toy-halfres': 'fresh'}


def test_ctrl_c_ends_the_workers(checkout):
    (checkout.root/'nbs/hold').touch()
    with checkout.popen('paper') as p:
        pids = until(lambda: (f := checkout.root/'nbs/pids').exists() and f.read_text().split())
        p.send_signal(signal.SIGINT)
        assert p.wait(30) != 0
    until(lambda: not psutil.pid_exists(int(pids[0])))
    assert checkout.states()['toy'] == 'never run'


def test_one_failure_does_not_stop_the_others(checkout):
    checkout.notebook([*TOY[:4], 'assert not halfres, "too small"', TOY[4], SAVE])
    status, out, err = checkout('paper')
    assert status == 1
    assert checkout.states() == {'toy': 'fresh', 'toy-halfres': 'never run'}
    assert 'toy-halfres failed: AssertionError: too small' in err
    assert 'assert not halfres' in err and 'Traceback' in err        # the cell and its frames
    assert (checkout.root/'figures/_failed/toy-halfres.ipynb').exists()


def test_a_dead_kernel_is_a_failed_run(checkout):
    checkout.notebook([*TOY[:4], 'os.kill(os.getpid(), 9)', SAVE])
    status, out, err = checkout('run', 'toy')
    assert status == 1 and 'toy failed' in err and 'Kernel died' in err


def test_code_that_changes_during_a_run_is_not_published(checkout):
    (checkout.root/'nbs/hold').touch()
    with checkout.popen('run', 'toy') as p:
        until(lambda: (checkout.root/'nbs/pids').exists())
        checkout.notebook([*TOY[:4], TOY[4].replace('else 1', 'else 5'), SAVE])
        (checkout.root/'nbs/hold').unlink()
        out, err = p.communicate(timeout=300)
    assert p.returncode == 1 and 'not kept' in err
    assert checkout.states()['toy'] == 'never run'


def test_a_library_that_changes_during_a_run_is_not_published(checkout):
    checkout.library(extra='K = 1')
    checkout.notebook([*TOY[:3], 'if False: from medfolio.extra import K\n' + TOY[3], *TOY[4:]])
    (checkout.root/'nbs/hold').touch()
    with checkout.popen('run', 'toy') as p:
        until(lambda: (checkout.root/'nbs/pids').exists())
        checkout.library(extra='K = 2')
        (checkout.root/'nbs/hold').unlink()
        out, err = p.communicate(timeout=300)
    assert p.returncode == 1 and 'its code changed while it ran' in err
    assert checkout.states()['toy'] == 'never run'


def test_only_what_a_run_reaches_makes_it_stale(checkout):
    ours = dict(net='from .layers import deep\ndef fit(): return deep()\ndef plot(): return 1',
                layers='def deep(): return 1\ndef spare(): return 2', apart='def alone(): return 3')
    checkout.library(**ours); checkout.paper('toy: {notebook: toy}\n')
    checkout.notebook([*TOY[:3], 'if False:\n    from medfolio.net import fit; fit()\n' + TOY[3], *TOY[4:]])
    assert checkout('paper')[0] == 0
    assert checkout.record()['code']['modules'].keys() == {'medfolio.net', 'medfolio.layers'}
    for changed in (dict(net=ours['net'].replace('return 1', 'return 4')), dict(apart='def alone(): return 5'),
                    dict(layers=ours['layers'].replace('return 2', 'return 6'))):
        checkout.library(**ours | changed)
        assert checkout.states() == {'toy': 'fresh'}, changed
    checkout.library(**ours | dict(layers=ours['layers'].replace('return 1', 'return 7')))
    status, out, err = checkout('paper', '--check')
    assert status == 1 and 'medfolio.layers changed' in out and 'medfolio.net' not in out
    checkout.library(**ours)
    assert checkout('paper', '--check')[0] == 0


def test_papermill_alone_makes_a_result(checkout):
    out = checkout.root/'out.ipynb'
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(sys.path))
    call = lambda *args: subprocess.run([sys.executable, '-m', 'papermill', 'nbs/toy.ipynb', str(out), *args],
                                        cwd=checkout.root, capture_output=True, text=True, env=env)
    done = call('-p', 'halfres', 'false', '-p', 'value', '8')
    assert done.returncode == 0, done.stderr
    assert checkout.record('toy-value-8.0')['metrics'][0]['value'] == 8   # the text 'false' is False
    done = call('-p', 'halfrez', 'True')
    assert done.returncode == 1 and "did you mean 'halfres'?" in done.stderr


def test_same_seed_same_numbers(checkout):
    checkout.notebook([*TOY[:3], 'from medfolio.core import seed_all\nimport numpy as np\nseed_all(3)',
                       "run.metric('size', float(np.random.rand()), 0, 1, n=1)", SAVE])
    runs = []
    for _ in range(2):
        assert checkout('run', 'toy')[0] == 0
        runs.append(checkout.record()['metrics'])
    assert runs[0] == runs[1]
