"""Broken and odd files, each with a known answer, and a judge for readers of them.

`draw(folder, rsna)` draws a study of the RSNA twin, into whose slices the faults are put; `make_cases(folder, study)`
writes them; `judge(read, cases)` runs a reader on each in a child process with a time limit and says `correct`,
`rejected`, `wrong`, `crash` or `hang`. Used by test_survival.py and by nbs/survival.ipynb."""
import gzip, logging, multiprocessing as mp, os, struct, threading, time, warnings, zlib
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
import numpy as np, pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian,
                         ImplicitVRLittleEndian, RLELossless)
from make_dicom import head, htj2k, ramp, recode, write

AIR = -1000


@dataclass
class Case:
    "A path, what is in it, and what a reader may do: `read` it, `reject` it, or `either`"
    kind: str
    group: str
    path: Path
    truth: object = None  # array, or several of which one must come back, or None
    may: str = 'reject'
    kept: object = None  # the array with its padding as it stands, see `verdict`


@dataclass
class Study:
    "Slices of the RSNA twin from below to above: their files, the HU that went into each; a slice of 513 rows"
    paths: list
    hu: list
    wide: object

    @property
    def packed(self):
        "Which of the files are compressed"
        return [p.stat().st_size < x.nbytes for p, x in zip(self.paths, self.hu)]

    @property
    def plain(self):
        "File and HU of the middlemost slice that is not compressed"
        n = len(self.hu)
        i = min((i for i in range(n) if not self.packed[i]), key=lambda i: abs(2*i - n))
        return self.paths[i], self.hu[i]


HOLDS = dict(signed16=(-2**15, 2**15 - 1), unsigned12=(-1024, 3071), signed12=(-2048, 2047),
             thousand=(-1000, 3095), wrapped=(-1000, 3095))  # HU that a profile of the twin can store


def draw(folder, rsna, profile='signed16', size=128):
    "A study by `rsna`, the module of the twin"
    folder, drawn, stored = Path(folder), [], rsna.stored
    folder.mkdir(parents=True)

    def keep(hu, profile):
        drawn.append(np.clip(hu, *HOLDS[profile]).astype('i2'))
        return stored(drawn[-1], profile)
    with mock.patch.object(rsna, 'stored', keep):
        rows, _, inside = rsna.make_study(folder, 7, 0, 0, profile, 1, size)
    wide, _ = inside.slice(rows[len(rows)//2]['height'], n=512)
    return Study([folder/f'{r["item"]}.dcm' for r in rows], drawn, np.vstack([wide, wide[-1:]]).astype('i2'))


def frame(slope, icpt, z):
    "Functional groups of one frame of an enhanced CT"
    g, v, p = Dataset(), Dataset(), Dataset()
    v.RescaleSlope, v.RescaleIntercept, p.ImagePositionPatient = slope, icpt, [0, 0, z]
    g.PixelValueTransformationSequence, g.PlanePositionSequence = [v], [p]
    return g


def edit(src, dst, change):
    "`src` with `change(dataset)` applied, at `dst`"
    ds = pydicom.dcmread(src)
    change(ds)
    ds.save_as(dst)
    return dst


def tagged(src, dst, **tags):
    "`src` with elements overwritten, or left out where None, at `dst`"
    def change(ds):
        for k, v in tags.items():
            if v is None: ds.pop(k, None)
            else: setattr(ds, k, v)
    return edit(src, dst, change)


def retype(path, keyword, vr):
    "Overwrite the two letters of an explicit element's type"
    t = pydicom.tag.Tag(keyword)
    mark, data = struct.pack('<HH', t.group, t.element), path.read_bytes()
    i = data.index(mark)
    path.write_bytes(data[:i+4] + vr + data[i+6:])
    return path


def unusual(d, study, others):
    "Kinds that are correct DICOM, or nearly, and must be read: (kind, path, truth) and what else a case has"
    t, n = head(), iter(range(100))
    f = lambda: d/f'good{next(n)}.dcm'
    u12, fov = (t + 1024).astype('u2'), np.hypot(*np.mgrid[-1:1:64j, -1:1:48j]) > 1.1
    w12 = dict(BitsStored=12, HighBit=11)
    zero = np.where(fov, 0, np.where(t == 35, 0, t)).astype('i2')
    two = np.stack([t, head(seed=1)])
    plain = write(f(), t)
    yield 'signed 16 bit', plain, t
    yield 'unsigned 12 bit', write(f(), u12, RescaleIntercept=-1024, **w12), t
    signed12 = write(f(), t.astype('u2') & 0xFFF, PixelRepresentation=1, **w12)
    yield 'sign at bit 11', signed12, t
    yield '12 bits from bit 15 down', write(f(), u12 << 4, BitsStored=12, RescaleIntercept=-1024), t
    yield 'negatives wrapped (RSNA fault)', write(f(), t.astype('u2') & 0xFFF, **w12), t
    yield 'slope 0.5', write(f(), t*2, RescaleSlope='0.5'), t
    yield 'slope 1.37, intercept −1000.5', write(f(), u12, RescaleSlope='1.37', RescaleIntercept='-1000.5'), \
        np.rint(u12*1.37 - 1000.5).astype('i2')
    yield 'MONOCHROME1', write(f(), t, PhotometricInterpretation='MONOCHROME1'), t
    for name, x, tags in [  # stored numbers; −2000 outside the field of view
            ('padding −2000', t, {}), ('padding −2000, intercept −1024', t + 1024, dict(RescaleIntercept=-1024)),
            ('a range of padding', t, dict(PixelPaddingRangeLimit=-1500)), ('padding, implicit VR', t, {})]:
        x = np.where(fov, -2000, x).astype('i2')
        if 'range' in name: x[0, :5] = -1500, -1600, -1700, -1800, -1900
        path = write(f(), x, *[ImplicitVRLittleEndian]*('implicit' in name), PixelPaddingValue=-2000, **tags)
        yield name, path, np.where(fov, AIR, t), 'read', x + tags.get('RescaleIntercept', 0)
    yield 'padding equal to tissue', write(f(), zero, PixelPaddingValue=0), np.where(fov, AIR, zero)
    yield 'implicit VR', write(f(), t, ImplicitVRLittleEndian), t
    yield 'big-endian', write(f(), t, ExplicitVRBigEndian), t
    yield 'deflated', write(f(), t, DeflatedExplicitVRLittleEndian), t
    yield 'RLE', edit(plain, f(), lambda ds: ds.compress(RLELossless)), t
    for name, s in [('JPEG Lossless', 'JPEGLosslessProcess14'), ('JPEG Lossless SV1', 'JPEGLosslessProcess14_1'),
                    ('JPEG-LS', 'JPEGLSLossless'), ('JPEG 2000', 'JPEG2000Lossless')]:
        yield name, recode(plain, f(), s), t
        yield f'{name}, signed 12 bit', recode(signed12, f(), s), t
    for name, stream, s in [('HTJ2K Lossless', 'signed', '201'), ('HTJ2K Lossless RPCL, unsigned', 'unsigned', '202'),
                            ('HTJ2K', 'signed', '203')]: yield name, htj2k(f(), stream, s), ramp()
    yield '8 bit, slope 16', write(f(), (u12 >> 4).astype('u1'), RescaleSlope=16, RescaleIntercept=-1024), \
        ((u12 >> 4)*16).astype('i2') - 1024
    odd = head(63, 47)
    yield '8 bit, odd length', write(f(), (odd > 0).astype('u1')), (odd > 0).astype('i2')
    yield '8 bit, big-endian words', write(f(), (u12 >> 4).astype('u1').reshape(-1, 2)[:, ::-1].reshape(64, 48),
        ExplicitVRBigEndian, RescaleSlope=16, RescaleIntercept=-1024), ((u12 >> 4)*16).astype('i2') - 1024
    yield 'two frames', write(f(), two), two
    yield 'rescale per frame', write(f(), np.stack([two[0]*2, two[1] + 1000]), RescaleSlope=None,
        RescaleIntercept=None, PerFrameFunctionalGroupsSequence=[frame('0.5', 0, 7), frame(1, -1000, 9)]), two
    yield 'element after the pixels', edit(plain, f(), lambda ds: ds.add_new(0xFFFCFFFC, 'OB', b'\0'*64)), t
    yield 'overlay in the unused bits', edit(write(f(), (u12 | ((t > 0).astype('u2') << 12)).astype('u2'),
        RescaleIntercept=-1024, **w12), f(), lambda ds: ds.add_new(0x60000100, 'US', 16)), t
    yield 'pixels typed OB', retype(write(f(), t), 'PixelData', b'OB'), t
    yield 'spacing typed LO', retype(write(f(), t), 'PixelSpacing', b'LO'), t
    yield 'unknown character set', write(f(), t, SpecificCharacterSet='KLINGON', PatientName='x'), t
    yield 'private nested sequences', edit(plain, f(), _private), t
    yield '513 × 512', write(f(), study.wide), study.wide
    i = study.packed.index(True)
    yield 'twin, JPEG Lossless', study.paths[i], study.hu[i]
    for profile, other in others.items(): yield f'twin, {profile}', *other.plain


def _private(ds):
    inner, outer = Dataset(), Dataset()
    inner.add_new(0x00091001, 'OB', b'\xe0\x7f\x10\0OW\0\0'); outer.add_new(0x00091002, 'SQ', [inner])
    ds.add_new(0x00091003, 'SQ', [outer, outer])


def headers(d, study):
    "Slices of the twin whose header is at odds with itself or with the pixels"
    (src, t), n = study.plain, iter(range(100))
    f = lambda: d/f'bad{next(n)}.dcm'
    bad = lambda **tags: tagged(src, f(), **tags)
    pixels = lambda x, **tags: bad(PixelData=x.tobytes(), **tags)
    for name, tags in {
            'NaN spacing': dict(PixelSpacing=['nan', '1']), 'spacing 0': dict(PixelSpacing=[0, 1]),
            'NaN slope': dict(RescaleSlope='nan'), 'slope 0': dict(RescaleSlope=0),
            'slope 1e9': dict(RescaleSlope='1e9'), 'two slopes': dict(RescaleSlope=[1, 2]),
            'no rescale': dict(RescaleSlope=None, RescaleIntercept=None),
            'slope 10 times too large': dict(RescaleSlope=10, RescaleIntercept=-1024),
            'intercept 60000': dict(RescaleIntercept=60000), 'rows missing': dict(Rows=None),
            '512 rows for 513': dict(Rows=t.shape[0] - 1), 'a row too many': dict(Rows=t.shape[0] + 1),
            'a column too few': dict(Columns=t.shape[1] - 1), '65535 × 65535': dict(Rows=65535, Columns=65535),
            '2 billion frames': dict(NumberOfFrames=2**31 - 1), '0 frames': dict(NumberOfFrames=0),
            '20 bits in 16': dict(BitsStored=20, HighBit=19), 'high bit 3': dict(HighBit=3),
            'skewed orientation': dict(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
            'three samples': dict(SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation='RGB'),
            'no photometric': dict(PhotometricInterpretation=None)}.items():
        whole = name in ('NaN spacing', 'spacing 0', '0 frames', '20 bits in 16', 'high bit 3',
                         'skewed orientation', 'no photometric')
        yield name, bad(**tags), t if whole else None, 'reject'
    yield 'slope not a number', retype(edit(src, f(), lambda ds: ds.add_new(
        'RescaleSlope', 'LO', 'abc ')), 'RescaleSlope', b'DS'), None
    yield 'rows typed PN', retype(bad(), 'Rows', b'PN'), t
    yield 'bits above the declared', pixels((t + 1024).astype('u2') + 0x5000, BitsStored=12, HighBit=11,
        PixelRepresentation=0), None
    yield 'swapped bytes', pixels((t + 1024).astype('i2').byteswap()), t
    yield 'little-endian called big', _resyntax(bad(), '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.2'), t
    yield 'explicit called implicit', _resyntax(bad(), '1.2.840.10008.1.2.1', '1.2.840.10008.1.2'), t
    yield 'native called JPEG', _resyntax(bad(), '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.4.70'), t
    yield 'unknown syntax', _resyntax(bad(), '1.2.840.10008.1.2.1', '1.2.840.10008.9.9.9'), t
    yield 'a modality lookup table', edit(src, f(), _lut), None


def _resyntax(path, old, new):
    data = path.read_bytes()
    i = data.index(b'\x02\0\x10\0UI')
    n = struct.unpack('<H', data[i+6:i+8])[0]
    assert data[i+8:i+8+n].rstrip(b'\0') == old.encode()
    value = new.encode() + b'\0'*(len(new) % 2)
    data = data[:i+6] + struct.pack('<H', len(value)) + value + data[i+8+n:]
    size = struct.unpack('<I', data[140:144])[0] + len(value) - n
    path.write_bytes(data[:140] + struct.pack('<I', size) + data[144:])
    return path


def _lut(ds):
    item = Dataset()
    item.add_new('LUTDescriptor', 'US', [4, 0, 16]); item.add_new('LUTData', 'US', [0, 9, 5, 7])
    ds.ModalityLUTSequence = [item]
    del ds.RescaleSlope, ds.RescaleIntercept


def damaged(d, study):
    "Slices of the twin whose bytes are not all there, or not those of a DICOM file"
    (good, t), n = study.plain, iter(range(100))
    f = lambda data: (lambda p: p.write_bytes(data) and p or p)(d/f'cut{next(n)}.dcm')
    data = good.read_bytes(); px = len(data) - t.nbytes
    for at in (64, 130, 140, 200, px - 300, px - 40, px - 6, px, px + 1000, len(data) - 1):
        yield f'cut after {at} of {len(data)} bytes', f(data[:at]), None
    for name, s in [('JPEG Lossless', 'JPEGLosslessProcess14_1'), ('JPEG-LS', 'JPEGLSLossless'), ('JPEG 2000', 'JPEG2000Lossless')]:
        j = recode(good, d/f'whole_{s}.dcm', s); b = j.read_bytes()
        yield f'{name}, file cut', f(b[:-len(b)//8]), t
        yield f'{name}, stream cut', edit(j, d/f'stream_{s}.dcm', _cut_stream), t
    yield 'HTJ2K, stream cut', edit(htj2k(d/'ht.dcm'), d/'stream_ht.dcm', _cut_stream), ramp()
    yield 'HTJ2K of another size', edit(d/'ht.dcm', d/'ht_lie.dcm', lambda ds: setattr(ds, 'Rows', 36)), None
    yield 'HTJ2K called JPEG Lossless', htj2k(d/'ht_jpeg.dcm', syntax='70'), ramp()
    yield 'RLE, stream cut', edit(good, d/'rle.dcm', lambda ds: (ds.compress(RLELossless), _cut_stream(ds))), t
    yield 'JPEG of another size', edit(d/'whole_JPEGLosslessProcess14_1.dcm', d/'lie.dcm', lambda ds: setattr(ds, 'Rows', 96)), None
    yield 'JPEG 2000 of 2³¹ × 2³¹', edit(d/'whole_JPEG2000Lossless.dcm', d/'huge.dcm', _huge), None
    yield 'a frame missing', tagged(recode(tagged(good, d/'two.dcm', NumberOfFrames=2, PixelData=data[px:]*2), d/'twoj.dcm',
                                         'JPEGLosslessProcess14_1'), d/'frame.dcm', NumberOfFrames=3), None
    deflated = edit(good, d/'deflated.dcm', lambda ds: setattr(
        ds.file_meta, 'TransferSyntaxUID', DeflatedExplicitVRLittleEndian)).read_bytes()
    yield 'deflated, cut', f(deflated[:-200]), None
    start = 144 + struct.unpack('<I', deflated[140:144])[0]
    z = zlib.compressobj(9, zlib.DEFLATED, -15)
    one = z.compress(b'\0'*2**20) + z.flush(zlib.Z_FULL_FLUSH)
    yield 'deflated, 1.1 GB of zeros', f(deflated[:start] + one*1100 + z.flush()), None
    yield 'empty file', f(b''), None
    yield 'only zeros', f(b'\0'*5000), None
    yield 'a text file', f(b'Dear colleague,\nthank you for referring\n'*99), None
    yield 'text after a DICM prefix', f(b'\0'*128 + b'DICM' + b'Dear colleague,\n'*99), None
    yield 'gzip', f(gzip.compress(data)), None
    yield 'no preamble', f(data[132:]), t
    yield 'every tag twice', f(data + data[144 + struct.unpack('<I', data[140:144])[0]:]), t


def _cut_stream(ds):
    "Leave half of the compressed frame, in an element that is whole"
    frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    half = frame[:len(frame)//4*2]
    ds.PixelData = pydicom.encaps.encapsulate([half])


def _huge(ds):
    frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    i = frame.index(b'\xff\x4f\xff\x51')
    frame = frame[:i+8] + struct.pack('>2I', 2**31 - 1, 2**31 - 1) + frame[i+16:]
    ds.PixelData = pydicom.encaps.encapsulate([frame])


OTHERS = 'no permission', 'permission to read'  # root may read everything: these are read as another user


def places(d, study):
    "Slices of the twin where no ordinary file rests"
    src, t = study.plain
    data = src.read_bytes()
    put = lambda path: path.write_bytes(data) and path
    (d/'folder.dcm').mkdir()
    yield 'a directory', d/'folder.dcm', None, 'reject'
    (d/'loop.dcm').symlink_to(d/'loop.dcm')
    yield 'a link to itself', d/'loop.dcm', None, 'reject'
    (d/'above.dcm').symlink_to(d)
    yield 'a link to the folder it is in', d/'above.dcm', None, 'reject'
    (d/'nowhere.dcm').symlink_to(d/'gone')
    yield 'a dangling link', d/'nowhere.dcm', None, 'reject'
    (d/'link.dcm').symlink_to(src)
    yield 'a link to a slice', d/'link.dcm', t, 'read'
    os.mkfifo(d/'pipe.dcm')
    yield 'a named pipe', d/'pipe.dcm', None, 'reject'
    put(d/'secret.dcm').chmod(0o000); put(d/'open.dcm').chmod(0o444)
    yield OTHERS[0], d/'secret.dcm', None, 'reject'
    yield OTHERS[1], d/'open.dcm', t, 'read'
    yield 'no such file', d/'none.dcm', None, 'reject'
    (d/'Kopf für Ärzte ☃').mkdir()
    yield 'non-ASCII path', put(d/'Kopf für Ärzte ☃/schädel.dcm'), t, 'read'
    yield 'newline in the path', put(d/'a\nb.dcm'), t, 'read'
    yield 'no suffix', put(d/'CT000001'), t, 'read'
    put(d/'changing.first'); turned = t[::-1].copy()
    (d/'changing.second').write_bytes(data[:-t.nbytes] + (turned + 1024).astype('<i2').tobytes())
    yield 'changes while it is read', put(d/'changing.dcm'), [t, turned], 'either'


def shipped(d):
    "pydicom's own test files: an oracle's pixels, or None for what is no grey-scale picture"
    get = lambda n: get_testdata_file(n, download=False)
    mr = pydicom.dcmread(get('MR_small.dcm')).pixel_array
    for n in ('', '_RLE', '_bigendian', '_expb', '_implicit', '_jp2klossless', '_jpeg_ls_lossless', '_padded'):
        yield f'MR_small{n}', get(f'MR_small{n}.dcm'), mr, 'either' if n == '_padded' else 'read'
    for n in ('CT_small', '693_J2KI', 'J2K_pixelrep_mismatch', 'JPEG2000', 'JPEGLSNearLossless_08',
              'image_dfl', 'examples_overlay'):
        ds = pydicom.dcmread(get(f'{n}.dcm'))
        hu = ds.pixel_array * float(ds.get('RescaleSlope', 1)) + float(ds.get('RescaleIntercept', 0))
        hu = np.rint(hu).astype('i2')
        yield n, get(f'{n}.dcm'), np.where(ds.pixel_array == ds.get('PixelPaddingValue'), AIR, hu), 'read', hu
    for n in ('JPEGLSNearLossless_16 ExplVR_BigEnd JPEG-lossy JPGExtended MR_truncated SC_rgb_jpeg SC_rgb_rle_16bit badVR liver_1frame '
              'meta_missing_tsyntax nested_priv_SQ rtdose_1frame rtplan rtplan_truncated rtstruct test-SR '
              'UN_sequence waveform_ecg examples_palette').split():
        yield n, get(f'{n}.dcm'), _pixels(get(f'{n}.dcm')), 'reject'
    n = 'JPEG2000-embedded-sequence-delimiter'
    yield n, get(f'{n}.dcm'), None, 'reject'
    for n in ('no_meta', 'ExplVR_LitEndNoMeta'):
        if get(f'{n}.dcm'): yield n, get(f'{n}.dcm'), None, 'either'


def _pixels(path):
    "pydicom's pixels, where it has any"
    try: return pydicom.dcmread(path).pixel_array
    except Exception: return None


def make_cases(folder, study, others={}) -> list:
    "Write every kind below `folder`; the list of cases. `others`: studies by the twin's other profiles"
    logging.getLogger('pydicom').setLevel(logging.CRITICAL)
    out, folder = [], Path(folder)
    groups = dict(unusual=lambda d: unusual(d, study, others), headers=lambda d: headers(d, study),
                  damaged=lambda d: damaged(d, study), places=lambda d: places(d, study), shipped=shipped)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for group, kinds in groups.items():
            (folder/group).mkdir()
            for kind, path, truth, *more in kinds(folder/group):
                may = 'read' if group == 'unusual' else 'reject' if truth is None else 'either'
                out.append(Case(kind, group, Path(path), truth, *(more or [may])))
    return out


def verdict(case, got, excuse=False) -> str:
    """What to call the array that a reader returned: every pixel must be the known one. With `excuse`, for
    readers that do not claim to know what padding is: they may also leave the padding as it stands, if the
    file's padding is below air, where no window shows it. Nothing else is excused."""
    if case.truth is None: return 'wrong'
    got = np.squeeze(np.asarray(got, np.float64))
    truths = case.truth if isinstance(case.truth, list) else [case.truth]
    if excuse and case.kept is not None: truths = [*truths, case.kept]
    return 'correct' if any(got.shape == t.shape and np.abs(got - t).max() <= .5 for t in truths) else 'wrong'


def _one(read, case, excuse):
    "The verdict on one case, read from the folder it is in: another user may not pass the folders above"
    if case.kind in OTHERS: os.chdir(case.path.parent)
    path = case.path.name if case.kind in OTHERS else str(case.path)
    user = os.geteuid()
    try:
        if user == 0 and case.kind in OTHERS: os.seteuid(65534)
        return verdict(case, read(path), excuse)
    except MemoryError: return 'crash'
    except Exception: return 'rejected'
    finally: os.seteuid(user)


def _changing(read, case, excuse):
    "Read again and again while another thread rewrites the file in place"
    a, b = (case.path.with_suffix(k).read_bytes() for k in ('.first', '.second'))
    assert len(a) == len(b) and a != b
    case.path.write_bytes(a)
    stop, seen, rests, rng, now = [], [], [], np.random.default_rng(0), time.perf_counter

    def scribble():
        with open(case.path, 'r+b', buffering=0) as f:
            while not stop:
                for d in (a, b):
                    t = now(); f.seek(0); f.write(d[:len(d)//2]); time.sleep(.003)  # half new, half old
                    f.write(d[len(d)//2:]); rests.append((t, now())); time.sleep(rng.choice([0, .001, .02]))
    thread = threading.Thread(target=scribble); thread.start()
    try:
        for _ in range(60): t = now(); seen.append((_one(read, case, excuse), t, now()))
    finally: stop.append(1); thread.join()
    # on a busy machine the writer may fall asleep over half a picture: nobody could notice that
    rests = [(t, u) for t, u in rests if u - t > .008]
    seen = {v for v, t, u in seen if not any(t < end and u > start for start, end in rests)}
    return next(v for v in ('crash', 'wrong', 'rejected', 'correct') if v in seen)


def _child(read, cases, excuse, pipe):
    import resource
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders complain there
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30,)*2)
    warnings.simplefilter('ignore')
    for case in cases: pipe.send((_changing if isinstance(case.truth, list) else _one)(read, case, excuse))


def judge(read, cases, limit=20, excuse=False) -> list:
    "A `verdict` on what `read(path) -> array` does with each case; a child that dies or stalls is replaced"
    out, ctx = [], mp.get_context('fork')
    while len(out) < len(cases):
        ours, theirs = ctx.Pipe()
        child = ctx.Process(target=_child, args=(read, cases[len(out):], excuse, theirs), daemon=True)
        child.start(); theirs.close()
        try:
            while len(out) < len(cases) and ours.poll(limit): out.append(ours.recv())
            if len(out) < len(cases): out.append('hang')
        except EOFError: out.append('crash')
        child.kill(); child.join()
    return out


def make_folders(folder, study) -> dict:
    "Ten slices of the twin with something wrong: name -> (folder, the volume in order, what must be reported)"
    out, folder, src = {}, Path(folder), study.paths[9:19]
    vol = np.stack(study.hu[9:19])
    plane = np.array(pydicom.dcmread(src[0]).ImageOrientationPatient, float)

    def put(name, order, told='', keep=range(10), flip=1, number=lambda i: i + 1):
        d = folder/name.replace(' ', '_')
        d.mkdir(parents=True)
        for file, i in enumerate(order):
            if i in keep: tagged(src[i], d/f'{file:02d}.dcm', InstanceNumber=number(i), SOPInstanceUID=f'1.2.3.{i}',
                                 SeriesInstanceUID='1.2.3', ImageOrientationPatient=[*plane[:3], *flip*plane[3:]])
        out[name] = d, vol[[i for i in range(10) if i in keep]][::flip], told
        return d

    warnings.filterwarnings('ignore', module='pydicom')
    shuffled = np.random.default_rng(0).permutation(10)
    put('files in order', range(10))
    put('files shuffled', shuffled)
    put('numbered from the other end', shuffled, number=lambda i: 10 - i)
    put('numbers restart', shuffled, number=lambda i: i % 5 + 1)
    put('normal reversed', shuffled, flip=-1)
    put('two slices missing', shuffled, 'missing', keep=[0, 1, 2, 5, 6, 7, 8, 9])
    d = put('one file twice', shuffled, 'doubles')
    (d/'99.dcm').write_bytes((d/'03.dcm').read_bytes())
    d = put('one UID on two slices', shuffled, 'doubles')
    tagged(d/'03.dcm', d/'03.dcm', SOPInstanceUID='1.2.3.4')
    d = put('a scout among them', shuffled, 'rejects')
    tagged(d/'03.dcm', d/'99.dcm', SOPInstanceUID='1.2.3.99', ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    d = put('a broken slice', shuffled, 'rejects')
    (d/'99.dcm').write_bytes((d/'03.dcm').read_bytes()[:9000])
    d = put('a link to the folder itself', shuffled, 'rejects')
    (d/'99.dcm').symlink_to(d)
    d = put('a second series', shuffled, 'series')
    tagged(d/'03.dcm', d/'99.dcm', SeriesInstanceUID='9.9', SOPInstanceUID='1.2.3.99')
    return out
