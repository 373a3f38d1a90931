"""The site: every notebook as a page in `_site/`, through MyST-NB, Sphinx and Furo.

`python nbs/_site/build.py` builds it where something changed, as `build(root)` does.
"""
import hashlib, json, os, shutil, subprocess, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path: sys.path.insert(0, str(HERE))
INPUTS = ('settings.ini', 'nbs/*.ipynb', 'nbs/[!_]*/**/*.ipynb', 'nbs/*.yaml',
          'medfolio/**/*.py', 'figures/[!_.]*/*')


def stamp(root, badges=None):
    "Digest of all that the site is made of"
    h = hashlib.sha256(json.dumps(badges or {}, sort_keys=True).encode())
    files = {p for pattern in INPUTS for p in root.glob(pattern)}
    files |= {p for p in HERE.rglob('*') if '__pycache__' not in p.parts}
    for p in sorted(p for p in files if p.is_file()):
        h.update(f'{p}\0'.encode() + hashlib.sha256(p.read_bytes()).digest())
    return h.hexdigest()


def build(
    root=None,  # the checkout; by default the one this file is in
    out=None,  # where the site goes; by default `_site` in the checkout
    badges=None,  # name of a notebook or of a run -> text of a badge on its page
    force=False,  # build even if nothing changed
):
    "Build the site where something changed, and return its folder"
    root = Path(root or HERE.parent.parent).resolve()
    out, mark = Path(out or root/'_site').resolve(), stamp(root, badges)
    old = out/'.stamp'
    if not force and old.exists() and old.read_text() == mark: return out
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(
        [str(root), *filter(None, [os.environ.get('PYTHONPATH')])]))
    job = json.dumps(dict(root=str(root), out=str(out), badges=badges or {}, mark=mark))
    done = subprocess.run([sys.executable, __file__, '--make', job], cwd=root, env=env)
    if done.returncode:
        from medfolio.core import MedfolioError
        raise MedfolioError('the site was not built: see above')
    return out


def write_readme(root=None):
    "Write README.md from nbs/index.ipynb, and return its path"
    import site_readme
    return site_readme.write(Path(root or HERE.parent.parent).resolve())


def notebooks(root):
    "Paths of the notebooks that are pages, as nbdev sees them: (experiments, library)"
    nbs = sorted(p.relative_to(root) for p in (root/'nbs').rglob('*.ipynb')
                 if not any(o[0] in '_.' for o in p.relative_to(root).parts))
    library = [p for p in nbs if len(p.parts) > 2 or p.name[0].isdigit()]
    return [p for p in nbs if p not in library and p.stem != 'index'], library


def derived(root, experiments):
    "Run -> experiment, of the runs that are kept as executed notebooks"
    import site_records
    names = {p.stem for p in experiments}
    runs = [p.parent for p in sorted(root.glob('figures/[!_.]*/notebook.ipynb'))]
    return {p.name: base for p in runs if p.name not in names
            and (base := site_records.experiment(p, names))}


def changed(run, base):
    "What the name of a derived run adds to its experiment's: ` · halfres`"
    return ' · ' + run.removeprefix(base).strip('-_.')


def toctree(entries, caption='', hidden=True):
    "A MyST list of pages: (title or '', address) each"
    lines = [f'{t} <{a}>' if t else a for t, a in entries]
    head = [':hidden:' if hidden else ':maxdepth: 1', f':caption: {caption}']
    head = head if caption else head[:1]
    return '\n'.join(['```{toctree}', *head, '', *lines, '```'])


def write_page(src, address, nb, extra=''):
    "Write a page's source; `extra` Markdown goes to its end"
    import site_pages
    nb['cells'].append(site_pages.md(extra) | dict(id='toc'))
    to = (src/address).with_suffix('.ipynb')
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps(nb))


def write_sources(root, src, badges):
    "Write the tree that Sphinx reads"
    import site_links as sl, site_pages, site_records
    from nbdev.config import get_config
    blob = f'{get_config().git_url}/blob/{get_config().branch}'
    page = lambda p, **kw: site_pages.page(root, str(p), sl.symbols(root), blob, **kw)
    experiments, library = notebooks(root)
    runs = derived(root, experiments)
    for p in experiments:
        own = [r for r, base in runs.items() if base == p.stem]
        own = [(p.stem + changed(r, p.stem), r) for r in own]
        more = f'## Variants of this run\n\n{toctree(own, hidden=False)}' if own else ''
        write_page(src, *page(p, badge=badges.get(p.stem, '')), more)
    for run, base in runs.items():
        note = site_records.variant(root/'figures'/run, run, base)
        write_page(src, *page(f'figures/{run}/notebook.ipynb', name=run, note=note,
                              suffix=changed(run, base), badge=badges.get(run, '')))
    groups = {}
    for p in library:
        write_page(src, *page(p))
        groups.setdefault(p.parts[1:-1], []).append(sl.page_of(p)[:-5])
    top = [('', o) for o in groups.pop((), [])]
    for folder, pages in groups.items():
        pages = [('', o.rpartition('/')[2]) for o in pages]
        (src/Path(*folder)/'index.md').write_text(
            f"# {' · '.join(folder).capitalize()}\n\n{toctree(pages, hidden=False)}\n")
        top.append(('', '/'.join([*folder, 'index'])))
    trees = [toctree([('', p.stem) for p in order(experiments)], 'Experiments'),
             toctree(top, 'Library')]
    write_page(src, *page('nbs/index.ipynb'), '\n\n'.join(trees))
    site_records.copy(root, src)


def order(experiments):
    "Experiments by name, the pages about all of them last"
    last = ['leakage', 'benchmarks', 'benchmarks_signals', 'results']
    return sorted(experiments, key=lambda p: (p.stem in last, p.stem))


def make(root, out, badges, mark):
    "Build into `_build`, and put a good result in the place of `out`"
    root, out = Path(root), Path(out)
    src, new = root/'_build/site_src', root/'_build/site_new'
    for p in (src, new): shutil.rmtree(p, ignore_errors=True)
    src.mkdir(parents=True)
    for p in ('conf.py', '_static'):
        (shutil.copytree if (HERE/p).is_dir() else shutil.copy)(HERE/p, src/p)
    write_sources(root, src, badges)
    options = ['-n', '-W', '--keep-going', '-q', '-E', '-d', root/'_build/doctrees']
    subprocess.run([sys.executable, '-m', 'sphinx', *options, src, new], check=True)
    (new/'.nojekyll').touch()
    (new/'.stamp').write_text(mark)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(new, out)


def main(args):
    "The command line: build, or (called by `build`) the work itself"
    from medfolio.core import MedfolioError
    try:
        if args[:1] == ['--make']: make(**json.loads(args[1]))
        else: print(build(force='--force' in args))
    except MedfolioError as e: sys.exit(f'site: {e}')
    except subprocess.CalledProcessError: sys.exit('site: Sphinx found faults, above')


if __name__ == '__main__': main(sys.argv[1:])
