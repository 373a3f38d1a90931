"Names planted in every corner of three datasets, and every byte searched that leaves their readers"
import os, shutil, struct, subprocess, sys, zlib
from pathlib import Path

import cv2, numpy as np, pandas as pd, pydicom, pytest
from make_dicom import head, recode, write
from typer.testing import CliRunner

from medfolio.core import MedfolioError
from medfolio.cli import app
from medfolio.data import cq500, deeplesion, rsna
from medfolio.data.dicom import read_hu
from medfolio.data.loaders import loaders
from medfolio.data.store import prepare

SECRETS = ['doe^jane', 'jane', '19700131', '19991224', 'mrn-0042', 'acc-4711', 'st elsewhere', 'is gravely ill', '1.2.840.99999']
HOME = 'home_of_jane_doe'  # the folder that holds the download
TAGS = dict(PatientName='DOE^JANE', PatientBirthDate='19700131', StudyDate='19991224', AccessionNumber='ACC-4711',
            InstitutionName='ST ELSEWHERE', ImageComments='Jane is gravely ill', OtherPatientIDs='MRN-0042',
            ReferringPhysicianName='Who^Jane', StudyDescription='Jane', SliceThickness=5, WindowCenter=40, WindowWidth=80,
            StudyInstanceUID='1.2.840.99999.1', FrameOfReferenceUID='1.2.840.99999.3')


def plant(path, stored, **tags):
    "A CT slice with names in standard tags, private ones, and the last bytes of the file"
    write(path, stored, **TAGS | tags)
    ds = pydicom.dcmread(path)
    ds.private_block(0x1001, 'JANE PRIVATE', create=True).add_new(1, 'LO', 'DOE^JANE is gravely ill')
    ds.save_as(path)
    assert all(s.encode() in path.read_bytes().lower() for s in SECRETS if s not in str(tags).lower())
    return path


def harm(folder, name, k, **tags):
    "The k-th way to be refused, by the scan of headers or by the reader, in slice `name` of `folder`"
    f, hu = folder/name(k), head(32, 32, k)
    if k == 0: plant(f, hu, **tags); f.write_bytes(f.read_bytes()[:-700])  # cut short: no pixels left to speak of
    if k == 1: f.write_text('DOE^JANE 19700131 is gravely ill')
    if k == 2: plant(f, hu, **tags | dict(PhotometricInterpretation='DOE^JANE'))
    if k == 3: plant(f, hu, **tags | dict(Modality='JANE'))
    if k == 4: plant(f, hu, **tags | dict(Modality='MR'))
    if k == 5:  # its header is whole, its stream is not
        recode(plant(f, hu, **tags), f.with_suffix('.jls'), 'JPEGLSLossless')
        b = f.with_suffix('.jls').read_bytes(); f.with_suffix('.jls').unlink()
        f.write_bytes(b[:-200])
    if k == 6: plant(f, hu, **tags); f.write_bytes(f.read_bytes().replace(b'40', b'JD'))  # a window that is no number


def rsna_folder(root):
    (d := root/'stage_2_train_images').mkdir(parents=True)
    name, rows = lambda i: f'ID_{i:09x}.dcm', ['ID,Label']
    for i in range(19):
        tags = dict(SOPInstanceUID=f'ID_{i:09x}', PatientID=f'ID_{i%2:08x}', StudyInstanceUID=f'ID_{i%2:010x}',
                    SeriesInstanceUID=f'ID_{i%2:07x}', ImagePositionPatient=[0, 0, 5*i])
        if i < 7: harm(d, name, i, **tags)
        else: plant(d/name(i), head(32, 32, i), **tags)
        rows += [f'ID_{i:09x}_{k},{int(i % 3 == 0 and k in ("any", "subdural"))}' for k in rsna.KINDS]
    (root/'stage_2_train.csv').write_text('\n'.join(rows) + '\n')


def cq500_folder(root):
    name = lambda i: f'CT{i:06}.dcm'
    for n in (1, 2):
        (d := root/f'CQ500CT{n} CQ500CT{n}/Unknown Study/CT Plain').mkdir(parents=True)
        for i in range(19):
            tags = dict(PatientID='MRN-0042', SeriesInstanceUID=f'1.2.840.99999.{n}', ImagePositionPatient=[0, 0, 5*i])
            if i < 7 and n == 1: harm(d, name, i, **tags)
            else: plant(d/name(i), head(32, 32, i), **tags)
    columns = ['name', 'Category', *(f'{r}:{f}' for r in cq500.READERS for f in cq500.FINDINGS), 'comment']
    table = [[f'CQ500-CT-{n}', 'B1', *[n - 1]*42, 'Jane is gravely ill'] for n in (1, 2)]
    pd.DataFrame(table, columns=columns).to_csv(root/'reads.csv', index=False)


def png(path, a):
    "A PNG that names its patient"
    b = cv2.imencode('.png', a)[1].tobytes()
    text = b'tEXtPatient\0DOE^JANE 19700131'
    chunk = struct.pack('>I', len(text) - 4) + text + struct.pack('>I', zlib.crc32(text))
    path.write_bytes(b[:33] + chunk + b[33:])


def deeplesion_folder(root):
    rows = []
    for i in range(1, 20):
        (d := root/f'Images_png/{i:06}_01_01').mkdir(parents=True)
        a = (head(32, 32, i).astype(int) + 32768).astype(np.uint16)
        if i != 3: png(d/'005.png', a if i != 1 else (a >> 8).astype(np.uint8))
        if i == 2: (d/'005.png').write_bytes((d/'005.png').read_bytes()[:-40])
        rows.append(dict(
            File_name=f'{i:06}_01_01_005.png', Patient_index=i, Study_index=1, Series_ID=1, Key_slice_index=5,
            Measurement_coordinates='9, 9, 20, 9, 15, 5, 15, 12', Bounding_boxes='5, 5, 24, 16' if i != 4 else 'JANE',
            Lesion_diameters_Pixel_='11, 7', Normalized_lesion_location='0.2, 0.5, 0.6', Coarse_lesion_type=4,
            Possibly_noisy=0, Slice_range='3, 7', Spacing_mm_px_='0.9, 0.9, 5', Image_size='32, 32',
            DICOM_windows='-175, 275', Patient_gender='DOE^JANE', Patient_age=55, Train_Val_Test=1,
            Patient_name='DOE^JANE', Birth='19700131'))
    pd.DataFrame(rows).to_csv(root/'DL_info.csv', index=False)


DATASETS = dict(rsna=(rsna_folder, rsna, read_hu, 'any', 7), cq500=(cq500_folder, cq500, read_hu, 'ICH', 7),
                deeplesion=(deeplesion_folder, deeplesion, deeplesion.read, 'type', 4))


def everything(folder):
    "Each file under `folder` as lower-case bytes; tables also unpacked, for parquet compresses"
    for p in folder.rglob('*'):
        if not p.is_file(): continue
        yield p, p.name.encode().lower() + p.read_bytes().lower()
        if p.suffix == '.parquet': yield p, pd.read_parquet(p).to_csv().lower().encode()


def clean(folder, said):
    found = [(s, p.name) for p, b in everything(folder) for s in [*SECRETS, HOME] if s.encode() in b]
    assert not found, found
    assert not [s for s in SECRETS if s in said.lower().replace(HOME, '')], said
    return len(list(everything(folder)))


@pytest.mark.filterwarnings('ignore:Invalid value')
@pytest.mark.parametrize('name', DATASETS)
def test_no_name_gets_out(name, tmp_path, capfd, caplog):
    "By the real readers, through `prepare`, the command line and a loader, with whole files and broken ones"
    make, module, read, label, lost = DATASETS[name]
    root, out = tmp_path/HOME/name, tmp_path/'out'
    make(root); capfd.readouterr(); caplog.clear()  # whoever plants names may say so
    index, rejects = module.index(root)
    build = dict(root=root, size=16, workers=1, rejects=rejects)
    store = prepare(index, read, out/'store', keep=['thickness', 'centers', 'function'] if name != 'deeplesion' else (),
                    allow=.5, **build)
    bad = pd.read_csv(out/'store/rejects.csv', keep_default_na=False)
    assert len(bad) == store.manifest['rejects'] + store.manifest['absent'] == lost and len(store) > 10
    assert not bad.file.str.startswith(('/', '..')).any() and (bad.reason != '').all()
    with pytest.raises(MedfolioError) as strict: prepare(index, read, out/'strict', **build)
    dls = loaders(store, np.arange(8), np.arange(8, len(store)), label, bs=4, device='cpu')
    said = [str(strict.value), repr(store), repr(dls), repr(dls.one_batch()), store.index.to_string(), store.index.to_csv()]

    # what the command line does with it, as it is and without the files that it refuses
    ask = ['data', 'prepare', name, '--root', str(root), '--size', '16', '--workers', '1', '--out']
    fails = CliRunner().invoke(app, [*ask, str(out/'fails')])
    assert isinstance(fails.exception, MedfolioError) and 'rejected' in str(fails.exception)
    said += [fails.output, str(fails.exception)]
    checked = CliRunner().invoke(app, ['data', 'check', name, '--root', str(root), '--deep'])
    said += [checked.output.replace(str(root), ''), str(checked.exception)]
    for f in bad.file:
        if (root/f).is_file(): (root/f).unlink()
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1]), MEDFOLIO_ROOT=str(tmp_path/'checkout'))
    if name == 'rsna':  # labels of lost slices are lost, too: a download is whole or it is not
        rows = (root/'stage_2_train.csv').read_text().splitlines()
        (root/'stage_2_train.csv').write_text('\n'.join(rows[:1] + rows[1 + 7*6:]) + '\n')
    if name == 'deeplesion': pd.read_csv(root/'DL_info.csv')[4:].to_csv(root/'DL_info.csv', index=False)
    whole = subprocess.run([sys.executable, '-c', 'from medfolio.cli import main; main()', *ask, str(out/'whole')],
                           env=env, capture_output=True, text=True)
    assert whole.returncode == 0 and (out/'whole/manifest.json').exists(), whole.stderr
    said += [whole.stdout, whole.stderr, *capfd.readouterr(), caplog.text]
    assert clean(out, '\n'.join(said)) >= 12
