"The competition's file as a person makes it: `medfolio submission` on good, odd and broken input, and after SIGKILL"
import contextlib, csv, io, json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
import make_dicom
from medfolio.core import MedfolioError
from medfolio.data.rsna import KINDS, index, read_submission
from medfolio.training.bleeds import Bleeds
from medfolio.training.pipeline import open_model
from medfolio.training.saved import save_model

# The stand-in for the network: its logits are simple sums of what the real `Classifier` shows it, so that an answer
# can be checked against the pixels it belongs to. Imported by the command through PYTHONPATH.
STAND_IN = '''
import os, time
import torch
from medfolio.models.ich import Slices
from medfolio.training import pipeline

class Net(Slices):
    def __init__(self): super().__init__(torch.nn.Identity(), 3)
    def forward(self, x):
        time.sleep(float(os.environ.get('SLOW', 0)))
        return super().forward(x)

def make(card): return dict(net=Net())

pipeline.TASKS['toy'] = 'stand_in:make', 'medfolio.training.bleeds:classifier', pipeline.Bleeds
'''
ARCH = dict(size=16, factor=1, windows=['brain', 'subdural', 'blood'], temperature=[1, 1, 1, 1, 1, 2])
CARD = dict(name='stand-in', task='toy', arch=ARCH, data=dict(kind='twin', name='RSNA'), split='', patients=1,
            metrics=[], use='tests', limits='knows nothing')
name = lambda i: f'ID_{i:09x}'


def images(folder, n, seed=0, series=10):
    "`n` slices of 16 × 16 under the challenge's names; one header, written once"
    folder.mkdir(parents=True, exist_ok=True)
    make_dicom.write(folder/'first', np.zeros((16, 16), np.int16), SOPInstanceUID='ID_' + 'f'*9,
                     SeriesInstanceUID='ID_' + 'e'*10, ImagePositionPatient=[0, 0, 77777.5])
    blank = (folder/'first').read_bytes(); (folder/'first').unlink()
    assert b'ID_' + b'f'*9 in blank and b'ID_' + b'e'*10 in blank and b'77777.5' in blank
    hu = np.random.default_rng(seed).integers(-20, 120, (n, 16, 16)).astype('<i2')
    for i, a in enumerate(hu):
        b = blank.replace(b'ID_' + b'f'*9, name(i).encode()).replace(b'ID_' + b'e'*10, f'ID_{i//series:010x}'.encode())
        b = b.replace(b'77777.5', f'{5*i:07.1f}'.encode())  # a place each
        (folder/f'{name(i)}.dcm').write_bytes(b[:-512] + a.tobytes())
    return hu


def sample(path, rows):
    path.write_text('ID,Label\n' + ''.join(f'{r},0.5\n' for r in rows)); return path


def six(i): return [f'{name(i)}_{k}' for k in KINDS]


def truth(hu, net):
    "What the stand-in must say, in float64 and without our windows"
    low, width = np.array([[0, 80], [-20, 200], [-150, 380]], float).T
    x = ((hu.astype(float)[..., None] - low)/width).clip(0, 1).mean((1, 2))
    w, b = (o.detach().double().numpy() for o in (net.head.weight, net.head.bias))
    return 1/(1 + np.exp(-(x @ w.T + b)/np.array(ARCH['temperature'])))


@pytest.fixture
def world(tmp_path, monkeypatch):
    "A model and its code"
    (tmp_path/'stand_in.py').write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path); monkeypatch.chdir(tmp_path); sys.modules.pop('stand_in', None)
    import stand_in
    torch.manual_seed(0)
    net = stand_in.Net(); torch.nn.init.normal_(net.head.weight, std=4)
    save_model(tmp_path/'model.safetensors', dict(net=net), CARD)
    yield tmp_path, net
    from medfolio.training import pipeline
    pipeline.TASKS.pop('toy', None); sys.modules.pop('stand_in', None)


def start(where, command, *args, **env):
    "The command as a process of its own"
    code = 'import stand_in; from medfolio.cli import main; main()'
    path = os.pathsep.join([str(where), *filter(None, [os.environ.get('PYTHONPATH')])])
    return subprocess.Popen([sys.executable, '-c', code, command, '--model', 'model.safetensors', *map(str, args)], cwd=where,
                            env=os.environ | dict(PYTHONPATH=path) | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def call(command, *args):
    "Status, standard output and standard error; in this process, which spares ten seconds of imports"
    from medfolio.cli import main
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as m, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        m.setattr(sys, 'argv', ['medfolio', command, '--model', 'model.safetensors', *map(str, args)])
        try: main()
        except SystemExit as e: status = e.code or 0
    return status, out.getvalue(), err.getvalue()


def table(path): return list(csv.DictReader(open(path, newline='')))


def numbers(path): return read_submission(path)[list(KINDS)].to_numpy()


def mark(journal, item):
    "Put a mark into what is known of a slice: it will be there still, if the slice is not computed again"
    lines = journal.read_text().splitlines(True)
    at, = (i for i, l in enumerate(lines) if f'/{item}.dcm"' in l)
    said = json.loads(lines[at]); said['answers'][0]['probabilities']['any'] = .987654
    lines[at] = json.dumps(said) + '\n'; journal.write_text(''.join(lines))


def test_a_thousand_images_one_of_them_corrupt(world):
    here, net = world
    hu = images(here/'test', 1000)
    order = np.random.default_rng(1).permutation(1000)
    sample(here/'s.csv', [r for i in order for r in six(i)])
    bad = here/'test'/f'{name(500)}.dcm'; whole = bad.read_bytes(); bad.write_bytes(whole[:-99])
    args = '--sample', 's.csv', '--images', 'test', '--out', 'F.csv', '--batch', '7'
    status, out, err = call('submission', *args)
    assert status == 1 and '1,000 slices → F.csv' in out, err
    assert f'{name(500)}.dcm' in err and '1 slice without an answer: F.rejects.csv' in err, err
    got, p = read_submission(here/'F.csv'), truth(hu, net)
    assert got.item.tolist() == [name(i) for i in order]
    others = np.delete(np.arange(1000), 500)
    p[500] = p[others].mean(0)
    assert np.abs(got[list(KINDS)].to_numpy() - p[order]).max() < 2e-6
    assert [r['file'] for r in table(here/'F.rejects.csv')] == [f'test/{name(500)}.dcm']
    mark(here/'.F.csv.work/journal.jsonl', name(order[0]))
    bad.write_bytes(whole)                                                       # mended: it alone is asked again
    status, out, err = call('submission', *args)
    assert status == 0 and not err, err
    assert table(here/'F.rejects.csv') == [] and not list(here.glob('.F.csv*'))
    p = truth(hu, net); p[order[0], -1] = .987654
    assert np.abs(numbers(here/'F.csv') - p[order]).max() < 2e-6


def test_predict_and_index_of_a_thousand_images_one_of_them_corrupt(world):
    here, net = world
    folder = here/'set/stage_2_train_images'
    hu, y = images(folder, 1000), np.random.default_rng(3).random((1000, 6)) < .1
    y[:, 5] = y[:, :5].any(1)
    bad = folder/f'{name(500)}.dcm'; bad.write_bytes(bad.read_bytes()[:300])     # it has not even a header
    status, out, err = call('predict', folder, '--out', 'found', '--batch', 16)
    assert status == 1 and '999 files answered' in out and f'{name(500)}.dcm' in err, err
    rows, others = table(here/'found/predictions.csv'), np.delete(np.arange(1000), 500)
    assert [Path(r['file']).stem for r in rows] == [name(i) for i in others]
    got = np.array([[float(r[k]) for k in KINDS] for r in rows])
    assert np.abs(got - truth(hu, net)[others]).max() < 2e-6
    assert [Path(r['file']).stem for r in table(here/'found/rejects.csv')] == [name(500)]

    label = lambda i: [f'{r},{int(v)}\n' for r, v in zip(six(i), y[i])]
    csv_of = lambda who: (here/'set/stage_2_train.csv').write_text('ID,Label\n' + ''.join(l for i in who for l in label(i)))
    y = np.vstack([y, np.zeros((1, 6), bool)])
    csv_of([*range(7), *range(8, 1001)])                                         # no labels of 7; labels of 1000, no image
    df, rejects = index(here/'set', workers=1)
    assert sorted(df.item) == sorted(name(i) for i in range(1000) if i not in (7, 500))
    assert (df.sort_values('item')[list(KINDS)].to_numpy() == y[[int(o[3:], 16) for o in sorted(df.item)]]).all()
    why = {Path(r.file).stem: r.reason for r in rejects.itertuples()}
    assert set(why) == {name(7), name(500), name(1000)} and all(why.values())
    assert why[name(7)] == 'it has no labels' and why[name(1000)] == 'the file is missing'
    assert why[name(500)] not in ('it has no labels', 'the file is missing')     # the reason is what is wrong with it


def test_an_empty_folder_and_one_where_nothing_is_good(world):
    here, _ = world
    (here/'set/stage_2_train_images').mkdir(parents=True); (here/'set/stage_2_train.csv').write_text('ID,Label\n')
    with pytest.raises(MedfolioError, match='no readable DICOM file'): index(here/'set', workers=1)
    (here/'void').mkdir()
    assert call('predict', 'void')[0] == 2 and not (here/'predictions').exists()
    for i in range(3): (here/'void'/f'{name(i)}.dcm').write_bytes(b'cut')
    status, out, err = call('predict', 'void')
    assert status == 1 and '0 files answered' in out and '3 files without an answer' in err, err
    assert len(table(here/'predictions/rejects.csv')) == 3 and table(here/'predictions/scans.csv') == []
    sample(here/'s.csv', [r for i in range(3) for r in six(i)])
    status, out, err = call('submission', '--sample', 's.csv', '--images', 'void')
    assert status == 2 and 'not one image could be answered' in err and not (here/'submission.csv').exists(), err
    assert len(table(here/'submission.rejects.csv')) == 3


def test_any_batch_size_gives_the_same(world):
    from medfolio.training.submission import submit
    here, net = world
    model, r = open_model(here/'model.safetensors'), np.random.default_rng(2)
    for trial in range(6):
        n = int(r.integers(1, 30)); folder = here/f'test{trial}'
        hu = images(folder, n, trial)
        for i in r.choice(n, n//5, replace=False): (folder/f'{name(i)}.dcm').write_bytes(b'cut')
        rows = r.permutation([row for i in range(n) for row in six(i)]) if trial % 2 else [row for i in range(n) for row in six(i)]
        s = sample(here/'s.csv', rows)
        first = None
        for batch in {1, 2, 3, int(r.integers(4, 12)), n, n + 1}:
            said = submit(model, s, folder, here/'F.csv', batch)
            (here/'.F.csv.work/journal.jsonl').unlink(missing_ok=True)           # each batch size from nothing
            assert said == dict(slices=n, failed=n//5, odd=0)
            got = [l.split(',') for l in (here/'F.csv').read_text().splitlines()[1:]]
            assert [g[0] for g in got] == list(rows)
            p = np.array([float(g[1]) for g in got])
            first = p if first is None else first
            assert np.abs(p - first).max() < 1e-6
            read_submission(here/'F.csv')


def test_odd_samples_and_missing_images(world):
    here, net = world
    hu = images(here/'test', 9)
    (here/'test'/f'{name(3)}.dcm').unlink()
    images(here/'other', 20); os.replace(here/'other'/f'{name(15)}.dcm', here/'test'/f'{name(4)}.dcm')
    images(here/'test/deeper', 2)                                                # not asked for: left alone
    rows = [r for i in range(8) for r in six(i)]
    sample(here/'s.csv', ['ID_0_any', *rows, f'{name(1)}_fracture', 'nonsense', *six(8)[:4], *six(40)])
    status, out, err = call('submission', '--sample', 's.csv', '--images', 'test')
    assert status == 1 and '9 slices → submission.csv' in out and '3 of them have the mean' in err, err
    why = [(r['file'], r['reason']) for r in table(here/'submission.rejects.csv')]
    assert [w[0] for w in why] == ['s.csv, line 2: ID_0_any', f's.csv, line 51: {name(1)}_fracture', 's.csv, line 52: nonsense',
                                   f's.csv: {name(8)}', *(f'test/{name(i)}.dcm' for i in (3, 4, 40))]
    assert 'another slice' in dict(why)[f'test/{name(4)}.dcm'] and 'No such file' in dict(why)[f'test/{name(3)}.dcm']
    got = read_submission(here/'submission.csv')
    assert got.item.tolist() == [*map(name, range(8)), name(40)]
    p = truth(hu[:8], net); good = [0, 1, 2, 5, 6, 7]
    assert np.abs(got[list(KINDS)].to_numpy()[good] - p[good]).max() < 2e-6
    assert np.abs(got[list(KINDS)].to_numpy()[[3, 4, 8]] - p[good].mean(0)).max() < 2e-6


@pytest.mark.parametrize('args, said', [
    (['--sample', 's.csv', '--images', 'void'], 'holds none of the 3 slices'),
    (['--sample', 's.csv', '--images', 'nowhere'], 'there is no folder nowhere'),
    (['--sample', 'gone.csv', '--images', 'test'], 'cannot read the sample gone.csv: No such file'),
    (['--sample', 'stand_in.py', '--images', 'test'], "first line should be 'ID,Label'"),
    (['--sample', 'model.safetensors', '--images', 'test'], 'model.safetensors'),
    (['--sample', 's.csv', '--images', 'test', '--out', 's.csv'], 'is the sample'),
    (['--images', 'test'], "Missing option '--sample'")])
def test_nothing_was_written(world, args, said):
    here, _ = world
    (here/'void').mkdir(); images(here/'test', 3); sample(here/'s.csv', [r for i in range(3) for r in six(i)])
    (here/'submission.csv').write_text('an older one'); before = (here/'s.csv').read_bytes()
    status, out, err = call('submission', *args)
    assert status == 2 and said in ' '.join(err.split()), (status, err)
    assert (here/'submission.csv').read_text() == 'an older one' and (here/'s.csv').read_bytes() == before


def test_a_killed_submission_goes_on(world):
    here, net = world
    hu = images(here/'test', 60); sample(here/'s.csv', [r for i in range(60) for r in six(i)])
    args = '--sample', 's.csv', '--images', 'test', '--batch', '4'
    journal = here/'.F.csv.work/journal.jsonl'
    p = start(here, 'submission', *args, '--out', 'F.csv', SLOW='.4')
    end = time.time() + 300
    while time.time() < end and not (journal.exists() and journal.read_bytes().count(b'\n') > 12): time.sleep(.02)
    p.send_signal(signal.SIGKILL); p.communicate()
    assert 12 < journal.read_bytes().count(b'\n') < 60 and not (here/'F.csv').exists()
    mark(journal, name(0))
    with open(journal, 'a') as f: f.write('{"file": "test/ID')                   # and the kill cut a line
    status, out, err = call('submission', *args, '--out', 'F.csv')
    assert status == 0 and not err and not journal.parent.exists(), err
    want = truth(hu, net); want[0, -1] = .987654
    assert np.abs(numbers(here/'F.csv') - want).max() < 2e-6


def test_half_a_file_never_stands(world, monkeypatch):
    from medfolio.training import predict, submission
    here, _ = world
    images(here/'test', 3); sample(here/'s.csv', [r for i in range(3) for r in six(i)])
    (here/'submission.csv').write_text('an older one')
    known, asked = submission._probabilities, []
    def breaks(journal, file):
        if len(asked) == 5: raise KeyboardInterrupt                              # three for the mean, the third to be written
        asked.append(file); return known(journal, file)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(submission, '_probabilities', breaks)
        submission.submit(open_model(here/'model.safetensors'), here/'s.csv', here/'test', here/'submission.csv')
    assert (here/'submission.csv').read_text() == 'an older one'
    with pytest.raises(KeyboardInterrupt), predict.replacing(here/'submission.csv') as f:
        f.write('new'); f.flush(); raise KeyboardInterrupt
    assert (here/'submission.csv').read_text() == 'an older one'


def test_predict_writes_slices_and_scans(world):
    here, net = world
    p = truth(images(here/'scans', 25), net)
    (here/'scans'/f'{name(24)}.dcm').write_bytes(b'cut')
    status, out, err = call('predict', 'scans', '--out', 'found')
    assert status == 1 and '24 files answered' in out, err
    rows = table(here/'found/predictions.csv')
    assert [r['file'] for r in rows] == [f'scans/{name(i)}.dcm' for i in range(24)]
    assert np.abs(np.array([[float(r[k]) for k in KINDS] for r in rows]) - p[:24]).max() < 2e-6
    scans = table(here/'found/scans.csv')
    assert [(s['first'], s['slices']) for s in scans] == [(f'scans/{name(i)}.dcm', n) for i, n in ((0, '10'), (10, '10'), (20, '4'))]
    best = np.array([p[a:b].max(0) for a, b in ((0, 10), (10, 20), (20, 24))])
    assert np.abs(np.array([[float(s[k]) for k in KINDS] for s in scans]) - best).max() < 2e-6
    js = json.loads((here/'found/predictions.json').read_text())
    assert [s['slices'] for s in js['scans']] == [10, 10, 4] and len(js['predictions']) == 24
    assert 'ID_' + '0'*10 not in (here/'found/scans.csv').read_text()            # no series identifier in a result


def test_a_picture_that_fails_costs_its_file_and_no_other(world, monkeypatch):
    here, net = world
    hu, draw = images(here/'scans', 4), Bleeds.draw
    def drawn(self, slice, answer):
        if (slice == hu[2]).all(): raise ValueError('no paint')
        return draw(self, slice, answer)
    monkeypatch.setattr(Bleeds, 'draw', drawn)
    status, out, err = call('predict', 'scans', '--out', 'found', '--overlay')
    assert status == 1 and '3 files answered' in out and 'no paint' in err, err
    js = json.loads((here/'found/predictions.json').read_text())
    assert [Path(p['file']).stem for p in js['predictions']] == [name(i) for i in (0, 1, 3)]
    assert {here/'found'/p['overlay'] for p in js['predictions']} == set((here/'found/overlays').iterdir())


def test_the_real_network(world):
    from medfolio.models import ich
    from medfolio.training.submission import submit
    here, _ = world
    torch.manual_seed(0)
    card = CARD | dict(task='hemorrhage', arch=ARCH | dict(net='stack', width=8, size=32))
    save_model(here/'ich.safetensors', dict(net=ich.IchNet(3, 8)), card)
    model, hu = open_model(here/'ich.safetensors'), images(here/'test', 7)
    s, got = sample(here/'s.csv', [r for i in range(7) for r in six(i)]), []
    for batch in 1, 3, 7:
        submit(model, s, here/'test', here/'F.csv', batch)
        got.append(numbers(here/'F.csv'))
    assert np.abs(got[0] - got[1]).max() < 1e-6 and np.abs(got[0] - got[2]).max() < 1e-6
    pipeline = model[0]
    net, x = pipeline.predictor.net, pipeline.predictor.windowed(list(hu))
    with torch.inference_mode(): f = net.maps(x).double().clamp(min=1e-4).pow(4).mean((2, 3))**.25   # a power mean, by hand
    logits = f @ net.head.weight.detach().double().T + net.head.bias.detach().double()
    temperature = np.array(ARCH['temperature'])
    assert np.abs(1/(1 + np.exp(-logits.numpy()/temperature)) - got[0]).max() < 1e-5
    answer, = pipeline([hu[0]], [None])
    assert pipeline.draw(hu[0], answer).shape == (720, 1080, 3)
