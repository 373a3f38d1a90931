"What only real processes and large files can show about the slice store"
import json, os, random, signal, subprocess, sys, textwrap, time
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


def sparse_store(path, gigabytes, side=512, per=512):
    "A store of zeros that takes no room on the disk"
    n = int(gigabytes*2**30)//(2*side*side)//per*per
    (path/'shards').mkdir(parents=True)
    head = np.lib.format
    for k in range(n//per):
        with open(path/f'shards/{k:05}.npy', 'wb') as f:
            head.write_array_header_1_0(f, dict(descr='<i2', fortran_order=False, shape=(per, side, side)))
            f.truncate(f.tell() + per*2*side*side)
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
rows = np.arange(0, len(store), int(sys.argv[2]))
dl = SliceLoader(slices(store, rows, 'y'), 16, True, factor=4, device=torch.device('cpu'))
dl.one_batch(); before = top = rss(); n = 0
for k, (x, y) in enumerate(dl):
    n += len(x)
    if k % 8 == 0: top = max(top, rss())
print(n, before, top)
'''


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='counts resident pages the Linux way')
def test_memory_stays_bounded(tmp_path):
    "A 20 GB store through the loader, in under 1 GB of resident growth"
    every = 1 if os.environ.get('MEDFOLIO_SLOW') else 4  # every fourth slice are 5 GB still
    n = sparse_store(tmp_path/'store', 20)
    assert sum(p.stat().st_size for p in (tmp_path/'store/shards').iterdir()) >= 19.9*2**30
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1]))
    out = subprocess.run([sys.executable, '-c', RESIDENT, str(tmp_path/'store'), str(every)], env=env, check=True,
                         capture_output=True, text=True).stdout.split()
    read, before, top = map(int, out)
    assert read == n//every
    assert top - before < 2**30, f'grew by {(top - before)/2**20:.0f} MB'


def test_a_dying_worker_is_a_sentence(raw, tmp_path):
    "A decoder that takes its process with it does not hang the build"
    raw, index = raw

    def read(path):
        if path.name == '050.npy': os.kill(os.getpid(), signal.SIGSEGV)
        return np.load(path), {}
    with pytest.raises(MedfolioError, match='a reading process died'):
        prepare(index, read, tmp_path/'store', raw, per_shard=8, workers=2, progress=False)
