"The site as its readers meet it: the text transformations, then a real browser"
import functools, http.server, importlib, json, re, shutil, subprocess, sys, threading
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest
from medfolio.core import MedfolioError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'nbs/_site'))
import site_links as sl, site_pages as sp, site_records, site_readme  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = ('--headless --no-sandbox --disable-gpu --disable-quic --no-first-run '
         '--disable-background-networking --disable-component-update --disable-sync').split()
needs_browser = pytest.mark.skipif(not BROWSER, reason='no Chromium is installed')
SYMS = {'medfolio.core': {'root': 'core.html#root'},
        'medfolio.data.a': {'read': 'data/a.html#read'},
        'medfolio.data.b': {'read': 'data/b.html#read'}}


# Text

@pytest.mark.parametrize('path, page', [
    ('nbs/00_core.ipynb', 'core.html'), ('nbs/data/10_rsna.ipynb', 'data/rsna.html'),
    ('nbs/digits.ipynb', 'digits.html'), ('nbs/la5c.ipynb', 'la5c.html'),
    ('figures/digits-halfres/notebook.ipynb', 'digits-halfres.html')])
def test_address_of_a_notebook(path, page): assert sl.page_of(path) == page


@pytest.fixture
def repo(tmp_path):
    for f in ('nbs/00_core.ipynb', 'nbs/data/01_a.ipynb', 'figures/digits/record.json',
              'figures/digits/curve.png', 'Makefile'):
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/f).write_text('{}')
    return tmp_path


@pytest.mark.parametrize('folder, href, want', [
    ('nbs', '../figures/digits/record.json#accuracy', 'figures/digits/record.html#accuracy'),
    ('nbs/data', '../../figures/digits/curve.png', '../figures/digits/curve.png'),
    ('nbs/data', '../00_core.ipynb#Where-we-are', '../core.html#where-we-are'),
    ('nbs', 'data/01_a.ipynb', 'data/a.html'), ('nbs', '../Makefile', 'BLOB/Makefile')])
def test_links_of_the_site(repo, folder, href, want):
    page = 'data/x.html' if folder == 'nbs/data' else 'x.html'
    assert sl.site_address(*sl.locate(repo, href, folder), page, 'BLOB') == want


def test_a_link_to_nothing_is_refused(repo):
    for href in ('../figures/digits/gone.png', '../../outside', 'gone.ipynb'):
        with pytest.raises(MedfolioError, match='which is not there'):
            sl.locate(repo, href, 'nbs')
    assert sl.locate(repo, 'https://example.org', 'nbs') is None
    assert sl.locate(repo, '#here', 'nbs') is None


def test_symbols_are_linked_only_where_one_is_meant():
    assert sl.find_symbol('root', SYMS) == 'core.html#root'
    assert sl.find_symbol('read', SYMS) is None
    assert sl.find_symbol('read', SYMS, 'medfolio.data.b') == 'data/b.html#read'
    assert sl.find_symbol('medfolio.data.a.read', SYMS) == 'data/a.html#read'
    assert sl.find_symbol('medfolio.data.a', SYMS) == 'data/a.html'
    assert sl.find_symbol('nothing', SYMS) is None


def test_rewriting_leaves_code_alone():
    link, image = lambda t, h, kind='': f'<{kind}|{t}|{h}>', lambda t, h: f'!{t}|{h}!'
    symbol = functools.partial(sl.find_symbol, syms=SYMS)
    rw = lambda t: sl.rewrite(t, link, image, symbol)
    assert rw('see `root()` and `x`') == 'see <sym|`root()`|core.html#root> and `x`'
    assert rw('[`root`](a.ipynb)') == '<|`root`|a.ipynb>'
    assert rw('![p](p.png) [q](https://e.org)') == '!p|p.png! [q](https://e.org)'
    for same in ('```python\n[a](b) `root`\n```', '`[a](b.json)`', '``root``', '[a][b]'):
        assert rw(same) == same


def test_title_cell():
    first = sp.heading([sp.md('# Core\n> one line\n> two lines\n\nThe rest.')], 'x', 'stale')[0]
    assert first['source'].split('\n\n') == [
        '# Core', '<p class="badge">stale</p>', '{.lead}\none line\ntwo lines', 'The rest.']
    assert sp.heading([sp.md('No title')], 'x')[0]['source'] == '# x'


def test_captions_and_directives():
    same = lambda t: t
    out = dict(data={'text/markdown': ['**Figure 1.** A line.']})
    assert sp.output(out, same, same)['data']['text/markdown'].startswith('{.caption}\n**')
    assert sp.directives('#| echo: false\n#| hide\nx = 1') == (
        {'echo': 'false', 'hide': ''}, 'x = 1')


def test_table_of_docments():
    def f(a: int | None,  # what `a` is
          b='x'): pass
    table = sp.docments_table(f, str.upper)
    assert 'WHAT `A` IS' in table and r'`int \| None`' in table and "`'x'`" in table
    assert sp.docments_table(lambda a: 0, str) == ''


def test_record_page_has_an_anchor_for_each_number():
    page = site_records.page('r', dict(metrics=[dict(name='auc', value=.91234, no_skill=.5)],
                                       git=dict(commit='<b>')))
    assert 'id="auc.value">0.9123<' in page and 'id="auc.no_skill">0.5<' in page
    assert 'git · commit' in page and '<b>' not in page


def test_a_variant_says_what_it_changes_and_whose_text_it_carries(tmp_path):
    for run, params in dict(a=dict(lr=.1, bs=8), b=dict(lr=.2, bs=8, new=1)).items():
        (tmp_path/run).mkdir()
        (tmp_path/run/'record.json').write_text(json.dumps(dict(params=params)))
    note = site_records.variant(tmp_path/'b', 'b', 'a')
    assert '`lr = 0.2`, `new = 1`. The text' in note and 'bs' not in note
    assert 'first picture tell of `a`' in note


def test_readme_pictures_are_the_committed_figures(repo):
    (repo/'figures/digits/curve.png').write_bytes(b'png')
    assert site_readme.picture(repo, b'png') == 'figures/digits/curve.png'


# Browser

@pytest.fixture(scope='session')
def site():
    if not (ROOT/'_site/index.html').exists():
        subprocess.run([sys.executable, ROOT/'nbs/_site/build.py'], check=True)
    return ROOT/'_site'


@pytest.fixture(scope='session')
def host(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with http.server.ThreadingHTTPServer(
            ('127.0.0.1', 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


@pytest.fixture(scope='session')
def chromium():
    api = importlib.import_module('playwright.sync_api')
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium, host):
    "A page that fails its test if it asked another host, met an error or missed a file"
    context = chromium.new_context(viewport=dict(width=1280, height=900))
    page, faults = context.new_page(), []
    page.on('console', lambda m: m.type == 'error' and faults.append(f'console: {m.text}'))
    page.on('pageerror', lambda e: faults.append(f'script: {e}'))
    page.on('request', lambda r: r.url.startswith((host, 'data:', 'blob:'))
            or faults.append(f'asked another host: {r.url}'))
    page.on('response', lambda r: r.status < 400 or faults.append(f'{r.status}: {r.url}'))
    yield page
    context.close()
    assert not faults


def pages(site): return sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html'))


def experiment(site):
    "An experiment's page with a picture of its own"
    names = [p.stem for p in (ROOT/'nbs').glob('[!0-9]*.ipynb')]
    found = [n for n in ('digits', *sorted(names)) if (site/f'{n}.html').exists()
             and 'cell_output' in (t := (site/f'{n}.html').read_text()) and '_images/' in t]
    if not found: pytest.skip('no experiment has been written yet')
    return f'{found[0]}.html'


@needs_browser
def test_home(tab, host):
    tab.goto(host)
    assert tab.locator('h1').first.inner_text().strip('#¶ \n')
    captions = tab.locator('.sidebar-tree .caption').all_inner_texts()
    assert [c.lower() for c in captions][-1] == 'library'
    assert tab.locator('.sidebar-tree a[href="core.html"]').count() == 1


@needs_browser
def test_experiment(tab, host, site):
    tab.goto(host + experiment(site))
    pictures = tab.locator('.cell_output img')
    assert all(pictures.evaluate_all('all => all.map(i => i.complete && i.naturalWidth > 50)'))
    assert tab.locator('p.caption, figcaption').first.inner_text().strip()


@needs_browser
def test_library_page_tells_all_about_a_symbol(tab, host):
    tab.goto(host + 'core.html#write_atomic')
    part = tab.locator('section', has=tab.locator('h3', has_text='write_atomic')).last
    assert 'def write_atomic(path, data)' in part.locator('pre').first.inner_text()
    assert 'text or bytes' in part.locator('table').first.inner_text()
    href = part.locator('p.source a').get_attribute('href')
    line = int(re.search(r'medfolio/core\.py#L(\d+)$', href)[1])
    assert (ROOT/'medfolio/core.py').read_text().splitlines()[line-1].startswith('def write_')
    assert tab.evaluate('document.getElementById("write_atomic") !== null')


@needs_browser
def test_search_finds_a_symbol(tab, host):
    tab.goto(host)
    tab.locator('input[name=q]').first.fill('write_atomic')
    tab.keyboard.press('Enter')
    hit = tab.locator('#search-results li a', has_text=re.compile('write_atomic|Core'))
    hit.first.click()
    tab.wait_for_url(re.compile(r'/core\.html'))
    assert tab.locator('h3', has_text='write_atomic').count() == 1


LUMA = '''sel => {
  const rgb = c => { const x = document.createElement('canvas').getContext('2d');
    x.fillStyle = c; x.fillRect(0, 0, 1, 1); return [...x.getImageData(0, 0, 1, 1).data]; };
  const lum = c => rgb(c).slice(0, 3).map(v => v/255).map(v => v <= .03928 ? v/12.92
    : ((v+.055)/1.055)**2.4).reduce((s, v, i) => s + v*[.2126, .7152, .0722][i], 0);
  const back = e => { for (; e; e = e.parentElement) { const b = getComputedStyle(e).backgroundColor;
    if (rgb(b)[3] > 250) return b; } return 'white'; };
  return [...document.querySelectorAll(sel)].filter(e => e.innerText.trim()).map(e => {
    const [a, b] = [lum(getComputedStyle(e).color), lum(back(e))].sort((x, y) => y - x);
    return [(a+.05)/(b+.05), e.innerText.slice(0, 40)]; }); }'''


@needs_browser
def test_dark_mode_toggles_and_both_modes_are_readable(tab, host, site):
    tab.goto(host + 'core.html')
    seen = set()
    for _ in range(3):  # auto, then the two modes
        seen.add(tab.evaluate('getComputedStyle(document.body).backgroundColor'))
        low = [o for o in tab.evaluate(LUMA, 'article p, article td, article th, article h1, '
               'article a, article pre, article pre span, article summary, .sidebar-tree a')
               if o[0] < 4.5]
        assert not low
        tab.locator('.theme-toggle').locator('visible=true').first.click()
    assert len(seen) == 2


@needs_browser
def test_nothing_scrolls_sideways_on_a_telephone(tab, host, site):
    tab.set_viewport_size(dict(width=390, height=800))
    wide = []
    for p in pages(site):
        tab.goto(host + p)
        if (w := tab.evaluate('document.documentElement.scrollWidth')) > 390: wide.append((p, w))
    assert not wide


@needs_browser
def test_every_page_and_picture_loads_from_here(tab, host, site):
    for p in pages(site):
        tab.goto(host + p)
        tab.evaluate('document.querySelectorAll("img").forEach(i => i.loading = "eager")')
        broken = tab.evaluate('''Promise.all([...document.images].map(i =>
            i.decode().then(() => null, () => i.src))).then(a => a.filter(Boolean))''')
        assert not broken, p


# Files

class Page(HTMLParser):
    "Links, ids and addresses of files of one page"
    def __init__(self, text):
        super().__init__()
        self.links, self.files, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get('id'): self.ids.add(attrs['id'])
        if tag == 'a' and attrs.get('href'): self.links.append(attrs['href'])
        elif tag in ('img', 'script', 'link', 'iframe'):
            self.files += filter(None, (attrs.get('src'), attrs.get('href')))


def test_every_link_inside_the_site_resolves(site):
    read = functools.cache(lambda p: Page(p.read_text()))
    broken = []
    for name in pages(site):
        for href in read(site/name).links + read(site/name).files:
            url = urllib.parse.urlsplit(href)
            if url.scheme in ('http', 'https', 'mailto', 'data'): continue
            to = (site/name).parent/urllib.parse.unquote(url.path) if url.path else site/name
            ok = to.is_file() and (not url.fragment or to.suffix != '.html' or
                                   urllib.parse.unquote(url.fragment) in read(to).ids)
            if not ok: broken.append((name, href))
    assert not broken


def test_no_file_of_a_page_comes_from_elsewhere(site):
    far = [(p, f) for p in pages(site) for f in Page((site/p).read_text()).files
           if re.match(r'(https?:)?//', f)]
    assert not far


def test_maths_is_mathml(site):
    maths = re.compile(r'(?<![\\$`\w])\$[^$`\n]+\$|^\$\$', re.M)
    found = False
    for p in (ROOT/'nbs').glob('[!_]*/../*.ipynb'):
        cells = json.loads(p.read_text())['cells']
        said = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
        said = re.sub(r'```.*?```|`[^`]*`', '', said, flags=re.S)
        page = site/sl.page_of(p.resolve().relative_to(ROOT).as_posix())
        if maths.search(said): found = True; assert '<math' in page.read_text(), page
    if not found: pytest.skip('no notebook has a formula yet')
