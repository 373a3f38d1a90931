"The rules of the house: who imports whom, one set of versions, notebooks of readable size"
import configparser, json, re, tomllib
from importlib.metadata import version
from pathlib import Path
import pytest, yaml
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from packaging.requirements import Requirement
from medfolio.fresh import imports

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(ROOT).parts))
LIBRARY = [p for p in NOTEBOOKS if p.name[0].isdigit()]
EXPERIMENTS = [p for p in NOTEBOOKS if p not in LIBRARY and p.stem != 'index']
name_of = lambda p: p.relative_to(ROOT/'nbs').as_posix()

# layer -> layers it may import; `base` is core and what a record is made of
BASE = {'core', 'plots', 'fresh', 'provenance', 'record'}
TOP = {'roads', 'roads_head', 'roads_eeg', 'plan', 'worker', 'paper', 'claims', 'prose', 'console', 'cli', 'cli_data',
       'cli_predict', 'cli_submission', 'cli_sweep'}
MAY = dict(base={'base'}, data={'base', 'data'}, twins={'base', 'twins'}, models={'base', 'models'},
           training={'base', 'data', 'models', 'training'},
           top={'base', 'top', 'data', 'twins', 'models', 'training'})


def layer(module):
    first = module.split('.')[1]
    return 'base' if first in BASE else 'top' if first in TOP else first


def crossings(modules):
    "Imports that the rules forbid, of {module: source}"
    return [f'{m} imports {i}' for m, src in modules.items() for i in sorted(imports(src, m))
            if '.' in i and not i.startswith('medfolio._') and layer(i) not in MAY[layer(m)]]


def test_who_imports_whom():
    files = [p for p in (ROOT/'medfolio').rglob('*.py') if not p.name.startswith('_')]
    modules = {'.'.join(p.relative_to(ROOT).with_suffix('').parts): p.read_text() for p in files}
    assert modules and not crossings(modules)


def test_a_forbidden_import_is_seen():
    for m, src in [('medfolio.data.x', 'from ..twins.head import draw'), ('medfolio.core', 'import medfolio.data.x'),
                   ('medfolio.models.x', 'from medfolio.data import store'), ('medfolio.twins.x', 'from ..data.dicom import f')]:
        assert crossings({m: src}), m
    assert not crossings({'medfolio.training.x': 'from medfolio.data.store import Store\nfrom ..core import root'})


HIDDEN = r'__init_subclass__|\bglobals\(|sys\.modules\[__name__|\b(?:eval|exec)\('


def hidden(src):
    "Ways to reach or change code that freshness cannot see"
    code = re.sub(r'"[^"\n]*"|#.*', '', src)
    return [l.strip() for l in code.splitlines() if re.search(rf'(?<![.\w])(?:{HIDDEN})', l)]


def test_nothing_in_the_library_hides_from_freshness():
    files = [p for p in (ROOT/'medfolio').rglob('*.py') if not p.name.startswith('_')]
    found = {p.name: h for p in files if (h := hidden(p.read_text()))}
    assert files and not found
    assert len(hidden('exec(x)\nnet.eval()\ndef __init_subclass__(cls): pass\nglobals()[name] = 1')) == 3


# Versions

def pins(text):
    "Name, version and marker of each line of a lock"
    lines = [l.strip().rstrip('\\').strip() for l in text.splitlines() if re.match(r'[a-z0-9]', l)]
    return {(r.name, str(r.specifier), str(r.marker or '')) for r in map(Requirement, lines)}


def settings():
    c = configparser.ConfigParser(); c.read(ROOT/'settings.ini')
    return c['DEFAULT']


def test_lock_and_plain_requirements_agree():
    locked = pins((ROOT/'requirements.lock').read_text())
    assert len(locked) > 100 and locked == pins((ROOT/'requirements.txt').read_text())
    assert pins('a==1 \\\n    --hash=x\n') != pins('a==2\n')


def test_the_lock_holds_what_was_chosen_and_this_environment_has_it():
    locked = {}
    for name, spec, marker in pins((ROOT/'requirements.lock').read_text()):
        r = Requirement(f'{name}{spec}' + (f'; {marker}' if marker else ''))
        if not r.marker or r.marker.evaluate(): locked[name] = spec.lstrip('=')
    chosen = [Requirement(l) for l in (ROOT/'requirements.in').read_text().splitlines() if l and l[0] != '#']
    for r in chosen: assert locked[r.name] in r.specifier, r
    off = {n: (v, version(n)) for n, v in locked.items() if version(n).split('+')[0] != v}
    assert not off, f'installed and locked versions differ: {off}; run make setup'


def test_the_four_descriptions_of_the_project_agree():
    s, proj = settings(), tomllib.loads((ROOT/'pyproject.toml').read_text())
    p = proj['project']
    for key, theirs in dict(lib_name='name', version='version', description='description').items():
        assert s[key] == p[theirs]
    assert p['requires-python'] == f'>={s["min_python"]}'
    assert proj['tool']['setuptools']['dynamic']['dependencies']['file'] == ['requirements.txt']
    env = yaml.safe_load((ROOT/'environment.yml').read_text())
    assert f'python>={s["min_python"]}' in env['dependencies']
    assert dict(pip=['-r requirements.lock']) in env['dependencies'] and env['name'] == s['lib_name']
    import medfolio
    assert medfolio.__version__ == s['version']


# Notebooks

def cells(path, kind):
    return [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind]


def exported(path):
    return [s for s in cells(path, 'code') if re.search(r'^#\|\s*export', s, re.M)]


@pytest.mark.parametrize('path', LIBRARY, ids=name_of)
def test_library_notebooks_read_like_a_chapter(path):
    code, prose = exported(path), cells(path, 'markdown')
    size = lambda s: len([l for l in s.splitlines() if l.strip() and not l.startswith('#|')])
    assert re.match(r'# .+\n\n> .+', prose[0])
    assert sum(map(size, code)) <= 300 and sum(len(p.split()) for p in prose) >= 250
    for s in code:
        assert size(s) <= (40 if 'nn.Module' in s else 30), s[:200]
        for line in s.splitlines(): assert len(line) <= 88, line


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_notebooks_are_small_and_without_errors(path):
    assert path.stat().st_size <= 1_500_000
    for c in json.loads(path.read_text())['cells']:
        for o in c.get('outputs', []):
            assert o['output_type'] != 'error', ''.join(c['source'])
            assert len(o.get('data', {}).get('image/png', '')) <= 150_000 * 4 / 3


SECTIONS = ['Question', 'Data', 'Model', 'Training', 'Results', 'What it means', 'On the real data', 'References']


def formulas(cells):
    "What stands between dollars in the text"
    text = re.sub(r'```.*?```|`[^`]*`', '', '\n\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown'), flags=re.S)
    return re.findall(r'\$\$(.+?)\$\$', text, re.S) + re.findall(r'(?<![$\\])\$([^$\n]+?)\$(?!\$)', text)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_every_formula_can_be_set(path):
    for f in formulas(json.loads(path.read_text())['cells']): tex2mathml(f)  # as the site does


def test_a_formula_that_cannot_be_set_is_seen():
    f, = formulas([dict(cell_type='markdown', source=[r'a $\big(x\big)$ and `$HOME`'])])
    with pytest.raises(MathError): tex2mathml(f)


@pytest.mark.parametrize('path', [p for p in EXPERIMENTS if p.stem not in ('results', 'benchmarks')], ids=name_of)
def test_experiments_have_the_same_sections(path):
    found = re.findall(r'^## (.+)$', '\n'.join(cells(path, 'markdown')), re.M)
    assert [f for f in found if f in SECTIONS] == SECTIONS


def test_every_result_belongs_to_a_run_of_the_plan():
    from medfolio.plan import plan
    from medfolio.record import records
    good, bad = records(ROOT)
    assert not bad and set(good) <= set(plan(ROOT))
    assert not [r for r in good.values() if r['smoke'] or not r['clean']]


def test_no_file_names_this_machine_or_a_package_index():
    import subprocess
    files = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True).stdout.split('\0')
    homes = r'(?<![\w.}])/(?:work|root|Users|mnt|scratch)/'  # wherever this clone lies
    bad = re.compile('|'.join([homes, 'index' + '-url', 'find' + '-links', r'https?://\S*/simple\b']))
    texts = [(f, (ROOT/f).read_bytes().decode('utf8', 'ignore')) for f in files if f and (ROOT/f).is_file()]
    found = [f'{f}: {m[0]}' for f, t in texts if (m := bad.search(t))]
    assert not found
