"A tiny checkout with one experiment, and the command line run in it as a person would"
import json, os, subprocess, sys, time
from pathlib import Path
import pytest

SAVE = 'run.save()'
TOY = ['# Toy\n\n> A number from nothing', 'halfres: bool = False  # half the size\nvalue: float = 1.5  # what comes out',
       "from pathlib import Path\nimport os, time\nfrom medfolio.record import Run\nrun = Run('toy', globals())",
       "Path('pids').write_text(f'{os.getpid()} {os.getppid()}')\nwhile Path('hold').exists(): time.sleep(.05)",
       "run.data('none', 'toy')\nrun.metric('size', value / (2 if halfres else 1), 0, 100, n=10, unit='%', no_skill=0)",
       SAVE]


class Checkout:
    "A repository with nbs/toy.ipynb, and `medfolio` called in it"
    def __init__(self, root):
        self.root = root
        (root/'nbs/_site').mkdir(parents=True)
        (root/'settings.ini').write_text('[DEFAULT]\nlib_name = medfolio\n')
        (root/'requirements.lock').write_text('torch==0\n')
        (root/'nbs/_site/build.py').write_text('def write_readme(root): (root/"README.md").write_text("made")\n')
        self.notebook(TOY)
        self.paper('toy: {notebook: toy}\ntoy-halfres: {include: toy, params: {halfres: true}}\n')

    def notebook(self, sources, name='toy', tag='parameters'):
        "Write a notebook: the first cell is prose, the second has the tag"
        cells = [dict(cell_type='code' if i else 'markdown', id=f'c{i}', source=s.splitlines(True),
                      metadata=dict(tags=[tag]) if i == 1 and tag else {},
                      **(dict(outputs=[], execution_count=None) if i else {})) for i, s in enumerate(sources)]
        spec = dict(name='python3', display_name='python3', language='python')
        nb = dict(cells=cells, metadata=dict(kernelspec=spec), nbformat=4, nbformat_minor=5)
        (self.root/f'nbs/{name}.ipynb').write_text(json.dumps(nb, indent=1, sort_keys=True) + '\n')

    def paper(self, text): (self.root/'nbs/paper.yaml').write_text(text)

    def library(self, **modules):
        "Write modules of a package `medfolio` of the checkout's own: read for their names, never run"
        (self.root/'medfolio').mkdir(exist_ok=True)
        for name, text in modules.items(): (self.root/f'medfolio/{name}.py').write_text(text)

    def popen(self, *args, **env):
        env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'MEDFOLIO_SMOKE', 'MEDFOLIO_ROOT')} | env
        start = ('import signal; signal.signal(signal.SIGINT, signal.default_int_handler); '  # a shell's `&` ignores Ctrl-C
                 'from medfolio.cli import main; main()')
        return subprocess.Popen([sys.executable, '-c', start, *args],
                                cwd=self.root/'nbs', env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __call__(self, *args, **env):
        "Status, standard output and standard error of a command"
        with self.popen(*args, **env) as p:
            out, err = p.communicate(timeout=600)
            return p.returncode, out, err

    def record(self, run='toy'):
        from medfolio.record import read_record
        return read_record(self.root/f'figures/{run}')

    def states(self):
        "Run -> state, as `medfolio list` prints it"
        status, out, err = self('list')
        assert status == 0, err
        words = 'never run', 'fresh', 'stale', 'damaged'
        lines = [l for l in out.splitlines() if l.startswith('toy') and ' paper ' in l]
        return {l.split()[0]: next(w for w in words if w in l) for l in lines}


def until(true, seconds=300):  # a bound for a slow machine, not a measure of speed
    end = time.time() + seconds
    while time.time() < end:
        if value := true(): return value
        time.sleep(.05)
    raise TimeoutError


@pytest.fixture
def checkout(tmp_path): return Checkout(tmp_path)


@pytest.fixture(scope='session')
def repository(): return Path(__file__).resolve().parent.parent
