"""DICOM files whose answer is known, for notebooks and tests"""
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
