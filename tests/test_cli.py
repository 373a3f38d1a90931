"Bad input: each costs one clear sentence and a status, never a page of frames"
import io, json, os, tarfile, zipfile
import pytest
from conftest import SAVE, TOY
from medfolio.core import MedfolioError, new_stage
from medfolio.record import seal


def refused(checkout, *args):
    "The one-line error of a command that must fail"
    status, out, err = checkout(*args)
    assert status == 1 and 'Traceback' not in err and len(err.strip().splitlines()) == 1, (status, out, err)
    return err


@pytest.mark.parametrize('paper, said', [
    ('toy: {notebook: toy', 'is not YAML (line 1)'),
    ('a: {include: b}\nb: {include: c}\nc: {include: a}', 'in a circle: a → b → c → a'),
    ('a: {include: toi}\ntoy: {notebook: toy}', "a → toi: no such run: did you mean 'toy'?"),
    ('toy: {notebook: tow}', 'there is no notebook'),
    ('toy: {notebook: toy, params: {halfrez: 1}}', "no parameter 'halfrez': did you mean 'halfres'?"),
    ('toy: {notebook: toy, params: {halfres: maybe}}', "'halfres' takes bool, and 'maybe' is not bool"),
    ('toy: {notebook: toy, tire: full}', "did you mean 'tier'?"),
    ('toy: {notebook: toy, tier: paper, params: [1]}', 'params is not a mapping')])
@pytest.mark.parametrize('command', ['list', 'paper'])
def test_a_bad_plan(checkout, paper, said, command):
    checkout.paper(paper)
    assert said in refused(checkout, command)
    assert not (checkout.root/'figures').exists()


@pytest.mark.parametrize('args, said', [
    (['run', 'tou'], "did you mean 'toy'?"),
    (['run', 'toy', '-p', 'halfrez', 'True'], "did you mean 'halfres'?"),
    (['run', 'toy', '-p', 'value', 'much'], "takes float, and 'much' is not float"),
    (['run', 'toy', '-p', 'value'], 'needs a name and a value'),
    (['paper', '--only', 'nothing'], "no run matches 'nothing'")])
def test_a_bad_command(checkout, args, said): assert said in refused(checkout, *args)


def test_debug_shows_the_frames(checkout):
    status, out, err = checkout('run', 'tou', '--debug')
    assert status == 1 and 'Traceback' in err


def test_a_notebook_without_parameters(checkout):
    checkout.notebook(TOY, tag='')
    assert 'no cell tagged `parameters`' in refused(checkout, 'list')


def test_a_notebook_without_a_record(checkout):
    checkout.notebook(TOY[:-1])
    status, out, err = checkout('run', 'toy')
    assert status == 1 and 'the last cell should be `run.save()`' in err


def test_figures_that_cannot_be_written(checkout):
    (checkout.root/'figures').write_text('a file where the folder should be')
    status, out, err = checkout('run', 'toy')
    assert status == 1 and 'cannot write to' in err and 'Traceback' not in err


def test_a_read_only_folder(tmp_path):
    folder = tmp_path/'figures'; folder.mkdir(); folder.chmod(0o555)
    me = os.geteuid()
    if me == 0: tmp_path.chmod(0o755); os.seteuid(65534)             # root may write anywhere
    try:
        with pytest.raises(MedfolioError, match='Permission denied'): new_stage(folder/'toy')
    finally: os.seteuid(me)


def test_damaged_records_are_named_and_made_again(checkout):
    checkout.paper('toy: {notebook: toy}\n')
    assert checkout('paper')[0] == 0
    path = checkout.root/'figures/toy/record.json'
    good = json.loads(path.read_text())
    better = json.loads(path.read_text()); better['metrics'][0]['value'] = 99
    for bad, said in [(json.dumps(better), 'was edited after its run'), (path.read_text()[:200], 'is not a record'),
                      (json.dumps(seal(good | dict(schema=99))), 'written by a newer medfolio (schema 99')]:
        path.write_text(bad)
        status, out, err = checkout('list')
        assert status == 0 and 'damaged' in out and said in ' '.join(out.split())
        assert checkout('paper', '--check')[0] == 1
    assert checkout('paper')[0] == 0 and checkout.states() == {'toy': 'fresh'}
    assert checkout.record()['metrics'] == good['metrics']


def test_variants_from_the_command_line(checkout, tmp_path):
    code, said = checkout('run', 'toy', '-p', 'halfres', 'true')[:2]   # the plan's own variant
    assert code == 0 and '1 left, about 60 s)' in said
    assert checkout.states() == {'toy': 'never run', 'toy-halfres': 'fresh'}
    assert checkout('run', 'nbs/toy.ipynb', '-p', 'value=3', '--out', str(tmp_path/'o'))[0] == 0
    assert (tmp_path/'o/toy-value-3.0/record.json').exists()
    code, said = checkout('run', 'toy', '--smoke')[:2]
    assert code == 0 and '1 left)' in said  # records know nothing of a rehearsal's time
    assert (checkout.root/'figures/_smoke/toy/record.json').exists()
    assert checkout.states()['toy'] == 'never run'


def test_claims_are_scored_by_what_was_registered(checkout):
    file = checkout.root/'nbs/claims.yaml'
    checkout.paper('toy: {notebook: toy}\n')
    file.write_text('toy.size: {expect: [1, 2], why: a guess, date: 2026-11-20}\n')
    assert 'pending' in checkout('claims')[1]
    assert checkout('paper')[0] == 0
    assert '1 pass' in checkout('claims')[1]
    file.write_text('toy.size: {expect: [1.4, 1.6], why: I saw it, date: 2026-11-20}\n')
    assert '1 afterwards' in checkout('claims')[1]
    file.write_text('toy.rare: {expect: [1, 2], why: counted where there is a file, date: 2026-11-20}\n')
    assert '1 pending' in checkout('claims')[1]  # no run has known it
    assert checkout('run', 'toy')[0] == 0 and '1 unmeasured' in checkout('claims')[1]
    assert checkout('paper')[0] == 0  # and the paper is made all the same
    file.write_text('toy.size: {expect: [2, 1], why: a guess, date: 2026-11-20}\n')
    assert 'not an interval' in refused(checkout, 'claims')
    file.write_text('tou.size: {expect: [1, 2], why: a guess, date: 2026-11-20}\n')
    assert "did you mean 'toy'?" in refused(checkout, 'claims')


def test_numbers_in_prose_come_from_records(checkout):
    checkout.paper('toy: {notebook: toy}\n')
    checkout.notebook(['# Toy\n\n> It is [?](../figures/toy/record.json#size)', *TOY[1:]])
    assert checkout('paper')[0] == 0
    text = (checkout.root/'nbs/toy.ipynb').read_text()
    assert '[2 % (0 to 100)](../figures/toy/record.json#size)' in text
    (checkout.root/'nbs/toy.ipynb').write_text(text.replace('2 % (0', '97 % (0'))
    status, out, err = checkout('paper', '--check')
    assert status == 1 and 'numbers in prose are behind: toy.ipynb' in out
    (checkout.root/'nbs/toy.ipynb').write_text(text.replace('json#size', 'json#syze'))
    assert "toy has no metric 'syze': did you mean 'size'?" in refused(checkout, 'paper')
    checkout.notebook(['# Toy\n\n## Results\nIt is 97.3 %.', *TOY[1:]])
    assert '97.3 typed into its results' in refused(checkout, 'paper')


def archive(path, items):
    "A zip of (name, bytes), or a tar.gz of (name, bytes or the address of a link)"
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
            for name, b in items: z.writestr(name, b)
        return path
    with tarfile.open(path, 'w:gz') as t:
        for name, b in items:
            m = tarfile.TarInfo(name)
            if isinstance(b, str): m.type, m.linkname, b = tarfile.SYMTYPE, b, b''
            m.size = len(b); t.addfile(m, io.BytesIO(b))
    return path


def test_unpack(checkout, tmp_path):
    "Several archives into one folder, twice; nothing outside it, nothing written over, nothing half"
    dest, there = tmp_path/'scans', lambda: sorted(p.relative_to(dest).as_posix() for p in dest.rglob('*') if p.is_file())
    good = [archive(tmp_path/'1.zip', [('a/1.png', b'one')]), archive(tmp_path/'2.tgz', [('a/2.png', b'two')])]
    for _ in range(2):
        status, out, err = checkout('data', 'unpack', *map(str, good), str(dest))
        assert status == 0 and not err and '1.zip: 1 files in' in out and '2.tgz: 1 files in' in out
    assert there() == ['a/1.png', 'a/2.png'] and (dest/'a/2.png').read_bytes() == b'two'
    for name, items, said, *more in [
            ('up.zip', [('ok', b'x'), ('../evil', b'x')], "a path that is not allowed: '../evil'"),
            ('root.tgz', [('/evil', b'x')], "a path that is not allowed: '/evil'"),
            ('link.tgz', [('l', str(tmp_path)), ('l/evil', b'x')], "'l' is a link or a device"),
            ('other.zip', [('new', b'x'), ('a/1.png', b'another')], "'a/1.png' exists already and differs"),
            ('bomb.zip', [('zeros', bytes(3_000_000))], 'more than 0.002 GB', '--max-gb', '.002')]:
        bad = archive(tmp_path/name, items)
        err = refused(checkout, 'data', 'unpack', str(bad), str(dest), *more)
        assert f'{name}: ' in err and said in err, err
        assert there() == ['a/1.png', 'a/2.png'] and not list(tmp_path.rglob('*evil*'))
    (tmp_path/'cut.zip').write_bytes(good[0].read_bytes()[:-9])
    assert 'cut.zip is damaged' in refused(checkout, 'data', 'unpack', str(tmp_path/'cut.zip'), str(dest))
    assert 'there is no archive' in refused(checkout, 'data', 'unpack', str(tmp_path/'none.zip'), str(dest))
    assert 'cannot unpack into' in refused(checkout, 'data', 'unpack', *map(str, good))  # the folder was forgotten
    assert checkout('data', 'unpack', str(good[0]))[0] == 2


def test_a_packed_download(checkout, tmp_path):
    "`check` names the command that unpacks what it found packed"
    archive(tmp_path/'Images_png_01.zip', [('Images_png/x', b'')])
    status, out, err = checkout('data', 'check', 'deeplesion', '--root', str(tmp_path))
    assert status == 1 and 'still packed: Images_png_01.zip; `medfolio data unpack`' in ' '.join(out.split())
