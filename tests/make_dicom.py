"""DICOM files whose answer is known, for notebooks and tests"""
from base64 import b64decode
from pathlib import Path
import gdcm, numpy as np, pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, \
    ImplicitVRLittleEndian, generate_uid


def head(rows=64, columns=48, seed=0):
    "A toy head in Hounsfield units: air, skin, skull, brain, a bleed"
    y, x = np.mgrid[-1:1:rows*1j, -1:1:columns*1j]
    r = np.hypot(y/.9, x/.85)
    hu = np.full((rows, columns), -1000.)
    hu[r < 1], hu[r < .92], hu[r < .8], hu[np.hypot(y - .2, x + .3) < .15] = 20, 1200, 35, 70
    noise = np.random.default_rng(seed).normal(0, 6, hu.shape)
    return np.round(hu + noise*(hu > -1000)).astype(np.int16)


def write(path, stored, syntax=ExplicitVRLittleEndian, **tags):
    "A CT slice that stores `stored`; `tags` override elements, None leaves one out"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[Path(path).name])
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b'\0'*128)
    bits, signed = stored.dtype.itemsize*8, int(stored.dtype.kind == 'i')
    std = dict(SOPClassUID=CTImageStorage, SOPInstanceUID=meta.MediaStorageSOPInstanceUID,
               Modality='CT', PatientID='p1', StudyInstanceUID='1.2', SeriesInstanceUID='1.2.3',
               SamplesPerPixel=1, PhotometricInterpretation='MONOCHROME2', Rows=stored.shape[-2],
               Columns=stored.shape[-1], BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1,
               PixelRepresentation=signed, RescaleSlope=1, RescaleIntercept=0,
               PixelSpacing=[.5, .5], ImagePositionPatient=[0, 0, 10],
               ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    if stored.ndim == 3: std['NumberOfFrames'] = len(stored)
    for k, v in (std | tags).items():
        if v is not None: setattr(ds, k, v)
    big = syntax == ExplicitVRBigEndian
    ds.PixelData = stored.astype(stored.dtype.newbyteorder('>' if big else '<')).tobytes()
    ds['PixelData'].VR = 'OW'
    pydicom.dcmwrite(path, ds, implicit_vr=syntax == ImplicitVRLittleEndian,
                     little_endian=not big, enforce_file_format=True)
    return path


def recode(src, dst, syntax):
    "The DICOM `src`, its pixels in another of GDCM's syntaxes, at `dst`"
    r = gdcm.ImageReader(); r.SetFileName(str(src)); assert r.Read()
    c = gdcm.ImageChangeTransferSyntax(); c.SetInput(r.GetImage())
    c.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    assert c.Change(), syntax
    w = gdcm.ImageWriter(); w.SetFileName(str(dst)); w.SetFile(r.GetFile())
    w.SetImage(c.GetOutput()); assert w.Write()
    return dst


def ramp():
    "The Hounsfield units in the streams of `HTJ2K`"
    y, x = np.mgrid[:24, :16]
    return (9*x*x + 2*y*y - 1000).astype(np.int16)


# `ramp()` as high-throughput JPEG 2000, which none of our libraries can write. Made once with imagecodecs
# 2026.3.6 (OpenJPH 0.26.3): htj2k_encode(ramp(), reversible=True, resolutions=2); the same of ramp() + 1024
# as uint16 with tlm=True, as the RPCL syntax wants it; and htj2k_encode(ramp(), reversible=False,
# level=.0002, resolutions=2), which is off by up to 8 HU
HTJ2K = {k: b64decode(v) for k, v in dict(
    signed=(
        '/0//UQApQAAAAAAQAAAAGAAAAAAAAAAAAAAAEAAAABgAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAIEBEAB/1wA'
        'CiCIkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAARYAAf+TwAAuoAUofrlLXbioTbsFF7e8pRRalA12'
        'FRBWuUHggWM2184WVOcXEQAzOQDAABdFAABbAMfxeBxxBAssHMfjccQRLLBwHI/HEUewwMIGcXzi44ixuQD/f/9//3//B3wP'
        'fA98D3wEIAMf1l8xuQDAAC9bgABduBFjRERERESIgABBxBgRERERESIgQBAxRkRERESECAgQRIwRERERESECAgQRY0RERERE'
        'iIAAQcQYEREREREiIEDwDO1+svna/WXztfrL52v1l87X6y4hLGoxugH/f/9//3//f/9//38D2UA2kA1kA9lANpANZGAIQAII'
        'hAAx/Xr9Zf16/WX9ev1l/Xr9ZfMbMb0B/9k='),
    unsigned=(
        '/0//UQApQAAAAAAQAAAAGAAAAAAAAAAAAAAAEAAAABgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAIEBEAB/1wA'
        'CiCIkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv9VAAoAYAAAAAABJv+QAAoAAAAAASYAAf+TwAAu4AUAxf9l/Uv9'
        'C/dF+2P6Ib3gX9xf3l/KL9QX5Y/nh/ICflh+uX4QvvAeTj+Gj7gA9Zf1l0JAMzoAwAAXRQAAWwDH8XgccQQLLBzH43HEESyw'
        'cByPxxFHsMDCBnF84uOIsbkA/3//f/9//wd8D3wPfA98BCADH9ZfMbkAwAAvW4AAXbgRY0REREREiIAAQcQYEREREREiIEAQ'
        'MUZEREREhAgIEESMEREREREhAgIEEWNERERERIiAAEHEGBERERERIiBA8AztfrL52v1l87X6y+dr9ZfO1+suISxqMboB/3//'
        'f/9//3//f/9/A9lANpANZAPZQDaQDWRgCEACCIQAMf16/WX9ev1l/Xr9Zf16/WXzGzG9Af/Z'),
    lossy=(
        '/0//UQApQAAAAAAQAAAAGAAAAAAAAAAAAAAAEAAAABgAAAAAAAAAAAABjwEB/1AACAACAAAAJv9SAAwAAgABAAIEBEAA/1wA'
        'ESJ8uH0hfSF9jXT2dPZ0mf9kABcAAU9wZW5KUEggVmVyIDAuMjYuMy7/kAAKAAAAAACJAAH/k8AAujBjPklQP6Fe233C69xT'
        'c6tUHE/KmhdcwLNg7Qp1OdSEQAc5AMAAtGAAVgCZDIORyTAYmQyD8YSUkIK2AAc+4AMP/OgAAU3WAMABbMABaAClCFGKEKUI'
        'UYoQpQhRihDnxJSUlJSQAroA0dAoGkWj6P8wElOmSU3ZAP/Z')).items()}


def htj2k(path, stream='signed', syntax='201', **tags):
    "A CT slice that holds a stream of `HTJ2K`"
    if stream == 'unsigned': tags = dict(PixelRepresentation=0, RescaleIntercept=-1024) | tags
    ds = pydicom.dcmread(write(path, ramp(), **tags))
    ds.PixelData = pydicom.encaps.encapsulate([HTJ2K[stream]])
    ds.file_meta.TransferSyntaxUID = f'1.2.840.10008.1.2.4.{syntax}'
    ds.save_as(path)
    return path
