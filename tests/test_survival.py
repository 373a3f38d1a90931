"""Every kind of broken or odd file is read correctly or refused with a reason"""
import os, sys
from pathlib import Path
import numpy as np, pytest
sys.path.insert(0, str(Path(__file__).parent))
from survival import judge, make_cases, make_folders
from medfolio.core import MedfolioError
from medfolio.data.dicom import read_hu, scan_headers
from medfolio.data.series import stacks

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:pydicom')
OK = dict(read=['correct'], reject=['rejected'], either=['correct', 'rejected'])


@pytest.fixture(scope='module')
def cases(tmp_path_factory): return make_cases(tmp_path_factory.mktemp('survival'))


def test_matrix(cases):
    "No wrong pixels, no crash, no hang; what can be read is read"
    assert len(cases) >= 40 and len({c.kind for c in cases}) == len(cases)
    got = judge(lambda p: read_hu(p)[0], cases)
    bad = {c.kind: (v, c.may) for c, v in zip(cases, got) if v not in OK[c.may]}
    assert not bad, bad


def test_reasons(cases):
    "A refusal is a MedfolioError with a sentence, never another exception"
    for c in cases:
        if c.group == 'places' and c.kind in ('no permission', 'changes while it is read'): continue
        try: read_hu(c.path)
        except MedfolioError as e: assert len(str(e)) > 8 and 'Error' not in str(e), (c.kind, e)


def test_scan(cases):
    "Headers of all kinds in one scan: a row for each file, here or among the rejects, none unexpected"
    paths = [c.path for c in cases if c.kind != 'no permission']
    df, rejects = scan_headers(paths, workers=2)
    assert len(df) + len(rejects) == len(paths)
    assert not rejects.reason.str.contains('unexpected').any(), rejects.to_string()


def test_torn_reads_are_caught(cases):
    "The changing file is a trap: plain pydicom returns mixtures of two pictures"
    import pydicom
    trap = [c for c in cases if c.kind == 'changes while it is read']
    assert judge(lambda p: pydicom.dcmread(p).pixel_array, trap) == ['wrong']


def test_judge_can_fail(cases):
    "A careless reader is caught: wrong pixels, a crash and a hang are told apart"
    import signal, time
    some = [c for c in cases if c.kind in ('signed 16 bit', 'NaN spacing')]
    assert judge(lambda p: np.zeros((64, 48)), some) == ['wrong', 'wrong']
    assert judge(lambda p: os.kill(os.getpid(), signal.SIGKILL), some) == ['crash', 'crash']
    assert judge(lambda p: time.sleep(9), some[:1], limit=.5) == ['hang']


def test_folders(tmp_path):
    "A series comes out in order, and what is wrong with it is reported; nothing else is"
    for name, (folder, want, told) in make_folders(tmp_path).items():
        df, rejects = scan_headers(sorted(folder.iterdir()))
        slices, summary, more = stacks(df)
        first = slices[slices.series == '1.2.3']
        got = np.stack([read_hu(p)[0] for p in first.path])
        s = summary.set_index('series').loc['1.2.3']
        said = dict(missing=s.missing == 2, doubles=len(s.doubles) == 1, rejects=len(rejects) + len(more) == 1,
                    series=len(summary) == 2)
        assert said == {k: k == told for k in said}, (name, said)
        if told == 'doubles': got = np.delete(got, np.flatnonzero(first.path.isin(s.doubles)), 0) \
            if name == 'one file twice' else got
        assert np.array_equal(got, want), name


@pytest.mark.skipif('MEDFOLIO_REAL' not in os.environ, reason='MEDFOLIO_REAL is not set: no real data here')
def test_dicom_odd():
    "The 21 odd files: which are read, which refused"
    read, refused = [], {}
    for f in sorted(Path(os.environ['MEDFOLIO_REAL'], 'dicom_odd').glob('*.dcm')):
        try: read_hu(f); read.append(f.stem)
        except MedfolioError as e: refused[f.stem] = str(e)
    assert len(read) + len(refused) == 21
    assert read == ['693_J2KI', 'CT_small', 'JPEG2000', 'MR_small_RLE', 'MR_small_bigendian', 'MR_small_implicit',
                    'MR_small_jp2klossless', 'MR_small_jpeg_ls_lossless', 'image_dfl'], (read, refused)
