"What surrounds a trained model, as a person meets it: `medfolio predict` and `medfolio sweep`, and kills"
import csv, json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, psutil, pytest, torch
import make_dicom
from conftest import SAVE, until
from medfolio.training.cascade import cascade, make_parts
from medfolio.training.saved import save_model
from medfolio.twins.deeplesion import png

# The stand-in for the networks of a task: imported by the command through PYTHONPATH. Its box lies around the
# brightest pixel, so that an answer can be checked against the file it belongs to.
STAND_IN = '''
import os, time
import numpy as np, torch
from medfolio.training import pipeline

def make(card): return dict(find=torch.nn.Linear(card['arch']['width'], 1), close=torch.nn.Linear(2, 2))

def cascade(parts, card):
    def f(slices):
        time.sleep(float(os.environ.get('SLOW', 0)))
        if min(slices[0].shape) < 20: raise RuntimeError('the slice is smaller than the kernel')
        at = np.array([np.unravel_index(s.argmax(), s.shape)[::-1] for s in slices], float)
        box = np.hstack([at - 3, at + 4])
        return box, box - 2, box + 2, np.full_like(box, 1.5)
    return f

pipeline.TASKS['toy'] = 'stand_in:make', 'stand_in:cascade', pipeline.Boxes
'''
CARD = dict(name='stand-in', task='toy', arch=dict(width=3), data=dict(kind='twin', name='DeepLesion'), split='', patients=1,
            metrics=[], use='tests', limits='knows nothing', level=.9)


def bright(shape, x, y, seed=0):
    hu = np.random.default_rng(seed).integers(-50, 60, shape).astype(np.int16)
    hu[y, x] = 900
    return hu


def as_png(path, hu): path.write_bytes(png((hu.astype(np.int32) + 32768).astype(np.uint16)))


@pytest.fixture
def world(tmp_path):
    "A model, its code, and a folder of scans of every kind"
    (tmp_path/'stand_in.py').write_text(STAND_IN)
    torch.manual_seed(0)
    parts = dict(find=torch.nn.Linear(3, 1), close=torch.nn.Linear(2, 2))
    save_model(tmp_path/'model.safetensors', parts, CARD)
    scans = tmp_path/'scans'; (scans/'sub').mkdir(parents=True)
    as_png(scans/'a.png', bright((64, 64), 30, 20)); as_png(scans/'b.png', bright((64, 64), 31, 21))
    as_png(scans/'sub/wide.png', bright((40, 90), 70, 10))
    make_dicom.write(scans/'sub/IM1', bright((48, 64), 12, 33), PixelSpacing=[.8, .6])
    (scans/'notes.txt').write_text('not a scan')
    return tmp_path


def predict(world, *args, **env):
    "Status, standard output and standard error of `medfolio predict`"
    with start(world, *args, **env) as p:
        out, err = p.communicate(timeout=600)
        return p.returncode, out, err


def start(world, *args, **env):
    code = 'import stand_in; from medfolio.cli import main; main()'
    path = os.pathsep.join([str(world), *filter(None, [os.environ.get('PYTHONPATH')])])
    env = os.environ | dict(PYTHONPATH=path) | env
    return subprocess.Popen([sys.executable, '-c', code, 'predict', *map(str, args)], cwd=world, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def table(path): return list(csv.DictReader(open(path, newline='')))


def test_a_folder_of_good_files(world):
    status, out, err = predict(world, '--model', 'model.safetensors', 'scans', '--overlay', '--out', 'found')
    assert status == 0 and '4 files answered → found: predictions.csv, predictions.json' in out and not err, err
    rows = {r['file']: r for r in table(world/'found/predictions.csv')}
    assert list(rows) == ['scans/a.png', 'scans/b.png', 'scans/sub/IM1', 'scans/sub/wide.png']
    corners = lambda r: [float(r[k]) for k in ('x1', 'y1', 'x2', 'y2')]
    assert corners(rows['scans/a.png']) == [27, 17, 34, 24] and corners(rows['scans/sub/IM1']) == [9, 30, 16, 37]
    assert float(rows['scans/sub/IM1']['sigma_mm']) == pytest.approx(1.5*.7, abs=2e-3)   # .6 and .8 mm in turn
    assert rows['scans/a.png']['sigma_mm'] == '' and rows['scans/a.png']['model'] == 'stand-in'
    js = json.loads((world/'found/predictions.json').read_text())
    assert [p['file'] for p in js['predictions']] == list(rows) and js['interval'] == .9 and js['trained_on'] == 'twin'
    assert js['predictions'][0]['low'] == [25, 15, 32, 22] and js['predictions'][0]['high'] == [29, 19, 36, 26]
    from PIL import Image
    for p in js['predictions']: assert Image.open(world/'found'/p['overlay']).mode == 'RGB'
    assert table(world/'found/rejects.csv') == [] and not (world/'found/.journal.jsonl').exists()


def test_bad_files_are_listed_and_good_ones_done(world):
    scans = world/'scans'
    (scans/'empty.dcm').touch()
    (scans/'cut.png').write_bytes((scans/'a.png').read_bytes()[:900])
    (scans/'cut.dcm').write_bytes((scans/'sub/IM1').read_bytes()[:2000])
    make_dicom.write(scans/'mr.dcm', bright((48, 64), 12, 33), Modality='MR')
    as_png(scans/'small.png', bright((9, 9), 4, 4))
    os.symlink(scans, scans/'sub/loop'); os.symlink(world/'gone', scans/'link.png'); os.mkfifo(scans/'pipe.png')
    status, out, err = predict(world, '--model', 'model.safetensors', 'scans', 'nowhere.png')
    assert status == 1 and '4 files answered' in out and '8 files without an answer' in err and 'Traceback' not in err, err
    why = {Path(r['file']).name: r['reason'] for r in table(world/'predictions/rejects.csv')}
    assert set(why) == {'empty.dcm', 'cut.png', 'cut.dcm', 'mr.dcm', 'small.png', 'link.png', 'pipe.png', 'nowhere.png'}
    assert why['empty.dcm'] == 'an empty file' and 'truncated PNG' in why['cut.png'] and 'not CT' in why['mr.dcm']
    assert 'smaller than the kernel' in why['small.png'] and why['pipe.png'] == 'not a regular file'
    assert len(table(world/'predictions/predictions.csv')) == 4


@pytest.mark.parametrize('args, said', [
    (['--model', 'model.safetensors', 'void'], 'no PNG and no DICOM file'),
    (['--model', 'cut.safetensors', 'scans'], 'cut short'), (['--model', 'net.pth', 'scans'], 'is a pickle'),
    (['--model', 'other.safetensors', 'scans'], "did you mean 'toy'?"),
    (['--model', 'wide.safetensors', 'scans'], 'find.weight is 1×3 where 1×7 is due'),
    (['--model', 'gone.safetensors', 'scans'], 'No such file'), (['scans'], "Missing option '--model'"),
    (['--model', 'model.safetensors'], 'Missing argument')])
def test_nothing_was_done(world, args, said):
    (world/'void').mkdir()
    whole, parts = (world/'model.safetensors').read_bytes(), dict(find=torch.nn.Linear(3, 1), close=torch.nn.Linear(2, 2))
    (world/'cut.safetensors').write_bytes(whole[:-7]); torch.save(parts['find'].state_dict(), world/'net.pth')
    save_model(world/'other.safetensors', parts, CARD | dict(task='toi'))
    save_model(world/'wide.safetensors', parts, CARD | dict(arch=dict(width=7)))
    status, out, err = predict(world, *args)
    assert status == 2 and said in ' '.join(err.split()) and 'Traceback' not in err, (status, err)
    assert not (world/'predictions/predictions.csv').exists()


def test_a_killed_prediction_goes_on(world):
    for i in range(30): as_png(world/f'scans/many{i:02}.png', bright((32, 32), 10, 5 + i % 20, i))
    args = '--model', 'model.safetensors', 'scans', '--batch', '2'
    journal = world/'out/.journal.jsonl'
    p = start(world, *args, '--out', 'out', SLOW='.3')
    end = time.time() + 300
    while time.time() < end and not (journal.exists() and journal.read_bytes().count(b'\n') > 6): time.sleep(.05)
    p.send_signal(signal.SIGKILL); p.communicate()
    done = journal.read_bytes().count(b'\n') - 1
    assert 5 < done < 34 and not (world/'out/predictions.csv').exists()
    with open(journal, 'ab') as f: f.write(b'{"file": "scans/ma')               # and the kill cut a line
    before = json.loads(journal.read_text().splitlines()[1])
    before['answers'][0]['box'][0] = 26.5                                        # a mark: it is not computed again
    lines = journal.read_text().splitlines(True); lines[1] = json.dumps(before) + '\n'
    journal.write_text(''.join(lines))
    status, out, err = predict(world, *args, '--out', 'out')
    assert status == 0 and '34 files answered' in out, err
    assert predict(world, *args, '--out', 'fresh')[0] == 0
    one, two = table(world/'out/predictions.csv'), table(world/'fresh/predictions.csv')
    marked = [a['file'] for a, b in zip(one, two) if a != b]
    assert [r['file'] for r in one] == [r['file'] for r in two] and marked == [before['file']]


def test_the_localiser(world):
    "A model of the localiser's own kind gives, through file and command, what its networks give here"
    arch = dict(channels=1, width=8, stem=2, full=False, spread=.03, size=128, crop=64, factor=1, windows='abdomen', widen=[1, 1.1, 1.2, 1.3])
    card = CARD | dict(name='localiser', task='deeplesion', arch=arch)
    torch.manual_seed(1)
    parts = make_parts(card)
    save_model(world/'localiser.safetensors', parts, card)
    status, out, err = predict(world, '--model', 'localiser.safetensors', 'scans/a.png', 'scans/sub', '--overlay')
    rows = {Path(r['file']).name: r for r in table(world/'predictions/predictions.csv')}
    assert status == 0 and set(rows) == {'a.png', 'wide.png', 'IM1'}, err
    assert len(list((world/'predictions/overlays').glob('*.png'))) == 3
    scans = {'a.png': bright((64, 64), 30, 20), 'wide.png': bright((40, 90), 70, 10), 'IM1': bright((48, 64), 12, 33)}
    box, low, high, _ = cascade(parts, card)(list(scans.values()))
    of = lambda ends: np.array([[float(rows[n][f'{side}{ends}']) for side in ('x1', 'y1', 'x2', 'y2')] for n in scans])
    edge = np.array([[*s.shape[::-1]]*2 for s in scans.values()])
    for ends, want in (('', box), ('_low', low), ('_high', high)):
        assert np.abs(of(ends) - want.clip(0, edge)).max() < .6  # bfloat16, other batches


@pytest.mark.skipif('MEDFOLIO_REAL' not in os.environ, reason='MEDFOLIO_REAL names no folder of real data')
def test_real_scans(world):
    real = Path(os.environ['MEDFOLIO_REAL'])
    status, out, err = predict(world, '--model', 'model.safetensors', real/'deeplesion', real/'cq500', real/'dicom_odd')
    rows, why = table(world/'predictions/predictions.csv'), table(world/'predictions/rejects.csv')
    of = lambda name: [r for r in rows if f'/{name}/' in r['file']]
    assert status == 1 and len(of('deeplesion')) == 23 and len(of('cq500')) == 41, err
    assert all(r['sigma_mm'] for r in of('deeplesion') + of('cq500'))            # the table and the header know
    assert why and all(r['reason'] and 'unexpected' not in r['reason'] for r in why)


# Sweeps

SWEPT = ['# Toy\n\n> A number from nothing', 'lr: float = .1  # its best value is .01\nwidth: int = 8  # does nothing',
         "from pathlib import Path\nimport math, os, time\nfrom medfolio.record import Run\n"
         "from medfolio.training.sweep import report\nrun = Run('toy', globals())",
         "for epoch in range(4):\n    score = (1 - .2*abs(math.log10(lr/.01)))*(1 - .5**(epoch + 1))\n"
         "    report(epoch, score)\n    time.sleep(float(Path('pace').read_text()))\n"
         "Path(f'ran-{os.getpid()}').write_text(str(lr))\n"
         "while Path('hold').exists(): time.sleep(.05)",
         "run.data('none', 'toy')\nrun.metric('valid_score', score, 0, 1, n=10)\nrun.metric('test_score', score, 0, 1, n=10)",
         SAVE]
SWEEP = ['sweep', 'nbs/toy.ipynb', '--metric', 'valid_score', '--space', 'lr=log:1e-4:1,width=8|16']


@pytest.fixture
def swept(checkout):
    checkout.notebook(SWEPT); (checkout.root/'nbs/pace').write_text('0')
    return checkout


def test_a_sweep_survives_sigkill(swept):
    nbs, dest = swept.root/'nbs', swept.root/'_build/sweeps/toy'
    (nbs/'hold').touch()
    p = swept.popen(*SWEEP, '--trials', '3')
    first, = until(lambda: list(nbs.glob('ran-*')))
    kernel = int(first.name.split('-')[1])
    p.send_signal(signal.SIGKILL); p.communicate()
    until(lambda: not psutil.pid_exists(kernel), 20)                             # no notebook is left running
    (nbs/'hold').unlink()
    status, out, err = swept(*SWEEP, '--trials', '3')
    assert status == 0, err
    rows = table(dest/'trials.csv')
    assert [r['state'] for r in rows] == ['fail', 'complete', 'complete', 'complete']
    assert (rows[0]['lr'], rows[0]['width']) == (rows[1]['lr'], rows[1]['width'])  # tried again
    assert (dest/'sweep.png').exists() and not (swept.root/'figures').exists()
    best = max(rows[1:], key=lambda r: float(r['value']))
    assert f'medfolio run toy -p lr {float(best["lr"])}' in out
    status, out, err = swept(*SWEEP, '--trials', '3')                            # nothing left to do
    assert status == 0 and len(table(dest/'trials.csv')) == 4
    swept.notebook([*SWEPT[:-1], 'x = 1', SAVE])
    status, out, err = swept(*SWEEP, '--trials', '4')
    assert status == 1 and 'holds a sweep with another code' in err


def test_a_notebook_that_falls_behind_is_stopped(swept):
    from medfolio.cli_sweep import watched
    from medfolio.plan import entry
    import optuna
    nbs, seen = swept.root/'nbs', []
    (nbs/'pace').write_text('1')
    def report(step, value):
        seen.append(step)
        if step == 1: raise optuna.TrialPruned
    with pytest.MonkeyPatch.context() as m:
        m.setenv('MEDFOLIO_ROOT', str(swept.root))
        for k in ('IN_TEST', 'MEDFOLIO_SMOKE'): m.delenv(k, raising=False)
        with pytest.raises(optuna.TrialPruned): watched(entry('toy', 'toy', {}), swept.root/'stage', False, report)
    assert seen == [0, 1] and not list(nbs.glob('ran-*')) and not (swept.root/'stage/record.json').exists()
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize('args, said', [
    (['sweep', 'toy', '--metric', 'test_score', '--space', 'lr=log:1e-4:1'], "starts with 'valid'"),
    (['sweep', 'toy', '--metric', 'valid_score', '--space', 'lrr=log:1e-4:1'], "did you mean 'lr'?"),
    (['sweep', 'toy', '--metric', 'valid_scor', '--space', 'lr=log:1e-4:1'], "did you mean 'valid_score'?"),
    (['sweep', 'tou', '--metric', 'valid_score', '--space', 'lr=log:1e-4:1'], "did you mean 'toy'?"),
    (['sweep', 'toy', '--metric', 'valid_score', '--space', 'lr=1e-4:1'], 'write log:1e-4:1e-2')])
def test_a_bad_sweep(swept, args, said):
    status, out, err = swept(*args, '--trials', '2')
    assert status == 1 and said in err and 'Traceback' not in err, err
