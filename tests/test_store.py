"What only real processes and large files can show about the slice store"
import json, os, random, shutil, signal, subprocess, sys, textwrap, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medfolio.core import MedfolioError
from medfolio.data.mapped import SCHEMA, Store
from medfolio.data.store import prepare

SIDE, SLICES = 64, 96


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    "A folder of slices and its index"
    d = tmp_path_factory.mktemp('raw')
    rng = np.random.default_rng(0)
    for i in range(SLICES):
        np.save(d/f'{i:03}.npy', rng.integers(-1024, 3071, (SIDE, SIDE)).astype(np.int16))
    index = pd.DataFrame(dict(item=[f'{i:03}' for i in range(SLICES)], patient=[f'p{i%7}' for i in range(SLICES)],
                              series='s', z=np.arange(SLICES)*5., path=[f'{i:03}.npy' for i in range(SLICES)]))
    index.to_parquet(d/'index.parquet')
    return d, index


def run(raw, dest, workers, tmp_path, wait=.01):
    "A process that builds the store, taking `wait` seconds a slice"
    (tmp_path/'slowreader.py').write_text(textwrap.dedent('''
        import os, time, numpy as np
        def read(path):
            time.sleep(float(os.environ['WAIT'])); return np.load(path), {}
    '''))
    code = (f"import pandas as pd, slowreader; from medfolio.data.store import prepare;"
            f"prepare(pd.read_parquet({str(raw/'index.parquet')!r}), slowreader.read, {str(dest)!r},"
            f"{str(raw)!r}, per_shard=8, workers={workers}, progress=False)")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH', '')])
    return subprocess.Popen([sys.executable, '-c', code], env=dict(os.environ, PYTHONPATH=path, WAIT=str(wait)))


def shards(dest): return {p.name: p.stat().st_mtime_ns for p in dest.glob('shards/[0-9]*.npy')}
def slips(dest): return {p.stem for p in dest.glob('build/0*.json')}


@pytest.mark.parametrize('workers', [1, 2])
def test_killed_again_and_again(raw, tmp_path, workers):
    "kill -9 at random moments; the store that comes out in the end is the one of a quiet build"
    (raw, _), rng, kills, resumed = raw, random.Random(workers), 0, 0
    dest = tmp_path/'store'
    for attempt in range(3):
        p = run(raw, dest, workers, tmp_path)
        start, kept = slips(dest), shards(dest)
        end = time.time() + 60
        while p.poll() is None and slips(dest) == start and time.time() < end: time.sleep(.002)
        time.sleep(rng.uniform(0, .2))  # anywhere within the next shards
        if p.poll() is not None: break
        os.kill(p.pid, signal.SIGKILL); p.wait(); kills += 1
        now = shards(dest)
        for k in start:  # what was finished before this attempt was not touched by it
            assert now[f'{k}.npy'] == kept[f'{k}.npy']; resumed += 1
        if (dest/'manifest.json').exists(): break  # the manifest comes last
        with pytest.raises(MedfolioError, match='no finished store'): Store(dest)
    assert kills >= 2 and resumed >= 2
    assert run(raw, dest, workers, tmp_path, wait=0).wait(60) == 0
    quiet = tmp_path/'quiet'
    assert run(raw, quiet, 1, tmp_path, wait=0).wait(60) == 0
    a, b = Store(dest), Store(quiet)
    assert a.fingerprint == b.fingerprint and not len(a.verify(raw))
    assert sorted(p.relative_to(dest) for p in dest.rglob('*')) == sorted(p.relative_to(quiet) for p in quiet.rglob('*'))


LOST = pd.DataFrame(dict(file=['/elsewhere/of/jane/x.npy', 'table.csv:7'], reason='there is no such file', exception=''))


def test_what_the_index_refused_outlives_a_kill(raw, tmp_path):
    "Rejects of the index and of the reader: written and counted together, however often the build was killed"
    (raw, index), dest = raw, tmp_path/'store'
    src = tmp_path/'raw'; shutil.copytree(raw, src)
    for i in (3, 70): (src/f'{i:03}.npy').write_text('')
    (tmp_path/'dyingreader.py').write_text(textwrap.dedent('''
        import os, signal, numpy as np
        def read(path):
            if path.name == os.environ['DIES']: os.kill(os.getpid(), signal.SIGKILL)
            return np.load(path), {}
    '''))
    LOST.to_csv(tmp_path/'lost.csv', index=False)
    code = (f"import sys, pandas as pd, dyingreader; from medfolio.data.store import prepare;"
            f"prepare(pd.read_parquet({str(src/'index.parquet')!r}), dyingreader.read, sys.argv[1], {str(src)!r}, per_shard=8,"
            f"workers=1, progress=False, allow=float(sys.argv[2]), rejects=pd.read_csv({str(tmp_path/'lost.csv')!r}))")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    build = lambda dest, dies, allow: subprocess.run(
        [sys.executable, '-c', code, str(dest), str(allow)], env=dict(os.environ, PYTHONPATH=path, DIES=dies),
        capture_output=True, text=True)
    for dies in ('025.npy', '090.npy'): assert build(dest, dies, .05).returncode == -signal.SIGKILL
    assert len(slips(dest)) == 11
    few = build(dest, '', .039)  # 2 of 96 would pass, 4 of 98 do not
    assert few.returncode == 1 and '4 of 98 files rejected, more than 3.9%' in few.stderr
    assert build(dest, '', .041).returncode == 0 and build(tmp_path/'quiet', '', .041).returncode == 0
    a = Store(dest)
    assert a.fingerprint == Store(tmp_path/'quiet').fingerprint and a.manifest['rejects'] == 4 and len(a) == 94
    bad = pd.read_csv(dest/'rejects.csv')
    assert list(bad.file) == ['x.npy', 'table.csv:7', '003.npy', '070.npy']
    assert 'another refused' in subprocess.run(
        [sys.executable, '-c', code.replace('rejects=', 'rejects=None and '), str(dest), '.05'],
        env=dict(os.environ, PYTHONPATH=path, DIES=''), capture_output=True, text=True).stderr


def test_killed_while_writing_the_last_files(raw, tmp_path, monkeypatch):
    "A process that dies between the parts of index, rejects or manifest and their names leaves nothing in the way"
    (raw, index), dest = raw, tmp_path/'store'
    read = lambda path: (np.load(path), {})
    for dies in range(3):
        left, real = [], os.replace

        def die(a, b):
            if Path(b).parent == dest:
                left.append(b)
                if len(left) > dies:
                    monkeypatch.setattr(Path, 'unlink', lambda self, missing_ok: None)  # the dead do not tidy up
                    raise KeyboardInterrupt
            real(a, b)
        monkeypatch.setattr(os, 'replace', die)
        with pytest.raises(KeyboardInterrupt): prepare(index, read, dest, raw, per_shard=8, workers=1, progress=False)
        monkeypatch.undo()
        assert list(dest.glob('.*.part'))
    prepare(index, read, dest, raw, per_shard=8, workers=1, progress=False)
    assert not list(dest.rglob('.*.part')) and not len(Store(dest).verify(raw))


def test_orphans_leave(raw, tmp_path):
    "When the parent is killed, its workers stop writing"
    raw, _ = raw
    dest = tmp_path/'store'
    p = run(raw, dest, 2, tmp_path, wait=.05)
    end = time.time() + 60
    while not slips(dest) and p.poll() is None and time.time() < end: time.sleep(.01)
    os.kill(p.pid, signal.SIGKILL); p.wait()
    time.sleep(.3)  # the slice in hand
    before = {f: f.stat().st_mtime_ns for f in dest.rglob('*')}
    time.sleep(1)
    assert {f: f.stat().st_mtime_ns for f in dest.rglob('*')} == before and slips(dest)


def test_one_builder_at_a_time(raw, tmp_path):
    raw, index = raw
    p = run(raw, tmp_path/'store', 1, tmp_path, wait=.05)
    end = time.time() + 60
    while not slips(tmp_path/'store') and p.poll() is None and time.time() < end: time.sleep(.01)
    with pytest.raises(MedfolioError, match='another process'):
        prepare(index, lambda p: (np.load(p), {}), tmp_path/'store', raw, progress=False)
    p.kill(); p.wait()


NAMES = [b'DOE^JANE', b'Jane', b'19700131', b'MRN-0042', b'SECRET-UID']


def test_no_name_gets_out(tmp_path, capfd):
    "Names in headers, in exceptions and in warnings reach no file and no log"
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
    raw = tmp_path/'raw'; raw.mkdir()
    for i in range(30):
        ds = Dataset(); ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = 'DOE^JANE', 'MRN-0042', '19700131'
        ds.AccessionNumber, ds.InstitutionName, ds.ImageComments = 'SECRET-UID', 'Jane', 'Jane is ill'
        ds.Rows = ds.Columns = 32; ds.BitsAllocated = ds.BitsStored = 16; ds.HighBit = 15
        ds.PixelRepresentation, ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 1, 'MONOCHROME2'
        ds.PixelData = np.full((32, 32), i, np.int16).tobytes(); ds.SliceThickness = 5
        ds.save_as(raw/f'{i:02}.dcm', enforce_file_format=True)
        assert all(n in (raw/f'{i:02}.dcm').read_bytes() for n in NAMES)

    def read(path):
        import warnings
        ds = pydicom.dcmread(path)
        warnings.warn(f'odd value of {ds.PatientName}')
        if path.name == '07.dcm': raise ValueError(f'{ds.PatientName} {ds.PatientBirthDate} {ds.PatientID}')
        if path.name == '11.dcm': return ds.pixel_array.astype(float), {}
        return ds.pixel_array.astype(np.int16), {e.keyword: e.value for e in ds}

    index = pd.DataFrame(dict(item=[f'{i:02}' for i in range(30)], path=[f'{i:02}.dcm' for i in range(30)]))
    store = prepare(index, read, tmp_path/'store', raw, keep=['SliceThickness'], allow=.1)
    assert len(store) == 28 and set(store.index.SliceThickness) == {5.}
    assert list(pd.read_csv(tmp_path/'store/rejects.csv').file) == ['07.dcm', '11.dcm']
    with pytest.raises(MedfolioError): prepare(index, read, tmp_path/'strict', raw, safe=False)
    written = [p for d in ('store', 'strict') for p in (tmp_path/d).rglob('*') if p.is_file()]
    said = ''.join(capfd.readouterr()).encode()
    assert len(written) >= 6
    for name in NAMES:
        assert name not in said
        assert not [p for p in written if name in p.read_bytes()]


def test_every_window_of_a_header_gets_through(tmp_path):
    "From the file, by all roads, to `header_windows`: each of its windows, as its function means them"
    from make_dicom import head, write
    from medfolio.data.dicom import read_hu
    from medfolio.data.fastdicom import index_files
    from medfolio.data.window import header_windows
    one, two = dict(WindowCenter=40, WindowWidth=80), dict(WindowCenter=['40', '600.5'], WindowWidth=['80', '2800'])
    tags = [one, two, two | dict(VOILUTFunction='LINEAR_EXACT'), {}]
    want = [[[39.5, 79]], [[39.5, 79], [600, 2799]], [[40, 80], [600.5, 2800]], None]
    for i, t in enumerate(tags): write(tmp_path/f'{i}.dcm', head(), **t)
    index = pd.DataFrame(dict(item=list('0123'), path=[f'{i}.dcm' for i in range(4)]))
    keep = ['centers', 'widths', 'function']
    store = prepare(index, read_hu, tmp_path/'store', tmp_path, keep=keep, workers=1, progress=False)
    assert not len(store.verify())
    rows, bad = index_files([tmp_path/p for p in index.path])
    assert not len(bad)
    for i, w in enumerate(want):
        for header in (read_hu(tmp_path/f'{i}.dcm')[1], store.index.iloc[i], rows.iloc[i]):
            if w is not None: assert header_windows(dict(header)).tolist() == w
            else:
                with pytest.raises(MedfolioError, match='no usable window'): header_windows(dict(header))
    with pytest.raises(MedfolioError, match='`keep` another'): prepare(index, read_hu, tmp_path/'s', tmp_path, keep=['pixels'])


def test_only_hounsfield_units_come_in(tmp_path):
    "A manifest that says HU is not made of MR; a reader that names no units vouches for them"
    from make_dicom import head, write
    from medfolio.data.dicom import read_hu
    from pydicom.data import get_testdata_file
    shutil.copy(get_testdata_file('MR_small_implicit.dcm'), tmp_path/'mr.dcm')
    write(tmp_path/'ct.dcm', head()); write(tmp_path/'pt.dcm', head(), Modality='PT')
    index = pd.DataFrame(dict(item=['ct', 'mr', 'pt'], path=['ct.dcm', 'mr.dcm', 'pt.dcm']))
    store = prepare(index, read_hu, tmp_path/'store', tmp_path, allow=.7, workers=1, progress=False)
    bad = pd.read_csv(tmp_path/'store/rejects.csv')
    assert list(store.index.item) == ['ct'] and list(bad.file) == ['mr.dcm', 'pt.dcm']
    assert list(bad.reason) == [f'{m}, not CT: no Hounsfield units' for m in ('MR', 'PT')]
    mute = prepare(index, lambda p: (read_hu(p)[0], {}), tmp_path/'mute', tmp_path, workers=1, progress=False)
    assert len(mute) == 3


EDITS = '''
import sys; from pathlib import Path; import pandas as pd
from medfolio.core import MedfolioError
from medfolio.data import dicom, deeplesion, shards, store
import mine
lib, src, out = map(Path, sys.argv[1:])
index = pd.DataFrame(dict(item=list('abcd'), path=['a.dcm', 'b.dcm', 'c.dcm', 'd.dcm']))

def build(read, dest):
    try: store.prepare(index, read, out/dest, src, size=16, per_shard=1, workers=1, progress=False)
    except MedfolioError as e: return str(e)

def edited(read, file, old, new):
    "What a half-built store says when the code was edited, and the slips that are there"
    text = (lib/file).read_text(); assert text.count(old) == 1, (file, old)
    first = build(read, read.__module__)
    try: (lib/file).write_text(text.replace(old, new)); second = build(read, read.__module__)
    finally: (lib/file).write_text(text)
    assert '1 of 4 files rejected' in first, first
    print('refused' if 'made with another reader' in second else 'goes on' if second == first else second)

hu = "    hu = to_hu(v, h, *_frame_scale(ds, h), air)"
for read, *edit in [
    (dicom.read_hu, 'medfolio/data/dicom.py', hu, hu + ' + 0'),
    (dicom.read_hu, 'medfolio/data/header.py', "h['slope'] == 0", "h['slope'] <= 0"),
    (dicom.read_hu, 'medfolio/data/resize.py', 'np.rint(m)', 'np.floor(m)'),
    (dicom.read_hu, 'medfolio/data/header.py', "h['slope'] == 0", "(h['slope'] == 0)"),
    (dicom.read_hu, 'medfolio/data/png.py', 'truncated PNG: its stream has no end', 'cut PNG'),
    (mine.read, 'mine.py', 'air=-1000', 'air=-1024'), (mine.read, 'helper.py', 'return 0', 'return 1'),
    (mine.read, 'medfolio/data/header.py', "h['slope'] == 0", "h['slope'] <= 0")]: edited(read, *edit)
was = shards.reader_version(deeplesion.read); text = (lib/'medfolio/data/png.py').read_text()
(lib/'medfolio/data/png.py').write_text(text.replace('out[0] = 0', 'out[0] = 1'))
print('refused' if shards.reader_version(deeplesion.read) != was else 'goes on')
shards.version = lambda name: '0.0.1'
print('refused' if 'another reader' in build(dicom.read_hu, 'medfolio.data.dicom') else 'goes on')
'''


def test_no_store_of_two_readers(tmp_path):
    "A half build is not continued after an edit of any code that its reader reaches, here or in a helper beside it"
    from make_dicom import head, write
    lib, src = tmp_path/'lib', tmp_path/'src'; src.mkdir()
    shutil.copytree(Path(__file__).parents[1]/'medfolio', lib/'medfolio', ignore=shutil.ignore_patterns('__pycache__'))
    for k in 'abc': write(src/f'{k}.dcm', head())
    (src/'d.dcm').write_text('not DICOM: it stops the build when the rest is done')
    (lib/'helper.py').write_text('def plus(): return 0\n')
    (lib/'mine.py').write_text('from medfolio.data.dicom import read_hu\nfrom helper import plus\n'
                               'def read(path):\n    hu, h = read_hu(path, air=-1000)\n    return hu + plus(), h\n')
    env = dict(os.environ, PYTHONPATH=str(lib), MEDFOLIO_ROOT=str(lib))
    out = subprocess.run([sys.executable, '-c', EDITS, str(lib), str(src), str(tmp_path)], env=env, cwd=lib,
                         capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split('\n')[:-1] == ['refused']*3 + ['goes on']*2 + ['refused']*5


def sparse_store(path, gigabytes, side=512, per=512):
    "A store of zeros, one file under many names: each is mapped and counted by itself, and the disk is read once"
    n = int(gigabytes*2**30)//(2*side*side)//per*per
    (path/'shards').mkdir(parents=True)
    head = np.lib.format
    with open(path/'shards/00000.npy', 'wb') as f:
        head.write_array_header_1_0(f, dict(descr='<i2', fortran_order=False, shape=(per, side, side)))
        f.truncate(f.tell() + per*2*side*side)
    for k in range(1, n//per): os.link(path/'shards/00000.npy', path/f'shards/{k:05}.npy')
    i = np.arange(n)
    pd.DataFrame(dict(item=i.astype(str), y=i % 2, shard=i//per, at=i % per)).to_parquet(path/'index.parquet')
    manifest = dict(schema=SCHEMA, plan=dict(size=[side, side]), shards=[per]*(n//per))
    (path/'manifest.json').write_text(json.dumps(manifest))
    return n


RESIDENT = '''
import sys, time, numpy as np, psutil, torch
from medfolio.data.store import Store
from medfolio.data.loaders import SliceLoader, slices
store = Store(sys.argv[1]); me = psutil.Process(); rss = lambda: me.memory_info().rss
rows = np.arange(len(store))
dl = SliceLoader(slices(store, rows, 'y'), 16, True, factor=4, device=torch.device('cpu'))
dl.one_batch(); before = top = rss(); n = 0
for k, (x, y) in enumerate(dl):
    n += len(x)
    if k % 8 == 0: top = max(top, rss())
print(n, before, top)
'''


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='counts resident pages the Linux way')
def test_memory_stays_bounded(tmp_path):
    "Every slice of a 20 GB store through the loader, in under 1 GB of resident growth"
    n = sparse_store(tmp_path/'store', 20)
    assert sum(p.stat().st_size for p in (tmp_path/'store/shards').iterdir()) >= 19.9*2**30
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1]))
    out = subprocess.run([sys.executable, '-c', RESIDENT, str(tmp_path/'store')], env=env, check=True,
                         capture_output=True, text=True).stdout.split()
    read, before, top = map(int, out)
    assert read == n
    assert top - before < 2**30, f'grew by {(top - before)/2**20:.0f} MB'


def test_a_dying_worker_is_a_sentence(raw, tmp_path):
    "A decoder that takes its process with it does not hang the build"
    raw, index = raw

    def read(path):
        if path.name == '050.npy': os.kill(os.getpid(), signal.SIGSEGV)
        return np.load(path), {}
    with pytest.raises(MedfolioError, match='a reading process died'):
        prepare(index, read, tmp_path/'store', raw, per_shard=8, workers=2, progress=False)
