"Indexes of head CT: the quick header scan against the careful one, and good files are all taken"
import os
from pathlib import Path
import pandas as pd, pytest
from medfolio.data import cq500, rsna
from medfolio.data.header import scan_headers
from medfolio.data.leanheader import scan
from medfolio.twins.cq500 import cq500_twin
from medfolio.twins.rsna import rsna_twin

real = pytest.mark.skipif('MEDFOLIO_REAL' not in os.environ, reason='MEDFOLIO_REAL is not set: no real data here')


@pytest.fixture(scope='module')
def twins(tmp_path_factory):
    "A small twin of each"
    at = tmp_path_factory.mktemp('twins')
    rsna_twin(at/'rsna', patients=4, seed=1, size=64, workers=1)
    cq500_twin(at/'cq500', scans=3, seed=1, size=64, thin=10., workers=1)
    return at


def same(a, b):
    for one, two in zip(a, b): pd.testing.assert_frame_equal(one, two)


def careful(monkeypatch, index):
    "`index()` with the careful scan in place of the quick one"
    quick = index()
    monkeypatch.setattr(rsna, 'scan', scan_headers); monkeypatch.setattr(cq500, 'scan_headers', scan_headers)
    same(quick, index())
    return quick


def test_rsna_twin(twins, monkeypatch):
    files = sorted((twins/'rsna').glob('stage_2_train_images/*.dcm'))
    same(scan(files), scan_headers(files))
    df, rejects = careful(monkeypatch, lambda: rsna.index(twins/'rsna', workers=1))
    assert len(df) == len(files) > 50 and not len(rejects) and not df.gap.any()
    assert sorted(df.path) == [f'{f.parent.name}/{f.name}' for f in files]


def test_a_series_number_of_two_patients(twins, tmp_path):
    "Slices of two patients do not become one scan, whatever their series is called"
    import pydicom
    files = sorted((twins/'rsna').glob('stage_2_train_images/*.dcm'))
    (tmp_path/'stage_2_train_images').mkdir()
    for f in files:
        ds = pydicom.dcmread(f); ds.SeriesInstanceUID = '1.2'; ds.save_as(tmp_path/'stage_2_train_images'/f.name)
    (tmp_path/'stage_2_train.csv').symlink_to(twins/'rsna/stage_2_train.csv')
    df, rejects = rsna.index(tmp_path, workers=1); want = rsna.index(twins/'rsna', workers=1)[0]
    assert not len(rejects)
    pd.testing.assert_frame_equal(df.drop(columns='series'), want.drop(columns='series'))


@pytest.mark.parametrize('want', ['thin', 'thick'])
def test_cq500_twin(twins, want, monkeypatch):
    files = cq500.files(twins/'cq500')
    same(*[f([twins/'cq500'/p for p in files.path]) for f in (scan, scan_headers)])
    df, rejects = careful(monkeypatch, lambda: cq500.index(twins/'cq500', want, workers=1))
    every, _ = cq500.slices(twins/'cq500', 1)
    assert not len(rejects) and df.patient.nunique() == 3 and not df.gap.any()
    assert sorted(df.path) == sorted(every.path[every.series.isin(df.series)])


@real
def test_cq500_real(monkeypatch):
    root = Path(os.environ['MEDFOLIO_REAL'])/'cq500'
    df, rejects = careful(monkeypatch, lambda: cq500.index(root, partial=True, workers=1))
    assert len(df) == 41 and not len(rejects) and sorted(df.path) == cq500.files(root).path.tolist()


def _headers(n, sick):
    "`n` made-up headers of series of 40, as a scan would give them; every 997th has a fault if `sick`"
    k = pd.Series(range(n)); s = k//40
    item = 'ID_' + k.map('{:09x}'.format)
    df = pd.DataFrame(dict(item=item, patient='ID_p' + (s//2).astype(str), study='s' + s.astype(str), series='r' + s.astype(str),
                           sop=item, path='x/' + item + '.dcm', rows=512, columns=512, bits=16, signed=1, intercept=-1024.,
                           z=(k % 40)*5., instance=k % 40))
    df['orientation'] = [[1., 0., 0., 0., 1., 0.] for _ in k]
    if sick: df.loc[::997, 'z'] += 5.
    return df.sample(frac=1, random_state=0, ignore_index=True)


def test_a_hundred_thousand(tmp_path, monkeypatch):
    "Joining and sifting are done on whole columns: seconds for a table of 100,000 headers"
    import time
    (tmp_path/'stage_2_train_images').mkdir()
    df = _headers(100_000, True)
    kinds = [f'_{k},0\n' for k in rsna.KINDS]
    (tmp_path/'stage_2_train.csv').write_text('ID,Label\n' + ''.join(i + k for i in df['item'] for k in kinds))
    monkeypatch.setattr(rsna, 'scan', lambda files, workers: (df, pd.DataFrame(columns=['file', 'reason', 'exception'])))
    t = time.process_time(); got, rejects = rsna.index(tmp_path, workers=1); t = time.process_time() - t
    moved = len(range(0, 100_000, 997))
    at_end = sum(k % 40 == 39 for k in range(0, 100_000, 997))  # nothing stands above the last slice
    assert len(rejects) == moved - at_end and set(rejects.reason) == {'the place of another slice of its series'}
    assert len(got) + len(rejects) == 100_000 and (got.groupby('series').z.diff().dropna() > 0).all() and t < 15, t
