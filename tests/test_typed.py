"What the pages tell a reader to type: commands that exist, options they know, parameters that notebooks declare"
import re, shlex
import pytest
from typer.main import get_command
from medfolio.cli import app, asked_for
from medfolio.console import join_pairs
from medfolio.core import MedfolioError, read_nb, root
from medfolio.twins.rsna import rsna_twin

PAGES = sorted(p for p in (root()/'nbs').rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(root()).parts))


def blocks(page, *languages):
    "The fenced blocks of a notebook's prose that are in one of these languages"
    prose = '\n'.join(''.join(c['source']) for c in read_nb(page)['cells'] if c['cell_type'] == 'markdown')
    return [b for lang, b in re.findall(r'^```(\w*)\n(.*?)^```', prose, re.S | re.M) if lang in languages]


def commands(text):
    "The words of each command: no variables before it, no redirection and no comment behind"
    for line in text.replace('\\\n', ' ').splitlines():
        if re.match(r'(\w+=\S+ )*(medfolio|papermill) ', line):
            yield join_pairs(shlex.split(re.sub(r'^(\w+=\S+ )+| < \S+', '', line), comments=True))


def refuse_unknown(words):
    "An error where the words name a command, an option, a notebook or a parameter that is not there"
    command, rest = get_command(app), words[1:]
    while words[0] == 'medfolio' and hasattr(command, 'commands'):
        if rest[0] not in command.commands: raise MedfolioError(f'there is no command {rest[0]}')
        command = command.commands[rest.pop(0)]
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} if words[0] == 'medfolio' else {'-p'}
    for w in rest:
        if re.match('--?[a-z]', w) and w not in known: raise MedfolioError(f'{words[1]} has no option {w}')
    given = dict(pair.split('=', 1) for flag, pair in zip(rest, rest[1:]) if flag == '-p')
    if words[0] == 'papermill' or command.name in ('run', 'sweep'): asked_for(rest[0], given)


TYPED = [(page.stem, words) for page in PAGES for b in blocks(page, 'sh', 'bash', '') for words in commands(b)]


@pytest.mark.parametrize('words', [pytest.param(w, id=f'{page}: {" ".join(w)}') for page, w in TYPED])
def test_what_a_page_tells_to_type_exists(words): refuse_unknown(words)


@pytest.mark.parametrize('line, said', {
    'medfolio lits': 'lits', 'medfolio data chekc rsna': 'chekc', 'medfolio data check rsna --roots /x': '--roots',
    'medfolio run digits -p halfers True': 'halfers', 'medfolio run digts': 'digits', 'papermill nbs/digits.ipynb out.ipynb -p seeds few': 'seeds',
    'X=1 papermill nbs/digits.ipynb out.ipynb \\\n -p halfers True  # comment': 'halfers'}.items())
def test_a_mistyped_line_is_seen(line, said):
    with pytest.raises(MedfolioError, match=said): refuse_unknown(*commands(line))


def test_the_python_of_the_first_page_runs(tmp_path):
    rsna_twin(tmp_path/'scans', patients=2, seed=1, size=64, workers=1)
    (tmp_path/'scans/text.dcm').write_text('not a scan')
    code, = blocks(root()/'nbs/index.ipynb', 'python')
    assert '/scans/mine' in code
    exec(code.replace('/scans/mine', str(tmp_path/'scans')), got := {})
    assert [r.endswith('text.dcm') for r in got['unread'].file] == [True]
    assert len(got['slices']) == got['series'].slices.sum() > len(got['series']) >= 2 and not len(got['doubled'])
    assert got['hu'].dtype == 'int16' and got['x'].dtype == 'float32' and got['x'].shape == (3, *got['hu'].shape)
    assert 0 <= got['x'].min() < got['x'].max() <= 1
