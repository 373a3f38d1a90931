"Records: the pages that a number's link leads to"
import html, json, shutil
from pathlib import Path

PARTS = ('value', 'low', 'high', 'unit', 'n', 'no_skill', 'baseline')
PAGE = """---
orphan: true
---
# Record of `{run}`

{{.lead}}
What the run wrote, number by number, and where each comes from.
<a class="in" href="record.json">record.json</a>

<div class="table-box"><table class="data"><thead><tr>{head}</tr></thead>
<tbody>{rows}</tbody></table></div>

## Provenance

<div class="table-box"><table class="data plain"><tbody>{rest}</tbody></table></div>
"""
KEPT = ('.json', '.csv', '.png', '.svg', '.jpg')


def read(folder):
    "The record in `folder`, or an empty one"
    path = Path(folder)/'record.json'
    return json.loads(path.read_text()) if path.exists() else {}


def experiment(folder, names):
    "Experiment that the run in `folder` is of: by its record, else by its name"
    said = Path(str(read(folder).get('notebook', ''))).stem
    if said in names: return said
    fits = [n for n in names if folder.name.startswith(n)]
    return max(fits, key=len, default=None)


def variant(folder, run, base):
    "A line that says what a derived run changes, and whose text stands on its page"
    own, plain = (read(f).get('params', {}) for f in (folder, folder.with_name(base)))
    new = {k: v for k, v in own.items() if k not in plain or v != plain[k]}
    said = ', '.join(f'`{k} = {v!r}`' for k, v in new.items())
    of = f'<a class="in" href="{base}.html">{base}</a>'
    return (f'{{.note}}\nRun `{run}`, a variant of {of}{": " if said else ""}{said}. The text '
            f'and the first picture tell of `{base}`; what the cells print and draw is '
            'of this run.')


def number(v):
    "A value for a table"
    return f'{v:.4g}' if isinstance(v, float) else html.escape(str(v))


def metric_rows(metrics):
    "A row a metric, and an anchor for each of its numbers"
    for name, m in metrics.items():
        m = m if isinstance(m, dict) else dict(value=m)
        cells = [f'<td id="{name}.{k}">{number(m.get(k, ""))}</td>' for k in PARTS]
        yield f'<tr id="{name}"><th>{html.escape(name)}</th>{"".join(cells)}</tr>'


def flat(d, prefix=''):
    "Nested dictionaries as (key · key, value)"
    for k, v in d.items():
        if isinstance(v, list) and all(isinstance(o, dict) for o in v):
            v = {o.get('name', i): o.get('file', o) for i, o in enumerate(v)}
        if isinstance(v, dict): yield from flat(v, f'{prefix}{k} · ')
        else: yield f'{prefix}{k}', v


def page(run, record):
    "A record as Markdown: its metrics, then where they come from"
    metrics = record.get('metrics', {})
    if isinstance(metrics, list): metrics = {m['name']: m for m in metrics}
    head = ''.join(f'<th>{h}</th>' for h in ('', *PARTS)).replace('_', ' ')
    rest = flat({k: v for k, v in record.items() if k != 'metrics'})
    rest = ''.join(f'<tr><th>{html.escape(k)}</th><td>{number(v)}</td></tr>'
                   for k, v in rest)
    rows = ''.join(metric_rows(metrics))
    return PAGE.format(run=run, head=head, rows=rows, rest=rest)


def copy(root, src):
    "Put figures, tables and records into the site, and write a page a record"
    for p in sorted(root.glob('figures/[!_.]*/*')):
        if p.suffix not in KEPT: continue
        to = src/'_extra'/p.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(p, to)
    (src/'_extra').mkdir(exist_ok=True)
    for p in sorted(root.glob('figures/[!_.]*/record.json')):
        to = (src/p.relative_to(root)).with_suffix('.md')
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(page(p.parent.name, read(p.parent)))
