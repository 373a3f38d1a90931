"""Every kind of broken or odd file is read correctly or refused with a reason"""
import os, shutil, signal, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
sys.path.insert(0, str(Path(__file__).parent))
from survival import HOLDS, OTHERS, Case, draw, judge, make_cases, make_folders
from medfolio.core import MedfolioError
from medfolio.data import cq500, rsna as rsna_data
from medfolio.data.catalogue import check
from medfolio.data.dicom import read_hu, scan_headers, unwrap
from medfolio.data.series import stacks
from medfolio.twins import rsna

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:pydicom')
OK = dict(read=['correct'], reject=['rejected'], either=['correct', 'rejected'])


@pytest.fixture(scope='module')
def study(tmp_path_factory): return draw(tmp_path_factory.mktemp('twin')/'study', rsna)


@pytest.fixture(scope='module')
def cases(tmp_path_factory, study):
    d = tmp_path_factory.mktemp('survival')
    others = {k: draw(tmp_path_factory.mktemp('twin')/k, rsna, k, 64) for k in HOLDS}
    return make_cases(d, study, others)


def test_matrix(cases):
    "No wrong pixels, no crash, no hang; what can be read is read"
    assert len(cases) >= 40 and len({c.kind for c in cases}) == len(cases)
    got = judge(lambda p: read_hu(p)[0], cases)
    bad = {c.kind: (v, c.may) for c, v in zip(cases, got) if v not in OK[c.may]}
    assert not bad, bad


def test_reasons(cases):
    "A refusal is a MedfolioError with a sentence, never another exception"
    for c in cases:
        if c.kind in ('no permission', 'changes while it is read'): continue
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


def test_padding_is_compared(cases):
    "What stays of the padding is wrong in ours and excused in others; what lies there instead is wrong in both"
    some = [c for c in cases if c.kind.startswith(('padding −2000', 'a range', '693'))]
    assert len(some) == 4
    def stays(p): return next(c.kept for c in some if str(c.path) == p)
    def low(p): return next(np.where(c.truth == -1000, -1024, c.truth) for c in some if str(c.path) == p)
    def ours(p): return read_hu(p)[0]
    for read, strict, excused in [(stays, 'wrong', 'correct'), (low, 'wrong', 'wrong'), (ours, 'correct', 'correct')]:
        assert judge(read, some) == [strict]*4 and judge(read, some, excuse=True) == [excused]*4, read
    tissue = [c for c in cases if c.kind == 'padding equal to tissue']  # plain to see in a window: no excuse
    assert judge(lambda p: np.where(tissue[0].truth == -1000, 0, tissue[0].truth), tissue, excuse=True) == ['wrong']


def test_no_permission(cases):
    "The refusal is the system's, also where root runs the tests; beside it a file that all may read"
    shut, free = (next(c for c in cases if c.kind == k) for k in OTHERS)
    def refused(p):
        try: return np.array(read_hu(p)[0].shape)
        except MedfolioError as e: return np.array(['Permission denied' in str(e)]*2)
    want = [Case(c.kind, c.group, c.path, np.array(k)) for c, k in ((shut, [1, 1]), (free, [128, 128]))]
    assert judge(refused, want) == ['correct', 'correct']


def test_a_wrapped_slice_of_the_twin_is_read():
    "What the twin stores with the 12-bit fault comes back as it was drawn, but for air below −1000"
    hu = np.array([[-1008, -1000, -999, 0, 40, 3000]], 'i2')
    v = rsna.stored(hu, 'wrapped').astype('i4')
    unwrap(v, dict(units='HU', signed=0, bits=12, slope=1, intercept=0))
    assert np.array_equal(v, np.maximum(hu, -1000))


def test_judge_can_fail(cases):
    "A careless reader is caught: wrong pixels, a crash and a hang are told apart"
    import signal, time
    some = [c for c in cases if c.kind in ('signed 16 bit', 'NaN slope')]
    assert judge(lambda p: np.zeros((64, 48)), some) == ['wrong', 'wrong']
    assert judge(lambda p: os.kill(os.getpid(), signal.SIGKILL), some) == ['crash', 'crash']
    assert judge(lambda p: time.sleep(9), some[:1], limit=.5) == ['hang']


def test_folders(tmp_path, study):
    "A series comes out in order, and what is wrong with it is reported; nothing else is"
    for name, (folder, want, told) in make_folders(tmp_path, study).items():
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


def rsna_folder(root, study):
    "The challenge's layout, with labels"
    items = [p.stem for p in study.paths]
    (root/'stage_2_train_images').mkdir(parents=True)
    for p in study.paths: shutil.copy(p, root/'stage_2_train_images')
    rows = [f'{i}_{k},0' for i in items for k in rsna_data.KINDS]
    (root/'stage_2_train.csv').write_text('\n'.join(['ID,Label', *rows, '']))


def cq500_folder(root, study):
    "One scan in the layout of CQ500, with its reads"
    scan = root/'CQ500CT0 CQ500CT0/Unknown Study/CT Plain'
    scan.mkdir(parents=True)
    for p in study.paths: shutil.copy(p, scan)
    votes = {f'{r}:{f}': [0] for r in cq500.READERS for f in cq500.FINDINGS}
    pd.DataFrame(dict(name=['CQ500-CT-0'], Category=['B1'], **votes)).to_csv(root/'reads.csv', index=False)


def loops(root):
    "In every folder a link to that folder, to the root, and one that calls itself a slice"
    for d in [root, *(p for p in root.rglob('*') if p.is_dir())]:
        (d/'loop.dcm').symlink_to(d); (d/'again').symlink_to(root); (d/'here').symlink_to('.')


@pytest.mark.parametrize('name, make', [('rsna', rsna_folder), ('cq500', cq500_folder)])
def test_folders_that_contain_themselves(tmp_path, study, name, make):
    "A scan of such a folder ends, lists each slice once, and refuses the links"
    module, root = dict(rsna=rsna_data, cq500=cq500)[name], tmp_path/name
    make(root, study)
    before, none = module.index(root, workers=1)
    assert len(before) == len(study.paths) and not len(none) and check(name, root, deep=True).ok.all()
    loops(root)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail('it does not end')); signal.alarm(60)
    try: (after, rejects), found = module.index(root, workers=1), check(name, root, deep=True)
    finally: signal.alarm(0)
    pd.testing.assert_frame_equal(before, after)
    assert set(rejects.reason) == {'not a regular file'} and rejects.file.is_unique, rejects
    assert list(found.what[~found.ok]) == ['every file'], found.to_string()
