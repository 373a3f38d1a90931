"README.md, from nbs/index.ipynb, with links to files of the repository"
import base64, re
import site_links as sl, site_pages as sp
from medfolio.core import MedfolioError, digest, write_atomic


def linkers(root, host):
    "Rewriters of Markdown and HTML for a README"
    def address(href):
        at = sl.locate(root, href, 'nbs')
        return '#'.join(filter(None, at)) if at else href
    def link(text, href, kind=''):
        return f'[{text}]({host}/{href})' if kind else f'[{text}]({address(href)})'
    syms = sl.symbols(root)
    symbol = lambda name: sl.find_symbol(name, syms)
    image = lambda alt, href: f'![{alt}]({address(href)})'
    return (lambda t: sl.rewrite(t, link, image, symbol),
            lambda t: sl.rewrite_html(t, address))


def picture(root, png):
    "Path of the committed figure that holds `png`; a new file where there is none"
    for p in sorted(root.glob('figures/[!_.]*/*.png')):
        if p.read_bytes() == png: return p.relative_to(root).as_posix()
    return write_atomic(root/f'figures/readme/{digest(png, 8)}.png',
                        png).relative_to(root).as_posix()


def output(out, root, link_md, link_html):
    "One output as Markdown"
    data = out.get('data', {})
    if 'text/markdown' in data: return link_md(sp.source(data['text/markdown']))
    if 'text/html' in data:
        text = re.sub(r'(?s)<style.*?</style>', '', sp.source(data['text/html']))
        return re.sub(r'\n\s*\n', '\n', link_html(text)).strip()
    if 'image/png' in data:
        png = base64.b64decode(sp.source(data['image/png']))
        return f'![]({picture(root, png)})'
    text = sp.source(out.get('text') or data.get('text/plain', '')).strip()
    return f'```\n{text}\n```' if text else ''


def cell(c, root, link_md, link_html):
    "A processed cell as blocks of Markdown"
    if c['cell_type'] == 'markdown': return [link_md(c['source'])]
    found, src = sp.directives(c['source'])
    code = [] if found.get('echo') == 'false' or not src else [f'```python\n{src}\n```']
    if found.get('output') == 'false': return code
    return code + [output(o, root, link_md, link_html) for o in c['outputs']]


def write(root):
    "Write README.md, and return its path"
    from contextlib import chdir
    from nbdev.config import get_config
    with chdir(root):
        host = f'{get_config().doc_host}{get_config().doc_baseurl}'.rstrip('/')
        cells, _ = sp.processed(root/'nbs/index.ipynb', {'add_show_docs'})
    links = linkers(root, host)
    try: blocks = [b.strip() for c in cells for b in cell(c, root, *links)]
    except MedfolioError as e: raise MedfolioError(f'nbs/index.ipynb: {e}') from None
    return write_atomic(root/'README.md', '\n\n'.join(filter(None, blocks)) + '\n')
