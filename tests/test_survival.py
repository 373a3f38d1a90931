"""Every kind of broken or odd file is read correctly or refused with a reason"""
import os, sys
from pathlib import Path
import pytest
sys.path.insert(0, str(Path(__file__).parent))
from survival import judge, make_cases
from medfolio.core import MedfolioError
from medfolio.data.dicom import read_hu, scan_headers

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


def test_judge_can_fail(cases):
    "A careless reader is caught: wrong pixels, a crash and a hang are told apart"
    import signal, time, numpy as np
    some = [c for c in cases if c.kind in ('signed 16 bit', 'NaN spacing')]
    assert judge(lambda p: np.zeros((64, 48)), some) == ['wrong', 'wrong']
    assert judge(lambda p: os.kill(os.getpid(), signal.SIGKILL), some) == ['crash', 'crash']
    assert judge(lambda p: time.sleep(9), some[:1], limit=.5) == ['hang']


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
