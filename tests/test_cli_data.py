"`medfolio data`: what is handed to the store, and what an interrupted twin leaves"
import signal, time
import pandas as pd, pytest
from types import SimpleNamespace
from typer.testing import CliRunner
from medfolio import cli_data
from medfolio.data import store


@pytest.mark.parametrize('name', ['deeplesion', 'rsna', 'cq500'])
@pytest.mark.parametrize('said, allow', [([], None), (['--allow', '0.5'], .5)], ids=['as usual', 'allow'])
def test_what_the_index_rejects_reaches_the_store(tmp_path, monkeypatch, name, said, allow):
    bad, got = pd.DataFrame([['a.png', 'the file is missing', '']], columns=['file', 'reason', 'exception']), {}
    monkeypatch.setattr(f'medfolio.data.{name}.index', lambda root: (pd.DataFrame(dict(item=['b'], path=['b.png'])), bad))
    def prepare(index, read, dest, root, size, **kw):
        got.update(kw); return SimpleNamespace(index=index, manifest=dict(rejects=len(kw['rejects']), absent=0))
    monkeypatch.setattr(store, 'prepare', prepare)
    out = CliRunner().invoke(cli_data.data, ['prepare', name, '--root', str(tmp_path), '--out', str(tmp_path/'s'), *said])
    assert out.exit_code == 0, out
    assert got['rejects'].equals(bad) and got.get('allow') == allow and '1 slices in' in out.output and '1 files were rejected' in out.output


@pytest.mark.parametrize('share', ['-0.1', '1.5', 'much'])
def test_a_share_that_is_none(tmp_path, share):
    assert CliRunner().invoke(cli_data.data, ['prepare', 'rsna', '--allow', share]).exit_code == 2


@pytest.mark.parametrize('name', ['rsna', 'deeplesion'])
def test_an_interrupted_twin_is_not_there(checkout, name):
    "Killed while it is drawn, a twin is not listed; asked for again, it is made"
    here = checkout.root/'data/twins'
    command = 'data', 'twin', name, '--units', '1', '--workers', '1'
    with checkout.popen(*command, MEDFOLIO_DATA='') as p:
        while p.poll() is None and not [f for f in here.rglob('*') if f.suffix in ('.png', '.dcm')]: time.sleep(.01)
        assert p.poll() is None, p.communicate()
        p.send_signal(signal.SIGKILL)
    state = lambda: next(l for l in checkout('data', 'list', MEDFOLIO_DATA='')[1].splitlines() if l.startswith(name))
    assert 'synthetic twin' not in state()
    assert checkout(*command, MEDFOLIO_DATA='')[0] == 0 and 'synthetic' in state()


@pytest.mark.parametrize('held', [b'', b'\xff\xfe\x00abc', b'name\n', None], ids=['empty', 'no text', 'no votes', 'not there'])
def test_votes_that_cannot_be_read_are_a_finding(tmp_path, held):
    if held is not None: (tmp_path/'reads.csv').write_bytes(held)
    scan = tmp_path/'CQ500CT3 CQ500CT3/Unknown Study/CT Plain'; scan.mkdir(parents=True); (scan/'CT000000.dcm').touch()
    r = CliRunner().invoke(cli_data.data, ['check', 'cq500', '--root', str(tmp_path)])
    assert r.exit_code == 1 and isinstance(r.exception, SystemExit) and 'reads.csv' in r.output and '1 scans, and no reads' in ' '.join(r.output.split())
