"Links: from paths of the repository and names of symbols to addresses of a page"
import posixpath, re, runpy
from pathlib import Path
from medfolio.core import MedfolioError

MD = re.compile(r'^(?:```|~~~).*?^(?:```|~~~)[ \t]*$'  # a fenced block, kept as it is
                r'|(?P<tick>`+)(?P<code>.+?)(?P=tick)(?!`)'  # code in a line
                r'|(?P<bang>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]'
                r'\((?P<href>[^()\s]+)\)',
                re.M | re.S)
HTML = re.compile(r'(?P<attr>\b(?:href|src)=)"(?P<href>[^"]+)"')
OUTSIDE = re.compile(r'^(?:[a-z][\w+.-]*:|#|//)', re.I)


def plain(name):
    "`00_core` -> `core`: the numbers of file names order the reading, no more"
    return re.sub(r'^\d+[a-z]?_', '', name)


def page_of(path):
    "Address of the page made of a notebook, from its path in the repository"
    p = Path(path)
    if p.parts[0] == 'figures': return f'{p.parts[1]}.html'
    return Path(*p.parts[1:-1], f'{plain(p.stem)}.html').as_posix()


def symbols(root):
    "Module -> symbol -> address of its documentation, from nbdev's index"
    idx = runpy.run_path(str(Path(root)/'medfolio/_modidx.py'))['d']
    return {m: {k.removeprefix(f'{m}.'): v[0] for k, v in syms.items()
                if not k.removeprefix(f'{m}.').startswith('_')}
            for m, syms in idx['syms'].items()}


def find_symbol(name, syms, module=None):
    "Address of symbol `name`: this module's own, or the only one of that name"
    if name in syms.get(module, {}): return syms[module][name]
    hits = [d[name] for d in syms.values() if name in d]
    hits += [d[name[len(m)+1:]] for m, d in syms.items()
             if name.startswith(f'{m}.') and name[len(m)+1:] in d]
    hits += [f"{m.partition('.')[2].replace('.', '/')}.html" for m in syms if m == name]
    return hits[0] if len(hits) == 1 else None


def locate(root, href, folder):
    "Path in the repository and fragment of `href`, written in `folder`, or None"
    if OUTSIDE.match(href): return None
    path, _, frag = href.partition('#')
    path = posixpath.normpath(posixpath.join(folder, path))
    if path.startswith('..') or not (Path(root)/path).exists():
        raise MedfolioError(f"the link '{href}' leads to {path}, which is not there")
    return path, frag


def site_address(path, frag, page, blob):
    "Where `page` of the site finds a path of the repository"
    if path.endswith('.ipynb'): to, frag = page_of(path), frag.lower().replace(' ', '-')
    elif re.fullmatch(r'figures/[^/]+/record\.json', path): to = path[:-4] + 'html'
    elif path.startswith('figures/'): to = path
    else: return f'{blob}/{path}' + (f'#{frag}' if frag else '')
    return relative(to + (f'#{frag}' if frag else ''), page)


def relative(address, page):
    "An address of the site as `page` writes it, so that the site works in any folder"
    return posixpath.relpath(address, posixpath.dirname(page) or '.')


def rewrite(text, link, image, symbol=None):
    "Markdown with its links, pictures and names of symbols passed through functions"
    def one(m):
        if m['code']:
            name = m['code'].removesuffix('()')
            known = symbol and m['tick'] == '`' and re.fullmatch(r'[\w.]+', name)
            to = symbol(name) if known else None
            return link(m[0], to, 'sym') if to else m[0]
        if m['href'] is None or OUTSIDE.match(m['href']): return m[0]
        return (image if m['bang'] else link)(m['text'], m['href'])
    return MD.sub(one, text)


def rewrite_html(text, address):
    "HTML with its addresses passed through a function"
    return HTML.sub(lambda m: f'{m["attr"]}"{address(m["href"])}"', text)

