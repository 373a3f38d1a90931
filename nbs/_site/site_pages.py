"Pages: a notebook, processed by nbdev, as a notebook that MyST-NB renders"
import functools, html, importlib, inspect, itertools, json, re, textwrap
from functools import partial
from pathlib import Path
import site_links as sl
from medfolio.core import MedfolioError

SKIPPED = {'FrontmatterProc', 'exec_show_docs', 'add_links', 'insert_warning',
           'clean_show_doc', 'add_fold'}
TAGS = {('echo', 'false'): 'remove-input', ('output', 'false'): 'remove-output',
        ('code-fold', 'true'): 'hide-input'}
CAPTION = re.compile(r'\*\*(Figure|Table) \d')
SHOWN = re.compile(r'show_doc\(([\w.]+)')
TITLE = re.compile(r'\A# (.+)\n*((?:> ?.*\n?)*)')


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
    nb, skip = read_nb(path), SKIPPED.union(skip)
    procs = [p for p in FilterDefaults().procs() if p.__name__ not in skip]
    said = '\n'.join(map(source, nb.cells))
    exp = re.search(r'^#\|\s*default_exp\s+(\S+)', said, re.M)
    NBProcessor(nb=nb, procs=procs, process=True)
    return [as_cell(c) for c in nb.cells], exp and exp[1]


def as_cell(c):
    "A cell of nbdev's as a plain dictionary"
    ran = dict(execution_count=None, outputs=c.outputs) if c.cell_type == 'code' else {}
    c = dict(cell_type=c.cell_type, metadata={}, source=source(c), **ran)
    return json.loads(json.dumps(c))


def directives(src):
    "The `#| key: value` lines of a cell, and the cell without them"
    found = dict(re.findall(r'^#\|[ \t]*([\w-]+):?[ \t]*(.*)$', src, re.M))
    return found, re.sub(r'^#\|.*\n?', '', src, flags=re.M).strip('\n')


def named(text):
    "Classes and functions in a signature by their names, not as Python prints them"
    return re.sub(r"<(?:class '|function )(?:[\w.]+\.)?(\w+)[^>]*>", r'\1', text)


def code(text):
    "Text in code type, for a cell of a table"
    return f'`{text}`'.replace('|', r'\|') if text else ''


def docments_table(obj, inline):
    "What the parameters of `obj` are, as a table; empty where nothing is said of them"
    from fastcore.docments import docments
    told = {k: d for k, d in docments(obj).items() if k != 'self'}
    if not any(told.values()): return ''
    sig = inspect.signature(obj)
    def row(name, d):
        param = sig.parameters.get(name)
        kind = param.annotation if param else sig.return_annotation
        kind = '' if kind is sig.empty else inspect.formatannotation(kind).strip('"\'')
        default = param.default if param else sig.empty
        default = '' if default is sig.empty else named(repr(default))
        cells = code(name) if param else '*returns*', code(kind), code(default)
        return f'| {" | ".join(cells)} | {inline(d or "")} |'
    rows = [row(k, d) for k, d in told.items() if k != 'return' or d]
    return '\n'.join(['| Parameter | Type | Default | |', '|---|---|---|---|', *rows])


@functools.cache
def symbol(module, name):
    "Object `module.name`, its source, and the line where that starts"
    obj = importlib.import_module(module)
    for part in name.split('.'): obj = inspect.getattr_static(obj, part)
    obj = getattr(obj, 'fget', None) or getattr(obj, '__func__', obj)
    lines, start = inspect.getsourcelines(inspect.unwrap(obj))
    return inspect.unwrap(obj), textwrap.dedent(''.join(lines)), start


def signature(obj):
    "The `def` or `class` line(s) of a symbol"
    head = f'{"class" if inspect.isclass(obj) else "def"} {obj.__name__}'
    try: sig = inspect.signature(obj)
    except (TypeError, ValueError): return head
    if inspect.isclass(obj) and issubclass(obj, Exception): return head
    if len(line := named(f'{head}{sig}')) <= 78: return line
    inner = ''.join(f'    {named(str(p))},\n' for p in sig.parameters.values())
    back = sig.return_annotation
    back = '' if back is sig.empty else f' -> {inspect.formatannotation(back)}'
    return f'{head}(\n{inner}){back}'


def symbol_doc(module, name, link, blob):
    "What is to be said of `module.name`: signature, docstring, parameters, code"
    obj, body, start = symbol(module, name)
    where = f'{blob}/{module.replace(".", "/")}.py#L{start}'
    return '\n\n'.join(filter(None, [
        f'<a class="anchor" id="{name.lower()}"></a>', f'### `{name}`',
        f'{{.source}}\n[source]({where})', f'```python\n{signature(obj)}\n```',
        link(inspect.getdoc(obj) or ''), docments_table(obj, link),
        '<details class="body"><summary>Code</summary>', f'```python\n{body}```',
        '</details>']))


def in_order(cells, module):
    "Cells with the symbols of one exported cell in the order of their definition"
    shown = [SHOWN.match(directives(c['source'])[1]) for c in cells]
    key = lambda pair: symbol(module, pair[1][1])[2]
    runs = itertools.groupby(zip(cells, shown), lambda pair: bool(pair[1]))
    return [c for is_doc, run in runs
            for c, _ in (sorted(run, key=key) if is_doc else run)]


def output(out, link_md, link_html):
    "An output with its links rewritten, and what is a caption marked as one"
    data = out.get('data', {})
    if 'text/markdown' in data:
        text = link_md(source(data['text/markdown']))
        data['text/markdown'] = '{.caption}\n' * bool(CAPTION.match(text)) + text
    if 'text/html' in data: data['text/html'] = link_html(source(data['text/html']))
    return out


def picture(outputs):
    "Width and alternative text of a cell's picture, where it has just one"
    said = [o['metadata'].get('image/png', {}) for o in outputs
            if 'image/png' in o.get('data', {})]
    if len(said) != 1: return {}
    alt = said[0].get('alt') or 'Figure: the text beside it says what it shows'
    return dict(alt=re.sub(r'[*_`$]', '', alt)) | (
        {'width': f"{said[0]['width']}px"} if 'width' in said[0] else {})


def cell(c, module, link_md, link_html, blob):
    "A processed cell as MyST-NB takes it"
    found, src = directives(c['source'])
    if c['cell_type'] == 'markdown': return md(link_md(c['source']))
    if shown := SHOWN.match(src):
        return md(symbol_doc(module, shown[1], link_md, blob))
    c['source'] = src
    tags = [tag for said, tag in TAGS.items() if said in found.items()]
    c['metadata'] = dict(tags=tags, mystnb=dict(image=picture(c['outputs'])))
    if 'fig-cap' in found:
        c['metadata']['mystnb']['figure'] = dict(caption=found['fig-cap'].strip('"\''))
    c['outputs'] = [output(o, link_md, link_html) for o in c['outputs']]
    return c


def heading(cells, name, badge='', note='', suffix=''):
    "Title, badge, note and one-line summary, set apart from the rest of the first cell"
    first = source(cells[0]) if cells else ''
    title, lead = m.groups() if (m := TITLE.match(first)) else (name, '')
    lead = re.sub(r'^> ?', '', lead, flags=re.M).strip()
    rest = first[m.end():].strip('\n') if m else ''
    badge = f'<p class="badge">{html.escape(badge)}</p>' if badge else ''
    lead = f'{{.lead}}\n{lead}' if lead else ''
    parts = [f'# {title}{suffix}', badge, note, lead, rest]
    return [md('\n\n'.join(filter(None, parts)))] + cells[bool(m):]


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
        return f'![{alt}](/_extra/{sl.locate(root, href, folder)[0]})'
    symbol = partial(sl.find_symbol, syms=syms, module=module)
    return (lambda t: sl.rewrite(t, link, image, symbol)), \
        (lambda t: sl.rewrite_html(t, address))


def page(root, path, syms, blob, name=None, **said):
    "The notebook at `path` (in the repository) as (address, MyST-NB notebook)"
    shown = f'nbs/{name}.ipynb' if name else path
    address, folder = sl.page_of(shown), str(Path(shown).parent)
    cells, module = processed(Path(root)/path)
    if module: module = f'medfolio.{module}'
    links = linkers(root, folder, address, syms, module, blob)
    cells = heading(in_order(cells, module), Path(address).stem, **said)
    try: cells = [cell(c, module, *links, blob) for c in cells]
    except MedfolioError as e: raise MedfolioError(f'{path}: {e}') from None
    for i, c in enumerate(cells): c['id'] = f'c{i}'
    python = dict(name='python3', display_name='python3', language='python')
    kernel = dict(kernelspec=python,
                  language_info=dict(name='python', pygments_lexer='ipython3'))
    return address, dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)
