"Pages: a notebook, processed by nbdev, as a notebook that MyST-NB renders"
import html, importlib, inspect, json, re
from functools import partial
from pathlib import Path
import site_links as sl

SKIPPED = {'exec_show_docs', 'add_links', 'insert_warning', 'clean_show_doc', 'add_fold'}


def source(cell):
    "Text of a cell (or of an output's field), which JSON may hold as lines"
    text = cell['source'] if isinstance(cell, dict) else cell
    return ''.join(text)


def md(text): return dict(cell_type='markdown', metadata={}, source=text)


def processed(path, skip=()):
    "Notebook at `path` after nbdev's own processors; nothing of it is executed"
    from execnb.nbio import read_nb
    from nbdev.process import NBProcessor
    from nbdev.processors import FilterDefaults
    procs = [p for p in FilterDefaults().procs() if p.__name__ not in SKIPPED.union(skip)]
    nb = read_nb(path)
    exp = re.search(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(map(source, nb.cells)), re.M)
    NBProcessor(nb=nb, procs=procs, process=True)
    cells = [dict(cell_type=c.cell_type, metadata=dict(tags=list(c.metadata.get('tags', []))),
                  source=source(c), **(dict(execution_count=None, outputs=c.outputs)
                                       if c.cell_type == 'code' else {})) for c in nb.cells]
    return json.loads(json.dumps(cells)), exp and exp[1]


def directives(src):
    "The `#| key: value` lines of a cell, and the cell without them"
    found = dict(re.findall(r'^#\|\s*([\w-]+):?\s*(.*)$', src, re.M))
    return found, re.sub(r'^#\|.*\n?', '', src, flags=re.M).strip('\n')


def code(text):
    "Text for one line of a table, in code type"
    return f'<code>{html.escape(str(text))}</code>' if str(text) else ''


def docments_table(obj, inline):
    "Parameters of `obj` as a table: name, type, default, what it is"
    from fastcore.docments import docments
    empty, rows = inspect.Parameter.empty, []
    def told(x, show): return '' if x is empty or x is None else show(x)
    for name, d in docments(obj, full=True).items():
        if name in ('self', 'return') and (name == 'self' or not d.docment): continue
        kind = told(d.anno, lambda a: code(inspect.formatannotation(a).strip("'")))
        default = '' if d.default is empty else code(repr(d.default))
        name = '<em>returns</em>' if name == 'return' else code(name)
        rows.append(f'| {name} | {kind} | {default} | {inline(d.docment or "")} |'
                    .replace('||', r'\|\|'))
    return '| | Type | Default | |\n|---|---|---|---|\n' + '\n'.join(rows) if rows else ''


def symbol_doc(module, name, link, blob):
    "Documentation of `module.name`: signature, source, first line, table of parameters"
    obj = importlib.import_module(module)
    for part in name.split('.'): obj = inspect.getattr_static(obj, part)
    obj = inspect.unwrap(getattr(obj, 'fget', None) or getattr(obj, '__func__', obj))
    lines, start = inspect.getsourcelines(obj)
    where = f'{blob}/{module.replace(".", "/")}.py#L{start}'
    head, body = signature(lines, obj)
    doc, *more = (inspect.getdoc(obj) or '').split('\n', 1)
    return '\n\n'.join(filter(None, [
        f'<a class="anchor" id="{name.lower()}"></a>', f'### `{name}`',
        f'[source]({where}){{.source}}', f'```python\n{head}\n```',
        '{.lead}\n' + link(doc) if doc else '', *map(link, more),
        docments_table(obj, link), '<details class="body"><summary>Code</summary>' if body
        else '', f'```python\n{body}\n```' if body else '', '</details>' if body else '']))


def signature(lines, obj):
    "`def` or `class` line(s) of a symbol, without comments, and its whole source"
    body = inspect.cleandoc('\n'.join(['', *(o.rstrip('\n') for o in lines)]))
    name, prefix = obj.__name__, 'class ' if inspect.isclass(obj) else 'def '
    try: sig = inspect.signature(obj)
    except (TypeError, ValueError): return f'{prefix}{name}', body
    if inspect.isclass(obj) and issubclass(obj, Exception): sig = ''
    text = f'{prefix}{name}{sig}'
    if len(text) <= 78 or not sig: return text, body
    inner = ',\n'.join(f'    {p}' for p in sig.parameters.values())
    ret = '' if sig.return_annotation is sig.empty else \
        f' -> {inspect.formatannotation(sig.return_annotation)}'
    return f'{prefix}{name}(\n{inner},\n){ret}', body


def output(out, link_md, link_html):
    "An output with its links rewritten; a terminal's colours gone"
    data = out.get('data', {})
    if 'text/markdown' in data: data['text/markdown'] = link_md(source(data['text/markdown']))
    if 'text/html' in data: data['text/html'] = link_html(source(data['text/html']))
    return out


def cell(c, module, link_md, link_html, blob):
    "A processed cell as MyST-NB takes it"
    found, src = directives(c['source'])
    if c['cell_type'] == 'markdown': return md(link_md(c['source']))
    if shown := re.match(r'show_doc\(([\w.]+)', src):
        return md(symbol_doc(module, shown[1], link_md, blob))
    c['source'] = src
    tags = [t for k, v, t in [('echo', 'false', 'remove-input'), ('output', 'false', 'remove-output'),
                              ('code-fold', 'true', 'hide-input')] if found.get(k) == v]
    c['metadata'] = dict(tags=tags)
    if 'fig-cap' in found:
        c['metadata']['mystnb'] = dict(figure=dict(caption=found['fig-cap'].strip('"\'')))
    c['outputs'] = [output(o, link_md, link_html) for o in c['outputs']]
    return c


def heading(cells, name, badge='', note=''):
    "Title, badge, note and one-line summary, from nbdev's front matter, as a first cell"
    import yaml
    front = {}
    if cells and cells[0]['cell_type'] == 'raw':
        front = yaml.safe_load(cells[0]['source'].strip().strip('-')) or {}
        cells = cells[1:]
    parts = [f"# {front.get('title', name)}",
             f'<p class="badge">{html.escape(badge)}</p>' if badge else '', note,
             '{.lead}\n' + front['description'] if front.get('description') else '']
    return [md('\n\n'.join(filter(None, parts)))] + cells


def linkers(root, folder, page, syms, module, blob):
    "Functions that rewrite the Markdown and the HTML of one page"
    def address(href):
        at = sl.locate(root, href, folder)
        return sl.site_address(*at, page, blob) if at else href
    def link(text, href, kind=''):
        if kind: href = sl.relative(href, page)
        else: kind, href = ('num' if 'record.json' in href else 'in'), address(href)
        return f'<a class="{kind}" href="{href}">{text}</a>'
    def image(alt, href):
        at = sl.locate(root, href, folder)[0]
        return f'![{alt}](/_extra/{at})' if at.startswith('figures/') else f'![{alt}]({href})'
    symbol = partial(sl.find_symbol, syms=syms, module=module)
    return (lambda t: sl.rewrite(t, link, image, symbol)), \
        (lambda t: sl.rewrite_html(t, address))


def page(root, path, syms, blob, name=None, badge='', note=''):
    "The notebook at `path` (in the repository) as (address, MyST-NB notebook)"
    shown = f'nbs/{name}.ipynb' if name else path
    address, folder = sl.page_of(shown), str(Path(shown).parent)
    cells, module = processed(Path(root)/path)
    if module: module = f'medfolio.{module}'
    links = linkers(root, folder, address, syms, module, blob)
    cells = heading(cells, Path(address).stem, badge, note)
    cells = [cell(c, module, *links, blob) for c in cells]
    for i, c in enumerate(cells): c['id'] = f'c{i}'
    kernel = dict(kernelspec=dict(name='python3', display_name='python3', language='python'),
                  language_info=dict(name='python', pygments_lexer='ipython3'))
    return address, dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)
